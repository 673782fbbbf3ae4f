//! Usage by window: exact, at bounds of quarters of an hour, in bulk.

use crate::support::*;
use chrono::TimeDelta;
use weir_events::Position;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_usage::{Chunk, ClickHouse, Generations, UsageRow, UsageValueRow};

async fn insert(database: &ClickHouse, usage: Vec<UsageRow>, token: &str) {
    let chunk = Chunk { usage, ..Chunk::default() };
    database.insert_chunk(&chunk, token).await.unwrap();
}

#[tokio::test]
async fn windows_are_half_open_at_quarters_of_an_hour() {
    let database = database().await;
    let rows = [
        ("2026-02-28T23:59:59.999999Z", "1"),
        ("2026-03-01T00:00:00Z", "10"),
        ("2026-03-31T23:59:59.999999Z", "100"),
        ("2026-04-01T00:00:00Z", "1000"),
    ];
    insert(&database, rows.iter().map(|(at, value)| usage(at, value)).collect(), "a").await;
    for (start, end, total) in [
        ("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z", "110"),
        ("2026-02-28T23:45:00Z", "2026-03-01T00:00:00Z", "1"),
        ("2026-02-28T23:45:00Z", "2026-03-01T00:15:00Z", "11"),
        ("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1000"),
        // A subscription that started at 23:50 begins in the bucket of 23:45.
        ("2026-03-31T23:50:00Z", "2026-04-01T00:00:00Z", "100"),
    ] {
        assert_eq!(one(&database, (start, end)).await.total, quantity(total), "{start} {end}");
    }
    let none = database
        .usage(
            ORGANIZATION,
            &[window("2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z")],
            &everything(),
            &Generations::default(),
        )
        .await
        .unwrap();
    assert_eq!(none, []);
}

#[tokio::test]
async fn values_are_exact() {
    let database = database().await;
    let time = "2026-03-01T10:00:00Z";
    for (number, values, total, greatest) in [
        (1, vec!["9007199254740993", "0.1", "0.2"], "9007199254740993.3", "9007199254740993"),
        (2, vec!["0.1", "0.2"], "0.3", "0.2"),
        (3, vec!["-1.5", "-0.000000000001"], "-1.500000000001", "-0.000000000001"),
        (
            4,
            vec!["9999999999999999.999999999999", "-9999999999999999.999999999999"],
            "0",
            "9999999999999999.999999999999",
        ),
    ] {
        let metric = BillableMetricId::from_u128(number);
        let rows: Vec<_> = values.iter().map(|v| UsageRow { metric, ..usage(time, v) }).collect();
        // Each in a chunk of its own, so that nothing is merged before it is read.
        for (index, row) in rows.into_iter().enumerate() {
            insert(&database, vec![row], &format!("{number}-{index}")).await;
        }
        let all = used(&database, MARCH, &Generations::default()).await;
        let found = all.into_iter().find(|row| row.metric == metric).unwrap();
        assert_eq!(found.total, quantity(total));
        assert_eq!(found.greatest, Some(quantity(greatest)));
        assert_eq!(found.events, values.len() as u64);
    }
}

#[tokio::test]
async fn latest_is_by_time_then_receipt_then_position_whatever_was_inserted_last() {
    let database = database().await;
    let row = |time: &str, received: &str, position: u64, value: &str| {
        let mut row = usage(time, value);
        row.latest.received_at = at(received);
        row.latest.position = Position::from_u64(position);
        row
    };
    let (earlier, later) = ("2026-03-01T10:00:00Z", "2026-03-01T10:20:00.000001Z");
    let (noon, after) = ("2026-03-02T12:00:00Z", "2026-03-02T12:00:00.000001Z");
    for (number, (row, expected)) in [
        (row(earlier, after, 99, "50"), "50"),
        (row(later, noon, 5, "7"), "7"),
        (row(later, noon, 4, "8"), "7"),
        (row(later, noon, 6, "-9"), "-9"),
        (row(later, after, 1, "3"), "3"),
        (row(earlier, after, 1000, "60"), "3"),
    ]
    .into_iter()
    .enumerate()
    {
        insert(&database, vec![row], &number.to_string()).await;
        assert_eq!(
            one(&database, MARCH).await.latest.unwrap().value,
            quantity(expected),
            "step {number}"
        );
    }
    assert_eq!(one(&database, MARCH).await.greatest, Some(quantity("60")));
}

#[tokio::test]
async fn a_negative_maximum_is_not_zero() {
    let database = database().await;
    insert(&database, vec![usage(MARCH.0, "-5")], "a").await;
    assert_eq!(one(&database, MARCH).await.greatest, Some(quantity("-5")));
}

