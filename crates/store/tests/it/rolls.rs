//! Rolls: what counts otherwise is computed again, once, while live chunks go on.

use crate::fixtures::{
    ACME, OTHER, at, base, customer, deployment, metric, month, organization, subscription,
};
use sqlx::PgPool;
use std::time::Duration;
use weir_billing::metric::{Aggregation, BillableMetric, MetricFilter};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::catalog::{CatalogRows, DimensionRow, MetricRow, OverrideRow, load, version};
use weir_store::intents::{self, ChunkCounts, Intent};
use weir_store::organizations::{OrganizationSettings, set_settings};
use weir_store::rolls::{
    PartitionRoll, Roll, RollChunk, RollKind, RollState, RollSubject, Superseded, finish_chunk,
    generations, mark_deleted, open_chunk, progress, rolling, start_due, superseded, take_up,
    unsettled,
};
use weir_store::voids::{self, Void};
use weir_store::{
    PgConnection, StoreError, Tx, billable_metrics, customers, partitions, subscriptions,
};

const LEASE: Duration = Duration::from_secs(600);
const COUNTS: ChunkCounts = ChunkCounts { events: 1, duplicates: 0, conflicts: 0 };

/// Two partitions of one owner, with epoch 1 and everything before position 10 in ClickHouse.
async fn flowing(conn: &mut PgConnection) {
    partitions::ensure(conn, 2).await.unwrap();
    for partition in [0, 1] {
        partitions::claim(conn, partition, "one", LEASE).await.unwrap().unwrap();
        write_chunk(conn, partition, 0, 10).await;
    }
}

/// A deployment in which events flow.
async fn world(pool: &PgPool) -> sqlx::pool::PoolConnection<sqlx::Postgres> {
    deployment(pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    flowing(&mut conn).await;
    conn
}

async fn chunk(conn: &mut PgConnection, partition: u32, from: u64, to: u64) -> Intent {
    let catalog_version = version(conn).await.unwrap();
    Intent { partition, from, to, catalog_version, epoch: 1 }
}

async fn write_chunk(conn: &mut PgConnection, partition: u32, from: u64, to: u64) {
    let intent = chunk(conn, partition, from, to).await;
    intents::open(conn, &intent).await.unwrap();
    intents::finish(conn, &intent, &COUNTS).await.unwrap();
}

fn roll_chunk(generation: u64, partition: u32, from: u64, to: u64) -> RollChunk {
    RollChunk { generation, partition, from, to, epoch: 1 }
}

/// Rolls all of a partition in one chunk.
async fn roll_partition(conn: &mut PgConnection, generation: u64, partition: u32) -> RollState {
    let found = take_up(conn, generation, partition, 1).await.unwrap().unwrap();
    let chunk = roll_chunk(generation, partition, found.done_to, found.to);
    assert_eq!(open_chunk(conn, &chunk).await.unwrap(), RollState::Rolling);
    finish_chunk(conn, &chunk).await.unwrap()
}

async fn roll_to_the_end(conn: &mut PgConnection, generation: u64) {
    assert_eq!(roll_partition(conn, generation, 0).await, RollState::Rolling);
    assert_eq!(roll_partition(conn, generation, 1).await, RollState::Done);
}

async fn only_roll(conn: &mut PgConnection) -> Roll {
    let mut rolls = rolling(conn).await.unwrap();
    assert_eq!(rolls.len(), 1, "{rolls:?}");
    rolls.remove(0)
}

async fn newest(conn: &mut PgConnection) -> CatalogRows {
    let newest = version(conn).await.unwrap();
    load(conn, newest).await.unwrap()
}

/// The catalog's entries of a metric, by generation.
async fn entries(conn: &mut PgConnection, metric: u128) -> Vec<MetricRow> {
    let mut rows = newest(conn).await.metrics;
    rows.retain(|row| row.id == BillableMetricId::from_u128(metric));
    rows.sort_by_key(|row| row.generation);
    rows
}

/// A second metric of the events that metric 1 counts.
fn second(id: u128) -> BillableMetric {
    BillableMetric { event_code: "tokens".to_owned(), ..metric(ACME, id, &format!("m{id}")) }
}

fn is_fenced<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced { .. }))
}

fn is_too_old<T>(result: &Result<T, StoreError>, wanted: u64) -> bool {
    matches!(result, Err(StoreError::CatalogTooOld { partition: 0, floor }) if *floor == wanted)
}

async fn execute(conn: &mut PgConnection, sql: &'static str) {
    sqlx::query(sql).execute(conn).await.unwrap();
}

fn sub(id: u128) -> SubscriptionId {
    SubscriptionId::from_u128(id)
}

