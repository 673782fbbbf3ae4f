//! Measures how far ClickHouse is behind the log, also while nothing goes on.

use crate::{
    Progress, Shared,
    metrics::{Lag, PartitionMetrics},
};
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;
use weir_runtime::{Clock, Shutdown};

/// The resolution of the lag in seconds; it costs one look at the log's end.
const INTERVAL: Duration = Duration::from_secs(1);
/// Three hours of a log that grows while nothing is stored. Beyond it only new ends are forgotten,
/// and the lag goes by the oldest.
const ENDS_MAX: usize = 10_000;

/// Measures one partition until shutdown. Each has its own task: a log that does not answer takes
/// seconds to say so, and the others' numbers must not stand still meanwhile.
pub(crate) async fn run(shared: Arc<Shared>, partition: u32, shutdown: Shutdown) {
    let metrics = PartitionMetrics::new(partition);
    let Some(progress) = shared.progress.get(partition as usize) else { return };
    let mut behind = Behind::default();
    let origin = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if !progress.owned.load(Ordering::Relaxed) {
            behind = Behind::default();
            metrics.not_owned();
            continue;
        }
        let committed = progress.committed.load(Ordering::Relaxed);
        // Without an answer nothing new is known of the end, but time goes on.
        let end = shared.log.end(partition).await.ok();
        let now = origin.elapsed();
        let (records, age) = behind.measure(committed, end, now);
        metrics.lag(Lag { records, events: estimated_events(records, progress), age });
        let owned_for = now.saturating_sub(*behind.owned_since.get_or_insert(now));
        metrics.watermark_age(watermark_age(progress).unwrap_or(owned_for));
    }
}

/// The log's ends that were seen and are not stored yet, oldest first, with the time of seeing.
#[derive(Debug, Default)]
struct Behind {
    ends: VecDeque<(u64, Duration)>,
    owned_since: Option<Duration>,
}

impl Behind {
    /// Records that are not stored, and how long ago the oldest of them was seen.
    fn measure(&mut self, committed: u64, end: Option<u64>, now: Duration) -> (u64, Duration) {
        let last = self.ends.back().map_or(committed, |(end, _)| *end);
        if let Some(end) = end.filter(|end| *end > last && self.ends.len() < ENDS_MAX) {
            self.ends.push_back((end, now));
        }
        while self.ends.front().is_some_and(|(end, _)| *end <= committed) {
            self.ends.pop_front();
        }
        let newest = end.or(self.ends.back().map(|(end, _)| *end)).unwrap_or(committed);
        let age = self.ends.front().map_or(Duration::ZERO, |(_, seen)| now.saturating_sub(*seen));
        (newest.saturating_sub(committed), age)
    }
}

/// Counting them would mean to read them: they are taken to be as full as the newest chunk's.
fn estimated_events(records: u64, progress: &Progress) -> u64 {
    let chunk_events = progress.chunk_events.load(Ordering::Relaxed);
    match progress.chunk_records.load(Ordering::Relaxed) {
        0 => records,
        chunk_records => records.saturating_mul(chunk_events).div_ceil(chunk_records),
    }
}

fn watermark_age(progress: &Progress) -> Option<Duration> {
    let marked_us = progress.marked_us.load(Ordering::Relaxed);
    // Watermarks are real time, on a test clock too.
    let age_us = Clock::real().now().timestamp_micros().saturating_sub(marked_us).max(0);
    (marked_us != 0).then(|| Duration::from_micros(age_us.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_wait_are_taken_to_be_as_full_as_the_newest_chunk() {
        let progress = Progress::default();
        assert_eq!(estimated_events(3, &progress), 3, "an event each, before there is a chunk");
        progress.chunk_events.store(250, Ordering::Relaxed);
        progress.chunk_records.store(100, Ordering::Relaxed);
        assert_eq!(estimated_events(3, &progress), 8);
        assert_eq!(estimated_events(0, &progress), 0);
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_end_that_is_not_reached() {
        let mut behind = Behind::default();
        let second = Duration::from_secs;
        let cases = [
            // committed, end, now, records, age
            (5, Some(5), 0, 0, 0),
            // After a long quiet, one record is as old as it is and no older.
            (5, Some(6), 3_600, 1, 0),
            (5, Some(9), 3_601, 4, 1),
            (5, None, 3_602, 4, 2),
            (6, Some(9), 3_603, 3, 2),
            (9, Some(9), 3_604, 0, 0),
        ];
        for (committed, end, now, records, age) in cases {
            let measured = behind.measure(committed, end, second(now));
            assert_eq!(measured, (records, second(age)), "at {now}");
        }
    }
}
