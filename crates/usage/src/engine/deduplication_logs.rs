//! The engine's notes of which tokens a table has seen, kept as true as its rows.
//!
//! ClickHouse writes the note of an insert's token just before it renames the insert's part into
//! place, and does not sync the note. So a crash can leave a note without its rows, and the chunk
//! that is written again would be dropped and lost; or, when the machine itself fails, rows without
//! their note, and the chunk would count twice. Against the first, [`repair`] takes back notes
//! without rows before the engine starts; against the second, [`make_synchronous`] has the file
//! system write notes through to the disk, that is, before the rename.

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

const DIRECTORY: &str = "deduplication_logs";
const ADDED: &str = "1";
const DROPPED: &str = "2";

/// Takes back the notes whose rows are not there, and cuts off a note that was half written.
/// Only while the engine does not run.
pub(super) fn repair(data: &Path) -> io::Result<()> {
    for table in tables(data)? {
        let logs = logs_of(&table)?;
        let Some((_, newest)) = logs.last_key_value() else { continue };
        let parts = parts_of(&table)?;
        let mut tokens = BTreeMap::new();
        for log in logs.values() {
            read(log, &mut tokens)?;
        }
        tokens.retain(|_, name| {
            let part = Part::parse(name);
            !parts.iter().any(|there| part.as_ref().is_some_and(|part| there.covers(part)))
        });
        if tokens.is_empty() {
            continue;
        }
        let mut file = File::options().append(true).open(newest)?;
        for (token, part) in tokens {
            writeln!(file, "{DROPPED}\t{part}\t{token}")?;
            let _unread =
                writeln!(io::stderr(), "took back the note of {part}, whose rows were not written");
        }
        file.sync_all()?;
    }
    Ok(())
}

/// Has the file system write these files through to the disk. Not every file system can: then a
/// power cut, not a killed process, may count a chunk twice, which the verifier reports.
pub(crate) fn make_synchronous(data: &Path) {
    let synced = tables(data).and_then(|tables| {
        for table in tables {
            set_flag(&table.join(DIRECTORY))?;
            logs_of(&table)?.values().try_for_each(|log| set_flag(log))?;
        }
        Ok(())
    });
    if let Err(error) = synced {
        tracing::warn!(%error, data = %data.display(), "deduplication notes are not written through to the disk");
    }
}

/// Files that are made later in a directory with the flag have it too.
fn set_flag(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = ioctl_getflags(&file)?;
    if !flags.contains(IFlags::SYNC) {
        ioctl_setflags(&file, flags | IFlags::SYNC)?;
    }
    Ok(())
}

/// Directories of tables that keep notes: `store/UUU/UUUUUUUU-…`.
fn tables(data: &Path) -> io::Result<Vec<PathBuf>> {
    let mut tables = Vec::new();
    let store = data.join("store");
    if !store.is_dir() {
        return Ok(tables);
    }
    for group in fs::read_dir(store)? {
        let group = group?.path();
        if !group.is_dir() {
            continue;
        }
        for table in fs::read_dir(group)? {
            let table = table?.path();
            if table.join(DIRECTORY).is_dir() {
                tables.push(table);
            }
        }
    }
    Ok(tables)
}

/// `deduplication_log_7.txt` and its like, by number.
fn logs_of(table: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut logs = BTreeMap::new();
    for entry in fs::read_dir(table.join(DIRECTORY))? {
        let path = entry?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.strip_prefix("deduplication_log_")?.parse().ok());
        if let Some(number) = number {
            logs.insert(number, path);
        }
    }
    Ok(logs)
}

/// Plays a log's notes, `operation <tab> part <tab> token`, onto `tokens`.
fn read(log: &Path, tokens: &mut BTreeMap<String, String>) -> io::Result<()> {
    let text = fs::read(log)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        let file = File::options().write(true).open(log)?;
        file.set_len(u64::try_from(whole).map_err(io::Error::other)?)?;
        file.sync_all()?;
    }
    let text = String::from_utf8_lossy(text.get(..whole).unwrap_or_default());
    for line in text.lines() {
        let mut fields = line.splitn(3, '\t');
        match (fields.next(), fields.next(), fields.next()) {
            (Some(ADDED), Some(part), Some(token)) => {
                tokens.insert(token.to_owned(), part.to_owned());
            }
            (Some(DROPPED), Some(_), Some(token)) => {
                tokens.remove(token);
            }
            _ => return Err(io::Error::other(format!("{}: unknown note {line:?}", log.display()))),
        }
    }
    Ok(())
}

fn parts_of(table: &Path) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(table)? {
        parts.extend(entry?.file_name().to_str().and_then(Part::parse));
    }
    Ok(parts)
}

/// A part holds the inserts numbered `first` to `last` of its partition.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    partition: String,
    first: u64,
    last: u64,
}

impl Part {
    /// `all_3_5_1` or, mutated, `all_3_5_1_9`. `None`: temporary and other directories.
    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.split('_');
        let partition = fields.next()?.to_owned();
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (first, last, _level) = (number()?, number()?, number()?);
        Some(Self { partition, first, last })
    }

    fn covers(&self, other: &Self) -> bool {
        self.partition == other.partition && self.first <= other.first && other.last <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(parts: &[&str], log: &str) -> (tempfile::TempDir, PathBuf) {
        let data = tempfile::tempdir().unwrap();
        let table = data.path().join("store/abc/abcdef");
        fs::create_dir_all(table.join(DIRECTORY)).unwrap();
        for part in parts {
            fs::create_dir(table.join(part)).unwrap();
        }
        let file = table.join(DIRECTORY).join("deduplication_log_1.txt");
        fs::write(&file, log).unwrap();
        (data, file)
    }

    #[test]
    fn notes_without_rows_are_taken_back() {
        let notes =
            "1\tall_1_1_0\ta\n1\tall_2_2_0\tb\n1\tall_3_3_0\tc\n1\tall_4_4_0\td\n2\tall_4_4_0\td\n";
        let (data, log) = table(&["all_1_2_1", "tmp_insert_all_3_3_0", "detached"], notes);
        repair(data.path()).unwrap();
        let after = fs::read_to_string(&log).unwrap();
        assert_eq!(after, format!("{notes}2\tall_3_3_0\tc\n"));
        repair(data.path()).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), after, "a second repair changes nothing");
    }

    #[test]
    fn a_half_written_note_is_cut_off() {
        let (data, log) = table(&["all_1_1_0"], "1\tall_1_1_0\ta\n1\tall_2_");
        repair(data.path()).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "1\tall_1_1_0\ta\n");
    }

    #[test]
    fn an_empty_data_directory_needs_nothing() {
        let data = tempfile::tempdir().unwrap();
        repair(data.path()).unwrap();
        make_synchronous(data.path());
    }

    #[test]
    fn mutated_parts_cover_their_inserts() {
        let part = Part::parse("all_3_5_1_9").unwrap();
        assert!(part.covers(&Part::parse("all_4_4_0").unwrap()));
        assert!(!part.covers(&Part::parse("all_6_6_0").unwrap()));
        assert_eq!(Part::parse("delete_tmp_all_1_1_0"), None);
    }
}
