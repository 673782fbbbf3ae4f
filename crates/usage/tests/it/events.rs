//! Reading raw events back.

use crate::support::*;
use std::{borrow::Cow, collections::BTreeSet};
use weir_events::{Position, event_id};
use weir_ids::OrganizationId;
use weir_usage::{Chunk, ChunkRange, ClickHouse, EventCursor, EventFilter, EventRange, EventRow};

async fn insert(database: &ClickHouse, events: Vec<EventRow<'static>>) {
    let chunk = Chunk { events: block(events), ..Chunk::default() };
    database.insert_chunk(&chunk, "a").await.unwrap();
}

#[tokio::test]
async fn an_event_is_read_back_as_it_was_written() {
    let database = database().await;
    let unmatched = EventRow {
        subscription: None,
        external_subscription_id: Cow::Borrowed("tab\t newline\n quote' ünïcode"),
        transaction_id: Cow::Borrowed("t'2\\"),
        event_id: event_id(ORGANIZATION, "t'2\\"),
        timestamp: at("1969-12-31T23:59:59.999999Z"),
        partition: 65_535,
        position: Position::from_u64(u64::MAX),
        ..event(2)
    };
    insert(&database, vec![event(1), unmatched.clone()]).await;
    assert_eq!(database.event(ORGANIZATION, "transaction-1").await.unwrap(), Some(event(1)));
    assert_eq!(database.event(ORGANIZATION, "t'2\\").await.unwrap(), Some(unmatched));
    assert_eq!(database.event(ORGANIZATION, "transaction-3").await.unwrap(), None);
    let stranger = OrganizationId::from_u128(9);
    assert_eq!(database.event(stranger, "transaction-1").await.unwrap(), None);
}

#[tokio::test]
async fn pages_hold_each_event_once_newest_first() {
    let database = database().await;
    // Three events of each time: the cursor must cut between events of one time, too.
    let events = (0..30).map(|n| EventRow { timestamp: event(n / 3).timestamp, ..event(n) });
    insert(&database, events.collect()).await;
    let (mut cursor, mut found) = (None, Vec::new());
    for _page in 0..5 {
        let page = database.events(ORGANIZATION, &EventFilter::default(), cursor, 7).await.unwrap();
        found.extend(page.events);
        // As a client would: by way of the text.
        cursor = page.next.map(|next: EventCursor| next.to_string().parse().unwrap());
    }
    assert_eq!(cursor, None);
    assert!(found.is_sorted_by(|a, b| a.timestamp >= b.timestamp));
    let ids: BTreeSet<_> = found.iter().map(|event| event.position).collect();
    assert_eq!((found.len(), ids.len()), (30, 30));
}

#[tokio::test]
async fn filters_choose_events() {
    let database = database().await;
    let mut events: Vec<_> = (0..10).map(event).collect();
    events[4].code = Cow::Borrowed("calls");
    events[5].external_subscription_id = Cow::Borrowed("o'neill");
    insert(&database, events.clone()).await;
    let find = async |filter: EventFilter| {
        let page = database.events(ORGANIZATION, &filter, None, 100).await.unwrap();
        page.events.iter().map(|event| event.position.as_u64()).collect::<Vec<_>>()
    };
    let code = EventFilter { code: Some("calls".into()), ..EventFilter::default() };
    assert_eq!(find(code).await, [4]);
    let external = Some("o'neill".to_owned());
    let subscription = EventFilter { external_subscription_id: external, ..EventFilter::default() };
    assert_eq!(find(subscription).await, [5]);
    let (from, to) = (Some(events[2].timestamp), Some(events[4].timestamp));
    assert_eq!(find(EventFilter { from, to, ..EventFilter::default() }).await, [3, 2]);
    assert_eq!(find(EventFilter::default()).await.len(), 10);
}

#[tokio::test]
async fn a_range_holds_its_subscriptions_events_from_its_start_to_before_its_end() {
    let database = database().await;
    let mut events: Vec<_> = (0..10).map(event).collect();
    for event in &mut events {
        event.external_subscription_id = Cow::Borrowed("o'neill");
    }
    events[4].code = Cow::Borrowed("ca'lls");
    events[5].external_subscription_id = Cow::Borrowed("another");
    events[6].subscription = None;
    events.reverse();
    insert(&database, events.clone()).await;
    events.reverse();
    let range = EventRange {
        external_subscription_id: "o'neill".to_owned(),
        code: None,
        from: events[2].timestamp,
        to: events[8].timestamp,
    };
    let find = async |range: &EventRange, limit| {
        let found = database.events_in(ORGANIZATION, range, limit).await.unwrap();
        found.into_iter().map(|event| event.transaction_id).collect::<Vec<_>>()
    };
    let ids = |all: &[usize]| all.iter().map(|n| format!("transaction-{n}")).collect::<Vec<_>>();
    assert_eq!(find(&range, 100).await, ids(&[2, 3, 4, 6, 7]));
    assert_eq!(find(&range, 2).await, ids(&[2, 3]));
    let of_code = EventRange { code: Some("ca'lls".to_owned()), ..range.clone() };
    assert_eq!(find(&of_code, 100).await, ids(&[4]));
    let found = database.events_in(ORGANIZATION, &of_code, 1).await.unwrap().remove(0);
    let stored = &events[4];
    assert_eq!(
        (found.code, found.timestamp, found.content_hash),
        (stored.code.to_string(), stored.timestamp, stored.content_hash)
    );
    let stranger = OrganizationId::from_u128(9);
    assert!(database.events_in(stranger, &range, 100).await.unwrap().is_empty());
}

#[tokio::test]
async fn ids_of_a_partition_stream_up_to_a_position() {
    let database = database().await;
    let mut events: Vec<_> = (0..20_000).map(event).collect();
    events[7].partition = 4;
    insert(&database, events.clone()).await;
    let mut found = Vec::new();
    database.ids_of_partition(3, Position::from_u64(15_000), |id| found.push(id)).await.unwrap();
    found.sort_by_key(|id| id.position);
    assert_eq!(found.len(), 14_999);
    for (stored, event) in found.iter().zip(events.iter().filter(|event| event.partition == 3)) {
        assert_eq!(stored.event_id, event.event_id);
        assert_eq!(stored.content_hash, event.content_hash);
        assert_eq!(stored.position, event.position);
    }
    let range = |partition, from, to| {
        let (from, to) = (Position::from_u64(from), Position::from_u64(to));
        ChunkRange { partition, from, to }
    };
    let ranges = [
        range(3, 7, 9),
        range(4, 0, 7),
        range(3, 20_000, 30_000),
        range(3, 10, 20_000),
        // The position 9 lies between two ranges and counts for neither.
        range(3, 0, 7),
        range(4, 7, 8),
    ];
    let counts = database.chunk_counts(&ranges).await.unwrap();
    assert_eq!(counts, [1, 0, 0, 19_990, 7, 1]);
    assert!(database.chunk_counts(&[]).await.unwrap().is_empty());
}
