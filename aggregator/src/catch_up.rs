//! Bringing a partition's index up to what is committed: from the log, or where the log no longer
//! reaches back, from ClickHouse.

use crate::{
    Shared,
    chunk::{Decoded, Limits},
    dedup::{Covered, Entry, Index, IndexError, Rebuild, judge, new_entries},
    error::AggregatorError,
    executor::blocking,
    metrics,
};
use std::{cell::Cell, path::Path, sync::Arc, time::Duration};
use tokio::time::Instant;
use weir_events::{FirstCopy, Position};
use weir_log::{LogError, Stored};

/// Records that are in the log need not be waited for, but a broker needs time to answer.
const READ_WAIT: Duration = Duration::from_secs(5);
/// An attempt to build an index is given up when ClickHouse has given nothing for so long: three times
/// what a replica may take to catch up before it answers.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Up to so many records the log is read in any case: at 100 events each they are 2 million events.
const RECORDS_READ_GLADLY: u64 = 20_000;

/// Opens the index in `dir`; a damaged one is replaced by an empty one.
pub(crate) fn open(dir: &Path, partition: u32, table_ids_max: usize) -> Result<Index, IndexError> {
    match Index::open(dir, partition, table_ids_max) {
        Err(error @ IndexError::Damaged { .. }) => {
            tracing::error!(partition, %error, "the index is built again");
            metrics::failed("open_index");
            Index::create(dir, partition, table_ids_max)
        }
        other => other,
    }
}

/// Brings the index up to `to`.
pub(crate) async fn catch_up(
    shared: &Arc<Shared>,
    partition: u32,
    dir: &Path,
    index: Index,
    to: Position,
) -> Result<Index, AggregatorError> {
    if index.covered_to() >= to {
        return Ok(index);
    }
    let turn = shared.rebuilding.acquire().await.map_err(|_| AggregatorError::Ending)?;
    let (from, started) = (index.covered_to(), Instant::now());
    let log_start = shared.log.start(partition).await?;
    let (index, source) = if log_start <= from.offset() && log_is_shorter(from, to) {
        (from_log(shared, partition, index, to).await?, "log")
    } else {
        drop(index);
        (from_clickhouse(shared, partition, dir, to).await?, "clickhouse")
    };
    drop(turn);
    metrics::index_rebuilt(source);
    metrics::index_caught_up(started.elapsed());
    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let ids = index.reader().ids();
    tracing::info!(partition, %from, %to, source, ids, elapsed_ms, "index caught up");
    Ok(index)
}

/// ClickHouse gives all ids again, but each at less than half the cost of reading its event from
/// the log: that is the longer way only where the index has most of them.
fn log_is_shorter(from: Position, to: Position) -> bool {
    let missing = to.offset().saturating_sub(from.offset());
    missing <= RECORDS_READ_GLADLY || missing <= to.offset() / 2
}

async fn from_log(
    shared: &Arc<Shared>,
    partition: u32,
    mut index: Index,
    to: Position,
) -> Result<Index, AggregatorError> {
    while index.covered_to() < to {
        let from = index.covered_to();
        let stored = read_some(shared, partition, from, to).await?;
        index = blocking(move || {
            let pairs = stored.iter().map(|record| (record.offset, record.bytes.as_ref()));
            let chunk = Decoded::decode(from, pairs, Limits::NONE);
            let verdicts = judge(&chunk.seen(), &index.find(chunk.ids())?);
            let entries = new_entries(&chunk.seen(), &verdicts);
            index.remember(&entries, covered(&chunk, chunk.to().min(to)))?;
            while let Some(merge) = index.due_merge() {
                let merged = merge.run()?;
                index.install(merged)?;
            }
            Ok::<_, IndexError>(index)
        })
        .await??;
    }
    Ok(index)
}

/// What a chunk up to `to` adds to what the index covers.
pub(crate) fn covered(chunk: &Decoded, to: Position) -> Covered {
    let times = chunk.events().map(|event| event.received_at_us.max(event.fields.timestamp_us));
    Covered { to, events: chunk.len() as u64, newest_us: times.max().unwrap_or(i64::MIN) }
}

