//! Building an index from entries in any order, as when a partition comes to a machine without it.

use super::{Entry, Index, IndexError};
use std::path::Path;
use weir_events::Position;

/// Entries that are sorted at once: 32 MB.
const BATCH_ENTRIES: usize = 1_000_000;

/// An index being built; it exists, for the disk, once [`Rebuild::finish`] has returned.
pub struct Rebuild {
    index: Index,
    batch: Vec<Entry>,
    runs: Vec<super::Placed>,
}

impl Rebuild {
    /// Starts with nothing, in the place of whatever is in `dir`.
    pub fn start(dir: &Path, partition: u32, table_ids_max: usize) -> Result<Self, IndexError> {
        let index = Index::create(dir, partition, table_ids_max)?;
        Ok(Self { index, batch: Vec::new(), runs: Vec::new() })
    }

    /// Adds an id. Of two entries of one id the earlier position stays.
    pub fn add(&mut self, entry: Entry) -> Result<(), IndexError> {
        self.batch.push(entry);
        if self.batch.len() >= BATCH_ENTRIES { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<(), IndexError> {
        let batch = std::mem::take(&mut self.batch);
        self.runs.extend(self.index.write_run(batch)?);
        Ok(())
    }

    /// Ends with an index that covers all positions before `to`.
    pub fn finish(mut self, to: Position) -> Result<Index, IndexError> {
        self.write_batch()?;
        let Self { mut index, runs, .. } = self;
        index.write_manifest(&runs, to.as_u64())?;
        {
            let mut view = index.view.write();
            view.runs = runs.into();
            view.covered_to = to.as_u64();
        }
        Ok(index)
    }
}
