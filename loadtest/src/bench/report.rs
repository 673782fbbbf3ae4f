//! The table of figures, budgets and whether they are met.

use crate::{cpu::Machine, text::columns};
use anyhow::{Context, bail};
use chrono::DateTime;
use std::{fmt::Write, fs, path::Path};

const START: &str = "<!-- bench: start -->";
const END: &str = "<!-- bench: end -->";

/// What was measured.
#[derive(Debug)]
pub struct Report {
    rows: Vec<Row>,
    begun: Machine,
}

#[derive(Debug)]
struct Row {
    name: String,
    figure: f64,
    budget: Option<Budget>,
    note: String,
}

/// What a figure is measured against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// It must not be greater.
    AtMost(f64),
    /// It must not be less.
    AtLeast(f64),
}

/// A figure as a part of its budget, for the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub name: String,
    /// The figure and its budget, as they are read.
    pub text: String,
    /// At most 1 when it is met.
    pub used: f64,
}

impl Report {
    /// Nothing yet.
    pub fn begin() -> Self {
        Self { rows: Vec::new(), begun: Machine::now() }
    }

    /// A figure with a budget.
    pub fn at_most(&mut self, name: &str, figure: f64, budget: f64) {
        self.at_most_noted(name, figure, budget, "");
    }

    /// A figure with a budget and a remark.
    pub fn at_most_noted(&mut self, name: &str, figure: f64, budget: f64, note: &str) {
        self.add(name, figure, Some(Budget::AtMost(budget)), note);
    }

    /// A figure that shall be great, and a remark.
    pub fn at_least_noted(&mut self, name: &str, figure: f64, budget: f64, note: &str) {
        self.add(name, figure, Some(Budget::AtLeast(budget)), note);
    }

    /// What has a budget.
    pub fn against_budgets(&self) -> Vec<Part> {
        let parts = self.rows.iter().filter_map(|row| {
            let budget = row.budget?;
            let used = match budget {
                Budget::AtMost(most) => row.figure / most,
                Budget::AtLeast(least) => least / row.figure.max(1e-9),
            };
            let text = format!("{} {}", short(row.figure), budget.text());
            Some(Part { name: row.name.clone(), text, used })
        });
        parts.collect()
    }

    /// A figure without a budget.
    pub fn noted(&mut self, name: &str, figure: f64, note: &str) {
        self.add(name, figure, None, note);
    }

    fn add(&mut self, name: &str, figure: f64, budget: Option<Budget>, note: &str) {
        let row = Row { name: name.to_owned(), figure, budget, note: note.to_owned() };
        println!("  {}", row.cells().join(" | "));
        self.rows.push(row);
    }

    /// For a terminal.
    pub fn table(&self) -> String {
        let mut rows = vec![["what", "figure", "budget", ""].map(str::to_owned).to_vec()];
        rows.extend(self.rows.iter().map(|row| row.cells()[..4].to_vec()));
        columns(&rows)
    }

    fn markdown(&self) -> String {
        let mut out =
            String::from("| what | figure | budget | | of which |\n|---|---:|---:|---|---|\n");
        for row in &self.rows {
            // Writing to a String can't fail.
            let _ = writeln!(out, "| {} |", row.cells().join(" | "));
        }
        out
    }

    /// Puts the table between the document's markers. Errors: no such document, no markers.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let now = DateTime::from_timestamp_micros(crate::load::now_us()).unwrap_or_default();
        let stolen = Machine::now().stolen_since(self.begun);
        let body = format!(
            "{}, {}; its host took {stolen:.0} % of the processor meanwhile.\n\n{}",
            now.format("%Y-%m-%d"),
            machine(),
            self.markdown()
        );
        let Some(text) = between_markers(&text, &body) else {
            bail!("{} has no lines {START} and {END}", path.display());
        };
        fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let (budget, verdict) = match self.budget {
            Some(budget) if budget.is_met(self.figure) => (budget.text(), "met"),
            Some(budget) => (budget.text(), "**missed**"),
            None => (String::new(), ""),
        };
        [self.name.clone(), short(self.figure), budget, verdict.to_owned(), self.note.clone()]
    }
}

impl Budget {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {}", short(most)),
            Self::AtLeast(least) => format!("≥ {}", short(least)),
        }
    }
}

/// Three or more digits that matter.
fn short(figure: f64) -> String {
    if figure >= 1_000.0 {
        crate::text::grouped(figure as u64)
    } else if figure >= 100.0 {
        format!("{figure:.0}")
    } else if figure >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

fn between_markers(text: &str, body: &str) -> Option<String> {
    let (before, rest) = text.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{START}\n\n{body}\n{END}{after}"))
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(1).unwrap_or("?").to_owned();
    format!("{cores} cores, {model}, load average {load} at the end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_met_or_missed() {
        let mut report = Report::begin();
        report.at_most("a", 0.996, 1.0);
        report.at_most_noted("b", 12.5, 12.0, "why");
        report.noted("c", 123_456.7, "");
        report.at_least_noted("d", 2_500.0, 2_000.0, "");
        let used: Vec<f64> = report.against_budgets().iter().map(|part| part.used).collect();
        assert_eq!(used, [0.996, 12.5 / 12.0, 0.8]);
        assert_eq!(
            report.markdown(),
            "| what | figure | budget | | of which |\n|---|---:|---:|---|---|\n\
             | a | 1.00 | ≤ 1.00 | met |  |\n\
             | b | 12.5 | ≤ 12.0 | **missed** | why |\n\
             | c | 123,456 |  |  |  |\n\
             | d | 2,500 | ≥ 2,000 | met |  |\n"
        );
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = format!("# Head\n{START}\nold\n{END}\ntail\n");
        let new = between_markers(&text, "new\n").unwrap();
        assert_eq!(new, format!("# Head\n{START}\n\nnew\n\n{END}\ntail\n"));
        assert_eq!(between_markers(&new, "new\n").unwrap(), new);
        assert_eq!(between_markers("no markers", "new"), None);
    }
}
