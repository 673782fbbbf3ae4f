//! The picture: what was measured, as a part of its budget.

use super::report::Part;
use anyhow::Context;
use std::{fmt::Write, fs, path::Path};

const WIDTH: f64 = 880.0;
const LEFT: f64 = 420.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;
/// Where the budget's line stands, from the left end of the bars.
const BUDGET: f64 = 280.0;
/// Bars end here, whatever they stand for.
const BAR_MAX: f64 = 360.0;

/// Writes it. Errors: the file can't be written.
pub fn write(path: &Path, parts: &[Part]) -> anyhow::Result<()> {
    fs::write(path, svg(parts)).with_context(|| path.display().to_string())
}

fn svg(parts: &[Part]) -> String {
    let bottom = TOP + parts.len() as f64 * ROW;
    let height = bottom + 16.0;
    let line = LEFT + BUDGET;
    // Writing to a String can't fail.
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">Measured, as a part of its budget</text>\n\
         <text x=\"{line}\" y=\"34\" text-anchor=\"middle\" fill=\"#555555\">budget</text>\n"
    );
    for (place, part) in parts.iter().enumerate() {
        let top = TOP + place as f64 * ROW;
        let middle = top + 15.0;
        let length = (part.used * BUDGET).clamp(2.0, BAR_MAX);
        let colour = if part.used <= 1.0 { "#4c9f70" } else { "#c8553d" };
        // What is inside the bar where the bar is long.
        let (x, anchor, ink) = if length > 120.0 {
            (LEFT + 6.0, "start", "#ffffff")
        } else {
            (LEFT + length + 6.0, "start", "#333333")
        };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
             <text x=\"{x:.1}\" y=\"{middle}\" text-anchor=\"{anchor}\" fill=\"{ink}\">{}</text>",
            LEFT - 8.0,
            escaped(&part.name),
            top + 2.0,
            escaped(&part.text),
        );
    }
    let _ = writeln!(
        out,
        "<line x1=\"{line}\" y1=\"38\" x2=\"{line}\" y2=\"{bottom}\" stroke=\"#333333\" \
         stroke-dasharray=\"4 3\"/>\n</svg>"
    );
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_ends_at_the_budget_or_beyond_it_and_never_outside() {
        let part = |name: &str, used| Part { name: name.to_owned(), text: "1 < 2".into(), used };
        let svg = svg(&[part("half", 0.5), part("over & out", 1.2), part("far", 50.0)]);
        for wanted in ["width=\"140.0\"", "width=\"336.0\"", "width=\"360.0\""] {
            assert!(svg.contains(wanted), "{svg}");
        }
        assert!(svg.contains("over &amp; out") && svg.contains("1 &lt; 2"));
        assert_eq!(svg.matches("#c8553d").count(), 2);
        const { assert!(LEFT + BAR_MAX < WIDTH) };
    }
}
