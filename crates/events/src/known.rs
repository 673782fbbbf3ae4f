//! What the edge may ask about ids that the aggregator has already decided.

use crate::{EventId, Position};

/// The copy of an event that counts: the first in its partition of the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FirstCopy {
    /// Where it stands in the log.
    pub position: Position,
    /// `content_hash` of it: a later copy with another hash is a conflict.
    pub content_hash: u64,
}

/// The index of seen ids as the edge sees it when both run in one process.
pub trait KnownIds: Send + Sync {
    /// The first copy of each id, in the order of `ids`; `None` for an id whose first copy does not
    /// stand below `covered_to`. All ids belong to `partition`. May read from disk: call it from a
    /// thread that may block.
    fn find(
        &self,
        partition: u32,
        ids: &[EventId],
    ) -> Result<Vec<Option<FirstCopy>>, KnownIdsError>;

    /// How many of the ids may be known, told from memory alone; 0: none of them is.
    fn suspects(&self, _partition: u32, ids: &[EventId]) -> usize {
        ids.len()
    }

    /// Every event of the partition below this position is in the index.
    fn covered_to(&self, partition: u32) -> Position;
}

/// Why the index gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum KnownIdsError {
    /// This process does not hold the partition's index.
    #[error("the index of partition {partition} is not held here")]
    NotHeld { partition: u32 },
    /// The index could not be read.
    #[error("the index of partition {partition} cannot be read")]
    Unreadable {
        partition: u32,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
