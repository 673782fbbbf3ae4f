//! Groups lie apart, and of each cell only the generation that counts is read.

use crate::support::*;
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_usage::{Chunk, Generations, UsageRow, bucket_of};

const EU: &str = r#"{"region":"eu"}"#;
const US: &str = r#"{"region":"us"}"#;
const TEN: &str = "2026-03-01T10:00:00Z";
const ELEVEN: &str = "2026-03-01T11:00:00Z";

fn row(time: &str, amount: &str, generation: u64) -> UsageRow {
    UsageRow { generation, ..usage(time, amount) }
}

#[tokio::test]
async fn each_group_of_a_metric_is_an_answer_of_its_own_in_order() {
    let database = database().await;
    let quoted = r#"{"note":"it's a \\ \"test\"","region":"ü"}"#;
    let rows = [(US, "1"), (EU, "2"), ("", "4"), (US, "8"), (quoted, "16")];
    let rows = rows.map(|(group, amount)| UsageRow { group: group.into(), ..usage(TEN, amount) });
    insert_usage(&database, rows).await;
    insert_values(
        &database,
        [US, EU, US].map(|group| weir_usage::UsageValueRow {
            group: group.into(),
            ..value(TEN, "ann", true)
        }),
    )
    .await;
    let found = used(&database, MARCH, &Generations::default()).await;
    let found: Vec<_> =
        found.iter().map(|one| (one.group.as_str(), one.total, one.events, one.distinct)).collect();
    let expected = [
        ("", quantity("4"), 1, 0),
        (quoted, quantity("16"), 1, 0),
        (EU, quantity("2"), 1, 1),
        (US, quantity("9"), 2, 1),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_metric_is_read_under_its_own_generation_and_no_other() {
    let database = database().await;
    let other = BillableMetricId::from_u128(0xC2);
    insert_usage(
        &database,
        [
            row(TEN, "1", 0),
            row(TEN, "10", 3),
            row(TEN, "100", 5),
            UsageRow { metric: other, ..row(TEN, "1000", 0) },
            UsageRow { metric: other, ..row(TEN, "10000", 5) },
        ],
    )
    .await;
    let read = async |metrics: &[(BillableMetricId, u64)]| {
        let generations = Generations { metrics: metrics.to_vec(), ..Generations::default() };
        let all = used(&database, MARCH, &generations).await;
        all.iter().map(|one| one.total.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(read(&[]).await, ["1", "1000"]);
    assert_eq!(read(&[(METRIC, 3)]).await, ["10", "1000"]);
    // While a roll runs, what it has written so far is not looked at.
    assert_eq!(read(&[(METRIC, 3), (METRIC, 5)]).await, ["100", "1000"]);
    assert_eq!(read(&[(METRIC, 5), (other, 5)]).await, ["100", "10000"]);
    // Nothing was there for the metric: its first roll left no row.
    assert_eq!(read(&[(METRIC, 7)]).await, ["1000"]);
}

#[tokio::test]
async fn the_greatest_of_metric_subscription_and_cell_counts() {
    let database = database().await;
    let other = SubscriptionId::from_u128(0xB2);
    let mut rows = Vec::new();
    for (generation, amount) in [(0, "1"), (2, "10"), (4, "100"), (6, "1000")] {
        for time in [TEN, ELEVEN] {
            rows.push(row(time, amount, generation));
            rows.push(UsageRow { subscription: other, ..row(time, amount, generation) });
        }
    }
    insert_usage(&database, rows).await;
    let (metric, subscription) = ((METRIC, 2), (SUBSCRIPTION, 4));
    let cell = |generation| (SUBSCRIPTION, bucket_of(at(TEN)), generation);
    // Ours has two cells; of the other subscription both always count under the metric's.
    for (metrics, subscriptions, cells, ours, others) in [
        (vec![], vec![], vec![], "2", "2"),
        (vec![metric], vec![], vec![], "20", "20"),
        (vec![metric], vec![subscription], vec![], "200", "20"),
        (vec![metric], vec![subscription], vec![cell(6)], "1100", "20"),
        // A cell's old generation does not undo a later one of the metric or subscription.
        (vec![metric], vec![subscription], vec![cell(2)], "200", "20"),
        (vec![(METRIC, 6)], vec![subscription], vec![cell(2)], "2000", "2000"),
        (vec![], vec![], vec![cell(4), cell(6), cell(2)], "1001", "2"),
        (vec![], vec![(SUBSCRIPTION, 2)], vec![cell(4)], "110", "2"),
    ] {
        let generations = Generations { metrics, subscriptions, cells };
        let windows = [SUBSCRIPTION, other].map(|one| (one, at(MARCH.0), at(MARCH.1)));
        let all =
            database.usage(ORGANIZATION, &windows, &everything(), &generations).await.unwrap();
        let totals: Vec<_> = all.into_iter().map(|one| one.unwrap().total).collect();
        assert_eq!(totals, [quantity(ours), quantity(others)], "{generations:?}");
    }
}

#[tokio::test]
async fn distinct_values_are_of_the_generation_that_counts() {
    let database = database().await;
    let rows = [("ann", 0), ("bob", 0), ("bob", 4)];
    insert_values(
        &database,
        rows.map(|(name, generation)| weir_usage::UsageValueRow {
            generation,
            ..value(TEN, name, true)
        }),
    )
    .await;
    let distinct = async |cells: Vec<_>| {
        let generations = Generations { cells, ..Generations::default() };
        used(&database, MARCH, &generations).await[0].distinct
    };
    assert_eq!(distinct(vec![]).await, 2);
    assert_eq!(distinct(vec![(SUBSCRIPTION, bucket_of(at(TEN)), 4)]).await, 1);
}

#[tokio::test]
async fn a_cell_without_events_takes_part_in_no_maximum() {
    let database = database().await;
    let cell = (SUBSCRIPTION, bucket_of(at(TEN)), 4);
    let generations = Generations { cells: vec![cell], ..Generations::default() };
    let emptied = UsageRow { events: 0, ..row(TEN, "77", 4) };
    insert_usage(&database, [row(TEN, "9", 0), emptied.clone()]).await;
    assert_eq!(used(&database, MARCH, &generations).await, [], "nothing is left");
    // A live event of the same cell, and a negative one elsewhere: both in one block with the empty
    // row, which ClickHouse merges before it writes.
    let (mut late, early) = (row(TEN, "-5", 4), row(ELEVEN, "-7", 0));
    late.latest.timestamp = at("1960-01-01T00:00:00Z");
    let chunk = Chunk { usage: vec![emptied, late, early], ..Chunk::default() };
    insert_some(&database, chunk).await;
    let found = used(&database, MARCH, &generations).await;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].events, found[0].total), (2, quantity("-12")));
    assert_eq!(found[0].greatest, Some(quantity("-5")));
    assert_eq!(found[0].latest.unwrap().value, quantity("-7"));
}

#[tokio::test]
async fn thousands_of_cells_and_metrics_fit_into_one_question() {
    let database = database().await;
    insert_usage(&database, [row(TEN, "1", 0), row(TEN, "10", 9)]).await;
    let start = bucket_of(at(TEN));
    let quarter = |number: i64| start + chrono::TimeDelta::minutes(15 * number);
    let generations = Generations {
        metrics: (0..10_000).map(|id| (BillableMetricId::from_u128(0xF000 + id), 3)).collect(),
        subscriptions: vec![(SUBSCRIPTION, 2)],
        cells: (0..10_000).map(|number| (SUBSCRIPTION, quarter(number), 9)).collect(),
    };
    assert_eq!(used(&database, MARCH, &generations).await[0].total, quantity("10"));
}

#[tokio::test]
async fn rows_from_before_the_columns_have_generation_0_and_no_group() {
    let database = database().await;
    // What a program of before writes: without the columns it did not know.
    let old = "INSERT INTO usage
        (organization_id, subscription_id, metric_id, bucket, events, total, greatest, latest)
        VALUES ('00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000b1',
            '00000000-0000-0000-0000-0000000000c1', '2026-03-01 10:00:00', 1, 5, 5,
            ('2026-03-01 10:00:00', '2026-03-01 10:00:00', 1, 5))";
    run(&database, old).await;
    let found = one(&database, MARCH).await;
    assert_eq!((found.group.as_str(), found.total), ("", quantity("5")));
    insert_usage(&database, [row(TEN, "1", 0)]).await;
    assert_eq!(one(&database, MARCH).await.total, quantity("6"), "one group with the new rows");
}
