//! The exact index of the ids seen in one partition, for ever, in little memory.
//!
//! What came last is in a small table; the rest is in sealed runs ([`run`]), immutable sorted files
//! with filters in memory. Ten runs of a level are merged into one of the next. The manifest names
//! the runs and the position up to which they are complete: what lies behind it is read again from
//! the log after a crash. Every file has checksums; a damaged index is dropped and built again.
//!
//! Runs cover the log in order, so ids are forgotten run by run where a deployment remembers them
//! for a while only ([`Index::forget_before`]).
//!
//! [`Index`] belongs to the partition's task; any number of [`Reader`]s may look things up.

mod durable;
mod entry;
mod error;
mod filter;
mod judge;
mod manifest;
mod merge;
mod rebuild;
mod run;

pub use entry::Entry;
pub use error::IndexError;
pub use judge::{Seen, Verdict, judge, new_entries};
pub use merge::{Merge, Merged};
pub use rebuild::Rebuild;

use entry::key_of;
use hashbrown::HashTable;
use manifest::{Listed, Manifest, run_path};
use parking_lot::RwLock;
use run::{Asked, RUN_ENTRIES_MAX, Run, RunWriter};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use weir_events::{EventId, FirstCopy, Position};

/// Runs of a level that are merged into one of the next.
const MERGE_RUNS: usize = 10;
/// Chunks of nothing but repeats add no ids; after so many tables' worth of events the manifest
/// moves on all the same, so that neither the log nor the tail to be read after a crash grows.
const EVENTS_PER_TABLE: u64 = 8;
/// Where ids are forgotten, a merged run holds no more than this part of them, because a run is
/// forgotten as a whole: an index remembers for a quarter longer than it must, at most.
const FORGOTTEN_AT_ONCE: u64 = 4;

#[derive(Debug, Clone)]
struct Placed {
    listed: Listed,
    run: Arc<Run>,
}

/// What a chunk adds to what an index covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Every position before it.
    pub to: Position,
    /// The chunk's events, repeats included.
    pub events: u64,
    /// The newest time at which one of them was received or that it is dated, microseconds since
    /// 1970.
    pub newest_us: i64,
}

/// What look-ups see.
#[derive(Debug, Default)]
struct View {
    table: HashTable<Entry>,
    runs: Arc<[Placed]>,
    covered_to: u64,
}

/// The index of one partition, for its one writer.
#[derive(Debug)]
pub struct Index {
    dir: PathBuf,
    partition: u32,
    /// Ids in the table at which it is sealed.
    table_ids_max: usize,
    next_run: u64,
    sealed_to: u64,
    /// Events that were covered since the manifest was written.
    unsealed_events: u64,
    /// Of the events since the last run was sealed.
    unsealed_newest_us: Option<i64>,
    /// Whether ids are forgotten at all.
    forgets: bool,
    merging: bool,
    view: Arc<RwLock<View>>,
}

/// Looks ids up in an index; cheap to clone, for any thread.
#[derive(Debug, Clone)]
pub struct Reader {
    view: Arc<RwLock<View>>,
}

impl Reader {
    /// What the index holds of each id, in order. Reads files where a filter says "perhaps".
    ///
    /// Errors: a file can't be read, or is damaged.
    pub fn find(&self, ids: &[EventId]) -> Result<Vec<Option<FirstCopy>>, IndexError> {
        let (mut found, runs) = {
            let view = self.view.read();
            let found: Vec<_> = ids.iter().map(|id| view.in_table(id.as_u128())).collect();
            (found, Arc::clone(&view.runs))
        };
        if runs.is_empty() {
            return Ok(found);
        }
        // In the order of the runs, whose filters are then read front to back.
        let mut asked: Vec<Asked> = (0..)
            .zip(ids)
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|((at, id), _)| Asked { key: key_of(id.as_u128()), at })
            .collect();
        asked.sort_unstable_by_key(|asked| asked.key);
        for placed in runs.iter() {
            placed.run.find(&asked, ids, &mut found)?;
        }
        Ok(found)
    }

    /// How many of the ids may be known, told from memory alone: all that are, and of 1,000 others
    /// two or three where there are many runs.
    #[must_use]
    pub fn suspects(&self, ids: &[EventId]) -> usize {
        let view = self.view.read();
        let in_runs = |key| view.runs.iter().any(|placed| placed.run.may_hold(key));
        let ids = ids.iter().map(|id| id.as_u128());
        ids.filter(|id| view.in_table(*id).is_some() || in_runs(key_of(*id))).count()
    }

    /// Every id whose first copy is before this position is found.
    #[must_use]
    pub fn covered_to(&self) -> Position {
        Position::from_u64(self.view.read().covered_to)
    }

    /// Number of ids.
    #[must_use]
    pub fn ids(&self) -> u64 {
        let view = self.view.read();
        view.table.len() as u64 + view.runs.iter().map(|placed| placed.run.entries()).sum::<u64>()
    }

    /// Bytes of memory that ids take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let view = self.view.read();
        view.table.allocation_size()
            + view.runs.iter().map(|placed| placed.run.memory_bytes()).sum::<usize>()
    }
}

