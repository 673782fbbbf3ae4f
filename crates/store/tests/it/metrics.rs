//! Billable metrics as they are written and read back.

use crate::fixtures::{ACME, OTHER, metric, month, organization};
use sqlx::PgPool;
use weir_billing::metric::{
    Aggregation, BillableMetric, MetricFilter, RoundingFunction, UnitRounding,
};
use weir_store::billable_metrics::{add_group_keys, archive, find, insert, save};
use weir_store::{StoreError, Tx};

/// A metric that has everything.
fn full(id: u128) -> BillableMetric {
    BillableMetric {
        aggregation: Aggregation::WeightedSum,
        expression: Some("event.properties.value / 2".to_owned()),
        recurring: true,
        rounding: Some(UnitRounding { function: RoundingFunction::Ceil, precision: -2 }),
        filters: vec![MetricFilter {
            key: "region".to_owned(),
            values: vec!["eu".to_owned(), "us".to_owned()],
        }],
        group_keys: vec!["team".to_owned()],
        ..metric(ACME, id, &format!("m{id}"))
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn all_of_a_metric_is_read_back(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut wanted = full(1);
    insert(&mut tx, &wanted).await.unwrap();
    assert_eq!(find(&mut tx, ACME, wanted.id).await.unwrap(), Some(wanted.clone()));
    wanted.rounding = None;
    wanted.filters.clear();
    wanted.recurring = false;
    wanted.expression = None;
    save(&mut tx, &wanted).await.unwrap();
    assert_eq!(find(&mut tx, ACME, wanted.id).await.unwrap(), Some(wanted));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn group_keys_only_grow(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    organization(&pool, OTHER, "Other").await;
    let mut conn = pool.acquire().await.unwrap();
    let mut wanted = full(1);
    insert(&mut conn, &wanted).await.unwrap();
    for keys in [&["model", "team"][..], &["model"], &[]] {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        add_group_keys(&mut conn, ACME, wanted.id, &keys).await.unwrap();
    }
    wanted.group_keys.clear();
    save(&mut conn, &wanted).await.unwrap();
    let found = find(&mut conn, ACME, wanted.id).await.unwrap().unwrap();
    assert_eq!(found.group_keys, ["model", "team"]);
    let keys = ["x".to_owned()];
    let theirs = add_group_keys(&mut conn, OTHER, wanted.id, &keys).await;
    assert!(matches!(theirs, Err(StoreError::NotFound)), "{theirs:?}");
    archive(&mut conn, ACME, wanted.id, month(2)).await.unwrap();
    let gone = add_group_keys(&mut conn, ACME, wanted.id, &keys).await;
    assert!(matches!(gone, Err(StoreError::NotFound)), "{gone:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn metrics_that_mean_nothing_are_refused(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let (field, expression) = (Some("value"), Some("1"));
    use Aggregation::{Count, Custom, Latest, Max, Sum, UniqueCount, WeightedSum};
    let cases = [
        (Count, None, None, false, true),
        (Count, field, None, false, false),
        (Count, None, None, true, false),
        (Custom, None, expression, false, true),
        (Custom, None, None, false, false),
        (Custom, field, expression, false, false),
        (Custom, None, expression, true, false),
        (Sum, field, None, true, true),
        (Sum, None, expression, false, true),
        (Sum, field, expression, false, true),
        (Sum, None, None, false, false),
        (UniqueCount, field, None, true, true),
        (WeightedSum, field, None, true, true),
        (WeightedSum, None, None, false, false),
        (Max, field, None, true, false),
        (Latest, field, None, true, false),
        (Latest, None, expression, false, true),
    ];
    for (place, (aggregation, field, expression, recurring, expected)) in (0..).zip(cases) {
        let metric = BillableMetric {
            aggregation,
            field_name: field.map(str::to_owned),
            expression: expression.map(str::to_owned),
            recurring,
            ..metric(ACME, place + 1, &format!("m{place}"))
        };
        let result = insert(&mut conn, &metric).await;
        assert_eq!(result.is_ok(), expected, "case {place}: {result:?}");
    }
    for precision in [-13, 13] {
        let rounding = Some(UnitRounding { function: RoundingFunction::Floor, precision });
        let result = insert(&mut conn, &BillableMetric { rounding, ..full(99) }).await;
        assert!(matches!(result, Err(StoreError::Violation { .. })), "{result:?}");
    }
}
