//! Measures how far ClickHouse is behind the log, also while nothing goes on.

use crate::{Progress, Shared, metrics::PartitionMetrics};
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

/// Measures until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let metrics: Vec<_> = (0..shared.log.partitions()).map(PartitionMetrics::new).collect();
    let mut behind: Vec<Behind> = metrics.iter().map(|_| Behind::default()).collect();
    let origin = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let partitions = metrics.iter().zip(&mut behind).zip(&shared.progress);
        for (partition, ((metrics, behind), progress)) in (0..).zip(partitions) {
            if !progress.owned.load(Ordering::Relaxed) {
                *behind = Behind::default();
                continue;
            }
            let committed = progress.committed.load(Ordering::Relaxed);
            // Without an answer nothing new is known of the end, but time goes on.
            let end = shared.log.end(partition).await.ok();
            let (records, age) = behind.measure(committed, end, origin.elapsed());
            metrics.lag(records, age);
            report_watermark(metrics, progress);
        }
    }
}

/// The log's ends that were seen and are not stored yet, oldest first, with the time of seeing.
#[derive(Debug, Default)]
struct Behind {
    ends: VecDeque<(u64, Duration)>,
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

fn report_watermark(metrics: &PartitionMetrics, progress: &Progress) {
    let marked_us = progress.marked_us.load(Ordering::Relaxed);
    if marked_us != 0 {
        // Watermarks are real time, on a test clock too.
        let age_us = Clock::real().now().timestamp_micros().saturating_sub(marked_us).max(0);
        metrics.watermark_age(Duration::from_micros(age_us.unsigned_abs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
