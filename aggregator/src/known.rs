//! The indexes of this process' partitions, as the edge asks them in `weir up`.

use crate::dedup::Reader;
use parking_lot::RwLock;
use weir_events::{EventId, FirstCopy, KnownIds, KnownIdsError, Position};

/// The indexes that are held and caught up, by partition.
#[derive(Debug)]
pub struct Known {
    readers: RwLock<Vec<Option<Reader>>>,
}

impl Known {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        Self { readers: RwLock::new(vec![None; partitions as usize]) }
    }

    /// Shows a partition's index, or no longer.
    #[doc(hidden)]
    pub fn set(&self, partition: u32, reader: Option<Reader>) {
        if let Some(slot) = self.readers.write().get_mut(partition as usize) {
            *slot = reader;
        }
    }

    /// Whether the partition's index is there to be asked.
    pub(crate) fn holds(&self, partition: u32) -> bool {
        self.reader(partition).is_some()
    }

    fn reader(&self, partition: u32) -> Option<Reader> {
        self.readers.read().get(partition as usize).cloned().flatten()
    }
}

impl KnownIds for Known {
    fn find(
        &self,
        partition: u32,
        ids: &[EventId],
    ) -> Result<Vec<Option<FirstCopy>>, KnownIdsError> {
        let reader = self.reader(partition).ok_or(KnownIdsError::NotHeld { partition })?;
        reader
            .find(ids)
            .map_err(|source| KnownIdsError::Unreadable { partition, source: Box::new(source) })
    }

    fn suspects(&self, partition: u32, ids: &[EventId]) -> usize {
        self.reader(partition).map_or(ids.len(), |reader| reader.suspects(ids))
    }

    fn covered_to(&self, partition: u32) -> Position {
        self.reader(partition).map_or(Position::ZERO, |reader| reader.covered_to())
    }
}
