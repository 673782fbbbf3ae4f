//! What the edge reads of the log when it starts, so that repeats from before are known.
//!
//! With the aggregator's index: all that stands behind it. Without: the newest records, as far as
//! the bounds go.

use crate::config::Config;
use crate::recent::RecentIds;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use weir_events::{KnownIds, Position, decode_record, event_id, events_in_record};
use weir_log::{EventLog, LogError, Stored};

/// Why the edge can't start.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    #[error("the log's tail (partition {partition}) can't be read: {source}")]
    Log { partition: u32, source: LogError },
    #[error(
        "partition {partition}: the log gave no record from {from} up to {end} in {timeout_ms} ms"
    )]
    TimedOut { partition: u32, from: u64, end: u64, timeout_ms: u64 },
    #[error("told to end before the log's tail was read")]
    Ending,
}

/// Bytes asked of the log at once.
const READ_BYTES: usize = 4 << 20;
/// Records of one step back from the end.
const STEP_RECORDS: u64 = 1_000;
/// How long one read waits for records that are there, and how often the index is looked at.
const PATIENCE: Duration = Duration::from_millis(50);
/// An index that is opened is there sooner; one that is built takes longer, and an operator wonders.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Reads the tails of all partitions into `recent`.
pub async fn load(
    log: &dyn EventLog,
    known: Option<&Arc<dyn KnownIds>>,
    recent: &RecentIds,
    config: &Config,
) -> Result<(), TailError> {
    let mut tail = Tail { log, recent, config, deadline: deadline(config), bytes: 0 };
    for partition in 0..log.partitions() {
        match known {
            Some(known) => tail.behind_index(partition, known.as_ref()).await?,
            None => tail.newest(partition).await?,
        }
    }
    tracing::info!(ids = recent.len(), bytes = tail.bytes, "read the log's tail");
    Ok(())
}

fn deadline(config: &Config) -> Instant {
    Instant::now() + Duration::from_millis(config.recent.tail_timeout_ms)
}

struct Tail<'a> {
    log: &'a dyn EventLog,
    recent: &'a RecentIds,
    config: &'a Config,
    deadline: Instant,
    bytes: usize,
}

impl Tail<'_> {
    /// All from what the index covers to the end; where that is more than can be held, the newest.
    async fn behind_index(
        &mut self,
        partition: u32,
        known: &dyn KnownIds,
    ) -> Result<(), TailError> {
        until_held(partition, known).await;
        // The log has its time from here on.
        self.deadline = deadline(self.config);
        let (start, end) = self.bounds(partition).await?;
        let covered_to = known.covered_to(partition).offset().max(start);
        let mut from = self.newest_that_fit(partition, covered_to, end).await?;
        if from > covered_to {
            // Repeats of these are called new, and are still billed once.
            tracing::warn!(partition, covered_to, from, "the aggregator is far behind");
        }
        while from < end {
            let (stored, next) = self.read(partition, from, end).await?;
            from = next;
            self.remember(partition, &stored);
        }
        Ok(())
    }

    /// From where on, at or behind `least`, the records up to `end` hold as many ids as are kept.
    /// Found step by step back from the end, because there may be days of them.
    async fn newest_that_fit(
        &mut self,
        partition: u32,
        least: u64,
        end: u64,
    ) -> Result<u64, TailError> {
        let (mut ids, mut from) = (0, end);
        while from > least && ids < self.recent.ids_max() {
            let to = from;
            from = to.saturating_sub(STEP_RECORDS).max(least);
            let mut next = from;
            while next < to {
                let (stored, after) = self.read(partition, next, to).await?;
                next = after;
                ids += stored.iter().map(|record| events_in_record(&record.bytes)).sum::<usize>();
            }
        }
        Ok(from)
    }

    /// The newest records, step by step back from the end until a bound is met; then they are
    /// remembered in the log's order, because of two copies the first one counts.
    async fn newest(&mut self, partition: u32) -> Result<(), TailError> {
        let (start, end) = self.bounds(partition).await?;
        let recent = &self.config.recent;
        let partitions = u64::from(self.log.partitions().max(1));
        let bytes_max = recent.tail_bytes_max / partitions as usize;
        let least = end.saturating_sub(recent.tail_records_max).max(start);
        let (mut steps, mut bytes, mut to) = (Vec::new(), 0, end);
        while to > least && bytes < bytes_max {
            let from = to.saturating_sub(STEP_RECORDS).max(least);
            let mut step = Vec::new();
            let mut next = from;
            while next < to {
                let (stored, after) = self.read(partition, next, to).await?;
                next = after;
                step.extend(stored);
            }
            bytes += step.iter().map(|stored| stored.bytes.len()).sum::<usize>();
            steps.push(step);
            to = from;
        }
        for step in steps.iter().rev() {
            self.remember(partition, step);
        }
        Ok(())
    }

    async fn bounds(&self, partition: u32) -> Result<(u64, u64), TailError> {
        let failed = |source| TailError::Log { partition, source };
        let start = self.log.start(partition).await.map_err(failed)?;
        let end = self.log.end(partition).await.map_err(failed)?;
        Ok((start, end))
    }

    /// Some records from `from` on, before `end`, and the offset after them. None when the log has
    /// let them go in the meantime.
    async fn read(
        &mut self,
        partition: u32,
        from: u64,
        end: u64,
    ) -> Result<(Vec<Stored>, u64), TailError> {
        loop {
            let mut stored = match self.log.read(partition, from, READ_BYTES, PATIENCE).await {
                Ok(stored) => stored,
                Err(LogError::BelowStart { start, .. }) => return Ok((Vec::new(), start)),
                Err(source) => return Err(TailError::Log { partition, source }),
            };
            if let Some(last) = stored.last() {
                let next = last.offset + 1;
                stored.retain(|record| record.offset < end);
                return Ok((stored, next));
            }
            if Instant::now() >= self.deadline {
                let timeout_ms = self.config.recent.tail_timeout_ms;
                return Err(TailError::TimedOut { partition, from, end, timeout_ms });
            }
        }
    }

    fn remember(&mut self, partition: u32, stored: &[Stored]) {
        for record in stored {
            self.bytes += record.bytes.len();
            let decoded = match decode_record(&record.bytes) {
                Ok(decoded) => decoded,
                Err(error) => {
                    tracing::error!(partition, offset = record.offset, %error, "unreadable record");
                    continue;
                }
            };
            let organization = decoded.header.organization;
            let events = decoded.events().zip(0..=u16::MAX).map(|(event, index)| {
                let id = event_id(organization, event.transaction_id);
                (id, event.content_hash, Position::new(record.offset, index))
            });
            self.recent.load(partition, events);
        }
    }
}

/// Waits until the aggregator holds the partition's index. It may have to be built from a ClickHouse
/// that does not answer, which the aggregator tries again and again: to give up here would only begin
/// all of it anew.
async fn until_held(partition: u32, known: &dyn KnownIds) {
    let (began, mut told) = (Instant::now(), false);
    while let Err(error) = known.find(partition, &[]) {
        if !told && began.elapsed() >= TELL_AFTER {
            tracing::warn!(partition, %error, "no events are taken before the index of ids is there");
            told = true;
        }
        sleep(PATIENCE).await;
    }
    if told {
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(partition, elapsed_ms, "the index of ids is there");
    }
}
