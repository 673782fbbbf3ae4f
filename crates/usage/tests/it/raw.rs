//! Raw events by position, in pieces.

use crate::support::*;
use std::borrow::Cow;
use weir_events::Position;
use weir_ids::OrganizationId;
use weir_usage::{Chunk, ClickHouse, EventRow, RawScope};

fn everything() -> RawScope {
    let (codes, external_subscription_ids, times) = (vec![], vec![], vec![]);
    RawScope { organization: ORGANIZATION, codes, external_subscription_ids, times }
}

fn position(number: u64) -> Position {
    Position::from_u64(number)
}

async fn insert(database: &ClickHouse, events: Vec<EventRow<'static>>) {
    insert_some(database, Chunk { events: block(events), ..Chunk::default() }).await;
}

#[tokio::test]
async fn pieces_hold_every_event_once_in_order_whatever_their_times_are() {
    let database = database().await;
    // All of one time, at positions far apart, in two parts; other partitions and tenants between.
    let far = |number: u64| position(number << 30);
    let events = |numbers: std::ops::Range<u64>| {
        numbers.map(|number| EventRow {
            timestamp: at("2026-03-01T10:00:00Z"),
            position: far(number),
            ..event(number)
        })
    };
    insert(&database, events(0..20).collect()).await;
    insert(&database, events(20..30).collect()).await;
    let others = events(0..30).map(|row| EventRow { partition: 4, ..row });
    insert(&database, others.collect()).await;
    let strangers = (30..60).map(|number| {
        let organization = OrganizationId::from_u128(0xA2);
        let event_id = weir_events::event_id(organization, &format!("transaction-{number}"));
        EventRow { organization, event_id, ..event(number) }
    });
    insert(&database, strangers.collect()).await;

    let (scope, below) = (everything(), far(29));
    let (mut from, mut found, mut pieces) = (far(2), Vec::new(), Vec::new());
    while from < below {
        let to = database.raw_boundary(&scope, 3, from, below, 7).await.unwrap();
        assert_eq!(to, database.raw_boundary(&scope, 3, from, below, 7).await.unwrap());
        let events = database.raw_events(&scope, Some(3), from, to).await.unwrap();
        pieces.push(events.len());
        found.extend(events);
        from = to;
    }
    assert_eq!(pieces, [7, 7, 7, 6]);
    assert_eq!(found, events(2..29).collect::<Vec<_>>());
    // Nothing is there: the piece is all that was asked for.
    let end = database.raw_boundary(&scope, 9, position(5), position(6), 7).await.unwrap();
    assert_eq!(end, position(6));
    let none = database.raw_boundary(&scope, 3, position(6), position(6), 7).await.unwrap();
    assert_eq!(none, position(6));
}

#[tokio::test]
async fn a_scope_chooses_by_code_subscription_and_spans_of_time() {
    let database = database().await;
    let mut events: Vec<_> = (0..10).map(event).collect();
    events[2].code = Cow::Borrowed("it's");
    events[3].code = Cow::Borrowed("calls");
    events[4].external_subscription_id = Cow::Borrowed("o'neill\\");
    // The subscription at arrival is only a hint: it chooses nothing.
    events[4].subscription = None;
    events[9].partition = 1;
    insert(&database, events.clone()).await;
    let read = async |scope: RawScope, partition: Option<u32>| {
        let all = database.raw_events(&scope, partition, position(0), position(10)).await.unwrap();
        all.iter().map(|event| event.position.as_u64()).collect::<Vec<_>>()
    };
    let codes = |codes: &[&str]| codes.iter().map(|code| code.to_string()).collect();
    assert_eq!(read(everything(), None).await, [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read(everything(), Some(1)).await, [9]);
    let scope = RawScope { codes: codes(&["calls", "it's"]), ..everything() };
    assert_eq!(read(scope, Some(3)).await, [2, 3]);
    let scope = RawScope { external_subscription_ids: codes(&["o'neill\\"]), ..everything() };
    assert_eq!(read(scope, Some(3)).await, [4]);
    let time = |number: usize| events[number].timestamp;
    let scope = RawScope { times: vec![(time(3), time(5))], ..everything() };
    assert_eq!(read(scope, Some(3)).await, [3, 4]);
    let times = vec![(time(6), time(7)), (time(1), time(2)), (time(1), time(3))];
    let scope = RawScope { times: times.clone(), ..everything() };
    assert_eq!(read(scope.clone(), Some(3)).await, [1, 2, 6]);
    let both = RawScope { codes: codes(&["it's"]), ..scope.clone() };
    assert_eq!(read(both, Some(3)).await, [2]);
    let boundary = database.raw_boundary(&scope, 3, position(0), position(10), 2).await.unwrap();
    assert_eq!(boundary, position(6));
}

#[tokio::test]
async fn many_spans_of_time_and_ids_fit_into_one_question() {
    let database = database().await;
    insert(&database, (0..10).map(event).collect()).await;
    let second = chrono::TimeDelta::seconds(1);
    let start = event(0).timestamp;
    let span = |number: i32| (start + second * (number * 2), start + second * (number * 2 + 1));
    let scope = RawScope {
        external_subscription_ids: (0..10_000)
            .map(|n| format!("acme-{n}"))
            .chain(["acme".to_owned()])
            .collect(),
        times: (0..5_000).map(span).collect(),
        ..everything()
    };
    let all = database.raw_events(&scope, None, position(0), position(u64::MAX)).await.unwrap();
    assert_eq!(all.iter().map(|one| one.position.as_u64()).collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
}