impl View {
    fn in_table(&self, id: u128) -> Option<FirstCopy> {
        let hash = EventId::from_u128(id).table_hash();
        self.table.find(hash, |entry| entry.id == id).map(Entry::first)
    }

    fn add(&mut self, new: Entry) {
        let hash = |entry: &Entry| EventId::from_u128(entry.id).table_hash();
        self.table.entry(hash(&new), |own| own.id == new.id, hash).insert(new);
    }
}

impl Index {
    /// Opens the index of `partition` in `dir`; an absent one is empty. Files that a crash left
    /// over are deleted. The table is sealed at `table_ids_max` ids.
    ///
    /// Errors: a file can't be read, or is damaged: then [`Index::create`] and build it again.
    pub fn open(dir: &Path, partition: u32, table_ids_max: usize) -> Result<Self, IndexError> {
        fs::create_dir_all(dir).map_err(IndexError::io(dir))?;
        let manifest = Manifest::read(dir, partition)?.unwrap_or(Manifest {
            partition,
            position: 0,
            runs: Vec::new(),
        });
        delete_unlisted(dir, &manifest)?;
        let runs = manifest
            .runs
            .iter()
            .map(|listed| {
                let run = Arc::new(Run::open(&listed.path(dir))?);
                Ok(Placed { listed: *listed, run })
            })
            .collect::<Result<Arc<[_]>, IndexError>>()?;
        let next_run = runs.iter().map(|placed| placed.listed.number + 1).max().unwrap_or(0);
        let view = View { table: HashTable::new(), runs, covered_to: manifest.position };
        Ok(Self {
            dir: dir.to_owned(),
            partition,
            table_ids_max,
            next_run,
            sealed_to: manifest.position,
            unsealed_events: 0,
            unsealed_newest_us: None,
            forgets: false,
            merging: false,
            view: Arc::new(RwLock::new(view)),
        })
    }

    /// An empty index in the place of whatever is in `dir`.
    pub fn create(dir: &Path, partition: u32, table_ids_max: usize) -> Result<Self, IndexError> {
        if dir.exists() {
            let empty = Manifest { partition, position: 0, runs: Vec::new() };
            // First what names the runs, so that no crash leaves a manifest with missing files.
            empty.write(dir)?;
        }
        Self::open(dir, partition, table_ids_max)
    }