async fn make_lenient(conn: &mut PgConnection, organization: OrganizationId, lenient: bool) {
    let settings = OrganizationSettings { lenient, ..OrganizationSettings::default() };
    set_settings(conn, organization, &settings).await.unwrap();
}

fn void(transaction_id: &str, external_id: &str, timestamp: &str) -> Void {
    Void {
        organization: ACME,
        transaction_id: transaction_id.to_owned(),
        external_subscription_id: external_id.to_owned(),
        code: "tokens".to_owned(),
        timestamp: at(timestamp),
        voided_at: month(4),
        voided_by: "operator".to_owned(),
        reason: None,
        generation: None,
    }
}

async fn generation_of(conn: &mut PgConnection, transaction_id: &str) -> Option<u64> {
    let ids = [transaction_id.to_owned()];
    voids::find_many(conn, ACME, &ids).await.unwrap()[transaction_id].generation
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_metric_of_events_that_were_never_taken_counts_at_once(pool: PgPool) {
    let mut conn = world(&pool).await;
    billable_metrics::insert(&mut conn, &metric(ACME, 2, "calls")).await.unwrap();
    let rows = entries(&mut conn, 2).await;
    assert_eq!((rows.len(), rows[0].generation, rows[0].rolling), (1, 0, false));
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    assert!(unsettled(&mut conn).await.unwrap().is_empty());
    assert_eq!(generations(&mut conn, ACME, &[sub(1)]).await.unwrap(), Default::default());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_new_metric_of_known_events_is_rolled_and_then_read(pool: PgPool) {
    let mut conn = world(&pool).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    assert!(entries(&mut conn, 2).await.is_empty(), "it waits");
    assert_eq!(unsettled(&mut conn).await.unwrap(), [ACME].into());

    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    let roll = only_roll(&mut conn).await;
    let metric = BillableMetricId::from_u128(2);
    assert_eq!((roll.organization, &roll.kind), (ACME, &RollKind::Metric { metric }));
    assert_eq!(roll.takes_hold_in, version(&mut conn).await.unwrap());
    let rows = entries(&mut conn, 2).await;
    assert_eq!((rows.len(), rows[0].generation, rows[0].rolling), (1, roll.generation, true));

    assert_eq!(roll_partition(&mut conn, roll.generation, 0).await, RollState::Rolling);
    assert_eq!(generations(&mut conn, ACME, &[]).await.unwrap(), Default::default());
    assert_eq!(unsettled(&mut conn).await.unwrap(), [ACME].into());
    let before = version(&mut conn).await.unwrap();
    assert_eq!(roll_partition(&mut conn, roll.generation, 1).await, RollState::Done);
    assert_eq!(version(&mut conn).await.unwrap(), before + 1);
    let rows = entries(&mut conn, 2).await;
    assert_eq!((rows.len(), rows[0].generation, rows[0].rolling), (1, roll.generation, false));
    let found = generations(&mut conn, ACME, &[]).await.unwrap();
    assert_eq!(found.metrics, [(metric, roll.generation)]);
    assert!(unsettled(&mut conn).await.unwrap().is_empty());
    assert!(rolling(&mut conn).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn before_the_first_chunk_nothing_is_rolled_and_no_older_catalog_is_taken(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    partitions::ensure(&mut conn, 1).await.unwrap();
    let claim = partitions::claim(&mut conn, 0, "one", LEASE).await.unwrap().unwrap();
    assert_eq!(claim.catalog_floor, version(&mut conn).await.unwrap());
    let stale = chunk(&mut conn, 0, 0, 10).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    let mut changed = second(2);
    changed.aggregation = Aggregation::Max;
    billable_metrics::save(&mut conn, &changed).await.unwrap();
    let rows = entries(&mut conn, 2).await;
    assert_eq!((rows.len(), rows[0].generation), (1, 0));
    assert_eq!(rows[0].aggregation, Aggregation::Max);
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);

    // It would not count the metric.
    let newest = version(&mut conn).await.unwrap();
    let refused = intents::open(&mut conn, &stale).await;
    assert!(is_too_old(&refused, newest), "{refused:?}");
    let gone = intents::open(&mut conn, &Intent { epoch: 0, ..stale }).await;
    assert!(is_fenced(&gone), "{gone:?}");
    let claim = partitions::claim(&mut conn, 0, "one", LEASE).await.unwrap().unwrap();
    assert_eq!(claim.catalog_floor, newest);
    let fresh = Intent { epoch: 2, catalog_version: newest, ..stale };
    intents::open(&mut conn, &fresh).await.unwrap();
    // From here on something is taken, also before it is done.
    billable_metrics::insert(&mut conn, &second(3)).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_changed_metric_is_counted_both_ways_until_the_roll_ends(pool: PgPool) {
    let mut conn = world(&pool).await;
    let mut changed = metric(ACME, 1, "tokens");
    changed.name = "renamed: nothing to roll".to_owned();
    changed.filters = Vec::new();
    billable_metrics::save(&mut conn, &changed).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);

    let filter = |key: &str| MetricFilter { key: key.to_owned(), values: vec!["eu".to_owned()] };
    changed.filters = vec![filter("region"), filter("model")];
    changed.expression = Some("event.properties.value * 2".to_owned());
    billable_metrics::save(&mut conn, &changed).await.unwrap();
    let keys = ["region".to_owned(), "team".to_owned()];
    billable_metrics::add_group_keys(&mut conn, ACME, changed.id, &keys).await.unwrap();
    assert_eq!(entries(&mut conn, 1).await.len(), 1);
    assert_eq!(start_due(&mut conn).await.unwrap(), 1, "two changes are one roll");
    let roll = only_roll(&mut conn).await;
    let rows = entries(&mut conn, 1).await;
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].generation, rows[0].rolling), (0, false));
    assert!(rows[0].dimensions.is_empty() && rows[0].expression.is_none());
    assert_eq!((rows[1].generation, rows[1].rolling), (roll.generation, true));
    assert_eq!(rows[1].expression, changed.expression);
    let dimension = |key: &str, values: Option<&[&str]>| DimensionRow {
        key: key.to_owned(),
        values: values.map(|values| values.iter().map(|&value| value.to_owned()).collect()),
    };
    let expected =
        [dimension("model", Some(&["eu"])), dimension("region", None), dimension("team", None)];
    assert_eq!(rows[1].dimensions, expected, "what is grouped by has any value");

    roll_to_the_end(&mut conn, roll.generation).await;
    let rows = entries(&mut conn, 1).await;
    assert_eq!((rows.len(), rows[0].generation, rows[0].rolling), (1, roll.generation, false));
    billable_metrics::add_group_keys(&mut conn, ACME, changed.id, &keys[..1]).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0, "known keys change nothing");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_change_while_it_rolls_is_rolled_after_it(pool: PgPool) {
    let mut conn = world(&pool).await;
    let mut changed = metric(ACME, 1, "tokens");
    changed.aggregation = Aggregation::Max;
    billable_metrics::save(&mut conn, &changed).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let first = only_roll(&mut conn).await.generation;
    for aggregation in [Aggregation::Latest, Aggregation::UniqueCount] {
        changed.aggregation = aggregation;
        billable_metrics::save(&mut conn, &changed).await.unwrap();
    }
    assert_eq!(start_due(&mut conn).await.unwrap(), 0, "one at a time");
    let words = |rows: Vec<MetricRow>| -> Vec<(Aggregation, bool)> {
        rows.iter().map(|row| (row.aggregation, row.rolling)).collect()
    };
    let (sum, max, unique) = (Aggregation::Sum, Aggregation::Max, Aggregation::UniqueCount);
    assert_eq!(words(entries(&mut conn, 1).await), [(sum, false), (max, true)]);

    roll_to_the_end(&mut conn, first).await;
    assert_eq!(words(entries(&mut conn, 1).await), [(max, false)]);
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    let second = only_roll(&mut conn).await.generation;
    assert!(second > first);
    assert_eq!(words(entries(&mut conn, 1).await), [(max, false), (unique, true)]);
    // Live chunks went on in between.
    write_chunk(&mut conn, 0, 10, 20).await;
    let found = take_up(&mut conn, second, 0, 1).await.unwrap().unwrap();
    assert_eq!(found.to, 10, "the chunk wrote the generation itself");
    roll_to_the_end(&mut conn, second).await;
    assert_eq!(words(entries(&mut conn, 1).await), [(unique, false)]);
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    let found = generations(&mut conn, ACME, &[]).await.unwrap();
    assert_eq!(found.metrics, [(changed.id, second)]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_deleted_metric_ends_its_rolls_without_effect(pool: PgPool) {
    let mut conn = world(&pool).await;
    for id in [2, 3] {
        billable_metrics::insert(&mut conn, &second(id)).await.unwrap();
    }
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    let found = take_up(&mut conn, roll, 0, 1).await.unwrap().unwrap();
    let chunk = roll_chunk(roll, 0, found.done_to, found.to);
    open_chunk(&mut conn, &chunk).await.unwrap();
    for id in [2, 3] {
        let id = BillableMetricId::from_u128(id);
        billable_metrics::archive(&mut conn, ACME, id, month(3)).await.unwrap();
    }
    assert!(rolling(&mut conn).await.unwrap().is_empty());
    assert!(entries(&mut conn, 2).await.is_empty());
    assert_eq!(start_due(&mut conn).await.unwrap(), 0, "the one that waited is gone");
    assert_eq!(finish_chunk(&mut conn, &chunk).await.unwrap(), RollState::Abandoned);
    let other = roll_chunk(roll, 1, 0, 10);
    assert_eq!(open_chunk(&mut conn, &other).await.unwrap(), RollState::Abandoned);
    assert_eq!(take_up(&mut conn, roll, 1, 1).await.unwrap(), None);
    assert_eq!(generations(&mut conn, ACME, &[]).await.unwrap(), Default::default());

    execute(&mut conn, "UPDATE usage_rolls SET ended_at = ended_at - interval '61 minutes'").await;
    let gone = Superseded::Abandoned { generation: roll, organization: ACME };
    assert_eq!(superseded(&mut conn).await.unwrap(), [gone]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_roll_is_taken_up_between_chunks_by_the_owner_alone(pool: PgPool) {
    let mut conn = world(&pool).await;
    let old = version(&mut conn).await.unwrap();
    let under_way = chunk(&mut conn, 0, 10, 20).await;
    intents::open(&mut conn, &under_way).await.unwrap();
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await;

    assert!(is_fenced(&take_up(&mut conn, roll.generation, 0, 1).await), "a chunk is open");
    intents::finish(&mut conn, &under_way, &COUNTS).await.unwrap();
    assert!(is_fenced(&take_up(&mut conn, roll.generation, 0, 0).await), "another epoch");
    execute(&mut conn, "UPDATE log_partitions SET lease_until = clock_timestamp()").await;
    assert!(is_fenced(&take_up(&mut conn, roll.generation, 0, 1).await), "no lease");
    partitions::renew(&mut conn, 0, 1, LEASE).await.unwrap();

    let found = take_up(&mut conn, roll.generation, 0, 1).await.unwrap().unwrap();
    let catalog_version = version(&mut conn).await.unwrap();
    let expected =
        PartitionRoll { to: 20, catalog_version, done_to: 0, open_to: None, finished: false };
    assert_eq!(found, expected);
    let stale = Intent { partition: 0, from: 20, to: 30, catalog_version: old, epoch: 1 };
    // It would miss the generation.
    let refused = intents::open(&mut conn, &stale).await;
    assert!(is_too_old(&refused, roll.takes_hold_in), "{refused:?}");
    write_chunk(&mut conn, 0, 20, 30).await;
    let again = take_up(&mut conn, roll.generation, 0, 1).await.unwrap().unwrap();
    assert_eq!(again, expected, "its end stays where it was");

    // The other partition has not taken it up: there the older catalog still holds.
    partitions::renew(&mut conn, 1, 1, LEASE).await.unwrap();
    let older = Intent { partition: 1, from: 10, to: 20, catalog_version: old, epoch: 1 };
    intents::open(&mut conn, &older).await.unwrap();
    intents::finish(&mut conn, &older, &COUNTS).await.unwrap();
    // The first chunk with the newer one writes the generation: the roll ends before it.
    write_chunk(&mut conn, 1, 20, 30).await;
    let found = take_up(&mut conn, roll.generation, 1, 1).await.unwrap().unwrap();
    assert_eq!((found.to, found.catalog_version), (20, catalog_version));
    let claim = partitions::claim(&mut conn, 1, "one", LEASE).await.unwrap().unwrap();
    assert_eq!(claim.catalog_floor, roll.takes_hold_in);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_chunk_that_is_refused_takes_no_roll_up(pool: PgPool) {
    let mut conn = world(&pool).await;
    let under_way = chunk(&mut conn, 0, 10, 20).await;
    intents::open(&mut conn, &under_way).await.unwrap();
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    let other = chunk(&mut conn, 0, 10, 15).await;
    assert!(is_fenced(&intents::open(&mut conn, &other).await));
    // The open one goes on with the catalog from before the roll, and does not write it.
    intents::open(&mut conn, &under_way).await.unwrap();
    intents::finish(&mut conn, &under_way, &COUNTS).await.unwrap();
    assert_eq!(take_up(&mut conn, roll, 0, 1).await.unwrap().unwrap().to, 20);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn after_a_crash_exactly_the_open_chunk_of_a_roll_comes_next(pool: PgPool) {
    let mut conn = world(&pool).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    take_up(&mut conn, roll, 0, 1).await.unwrap().unwrap();
    let first = roll_chunk(roll, 0, 0, 4);
    assert!(is_fenced(&finish_chunk(&mut conn, &first).await), "never opened");
    open_chunk(&mut conn, &first).await.unwrap();
    open_chunk(&mut conn, &first).await.expect("a lost answer may be asked for again");
    for other in [roll_chunk(roll, 0, 0, 5), roll_chunk(roll, 0, 4, 8), roll_chunk(roll, 1, 0, 4)] {
        assert!(is_fenced(&open_chunk(&mut conn, &other).await), "{other:?}");
        assert!(is_fenced(&finish_chunk(&mut conn, &other).await), "{other:?}");
    }

    let claim = partitions::claim(&mut conn, 0, "one", LEASE).await.unwrap().unwrap();
    assert_eq!(claim.epoch, 2);
    assert!(is_fenced(&open_chunk(&mut conn, &first).await), "the old owner");
    assert!(is_fenced(&finish_chunk(&mut conn, &first).await), "the old owner");
    let found = take_up(&mut conn, roll, 0, 2).await.unwrap().unwrap();
    assert_eq!((found.done_to, found.open_to), (0, Some(4)));
    let redone = RollChunk { epoch: 2, ..first };
    open_chunk(&mut conn, &redone).await.unwrap();
    assert_eq!(finish_chunk(&mut conn, &redone).await.unwrap(), RollState::Rolling);
    assert_eq!(finish_chunk(&mut conn, &redone).await.unwrap(), RollState::Rolling, "said twice");
    assert!(is_fenced(&open_chunk(&mut conn, &redone).await), "done is done");
    let beyond = RollChunk { epoch: 2, ..roll_chunk(roll, 0, 4, 11) };
    assert!(is_fenced(&open_chunk(&mut conn, &beyond).await), "the live chunks' part");
    let last = RollChunk { epoch: 2, ..roll_chunk(roll, 0, 4, 10) };
    open_chunk(&mut conn, &last).await.unwrap();
    finish_chunk(&mut conn, &last).await.unwrap();
    let found = take_up(&mut conn, roll, 0, 2).await.unwrap().unwrap();
    assert!(found.finished && found.open_to.is_none());
    assert_eq!(roll_partition(&mut conn, roll, 1).await, RollState::Done);
    assert_eq!(finish_chunk(&mut conn, &last).await.unwrap(), RollState::Done, "said twice");
    assert_eq!(take_up(&mut conn, roll, 0, 2).await.unwrap(), None, "it has ended");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn partitions_that_end_at_once_end_the_roll_once(pool: PgPool) {
    let mut conn = world(&pool).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    for partition in [0, 1] {
        take_up(&mut conn, roll, partition, 1).await.unwrap();
        open_chunk(&mut conn, &roll_chunk(roll, partition, 0, 10)).await.unwrap();
    }
    let before = version(&mut conn).await.unwrap();
    let finish = |partition| {
        let pool = pool.clone();
        async move {
            let mut conn = pool.acquire().await.unwrap();
            finish_chunk(&mut conn, &roll_chunk(roll, partition, 0, 10)).await.unwrap()
        }
    };
    let (one, two) = tokio::join!(finish(0), finish(1));
    assert!([one, two].contains(&RollState::Done), "{one:?} {two:?}");
    assert!(rolling(&mut conn).await.unwrap().is_empty());
    assert_eq!(version(&mut conn).await.unwrap(), before + 1);
    assert_eq!(entries(&mut conn, 2).await.len(), 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_partition_without_events_is_finished_when_it_is_taken_up(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    partitions::ensure(&mut conn, 2).await.unwrap();
    for partition in [0, 1] {
        partitions::claim(&mut conn, partition, "one", LEASE).await.unwrap().unwrap();
    }
    write_chunk(&mut conn, 0, 0, 10).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    assert_eq!(roll_partition(&mut conn, roll, 0).await, RollState::Rolling);
    let found = take_up(&mut conn, roll, 1, 1).await.unwrap().unwrap();
    assert!(found.finished, "{found:?}");
    assert!(rolling(&mut conn).await.unwrap().is_empty());
    assert_eq!(generations(&mut conn, ACME, &[]).await.unwrap().metrics.len(), 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_organization_rolls_one_at_a_time_and_others_beside_it(pool: PgPool) {
    let mut conn = world(&pool).await;
    deployment(&pool, OTHER, "Other").await;
    for id in [2, 3] {
        billable_metrics::insert(&mut conn, &second(id)).await.unwrap();
    }
    let theirs = BillableMetric { event_code: "tokens".to_owned(), ..metric(OTHER, 2, "m2") };
    billable_metrics::insert(&mut conn, &theirs).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 2);
    let rolls = rolling(&mut conn).await.unwrap();
    let organizations: Vec<_> = rolls.iter().map(|roll| roll.organization).collect();
    assert_eq!(organizations, [ACME, OTHER]);
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    roll_to_the_end(&mut conn, rolls[0].generation).await;
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    let rolls = rolling(&mut conn).await.unwrap();
    let organizations: Vec<_> = rolls.iter().map(|roll| roll.organization).collect();
    assert_eq!(organizations, [ACME, OTHER]);
    assert_eq!(entries(&mut conn, 3).await.len(), 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_stalled_roll_holds_the_others_back(pool: PgPool) {
    let mut conn = world(&pool).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    for partition in [0, 1] {
        take_up(&mut conn, roll, partition, 1).await.unwrap();
    }
    open_chunk(&mut conn, &roll_chunk(roll, 0, 0, 10)).await.unwrap();
    execute(&mut conn, "SELECT setval('chunk_intents_sequence_seq', 6000)").await;
    let live = chunk(&mut conn, 1, 10, 20).await;
    let refused = intents::open(&mut conn, &live).await;
    assert!(matches!(refused, Err(StoreError::Stalled { behind: 0 })), "{refused:?}");
    let refused = open_chunk(&mut conn, &roll_chunk(roll, 1, 0, 10)).await;
    assert!(matches!(refused, Err(StoreError::Stalled { behind: 0 })), "{refused:?}");
    let id = BillableMetricId::from_u128(2);
    billable_metrics::archive(&mut conn, ACME, id, month(3)).await.unwrap();
    let live = chunk(&mut conn, 1, 10, 20).await;
    intents::open(&mut conn, &live).await.expect("an abandoned roll is never written again");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn new_subscriptions_are_rolled_where_events_may_have_come_before_them(pool: PgPool) {
    let mut conn = world(&pool).await;
    subscriptions::insert(&mut conn, &subscription(ACME, 2, 1, 1), None).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0, "strict: none were taken");
    make_lenient(&mut conn, ACME, true).await;
    make_lenient(&mut conn, ACME, false).await;
    for id in [3, 4] {
        subscriptions::insert(&mut conn, &subscription(ACME, id, 1, 1), None).await.unwrap();
    }
    let mut ending = subscription(ACME, 3, 1, 1);
    ending.ending_at = Some(month(9));
    subscriptions::save(&mut conn, &ending).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 1, "both in one roll");
    let roll = only_roll(&mut conn).await;
    let RollKind::Subscriptions { subscriptions: rolled } = &roll.kind else {
        panic!("{roll:?}");
    };
    let rolled: Vec<_> = rolled.iter().map(|one| (one.id, one.external_id.as_str())).collect();
    assert_eq!(rolled, [(sub(3), "sub-3"), (sub(4), "sub-4")]);
    let overrides = |rolling| {
        [3, 4].map(|id| OverrideRow {
            generation: roll.generation,
            organization: ACME,
            subscription: sub(id),
            bucket: None,
            rolling,
        })
    };
    let mut rows = newest(&mut conn).await.overrides;
    rows.sort_by_key(|row| row.subscription);
    assert_eq!(rows, overrides(true));
    assert_eq!(generations(&mut conn, ACME, &[sub(3)]).await.unwrap(), Default::default());

    roll_to_the_end(&mut conn, roll.generation).await;
    let mut rows = newest(&mut conn).await.overrides;
    rows.sort_by_key(|row| row.subscription);
    assert_eq!(rows, overrides(false));
    let found = generations(&mut conn, ACME, &[sub(1), sub(3)]).await.unwrap();
    assert_eq!(found.subscriptions, [(sub(3), roll.generation)]);
    ending.terminated_at = Some(month(5));
    subscriptions::save(&mut conn, &ending).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0, "an earlier end matches nothing new");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn metrics_of_a_lenient_organization_are_always_rolled(pool: PgPool) {
    let mut conn = world(&pool).await;
    make_lenient(&mut conn, ACME, true).await;
    billable_metrics::insert(&mut conn, &metric(ACME, 2, "never-seen")).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn voids_are_collected_into_one_roll_of_their_cells(pool: PgPool) {
    let mut conn = world(&pool).await;
    for (id, time) in [
        ("a", "2026-02-03T10:14:59.999999Z"),
        ("b", "2026-02-03T10:00:00Z"),
        ("c", "2026-02-03T10:15:00Z"),
    ] {
        voids::insert(&mut conn, &void(id, "sub-1", time)).await.unwrap();
    }
    voids::insert(&mut conn, &void("early", "sub-1", "2026-01-03T10:15:00Z")).await.unwrap();
    assert_eq!(unsettled(&mut conn).await.unwrap(), [ACME].into());
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    let roll = only_roll(&mut conn).await;
    let buckets = ["2026-02-03T10:00:00Z", "2026-02-03T10:15:00Z"].map(at);
    let cells = buckets.map(|bucket| (sub(1), bucket)).to_vec();
    assert_eq!(roll.kind, RollKind::Cells { cells });
    for id in ["a", "b", "c", "early"] {
        assert_eq!(generation_of(&mut conn, id).await, Some(roll.generation), "{id}");
    }
    let ids = ["a", "b", "x"].map(str::to_owned);
    let found = voids::find_many(&mut conn, ACME, &ids).await.unwrap();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ids[..2]);
    assert!(voids::find_many(&mut conn, OTHER, &ids).await.unwrap().is_empty());

    // Voided while it rolls: the next one's, and two more join that.
    voids::insert(&mut conn, &void("d", "sub-1", "2026-02-03T10:01:00Z")).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    voids::insert(&mut conn, &void("e", "sub-1", "2026-02-03T11:01:00Z")).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    let next = generation_of(&mut conn, "d").await.unwrap();
    assert!(next > roll.generation);
    assert_eq!(generation_of(&mut conn, "e").await, Some(next));
    roll_to_the_end(&mut conn, roll.generation).await;
    let found = generations(&mut conn, ACME, &[sub(1)]).await.unwrap();
    assert_eq!(found.cells, buckets.map(|bucket| (sub(1), bucket, roll.generation)));

    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    roll_to_the_end(&mut conn, next).await;
    let found = generations(&mut conn, ACME, &[sub(1)]).await.unwrap();
    let expected = [
        (sub(1), buckets[0], next),
        (sub(1), buckets[1], roll.generation),
        (sub(1), at("2026-02-03T11:00:00Z"), next),
    ];
    assert_eq!(found.cells, expected);
    let mut rows = newest(&mut conn).await.overrides;
    rows.sort_by_key(|row| row.bucket);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.subscription, row.bucket.unwrap(), row.generation))
        .collect();
    assert_eq!(rows, expected, "what a later roll replaced is gone");
    assert!(unsettled(&mut conn).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn voids_of_one_instant_are_in_one_roll_however_many_there_are(pool: PgPool) {
    let mut conn = world(&pool).await;
    let of = |name: &str, day: u32| {
        let time = format!("2026-02-0{day}T10:00:00Z");
        (0..6_000).map(|n| void(&format!("{name}-{n}"), "sub-1", &time)).collect::<Vec<_>>()
    };
    let (later, mut sooner) = (of("later", 3), of("sooner", 4));
    for void in &mut sooner {
        void.voided_at -= Duration::from_secs(1);
    }
    voids::insert_many(&mut conn, &later).await.unwrap();
    voids::insert_many(&mut conn, &sooner).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    let roll = only_roll(&mut conn).await;
    let cells = ["2026-02-03T10:00:00Z", "2026-02-04T10:00:00Z"].map(|at_| (sub(1), at(at_)));
    assert_eq!(roll.kind, RollKind::Cells { cells: cells.to_vec() });
    let ids: Vec<String> =
        later.into_iter().chain(sooner).map(|void| void.transaction_id).collect();
    let found = voids::find_many(&mut conn, ACME, &ids).await.unwrap();
    assert_eq!(found.len(), 12_000);
    assert!(found.values().all(|void| void.generation == Some(roll.generation)));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_roll_of_an_unknown_kind_is_an_error_and_nothing_to_delete(pool: PgPool) {
    let mut conn = world(&pool).await;
    voids::insert(&mut conn, &void("a", "sub-1", "2026-02-03T10:00:00Z")).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let generation = only_roll(&mut conn).await.generation;
    execute(&mut conn, "ALTER TABLE usage_rolls DROP CONSTRAINT usage_rolls_kind_check").await;
    execute(&mut conn, "UPDATE usage_rolls SET kind = 'days'").await;
    let unread = rolling(&mut conn).await;
    assert!(matches!(unread, Err(StoreError::Corrupt { .. })), "{unread:?}");
    execute(&mut conn, "UPDATE usage_rolls SET kind = 'cells'").await;
    roll_to_the_end(&mut conn, generation).await;
    execute(
        &mut conn,
        "UPDATE usage_rolls SET kind = 'days', ended_at = ended_at - interval '61 minutes'",
    )
    .await;
    let unread = superseded(&mut conn).await;
    assert!(matches!(unread, Err(StoreError::Corrupt { .. })), "{unread:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_void_of_no_subscription_is_left_out_of_every_later_roll(pool: PgPool) {
    let mut conn = world(&pool).await;
    make_lenient(&mut conn, ACME, true).await;
    subscriptions::insert(&mut conn, &subscription(ACME, 2, 1, 1), None).await.unwrap();
    voids::insert(&mut conn, &void("a", "sub-3", "2026-02-03T10:00:00Z")).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 1, "of the subscription");
    let roll = only_roll(&mut conn).await.generation;
    let generation = generation_of(&mut conn, "a").await.unwrap();
    assert!(generation > roll);
    subscriptions::insert(&mut conn, &subscription(ACME, 3, 1, 1), None).await.unwrap();
    roll_to_the_end(&mut conn, roll).await;
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    let roll = only_roll(&mut conn).await;
    assert!(roll.generation > generation, "it counts without the event");
    assert!(matches!(roll.kind, RollKind::Subscriptions { .. }), "{roll:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_subscription_joins_no_roll_from_before_a_void(pool: PgPool) {
    let mut conn = world(&pool).await;
    make_lenient(&mut conn, ACME, true).await;
    billable_metrics::insert(&mut conn, &second(2)).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    // Waits behind the metric's.
    subscriptions::insert(&mut conn, &subscription(ACME, 2, 1, 1), None).await.unwrap();
    voids::insert(&mut conn, &void("a", "sub-3", "2026-02-03T10:00:00Z")).await.unwrap();
    assert_eq!(start_due(&mut conn).await.unwrap(), 0);
    let generation = generation_of(&mut conn, "a").await.unwrap();
    subscriptions::insert(&mut conn, &subscription(ACME, 3, 1, 1), None).await.unwrap();
    let shown = progress(&mut conn, ACME).await.unwrap();
    let waiting = shown.iter().filter(|roll| roll.state == RollState::Waiting);
    let waiting: Vec<_> =
        waiting.map(|roll| (roll.generation > generation, roll.subject)).collect();
    assert_eq!(
        waiting,
        [(true, RollSubject::Subscriptions(1)), (false, RollSubject::Subscriptions(1))]
    );
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn what_was_replaced_is_deleted_an_hour_later(pool: PgPool) {
    let mut conn = world(&pool).await;
    voids::insert(&mut conn, &void("a", "sub-1", "2026-02-03T10:00:00Z")).await.unwrap();
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await;
    let generation = roll.generation;
    roll_to_the_end(&mut conn, generation).await;
    assert!(superseded(&mut conn).await.unwrap().is_empty(), "readers may still be at it");
    execute(&mut conn, "UPDATE usage_rolls SET ended_at = ended_at - interval '61 minutes'").await;
    let replaced = Superseded::Replaced { generation, organization: ACME, kind: roll.kind };
    assert_eq!(superseded(&mut conn).await.unwrap(), [replaced]);
    mark_deleted(&mut conn, generation).await.unwrap();
    assert!(superseded(&mut conn).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn progress_is_seen_by_its_tenant_alone(pool: PgPool) {
    let mut conn = world(&pool).await;
    for id in [2, 3] {
        billable_metrics::insert(&mut conn, &second(id)).await.unwrap();
    }
    start_due(&mut conn).await.unwrap();
    let roll = only_roll(&mut conn).await.generation;
    roll_partition(&mut conn, roll, 0).await;
    take_up(&mut conn, roll, 1, 1).await.unwrap();
    let chunk = roll_chunk(roll, 1, 0, 5);
    open_chunk(&mut conn, &chunk).await.unwrap();
    finish_chunk(&mut conn, &chunk).await.unwrap();

    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let shown = progress(&mut tx, ACME).await.unwrap();
    let states: Vec<_> = shown.iter().map(|roll| (roll.state, roll.percent())).collect();
    assert_eq!(states, [(RollState::Waiting, 0), (RollState::Rolling, 75)], "newest first");
    let under_way = &shown[1];
    let subject = RollSubject::Metric(BillableMetricId::from_u128(2));
    assert_eq!((under_way.generation, under_way.subject), (roll, subject));
    assert_eq!((under_way.partitions_done, under_way.partitions), (1, 2));
    assert!(under_way.started_at.is_some() && under_way.ended_at.is_none());
    drop(tx);
    organization(&pool, OTHER, "Other").await;
    let mut tx = Tx::begin(&pool, OTHER).await.unwrap();
    assert!(progress(&mut tx, ACME).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_tenants_own_changes_start_rolls_too(pool: PgPool) {
    let mut conn = world(&pool).await;
    make_lenient(&mut conn, ACME, true).await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    billable_metrics::insert(&mut tx, &second(2)).await.unwrap();
    customers::insert(&mut tx, customer(ACME, 2)).await.unwrap();
    subscriptions::insert(&mut tx, &subscription(ACME, 2, 2, 1), None).await.unwrap();
    voids::insert(&mut tx, &void("a", "sub-1", "2026-02-03T10:00:00Z")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(base(ACME), 0);
    assert_eq!(start_due(&mut conn).await.unwrap(), 1);
    let shown = progress(&mut conn, ACME).await.unwrap();
    let subjects: Vec<_> = shown.iter().map(|roll| roll.subject).collect();
    let metric = RollSubject::Metric(BillableMetricId::from_u128(2));
    assert_eq!(subjects, [RollSubject::Cells(1), RollSubject::Subscriptions(1), metric]);
}