/// The records from `from` on that are before `to`; at least one.
async fn read_some(
    shared: &Arc<Shared>,
    partition: u32,
    from: Position,
    to: Position,
) -> Result<Vec<Stored>, AggregatorError> {
    let bytes_max = shared.config.chunk.read_bytes_max;
    let read = shared.log.read(partition, from.offset(), bytes_max, READ_WAIT).await;
    let mut stored = read.map_err(|error| lost_below(from, error))?;
    stored.retain(|record| record.offset < to.offset());
    if stored.is_empty() {
        check_start(shared, partition, from).await?;
        return Err(AggregatorError::RangeMissing { from, to });
    }
    Ok(stored)
}

/// All records of an open intent.
pub(crate) async fn read_range(
    shared: &Arc<Shared>,
    partition: u32,
    from: Position,
    to: Position,
) -> Result<Vec<Stored>, AggregatorError> {
    let mut all: Vec<Stored> = Vec::new();
    let mut at = from;
    while at < to {
        let some = read_some(shared, partition, at, to).await?;
        at = some.last().map_or(to, |record| Position::new(record.offset + 1, 0));
        all.extend(some);
    }
    Ok(all)
}

/// Errors: `LogLost` if the log begins behind `from`.
pub(crate) async fn check_start(
    shared: &Arc<Shared>,
    partition: u32,
    from: Position,
) -> Result<(), AggregatorError> {
    let start = shared.log.start(partition).await?;
    if start > from.offset() { Err(AggregatorError::LogLost { from, start }) } else { Ok(()) }
}

/// What is before the log's start and not in ClickHouse is lost; other errors stay as they are.
pub(crate) fn lost_below(from: Position, error: LogError) -> AggregatorError {
    match error {
        LogError::BelowStart { start, .. } => AggregatorError::LogLost { from, start },
        other => other.into(),
    }
}

async fn from_clickhouse(
    shared: &Arc<Shared>,
    partition: u32,
    dir: &Path,
    to: Position,
) -> Result<Index, AggregatorError> {
    tracing::info!(partition, %to, "building the index from ClickHouse");
    let (dir, table_ids_max) = (dir.to_owned(), shared.config.index.table_ids_max);
    let (usage, runtime) = (shared.usage.clone(), tokio::runtime::Handle::current());
    // A thread of its own: sorting and writing take the processor and the disk for seconds.
    blocking(move || {
        let mut rebuild = Rebuild::start(&dir, partition, table_ids_max)?;
        let (mut added, heard) = (Ok(()), Cell::new(0));
        let streaming = usage.ids_of_partition(partition, to, |stored| {
            heard.set(heard.get() + 1);
            let first = FirstCopy { position: stored.position, content_hash: stored.content_hash };
            if added.is_ok() {
                added = rebuild.add(Entry::new(stored.event_id, first));
            }
        });
        runtime.block_on(unless_silent(&heard, SILENCE_MAX, streaming))??;
        added?;
        Ok(rebuild.finish(to)?)
    })
    .await?
}

/// Carries out `work` as long as it counts up `heard` at least once in `wait`. Errors: `Silent`.
async fn unless_silent<T>(
    heard: &Cell<u64>,
    wait: Duration,
    work: impl Future<Output = T>,
) -> Result<T, AggregatorError> {
    tokio::pin!(work);
    loop {
        let before = heard.get();
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(wait) => {}
        }
        if heard.get() == before {
            return Err(AggregatorError::Silent { wait });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_something_now_and_then_has_all_the_time_and_who_is_silent_has_not() {
        let (heard, wait) = (Cell::new(0), Duration::from_millis(1));
        let speaking = std::future::poll_fn(|context| {
            heard.set(heard.get() + 1);
            context.waker().wake_by_ref();
            if heard.get() < 10_000 { std::task::Poll::Pending } else { std::task::Poll::Ready(7) }
        });
        assert!(matches!(unless_silent(&heard, wait, speaking).await, Ok(7)));
        let silent = std::future::pending::<()>();
        let given_up = unless_silent(&heard, wait, silent).await;
        assert!(matches!(given_up, Err(AggregatorError::Silent { .. })));
    }
}
