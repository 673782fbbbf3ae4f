//! Raw events go after a time, usage never.

use crate::support::*;
use weir_usage::{Chunk, ClickHouse, EventRow, UsageError};

/// Received long ago by any clock that runs these tests, and long after them.
const PAST: &str = "1990-01-01T00:00:00Z";
const FUTURE: &str = "2290-01-01T00:00:00Z";

async fn fill(database: &ClickHouse, numbers: std::ops::Range<u64>) {
    let events = numbers.map(|number| EventRow {
        received_at: at(if number % 2 == 0 { PAST } else { FUTURE }),
        ..event(number)
    });
    let usage = vec![usage(MARCH.0, "1")];
    insert_some(database, Chunk { events: block(events), usage, ..Chunk::default() }).await;
    run(database, "OPTIMIZE TABLE events FINAL").await;
}

#[tokio::test]
async fn expired_events_go_and_usage_stays() {
    let database = database().await;
    fill(&database, 0..10).await;
    assert_eq!(count_events(&database).await, 10, "for ever, as long as nobody says otherwise");
    // An expiry beyond the year 2106 does not come round again.
    database.set_retention(Some(10_000)).await.unwrap();
    fill(&database, 10..20).await;
    assert_eq!(count_events(&database).await, 20 - 10);
    assert_eq!(one(&database, MARCH).await.events, 2);
    assert!(database.event(ORGANIZATION, "transaction-3").await.unwrap().is_some());

    database.set_retention(None).await.unwrap();
    fill(&database, 20..30).await;
    assert_eq!(count_events(&database).await, 20);
}

#[tokio::test]
async fn the_table_is_altered_only_when_the_retention_differs() {
    let database = database().await;
    let definition = "SELECT engine_full FROM system.tables
        WHERE database = currentDatabase() AND name = 'events'";
    let mutations = "SELECT count() FROM system.mutations WHERE database = currentDatabase()";
    let (made, none) = (run(&database, definition).await, run(&database, mutations).await);
    database.set_retention(None).await.unwrap();
    assert_eq!(run(&database, definition).await, made);
    fill(&database, 0..2).await;
    // 3 days are not 30.
    for (days, alterations) in [(30, 1), (30, 1), (3, 2), (3, 2), (30, 3)] {
        database.set_retention(Some(days)).await.unwrap();
        let said = run(&database, definition).await;
        assert!(said.contains(&format!("TTL received_at + toIntervalDay({days}) ")), "{said}");
        let count: u64 = run(&database, mutations).await.parse().unwrap();
        assert_eq!(count - none.parse::<u64>().unwrap(), alterations, "{days} days");
    }
    for days in [0, 10_001] {
        let error = database.set_retention(Some(days)).await.unwrap_err();
        assert!(matches!(error, UsageError::OutOfRange { .. }), "{error}");
    }
}
