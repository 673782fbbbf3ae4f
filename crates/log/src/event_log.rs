//! The log as ingest and aggregator see it.

use crate::LogError;
use bytes::Bytes;
use std::time::Duration;

/// A record to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// In `0..partitions`.
    pub partition: u32,
    /// An encoded record.
    pub bytes: Bytes,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its offset in its partition. Offsets grow and may have gaps.
    pub offset: u64,
    /// The record as it was appended.
    pub bytes: Bytes,
}

/// A log in partitions, each a sequence of records that only grows at its end.
#[async_trait::async_trait]
pub trait EventLog: Send + Sync {
    /// How many partitions there are, the same for the life of a deployment.
    fn partitions(&self) -> u32;

    /// Appends records and answers for each, in their order: its offset once it is durable, or why
    /// it is not. Records of one partition keep their order. An error says by
    /// `is_surely_absent` whether the record may still be in the log.
    ///
    /// The answer comes within a bound: `Busy` at once when the queue is full. When the caller
    /// goes away before the answer, the records may be in the log.
    async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>>;

    /// An offset greater than that of every record in the log, and the one from which `read` gives
    /// the next. Never behind an acknowledged append.
    async fn end(&self, partition: u32) -> Result<u64, LogError>;

    /// The least offset that can be read; equal to `end` where the partition is empty.
    async fn start(&self, partition: u32) -> Result<u64, LogError>;

    /// The records from offset `from` on, in order: one at least and about `max_bytes` at most (it
    /// stops at the record that reaches them). Empty when there is none within `wait`.
    /// Errors: `BelowStart` and `BeyondEnd` instead of records from somewhere else.
    async fn read(
        &self,
        partition: u32,
        from: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Stored>, LogError>;

    /// Whether the log takes and gives records right now.
    async fn ready(&self) -> Result<(), LogError>;

    /// Records below `before` are no longer needed here. The embedded log deletes them; Kafka keeps
    /// them and notes the offset of the consumer group, for tools. Errors are logged: the next
    /// call does what this one could not.
    async fn release(&self, partition: u32, before: u64);
}
