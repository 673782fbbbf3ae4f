//! Weir from outside: the real program, with a real engine, Postgres and Kafka.
//!
//! `WEIR_TEST_KEEP=1` keeps the directories of the deployments, with their logs.
#![cfg(test)]

mod apart;
mod client;
mod load;
mod processes;
mod recount;
mod up;

// By the alphabet: tests of roles apart have their turns one by one, so they stand between others.
mod aggregators;
mod audit;
mod chaos;
mod corrections;
mod crashes;
mod first_events;
mod invoicers;
mod kafka_outages;
mod late_changes;
mod lifecycle;
mod new_metrics;
mod observability;
mod operators;
mod periods;
mod postgres_outages;
mod rate_limits;
mod refusals;
mod roles_apart;
mod watermarks;

use std::time::{Duration, Instant};

/// How long anything may take on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Asks until the answer is good. Panics with the last complaint when patience ends.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(good) => return good,
            Err(complaint) => assert!(Instant::now() < deadline, "{what}: {complaint}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