    /// For look-ups, also from elsewhere.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { view: Arc::clone(&self.view) }
    }

    /// As [`Reader::find`].
    pub fn find(&self, ids: &[EventId]) -> Result<Vec<Option<FirstCopy>>, IndexError> {
        self.reader().find(ids)
    }

    /// Every id whose first copy is before this position is found.
    #[must_use]
    pub fn covered_to(&self) -> Position {
        self.reader().covered_to()
    }

    /// What survives a crash: the log may drop what is before it.
    #[must_use]
    pub fn sealed_to(&self) -> Position {
        Position::from_u64(self.sealed_to)
    }

    /// Takes up a chunk's new ids. Ids of positions that are covered already, as when a chunk is
    /// done twice, are passed over.
    ///
    /// Errors: nothing is changed then, and the same call may be repeated.
    pub fn remember(&mut self, new: &[Entry], covered: Covered) -> Result<(), IndexError> {
        let covered_to = self.view.read().covered_to;
        let new = || new.iter().filter(|entry| entry.position >= covered_to);
        let held = self.view.read().table.len() + new().count();
        let events = self.unsealed_events + covered.events;
        let to = covered.to.as_u64();
        self.unsealed_newest_us = self.unsealed_newest_us.max(Some(covered.newest_us));
        if held >= self.table_ids_max || events >= self.events_max() {
            self.seal(new(), to)?;
        } else {
            let mut view = self.view.write();
            new().for_each(|entry| view.add(*entry));
            view.covered_to = view.covered_to.max(to);
            self.unsealed_events = events;
        }
        Ok(())
    }

    /// Forgets the runs all of whose events were received, and are dated, before this instant
    /// (microseconds since 1970); how many ids. What is younger stays, and some that is not.
    ///
    /// Errors: what was to be forgotten stays known, or files are left that the next start deletes.
    pub fn forget_before(&mut self, instant_us: i64) -> Result<u64, IndexError> {
        self.forgets = true;
        let current = Arc::clone(&self.view.read().runs);
        let old = |placed: &&Placed| placed.listed.newest_us.is_some_and(|at| at < instant_us);
        if !current.iter().any(|placed| old(&placed)) {
            return Ok(0);
        }
        let runs: Vec<Placed> = current.iter().filter(|placed| !old(placed)).cloned().collect();
        self.write_manifest_runs(&runs)?;
        self.view.write().runs = runs.into();
        let forgotten: Vec<&Placed> = current.iter().filter(old).collect();
        forgotten.iter().try_for_each(|placed| remove(placed.run.path()))?;
        Ok(forgotten.iter().map(|placed| placed.run.entries()).sum())
    }

    fn events_max(&self) -> u64 {
        (self.table_ids_max as u64).saturating_mul(EVENTS_PER_TABLE)
    }

    /// Writes the table and `new` as a run, then the manifest, then shows both to the readers.
    fn seal<'e>(
        &mut self,
        new: impl Iterator<Item = &'e Entry>,
        to: u64,
    ) -> Result<(), IndexError> {
        let mut entries: Vec<Entry> = new.copied().collect();
        let to = {
            let view = self.view.read();
            entries.extend(view.table.iter());
            view.covered_to.max(to)
        };
        let mut runs = self.view.read().runs.to_vec();
        runs.extend(self.write_run(entries)?);
        // Those that came without a time are older than what was read since.
        for placed in &mut runs {
            placed.listed.newest_us = placed.listed.newest_us.or(self.unsealed_newest_us);
        }
        self.write_manifest(&runs, to)?;
        let mut view = self.view.write();
        view.runs = runs.into();
        view.table.clear();
        view.covered_to = to;
        drop(view);
        self.unsealed_newest_us = None;
        Ok(())
    }

    /// Sorts entries and writes them as a run of the level that fits their number; none when empty.
    fn write_run(&mut self, mut entries: Vec<Entry>) -> Result<Option<Placed>, IndexError> {
        if entries.is_empty() {
            return Ok(None);
        }
        entries.sort_unstable_by_key(|entry| entry.id);
        entries.dedup_by(|next, kept| {
            let is_copy = next.id == kept.id;
            if is_copy && next.position < kept.position {
                *kept = *next;
            }
            is_copy
        });
        let (number, level) = (self.take_number(), self.level_of(entries.len()));
        let listed = Listed { number, level, newest_us: None };
        let mut writer = RunWriter::create(&listed.path(&self.dir), entries.len() as u64)?;
        for entry in &entries {
            writer.push(entry)?;
        }
        Ok(Some(Placed { listed, run: Arc::new(writer.finish()?) }))
    }

    fn write_manifest(&mut self, runs: &[Placed], position: u64) -> Result<(), IndexError> {
        let runs = runs.iter().map(|placed| placed.listed).collect();
        Manifest { partition: self.partition, position, runs }.write(&self.dir)?;
        self.sealed_to = position;
        self.unsealed_events = 0;
        Ok(())
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_run;
        self.next_run += 1;
        number
    }

    /// A full table is level 0, ten of them level 1, and so on.
    fn level_of(&self, entries: usize) -> u32 {
        let tables = entries / self.table_ids_max.max(1);
        tables.checked_ilog10().unwrap_or(0)
    }

    /// The merge that is due, if any and if none is under way. Hand it to [`Merge::run`], and its
    /// outcome to [`Index::install`] or [`Index::abandon`].
    pub fn due_merge(&mut self) -> Option<Merge> {
        if self.merging {
            return None;
        }
        let runs = Arc::clone(&self.view.read().runs);
        let highest = runs.iter().map(|placed| placed.listed.level).max()?;
        let (level, inputs) =
            (0..=highest).find_map(|level| Some((level, self.mergeable(&runs, level)?)))?;
        self.merging = true;
        let number = self.take_number();
        Some(Merge { inputs, level: level + 1, path: run_path(&self.dir, number) })
    }

    /// The oldest runs of a level, if they are enough and together not too much.
    fn mergeable(&self, runs: &[Placed], level: u32) -> Option<Vec<Arc<Run>>> {
        let of_level = runs.iter().filter(|placed| placed.listed.level == level);
        let inputs: Vec<Arc<Run>> =
            of_level.take(MERGE_RUNS).map(|placed| Arc::clone(&placed.run)).collect();
        let entries: u64 = inputs.iter().map(|run| run.entries()).sum();
        let all: u64 = runs.iter().map(|placed| placed.run.entries()).sum();
        let too_much = self.forgets && entries.saturating_mul(FORGOTTEN_AT_ONCE) > all;
        let fits = entries <= RUN_ENTRIES_MAX;
        (inputs.len() == MERGE_RUNS && fits && !too_much).then_some(inputs)
    }

    /// Puts a merged run in the place of its inputs and deletes their files.
    ///
    /// Errors: the inputs stay in use.
    pub fn install(&mut self, merged: Merged) -> Result<(), IndexError> {
        self.merging = false;
        let Merged { inputs, level, run } = merged;
        let replaced = |placed: &Placed| inputs.iter().any(|run| Arc::ptr_eq(run, &placed.run));
        let current = Arc::clone(&self.view.read().runs);
        let number = run_number(run.path());
        let mut runs: Vec<Placed> = current.iter().filter(|run| !replaced(run)).cloned().collect();
        let (Some(number), true) = (number, runs.len() + inputs.len() == current.len()) else {
            // The index was built anew meanwhile; what was merged is no longer part of it.
            return remove(run.path());
        };
        // Of runs with no time the newest is not known.
        let times: Option<Vec<i64>> = current
            .iter()
            .filter(|placed| replaced(placed))
            .map(|placed| placed.listed.newest_us)
            .collect();
        let newest_us = times.and_then(|times| times.into_iter().max());
        runs.push(Placed { listed: Listed { number, level, newest_us }, run: Arc::new(run) });
        self.write_manifest_runs(&runs)?;
        self.view.write().runs = runs.into();
        inputs.iter().try_for_each(|run| remove(run.path()))
    }

    /// A merge replaces runs; what they cover stays.
    fn write_manifest_runs(&mut self, runs: &[Placed]) -> Result<(), IndexError> {
        let runs = runs.iter().map(|placed| placed.listed).collect();
        Manifest { partition: self.partition, position: self.sealed_to, runs }.write(&self.dir)
    }

    /// Says that the merge under way failed; it will be due again.
    pub fn abandon(&mut self) {
        self.merging = false;
    }
}

fn run_number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

fn remove(path: &Path) -> Result<(), IndexError> {
    fs::remove_file(path).map_err(IndexError::io(path))
}

/// Deletes the files of `dir` that a crash left without a manifest that names them.
fn delete_unlisted(dir: &Path, manifest: &Manifest) -> Result<(), IndexError> {
    for found in fs::read_dir(dir).map_err(IndexError::io(dir))? {
        let path = found.map_err(IndexError::io(dir))?.path();
        let ours = match path.extension().and_then(|extension| extension.to_str()) {
            Some(durable::TEMPORARY) => true,
            Some("run") => !manifest.runs.iter().any(|listed| listed.path(dir) == path),
            _ => false,
        };
        if ours {
            remove(&path)?;
        }
    }
    Ok(())
}
