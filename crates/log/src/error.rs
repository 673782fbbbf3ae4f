//! Why the log did not do what it was asked.

use std::{error::Error, path::PathBuf, sync::Arc};

type Cause = Arc<dyn Error + Send + Sync>;

/// Why an operation on the log failed. Cheap to clone: one failure answers many records.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The queue is full. The record is not in the log; try again later.
    #[error("the log's queue is full")]
    Busy,
    /// The record is not in the log and will not be.
    #[error("the log refused the record")]
    Rejected(#[source] Cause),
    /// No answer, or an answer that leaves it open: the record may be in the log, now or later.
    #[error("the log did not confirm the record, which may be in it")]
    Unknown(#[source] Cause),
    /// The log cannot be reached or read at the moment.
    #[error("the log is not available")]
    Unavailable(#[source] Cause),
    /// The record is no longer kept.
    #[error("offset {from} of partition {partition} is gone, the log starts at {start}")]
    BelowStart { partition: u32, from: u64, start: u64 },
    /// The log ends before this offset: it is another log than the one that gave the offset.
    #[error("offset {from} of partition {partition} is beyond the log's end at {end}")]
    BeyondEnd { partition: u32, from: u64, end: u64 },
    /// A partition that the log does not have.
    #[error("partition {partition} of a log with {partitions}")]
    NoSuchPartition { partition: u32, partitions: u32 },
    /// An id must never change its partition, so their number is fixed when the log is created.
    #[error("the log has {found} partitions and not {wanted}: their number cannot be changed")]
    PartitionCount { found: u32, wanted: u32 },
    /// Another process, or another part of this one, has the log open.
    #[error("the log in {} is in use by another process", dir.display())]
    InUse { dir: PathBuf },
    /// The directory holds something that this release cannot read.
    #[error("the log in {} has format {found:?}, this release reads \"1\"", dir.display())]
    Format { dir: PathBuf, found: String },
    /// The log could not be opened.
    #[error("the log cannot be opened: {step}")]
    Open {
        step: &'static str,
        #[source]
        source: Cause,
    },
}

impl LogError {
    /// Whether a record whose append failed with this is surely not in the log, so that sending it
    /// again makes no second copy.
    #[must_use]
    pub fn is_surely_absent(&self) -> bool {
        match self {
            Self::Busy | Self::Rejected(_) | Self::NoSuchPartition { .. } => true,
            Self::Unknown(_)
            | Self::Unavailable(_)
            | Self::BelowStart { .. }
            | Self::BeyondEnd { .. }
            | Self::PartitionCount { .. }
            | Self::InUse { .. }
            | Self::Format { .. }
            | Self::Open { .. } => false,
        }
    }

    pub(crate) fn rejected(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Rejected(Arc::new(source))
    }

    pub(crate) fn unknown(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unknown(Arc::new(source))
    }

    pub(crate) fn unavailable(source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(Arc::new(source))
    }

    pub(crate) fn open<E: Error + Send + Sync + 'static>(
        step: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Open { step, source: Arc::new(source) }
    }
}

/// The thread that does the log's work is gone.
#[derive(Debug, thiserror::Error)]
#[error("the log is closed")]
pub(crate) struct Closed;

/// A write has failed. Nothing is taken until the log can write again.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot write and tries again by itself: {0}")]
pub(crate) struct CannotWrite(pub String);

/// A moment later there is something to be read again.
#[derive(Debug, thiserror::Error)]
#[error("the log is being opened again")]
pub(crate) struct Reopening;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_surely_absent() {
        assert!(LogError::Busy.is_surely_absent());
        assert!(LogError::rejected(Closed).is_surely_absent());
        assert!(!LogError::unknown(Closed).is_surely_absent());
        assert!(!LogError::unavailable(Closed).is_surely_absent());
    }
}
