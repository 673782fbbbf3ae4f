//! Merging runs of one level into one of the next: a sequential read of each, a sequential write.

use super::{
    entry::Entry,
    error::IndexError,
    run::{Blocks, Run, RunWriter},
};
use std::{path::PathBuf, sync::Arc};

/// Blocks read from a run at once: 256 KiB.
const READ_BLOCKS: usize = 64;

/// Runs to be merged. The work needs nothing of the index, so it may be done on any thread while
/// the index is in use.
#[derive(Debug)]
pub struct Merge {
    pub(super) inputs: Vec<Arc<Run>>,
    pub(super) level: u32,
    pub(super) path: PathBuf,
}

/// A merge that is done; [`super::Index::install`] puts the new run in the place of its inputs.
#[derive(Debug)]
pub struct Merged {
    pub(super) inputs: Vec<Arc<Run>>,
    pub(super) level: u32,
    pub(super) run: Run,
}

impl Merge {
    /// Does the work: 0.1 CPU-seconds for a million ids, memory bounded. Blocks on the disk.
    pub fn run(self) -> Result<Merged, IndexError> {
        let mut cursors =
            self.inputs.iter().map(|run| Cursor::start(run)).collect::<Result<Vec<_>, _>>()?;
        let mut writer =
            RunWriter::create(&self.path, self.inputs.iter().map(|run| run.entries()).sum())?;
        let mut last: Option<u128> = None;
        while let Some(cursor) = least(&mut cursors) {
            let Some(entry) = cursor.take()? else { continue };
            // Of two copies the earlier comes first, because entries are ordered by id, position.
            if last != Some(entry.id) {
                writer.push(&entry)?;
                last = Some(entry.id);
            }
        }
        Ok(Merged { inputs: self.inputs, level: self.level, run: writer.finish()? })
    }
}

fn least<'c, 'r>(cursors: &'c mut [Cursor<'r>]) -> Option<&'c mut Cursor<'r>> {
    cursors
        .iter_mut()
        .filter(|cursor| cursor.head.is_some())
        .min_by(|left, right| left.head.cmp(&right.head))
}

struct Cursor<'r> {
    run: &'r Run,
    next_block: usize,
    read: Blocks,
    at: usize,
    head: Option<Entry>,
}

impl<'r> Cursor<'r> {
    fn start(run: &'r Run) -> Result<Self, IndexError> {
        let mut cursor = Self { run, next_block: 0, read: Blocks::default(), at: 0, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    fn take(&mut self) -> Result<Option<Entry>, IndexError> {
        let head = self.head;
        self.advance()?;
        Ok(head)
    }

    fn advance(&mut self) -> Result<(), IndexError> {
        if self.at == self.read.entries.len() && self.next_block < self.run.blocks() {
            self.at = 0;
            self.read.read(self.run, self.next_block, READ_BLOCKS)?;
            self.next_block += READ_BLOCKS;
        }
        self.head = self.read.entries.get(self.at).copied();
        self.at += usize::from(self.head.is_some());
        Ok(())
    }
}
