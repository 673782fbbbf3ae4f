//! Which runs an index consists of, and up to which log position they are complete.
//!
//! A short text with a checksum, replaced as a whole:
//!
//! ```text
//! weir-index 2
//! partition 3
//! position 81920
//! run 12 1 1772323200000000
//! run 13 0 -
//! checksum 9f2c…
//! ```
//!
//! A run's last field is the newest time of its events, in microseconds since 1970, where it is
//! known. Version 1 is the same without it.

use super::{durable, error::IndexError};
use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_64;

/// A run of the manifest: its number names the file, its level says what it is merged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub number: u64,
    pub level: u32,
    /// No event of the run was received, or is dated, later. `None`: not known.
    pub newest_us: Option<i64>,
}

impl Listed {
    pub fn path(&self, dir: &Path) -> PathBuf {
        run_path(dir, self.number)
    }
}

/// Where run `number` of the index in `dir` is kept.
pub(super) fn run_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.run"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub partition: u32,
    /// Every id whose first copy is at an earlier position is in the runs.
    pub position: u64,
    pub runs: Vec<Listed>,
}

const FILE: &str = "manifest";
const HEAD: &str = "weir-index 2";
const HEAD_WITHOUT_TIMES: &str = "weir-index 1";

impl Manifest {
    /// The manifest in `dir`; `None` where there is none.
    pub fn read(dir: &Path, partition: u32) -> Result<Option<Self>, IndexError> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IndexError::Io { path, source }),
        };
        let manifest = std::str::from_utf8(&text)
            .ok()
            .and_then(parse)
            .ok_or_else(|| IndexError::damaged(&path, "its checksum or a line is wrong"))?;
        if manifest.partition != partition {
            return Err(IndexError::damaged(&path, "it belongs to another partition"));
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest in `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), IndexError> {
        durable::write(&dir.join(FILE), self.text().as_bytes())
    }

    fn text(&self) -> String {
        let mut text =
            format!("{HEAD}\npartition {}\nposition {}\n", self.partition, self.position);
        for run in &self.runs {
            let newest = run.newest_us.map_or_else(|| "-".to_owned(), |at| at.to_string());
            // Writing to a String can't fail.
            let _ = writeln!(text, "run {} {} {newest}", run.number, run.level);
        }
        let checksum = xxh3_64(text.as_bytes());
        let _ = writeln!(text, "checksum {checksum:016x}");
        text
    }
}

fn parse(text: &str) -> Option<Manifest> {
    let at = text.rfind("checksum ")?;
    let (content, last) = text.split_at(at);
    let checksum = last.strip_prefix("checksum ")?.strip_suffix('\n')?;
    if u64::from_str_radix(checksum, 16).ok()? != xxh3_64(content.as_bytes()) {
        return None;
    }
    let mut lines = content.lines();
    let parse_run = match lines.next()? {
        HEAD => parse_run,
        HEAD_WITHOUT_TIMES => parse_run_without_time,
        _ => return None,
    };
    let partition = lines.next()?.strip_prefix("partition ")?.parse().ok()?;
    let position = lines.next()?.strip_prefix("position ")?.parse().ok()?;
    let runs = lines.map(parse_run).collect::<Option<Vec<_>>>()?;
    Some(Manifest { partition, position, runs })
}

fn parse_run(line: &str) -> Option<Listed> {
    let (run, newest) = line.rsplit_once(' ')?;
    let newest_us = if newest == "-" { None } else { Some(newest.parse().ok()?) };
    Some(Listed { newest_us, ..parse_run_without_time(run)? })
}

fn parse_run_without_time(line: &str) -> Option<Listed> {
    let (number, level) = line.strip_prefix("run ")?.split_once(' ')?;
    Some(Listed { number: number.parse().ok()?, level: level.parse().ok()?, newest_us: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_as_it_was_written_and_any_changed_byte_is_noticed() {
        let runs = vec![
            Listed { number: 12, level: 1, newest_us: Some(-5) },
            Listed { number: 13, level: 0, newest_us: None },
        ];
        let manifest = Manifest { partition: 3, position: 81_920, runs };
        let text = manifest.text();
        assert_eq!(parse(&text), Some(manifest));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(parse(&changed), None, "byte {at} changed");
            assert_eq!(parse(&text[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_manifest_of_before_the_runs_had_times_is_read() {
        let content = "weir-index 1\npartition 3\nposition 81920\nrun 12 1\n";
        let text = format!("{content}checksum {:016x}\n", xxh3_64(content.as_bytes()));
        let runs = vec![Listed { number: 12, level: 1, newest_us: None }];
        assert_eq!(parse(&text), Some(Manifest { partition: 3, position: 81_920, runs }));
    }
}
