//! A roll that ends while the catalog is changed: nobody waits for somebody who waits for him.

use crate::fixtures::{ACME, deployment, metric};
use sqlx::{Connection, PgPool};
use std::time::Duration;
use weir_billing::metric::BillableMetric;
use weir_store::intents::{self, ChunkCounts, Intent};
use weir_store::rolls::{
    RollChunk, RollState, finish_chunk, open_chunk, rolling, start_due, take_up,
};
use weir_store::{PgConnection, billable_metrics, catalog, partitions};

/// One partition, held under epoch 1, and a roll of what is before position 10 in it.
async fn roll(pool: &PgPool) -> u64 {
    deployment(pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    partitions::ensure(&mut conn, 1).await.unwrap();
    partitions::claim(&mut conn, 0, "one", Duration::from_secs(600)).await.unwrap().unwrap();
    let catalog_version = catalog::version(&mut conn).await.unwrap();
    let intent = Intent { partition: 0, from: 0, to: 10, catalog_version, epoch: 1 };
    intents::open(&mut conn, &intent).await.unwrap();
    intents::finish(&mut conn, &intent, &ChunkCounts::default()).await.unwrap();
    let second = BillableMetric { event_code: "tokens".to_owned(), ..metric(ACME, 2, "m2") };
    billable_metrics::insert(&mut conn, &second).await.unwrap();
    start_due(&mut conn).await.unwrap();
    rolling(&mut conn).await.unwrap()[0].generation
}

/// Returns when so many statements in this database wait for a lock.
async fn until_waiting(conn: &mut PgConnection, wanted: i64) {
    let waiting = "SELECT count(*)
        FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *conn).await.unwrap() < wanted {}
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn who_ends_a_roll_holds_no_partition_while_the_catalog_is_changed(pool: PgPool) {
    let generation = roll(&pool).await;
    let mut conn = pool.acquire().await.unwrap();
    take_up(&mut conn, generation, 0, 1).await.unwrap();
    let chunk = RollChunk { generation, partition: 0, from: 0, to: 10, epoch: 1 };
    open_chunk(&mut conn, &chunk).await.unwrap();

    let mut changing = pool.acquire().await.unwrap();
    let mut changing = changing.begin().await.unwrap();
    sqlx::query("SELECT catalog_next_version()").execute(&mut *changing).await.unwrap();
    for (waiting, again) in [(1, false), (2, true)] {
        let pool = pool.clone();
        let ends = tokio::spawn(async move {
            let mut conn = pool.acquire().await.unwrap();
            if again {
                take_up(&mut conn, generation, 0, 1).await.unwrap();
            } else {
                finish_chunk(&mut conn, &chunk).await.unwrap();
            }
        });
        until_waiting(&mut conn, waiting).await;
        // What a change of the catalog locks next.
        sqlx::query("SELECT partition FROM log_partitions FOR UPDATE NOWAIT")
            .execute(&mut *changing)
            .await
            .unwrap_or_else(|error| panic!("taken up again: {again}: {error}"));
        // As a process that dies here; Postgres does not notice it while its statement waits.
        ends.abort();
        assert!(ends.await.unwrap_err().is_cancelled());
    }
    changing.commit().await.unwrap();
    take_up(&mut conn, generation, 0, 1).await.unwrap();
    assert!(rolling(&mut conn).await.unwrap().is_empty(), "the next look ends it");
    assert_eq!(finish_chunk(&mut conn, &chunk).await.unwrap(), RollState::Done);
}
