//! A chunk is written as a whole, and its repetition changes nothing.

use crate::support::*;
use std::borrow::Cow;
use weir_events::{Position, event_id};
use weir_usage::{Chunk, ConflictRow, UsageError};

fn chunk(numbers: std::ops::Range<u64>) -> Chunk<'static> {
    Chunk {
        events: block(numbers.clone().map(event)),
        usage: numbers.clone().map(|n| usage("2026-03-01T10:00:00Z", &n.to_string())).collect(),
        values: numbers.map(|n| value("2026-03-01T10:00:00Z", &n.to_string(), true)).collect(),
        conflicts: Vec::new(),
    }
}

#[tokio::test]
async fn a_repeated_chunk_is_dropped_and_others_are_kept() {
    let database = database().await;
    database.insert_chunk(&chunk(1..11), "3:1-11").await.unwrap();
    database.insert_chunk(&chunk(1..11), "3:1-11").await.unwrap();
    assert_eq!(count_events(&database).await, 10);
    let usage = one(&database, MARCH).await;
    assert_eq!((usage.events, usage.total, usage.distinct), (10, quantity("55"), 10));

    // The same rows under another token are another chunk.
    database.insert_chunk(&chunk(1..11), "3:11-21").await.unwrap();
    let usage = one(&database, MARCH).await;
    assert_eq!((usage.events, usage.total, usage.distinct), (20, quantity("110"), 10));
}

#[tokio::test]
async fn what_a_broken_attempt_left_out_is_added_by_the_next() {
    let database = database().await;
    let whole = chunk(1..11);
    let part = Chunk { events: whole.events.clone(), ..Chunk::default() };
    database.insert_chunk(&part, "a").await.unwrap();
    database.insert_chunk(&whole, "a").await.unwrap();
    assert_eq!(count_events(&database).await, 10);
    assert_eq!(one(&database, MARCH).await.events, 10);
}

#[tokio::test]
async fn a_repeated_chunk_of_a_hundred_thousand_events_is_dropped_as_a_whole() {
    let database = database().await;
    let events = block((0..100_000).map(event));
    let large = Chunk { events, ..Chunk::default() };
    database.insert_chunk(&large, "large").await.unwrap();
    database.insert_chunk(&large, "large").await.unwrap();
    assert_eq!(count_events(&database).await, 100_000);
}

#[tokio::test]
async fn a_row_that_a_column_cannot_hold_leaves_nothing_of_its_chunk() {
    let database = database().await;
    let mut bad = chunk(1..11);
    bad.usage[9].bucket = at("1969-12-31T23:45:00Z");
    let error = database.insert_chunk(&bad, "bad").await.unwrap_err();
    assert!(matches!(error, UsageError::OutOfRange { field: "bucket", .. }), "{error}");
    assert_eq!(count_events(&database).await, 0);
}

#[tokio::test]
async fn conflicts_are_written() {
    let database = database().await;
    let conflict = ConflictRow {
        organization: ORGANIZATION,
        transaction_id: Cow::Borrowed("t-1"),
        event_id: event_id(ORGANIZATION, "t-1"),
        partition: 65_535,
        position: Position::new(7, 2),
        first_position: Position::new(6, 65_535),
        received_at: at("2026-03-01T10:00:00Z"),
    };
    let chunk = Chunk { conflicts: vec![conflict.clone()], ..Chunk::default() };
    database.insert_chunk(&chunk, "a").await.unwrap();
    let bad = Chunk {
        conflicts: vec![ConflictRow { partition: 65_536, ..conflict }],
        ..Chunk::default()
    };
    assert!(database.insert_chunk(&bad, "b").await.is_err());
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = database().await;
    database.insert_chunk(&chunk(1..3), "a").await.unwrap();
    database.migrate().await.unwrap();
    assert_eq!(count_events(&database).await, 2);
}
