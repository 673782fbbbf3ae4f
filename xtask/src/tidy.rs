//! Rules of this repository that no other tool knows.

use anyhow::{Context, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Which of our crates a crate may use; `ids` and `money` are open to all (ARCHITECTURE.md).
const ARROWS: [(&str, &[&str]); 17] = [
    ("weir-ids", &[]),
    ("weir-money", &[]),
    ("weir-billing", &[]),
    ("weir-events", &[]),
    ("weir-proto", &[]),
    ("weir-runtime", &[]),
    ("weir-log", &["events", "runtime"]),
    ("weir-usage", &["events", "runtime"]),
    ("weir-store", &["billing", "runtime"]),
    ("weir-catalog", &["events", "store", "runtime"]),
    ("weir-books", &["billing", "store", "usage"]),
    ("weir-ingest", &["events", "log", "catalog", "store", "runtime"]),
    ("weir-aggregator", &["events", "log", "usage", "catalog", "store", "runtime"]),
    ("weir-invoicer", &["billing", "store", "usage", "books", "runtime"]),
    ("weir-api", &["proto", "billing", "events", "store", "usage", "books", "runtime"]),
    // It speaks only wire formats, so that the same load can be put on any server.
    ("weir-loadtest", &[]),
    ("xtask", &[]),
];
const OPEN_TO_ALL: [&str; 2] = ["ids", "money"];
/// No clock, no files, no sockets: these must not even have a standard library.
const PURE: [&str; 3] = ["crates/ids", "crates/money", "crates/billing"];

/// Checks everything and reports all that is wrong at once.
pub fn check(root: &Path) -> anyhow::Result<()> {
    let mut wrong = arrows(root)?;
    for path in tracked(root, "*.rs")? {
        let text = fs::read_to_string(root.join(&path)).unwrap_or_default();
        wrong.extend(sizes(&path, &text));
    }
    for dir in PURE {
        let text = fs::read_to_string(root.join(dir).join("src/lib.rs"))?;
        if !text.contains("#![no_std]") {
            wrong.push(format!("{dir}/src/lib.rs: a pure crate says #![no_std]"));
        }
    }
    wrong.extend(migrations(root)?);
    if wrong.is_empty() {
        return Ok(());
    }
    for line in &wrong {
        eprintln!("{line}");
    }
    bail!("{} things are not tidy", wrong.len())
}

fn arrows(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = MetadataCommand::new().current_dir(root).no_deps().exec()?;
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if name == "weir" {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
            wrong.push(format!("{name}: a new crate needs a line in xtask/src/tidy.rs"));
            continue;
        };
        let used = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
        for short in used.filter_map(|d| d.name.strip_prefix("weir-")) {
            if !allowed.contains(&short) && !OPEN_TO_ALL.contains(&short) {
                wrong.push(format!("{name} must not use weir-{short}"));
            }
        }
    }
    Ok(wrong)
}

fn tracked(root: &Path, pattern: &str) -> anyhow::Result<Vec<PathBuf>> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard", pattern];
    let output = Command::new("git").args(args).current_dir(root).output().context("git")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(PathBuf::from).filter(|path| root.join(path).exists()).collect())
}

/// Counts on rustfmt: a function ends at the first `}` in the column where it starts.
fn sizes(path: &Path, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > FILE_LINES_MAX {
        wrong.push(format!("{}: {} lines, at most {FILE_LINES_MAX}", path.display(), lines.len()));
    }
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if !is_function(line.trim_start()) {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let Some(length) = lines[start..].iter().position(|line| **line == closing) else {
            continue;
        };
        if length + 1 > FUNCTION_LINES_MAX {
            let place = format!("{}:{}", path.display(), start + 1);
            wrong.push(format!(
                "{place}: a function of {} lines, at most {FUNCTION_LINES_MAX}",
                length + 1
            ));
        }
    }
    wrong
}

fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let qualifiers =
        ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    words.find(|word| !qualifiers.contains(word)) == Some("fn")
        && !line.ends_with(';')
        && !line.ends_with('}')
}

fn migrations(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for path in tracked(root, "migrations/postgres/*.sql")? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stamp = name.split('_').next().unwrap_or_default();
        if stamp.len() != 14 || !stamp.bytes().all(|byte| byte.is_ascii_digit()) {
            wrong.push(format!("{}: named YYYYMMDDHHMMSS_verb_object.sql", path.display()));
        }
        if !fs::read_to_string(root.join(&path))?.starts_with("-- ") {
            wrong.push(format!("{}: the first line says why", path.display()));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_functions_and_files_are_found() {
        let body = "    let x = 1;\n".repeat(70);
        let text = format!("pub async fn long() {{\n{body}}}\nfn short() {{\n}}\n");
        let wrong = sizes(Path::new("a.rs"), &text);
        assert_eq!(wrong, ["a.rs:1: a function of 72 lines, at most 70"]);
        assert_eq!(sizes(Path::new("b.rs"), &"\n".repeat(801)).len(), 1);
    }
}
