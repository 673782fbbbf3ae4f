//! Measures how far ClickHouse is behind the log, also while nothing goes on.

use crate::{Progress, Shared, metrics::PartitionMetrics};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use weir_runtime::{Clock, Shutdown};

/// As often as anyone scrapes.
const INTERVAL: Duration = Duration::from_secs(2);

/// Measures until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let metrics: Vec<_> = (0..shared.log.partitions()).map(PartitionMetrics::new).collect();
    let machine = Clock::real();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for ((partition, metrics), progress) in (0..).zip(&metrics).zip(&shared.progress) {
            if !progress.owned.load(Ordering::Relaxed) {
                continue;
            }
            // Without an answer the last value stays; the log's own metrics tell of its trouble.
            if let Ok(end) = shared.log.end(partition).await {
                report(metrics, progress, end, &shared.clock, &machine);
            }
        }
    }
}

fn report(
    metrics: &PartitionMetrics,
    progress: &Progress,
    end: u64,
    clock: &Clock,
    machine: &Clock,
) {
    let since = |us: i64, clock: &Clock| {
        let age_us = clock.now().timestamp_micros().saturating_sub(us).max(0);
        Duration::from_micros(age_us.unsigned_abs())
    };
    let records = end.saturating_sub(progress.committed.load(Ordering::Relaxed));
    let received_at_us = progress.received_at_us.load(Ordering::Relaxed);
    let age = match (records, received_at_us) {
        (0, _) | (_, 0) => Duration::ZERO,
        // The clock that stamps events, which may be a test clock.
        (_, received_at_us) => since(received_at_us, clock),
    };
    metrics.lag(records, age);
    let marked_us = progress.marked_us.load(Ordering::Relaxed);
    if marked_us != 0 {
        metrics.watermark_age(since(marked_us, machine));
    }
}