#[tokio::test]
async fn a_value_counts_while_its_last_operation_is_add() {
    let database = database().await;
    let count = async |row: UsageValueRow| {
        insert_values(&database, [row]).await;
        one(&database, MARCH).await.distinct
    };
    assert_eq!(count(value("2026-03-01T10:00:00Z", "ann", true)).await, 1);
    assert_eq!(count(value("2026-03-01T11:00:00Z", "bob", true)).await, 2);
    assert_eq!(count(value("2026-03-05T11:00:00Z", "ann", true)).await, 2);
    assert_eq!(count(value("2026-03-06T11:00:00Z", "ann", false)).await, 1);
    // Received last, but of an earlier time: the removal stands.
    assert_eq!(count(value("2026-03-02T11:00:00Z", "ann", true)).await, 1);
    // Of one time the later in the log wins, whichever is inserted last.
    let mut again = value("2026-03-06T11:00:00Z", "ann", true);
    again.position = Position::from_u64(2);
    assert_eq!(count(again).await, 2);
    let mut between = value("2026-03-06T11:00:00Z", "ann", false);
    between.position = Position::from_u64(1);
    assert_eq!(count(between).await, 2);
}

#[tokio::test]
async fn three_thousand_windows_are_read_at_once() {
    const SUBSCRIPTIONS: u128 = 1_500;
    let database = database().await;
    let mut rows = Vec::new();
    for subscription in 1..=SUBSCRIPTIONS {
        for time in ["2026-02-10T10:00:00Z", "2026-03-10T10:00:00Z", "2026-03-20T10:00:00Z"] {
            let subscription = SubscriptionId::from_u128(subscription);
            let row = usage(time, &subscription.as_u128().to_string());
            rows.push(UsageRow { subscription, ..row.clone() });
            // Another organization's usage of the same subscription id is none of ours.
            rows.push(UsageRow { subscription, organization: OrganizationId::from_u128(2), ..row });
        }
    }
    insert(&database, rows, "a").await;
    let february = ("2026-02-01T00:00:00Z", MARCH.0);
    let windows: Vec<_> = (1..=SUBSCRIPTIONS)
        .flat_map(|id| [february, MARCH].map(|(start, end)| (id, start, end)))
        .map(|(id, start, end)| (SubscriptionId::from_u128(id), at(start), at(end)))
        .collect();
    let all = database
        .usage(ORGANIZATION, &windows, &everything(), &Generations::default())
        .await
        .unwrap();
    assert_eq!(all.len(), 3_000);
    for (place, row) in all.into_iter().enumerate() {
        let row = row.unwrap();
        let (subscription, start, _) = windows[place];
        assert_eq!((row.window, row.subscription), (place, subscription));
        let times = if start == at(MARCH.0) { 2 } else { 1 };
        assert_eq!(row.events, times);
        assert_eq!(row.total, quantity(&(subscription.as_u128() * u128::from(times)).to_string()));
    }
}

#[tokio::test]
async fn a_total_beyond_38_digits_is_an_error_of_its_own_row_only() {
    let database = database().await;
    let most = "99999999999999999999999999.999999999999";
    let other = SubscriptionId::from_u128(0xB2);
    let rows = vec![
        usage("2026-03-01T10:00:00Z", most),
        usage("2026-03-02T10:00:00Z", "0.000000000001"),
        UsageRow { subscription: other, ..usage("2026-03-01T10:00:00Z", most) },
    ];
    insert(&database, rows, "a").await;
    let (start, end) = (at(MARCH.0), at(MARCH.1));
    let first_day = start + TimeDelta::days(1);
    let windows =
        [(SUBSCRIPTION, start, end), (other, start, end), (SUBSCRIPTION, start, first_day)];
    let all = database
        .usage(ORGANIZATION, &windows, &everything(), &Generations::default())
        .await
        .unwrap();
    let error = all[0].as_ref().unwrap_err();
    assert_eq!((error.subscription, error.metric, error.window), (SUBSCRIPTION, METRIC, 0));
    assert_eq!(error.total, "100000000000000000000000000");
    assert_eq!(all[1].as_ref().unwrap().total, quantity(most));
    assert_eq!(all[2].as_ref().unwrap().total, quantity(most), "a window without the last event");
}

#[tokio::test]
async fn no_windows_need_no_query() {
    let nowhere = ClickHouse::connect("http://127.0.0.1:1", "u", "p", "d");
    assert_eq!(
        nowhere.usage(ORGANIZATION, &[], &everything(), &Generations::default()).await.unwrap(),
        []
    );
    let error = nowhere
        .usage(ORGANIZATION, &[window(MARCH.0, MARCH.1)], &everything(), &Generations::default())
        .await
        .unwrap_err();
    assert!(error.is_retryable(), "{error}");
}
