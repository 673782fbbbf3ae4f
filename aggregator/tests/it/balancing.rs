//! Two aggregators on the same partitions, log, ClickHouse and Postgres.

use crate::parts::{PARTITIONS, Parts, Sent};
use sqlx::PgPool;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;
use weir_store::partitions;

const PATIENCE: Duration = Duration::from_secs(180);

fn events(numbers: std::ops::Range<u64>) -> Vec<Sent> {
    numbers.map(Sent::new).collect()
}

/// Waits until so many partitions belong to each owner.
async fn wait_for_shares(parts: &Parts, wanted: &[(&str, usize)]) {
    let wanted: BTreeMap<String, usize> =
        wanted.iter().map(|(owner, share)| ((*owner).to_owned(), *share)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut connection = parts.pool.acquire().await.unwrap();
        let mut shares = BTreeMap::new();
        for partition in partitions::list(&mut connection).await.unwrap() {
            if let Some(owner) = partition.owner {
                *shares.entry(owner).or_insert(0) += 1;
            }
        }
        if shares == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{shares:?}, wanted {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As if the time had passed after which a dead process' lease and signs of life count no more.
async fn time_passes_for(parts: &Parts, owner: &str) {
    for sql in [
        "UPDATE log_partitions SET lease_until = clock_timestamp() WHERE owner = $1",
        "UPDATE aggregators SET seen_at = clock_timestamp() - interval '1 hour' WHERE owner = $1",
    ] {
        sqlx::query(sql).bind(owner).execute(&parts.pool).await.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn two_aggregators_share_one_dies_and_comes_back(pool: PgPool) {
    let parts = Parts::new(pool).await;
    assert_eq!(PARTITIONS, 3);
    let (_one, _) = parts.aggregator("one").await;
    parts.send(&events(0..300)).await;
    parts.wait_for_all().await;
    wait_for_shares(&parts, &[("one", 3)]).await;

    let (two, _) = parts.aggregator("two").await;
    wait_for_shares(&parts, &[("one", 2), ("two", 1)]).await;
    // Repeats of what the other one took meet an index that knows them.
    parts.send(&events(0..600)).await;
    parts.wait_for_all().await;

    drop(two);
    time_passes_for(&parts, "two").await;
    wait_for_shares(&parts, &[("one", 3)]).await;
    parts.send(&events(300..900)).await;
    parts.wait_for_all().await;

    let (two, shutdown) = parts.aggregator("two").await;
    wait_for_shares(&parts, &[("one", 2), ("two", 1)]).await;
    parts.send(&events(0..1_200)).await;
    parts.wait_for_all().await;
    assert_eq!(parts.count_events().await, 1_200);

    // One that ends in order leaves its share to the other at once.
    shutdown.cancel();
    two.join().await;
    wait_for_shares(&parts, &[("one", 3)]).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_chunk_is_verified_once_also_by_the_next_owner(pool: PgPool) {
    let parts = Parts::new(pool).await;
    let (one, shutdown) = parts.aggregator("one").await;
    for chunk in 0..5 {
        parts.send(&events(chunk * 50..(chunk + 1) * 50)).await;
        parts.wait_for_all().await;
    }
    wait_until_verified(&parts).await;
    shutdown.cancel();
    one.join().await;
    let verified = verified(&parts).await;
    let (_two, _) = parts.aggregator("two").await;
    parts.send(&events(0..400)).await;
    parts.wait_for_all().await;
    wait_until_verified(&parts).await;
    assert!(self::verified(&parts).await > verified);
}

async fn verified(parts: &Parts) -> i64 {
    let sum = "SELECT sum(verified >> 16)::bigint FROM log_partitions";
    sqlx::query_scalar(sum).fetch_one(&parts.pool).await.unwrap()
}

async fn wait_until_verified(parts: &Parts) {
    let deadline = Instant::now() + PATIENCE;
    let committed = i64::try_from(parts.committed().await).unwrap();
    while verified(parts).await < committed {
        assert!(Instant::now() < deadline, "{} of {committed}", verified(parts).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
