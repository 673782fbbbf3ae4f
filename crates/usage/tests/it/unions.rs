//! Distinct values over groups.

use crate::support::*;
use weir_usage::{DistinctUnion, Generations, UsageValueRow};

fn group(name: &str) -> String {
    format!(r#"{{"team":"{name}"}}"#)
}

fn union(span: (&str, &str), groups: &[&str]) -> DistinctUnion {
    let groups = groups.iter().map(|name| group(name)).collect();
    DistinctUnion { window: window(span.0, span.1), metric: METRIC, groups }
}

#[tokio::test]
async fn a_value_of_several_groups_counts_once_by_its_last_operation_over_all_of_them() {
    let database = database().await;
    let row = |time: &str, team: &str, name: &str, added| UsageValueRow {
        group: group(team),
        ..value(time, name, added)
    };
    insert_values(
        &database,
        [
            row("2026-03-01T10:00:00Z", "a", "ann", true),
            row("2026-03-02T10:00:00Z", "b", "ann", true),
            row("2026-03-01T10:00:00Z", "a", "bob", true),
            // Taken away in another group, later.
            row("2026-03-03T10:00:00Z", "c", "bob", false),
            row("2026-03-03T10:00:00Z", "c", "cid", true),
            row("2026-04-01T00:00:00Z", "a", "dan", true),
        ],
    )
    .await;
    let april = ("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z");
    let mut stranger = union(MARCH, &["a"]);
    stranger.metric = weir_ids::BillableMetricId::from_u128(0xC2);
    let questions = [
        (union(MARCH, &["a"]), 2),
        (union(MARCH, &["b"]), 1),
        (union(MARCH, &["a", "b"]), 2),
        (union(MARCH, &["a", "c"]), 2),
        (union(MARCH, &["c", "b", "a"]), 2),
        (union(MARCH, &["b", "c"]), 2),
        (union(MARCH, &["nobody's"]), 0),
        (union(MARCH, &[]), 0),
        (union(april, &["a", "b"]), 1),
        (stranger, 0),
        // The same question again is a question of its own.
        (union(MARCH, &["a"]), 2),
    ];
    let (questions, expected): (Vec<_>, Vec<u64>) = questions.into_iter().unzip();
    let none = Generations::default();
    let counts = database.distinct_unions(ORGANIZATION, &questions, &none).await.unwrap();
    assert_eq!(counts, expected);
    assert!(database.distinct_unions(ORGANIZATION, &[], &none).await.unwrap().is_empty());
}

#[tokio::test]
async fn unions_are_of_the_generation_that_counts_and_of_any_number_of_groups() {
    let database = database().await;
    let names: Vec<_> = (0..20_000).map(|number| format!("it's {number} \\ \"q\"")).collect();
    let rows = names.iter().enumerate().map(|(number, name)| UsageValueRow {
        group: name.clone(),
        // Every tenth is of the new generation; two groups share a value.
        generation: if number % 10 == 0 { 5 } else { 0 },
        ..value("2026-03-01T10:00:00Z", &(number / 2).to_string(), true)
    });
    let chunk = weir_usage::Chunk { values: rows.collect(), ..weir_usage::Chunk::default() };
    insert_some(&database, chunk).await;
    let window = window(MARCH.0, MARCH.1);
    let questions = [DistinctUnion { window, metric: METRIC, groups: names }];
    let count = async |generations| {
        database.distinct_unions(ORGANIZATION, &questions, &generations).await.unwrap()
    };
    assert_eq!(count(Generations::default()).await, [10_000]);
    let metrics = vec![(METRIC, 5)];
    assert_eq!(count(Generations { metrics, ..Generations::default() }).await, [2_000]);
}
