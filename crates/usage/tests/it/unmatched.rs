//! The list of events that count nowhere.

use crate::support::*;
use std::borrow::Cow;
use weir_usage::{Chunk, EventFilter, EventRow, Unmatched};

#[tokio::test]
async fn unmatched_are_those_without_a_subscription_or_metric_until_one_adopts_them() {
    let database = database().await;
    let mut events: Vec<EventRow<'static>> = (0..8).map(event).collect();
    for number in [2, 3, 4, 5] {
        events[number].subscription = None;
    }
    events[5].external_subscription_id = Cow::Borrowed("o'neill\\");
    events[6].code = Cow::Borrowed("unheard of");
    let times: Vec<_> = events.iter().map(|event| event.timestamp).collect();
    insert_some(&database, Chunk { events: block(events), ..Chunk::default() }).await;
    let find = async |codes: &[&str], adopted: &[(&str, usize, Option<usize>)]| {
        let unmatched = Unmatched {
            codes_known: codes.iter().map(|code| code.to_string()).collect(),
            adopted: adopted
                .iter()
                .map(|(id, from, to)| (id.to_string(), times[*from], to.map(|to| times[to])))
                .collect(),
        };
        let filter = EventFilter { unmatched: Some(unmatched), ..EventFilter::default() };
        let page = database.events(ORGANIZATION, &filter, None, 100).await.unwrap();
        page.events.iter().map(|event| event.position.as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(find(&["tokens"], &[]).await, [6, 5, 4, 3, 2]);
    assert_eq!(find(&["tokens", "unheard of"], &[]).await, [5, 4, 3, 2]);
    assert_eq!(find(&[], &[]).await, [7, 6, 5, 4, 3, 2, 1, 0]);
    // Half open; another id's spans adopt nothing.
    assert_eq!(find(&["tokens"], &[("acme", 3, Some(4))]).await, [6, 5, 4, 2]);
    assert_eq!(find(&["tokens"], &[("acme", 3, None)]).await, [6, 5, 2]);
    let spans =
        [("o'neill\\", 0, None), ("acme", 4, Some(5)), ("acme", 0, Some(3)), ("x", 0, None)];
    assert_eq!(find(&["tokens"], &spans).await, [6, 3]);
    // An adopted event of an unknown code still counts nowhere.
    assert_eq!(find(&["unheard of"], &[("acme", 2, Some(3))]).await, [7, 5, 4, 3, 2, 1, 0]);
}

#[tokio::test]
async fn unmatched_goes_with_the_other_conditions_and_with_pages() {
    let database = database().await;
    let events = (0..20).map(|n| EventRow {
        subscription: None,
        code: Cow::Borrowed(if n % 2 == 0 { "tokens" } else { "calls" }),
        ..event(n)
    });
    insert_some(&database, Chunk { events: block(events), ..Chunk::default() }).await;
    let filter = EventFilter {
        code: Some("calls".to_owned()),
        to: Some(event(15).timestamp),
        unmatched: Some(Unmatched::default()),
        ..EventFilter::default()
    };
    let (mut cursor, mut found) = (None, Vec::new());
    loop {
        let page = database.events(ORGANIZATION, &filter, cursor, 3).await.unwrap();
        found.extend(page.events.iter().map(|event| event.position.as_u64()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, [13, 11, 9, 7, 5, 3, 1]);
}
