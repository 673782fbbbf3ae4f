//! What can go wrong while a partition is worked on.

use crate::dedup::IndexError;
use std::time::Duration;
use weir_events::Position;
use weir_log::LogError;
use weir_store::StoreError;
use weir_usage::UsageError;

/// Why a step of a partition's work failed, or the aggregator can't start.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    #[error("event log: {0}")]
    Log(#[from] LogError),
    #[error("postgres: {0}")]
    Store(#[from] StoreError),
    #[error("clickhouse: {0}")]
    Usage(#[from] UsageError),
    #[error("catalog: {0}")]
    Catalog(#[from] weir_catalog::CatalogError),
    #[error("index: {0}")]
    Index(#[from] IndexError),
    /// The same chunk is inserted again under the same token.
    #[error("the insert took longer than {wait:?}")]
    InsertTimeout { wait: Duration },
    /// The index is built again from the beginning.
    #[error("clickhouse gave nothing for {wait:?}")]
    Silent { wait: Duration },
    /// Renewed soon, or another owner's; the roll is taken up again then.
    #[error("the lease on partition {partition} ends before an insert might")]
    LeaseShort { partition: u32 },
    /// Records that are not in ClickHouse are gone from the log: retention is too short, or files
    /// were lost.
    #[error("the log begins at offset {start}, but only what is before {from} is stored")]
    LogLost { from: Position, start: u64 },
    /// A range of the log came back shorter than it was.
    #[error("the log gave nothing between {from} and {to}")]
    RangeMissing { from: Position, to: Position },
    /// A step came without the one before it; the partition is read again.
    #[error("there is no chunk in hand")]
    NothingInHand,
    #[error("the process is ending")]
    Ending,
    #[error("a task of the aggregator ended: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("configuration: {0}")]
    Config(#[from] crate::config::ConfigInvalid),
}
