//! From the log to usage on the real parts, through aborts, lost indexes and broken records.

use crate::parts::{PARTITIONS, PATIENCE, Parts, SUM, Sent, USERS};
use bytes::Bytes;
use sqlx::{PgConnection, PgPool};
use std::collections::HashMap;
use tokio::time::Instant;
use weir_events::{EventId, KnownIds, Position, partition_of};
use weir_log::Append;
use weir_money::Quantity;

fn events(numbers: std::ops::Range<u64>) -> Vec<Sent> {
    numbers.map(Sent::new).collect()
}

fn quantity(number: u64) -> Quantity {
    number.to_string().parse().unwrap()
}

/// All events `0..count` are there once, and nothing else is.
async fn recount(parts: &Parts, count: u64) {
    assert_eq!(parts.count_events().await, count);
    let sum = parts.usage_of(SUM).await;
    assert_eq!((sum.events, sum.total), (count, quantity((0..count).sum())));
    assert_eq!(sum.greatest, Some(quantity(count - 1)));
    assert_eq!(sum.latest.map(|latest| latest.value), Some(quantity(count - 1)));
    let users = parts.usage_of(USERS).await;
    assert_eq!((users.events, users.distinct), (count, 7));
}

async fn all_known(
    parts: &Parts,
    known: &dyn KnownIds,
    events: &[Sent],
) -> HashMap<EventId, Position> {
    parts.wait_for_index(known).await;
    let mut first = HashMap::new();
    for partition in 0..PARTITIONS {
        let ours = |event: &&Sent| partition_of(event.id(), PARTITIONS) == partition;
        let ids: Vec<EventId> = events.iter().filter(ours).map(Sent::id).collect();
        for (id, copy) in ids.iter().zip(known.find(partition, &ids).unwrap()) {
            first.insert(*id, copy.expect("a stored event is known").position);
        }
    }
    first
}

async fn epochs(parts: &Parts) -> Vec<u64> {
    let mut connection = parts.pool.acquire().await.unwrap();
    let partitions = weir_store::partitions::list(&mut connection).await.unwrap();
    partitions.iter().map(|partition| partition.epoch).collect()
}

async fn execute(connection: &mut PgConnection, statement: &'static str) {
    sqlx::query(statement).execute(connection).await.unwrap();
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_event_counts_once_through_aborts_and_repeats(pool: PgPool) {
    let parts = Parts::new(pool).await;
    for round in 0..6 {
        // Counted before anything is sent: afterwards all of it may be stored already.
        let before = parts.committed().await;
        let (aggregator, _) = parts.aggregator("one").await;
        parts.send(&events(round * 200..(round + 1) * 200)).await;
        // All of the last round again, and the first of all with another content.
        parts.send(&events(round.saturating_sub(1) * 200..round * 200)).await;
        let conflict = Sent { tokens: "999".into(), content_hash: 77_000 + round, ..Sent::new(0) };
        parts.send(&[conflict]).await;
        // Killed at once, or a little or far into the work.
        parts.wait_for_records(before + round % 3).await;
        drop(aggregator);
    }
    let (aggregator, shutdown) = parts.aggregator("one").await;
    parts.wait_for_all().await;
    recount(&parts, 1_200).await;
    parts.wait_for_watermark(weir_runtime::Clock::real().now()).await;
    let first = all_known(&parts, aggregator.known().as_ref(), &events(0..1_200)).await;
    assert_eq!(first.len(), 1_200);
    shutdown.cancel();
    aggregator.join().await;
    // An orderly end frees the partitions: another owner need not wait for a lease to run out.
    let (other, _) = parts.aggregator("two").await;
    parts.send(&events(1_200..1_250)).await;
    parts.wait_for_all().await;
    recount(&parts, 1_250).await;
    drop(other);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_chunk_by_a_catalog_that_has_grown_old_is_decided_again_and_the_index_stays(
    pool: PgPool,
) {
    let parts = Parts::new(pool.clone()).await;
    let (aggregator, _) = parts.aggregator("one").await;
    let known = aggregator.known();
    parts.send(&events(0..100)).await;
    parts.wait_for_all().await;
    let epochs = epochs(&parts).await;
    // Holds up whoever opens a chunk, and nobody else.
    let mut change = pool.begin().await.unwrap();
    execute(&mut change, "SELECT partition FROM log_partitions FOR KEY SHARE").await;
    parts.send(&events(100..200)).await;
    let held_up = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'
           AND query LIKE '%INTO chunk_intents%'";
    let deadline = Instant::now() + PATIENCE;
    while sqlx::query_scalar::<_, i64>(held_up).fetch_one(&pool).await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "no chunk is opened");
    }
    execute(&mut change, "UPDATE log_partitions SET catalog_floor = 2").await;
    execute(&mut change, "UPDATE catalog_version SET version = 2").await;
    change.commit().await.unwrap();
    while parts.committed().await < parts.sent().await {
        assert!(Instant::now() < deadline, "the chunks are not decided again");
        for partition in 0..PARTITIONS {
            known.find(partition, &[]).unwrap();
        }
    }
    recount(&parts, 200).await;
    assert_eq!(epochs, self::epochs(&parts).await, "no partition was claimed again");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_lost_index_is_built_from_clickhouse_where_the_log_is_gone(pool: PgPool) {
    let parts = Parts::new(pool).await;
    let (aggregator, shutdown) = parts.aggregator("one").await;
    // Chunk by chunk, so that tables are sealed and what they hold leaves the log.
    for chunk in 0..10 {
        parts.send(&events(chunk * 100..(chunk + 1) * 100)).await;
        parts.wait_for_all().await;
    }
    let first = all_known(&parts, aggregator.known().as_ref(), &events(0..1_000)).await;
    shutdown.cancel();
    aggregator.join().await;
    let mut start = 0;
    for partition in 0..PARTITIONS {
        start += parts.log.start(partition).await.unwrap();
    }
    assert!(start > 0, "the log still has everything");
    std::fs::remove_dir_all(parts.index_dir()).unwrap();

    let (aggregator, _) = parts.aggregator("one").await;
    parts.send(&events(0..1_100)).await;
    parts.wait_for_all().await;
    recount(&parts, 1_100).await;
    let again = all_known(&parts, aggregator.known().as_ref(), &events(0..1_000)).await;
    assert_eq!(again, first, "the first copies are those of before");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_damaged_index_is_built_again(pool: PgPool) {
    let parts = Parts::new(pool).await;
    let (aggregator, shutdown) = parts.aggregator("one").await;
    parts.send(&events(0..500)).await;
    parts.wait_for_all().await;
    shutdown.cancel();
    aggregator.join().await;
    for partition in std::fs::read_dir(parts.index_dir()).unwrap() {
        for file in std::fs::read_dir(partition.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let (_aggregator, _) = parts.aggregator("one").await;
    parts.send(&events(0..600)).await;
    parts.wait_for_all().await;
    recount(&parts, 600).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_broken_record_is_kept_aside_and_stops_nothing(pool: PgPool) {
    let parts = Parts::new(pool).await;
    parts.send(&events(0..20)).await;
    let broken = Append { partition: 1, bytes: Bytes::from_static(b"not a record") };
    parts.log.append(vec![broken]).await.remove(0).unwrap();
    parts.send(&events(20..40)).await;
    let (_aggregator, _) = parts.aggregator("one").await;
    parts.wait_for_all().await;
    recount(&parts, 40).await;
    let kept: Vec<_> = std::fs::read_dir(parts.index_dir().join("unreadable")).unwrap().collect();
    assert_eq!(kept.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn another_number_of_partitions_is_refused(pool: PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    weir_store::partitions::ensure(&mut connection, PARTITIONS + 1).await.unwrap();
    drop(connection);
    let parts = Parts::new(pool).await;
    let refused = parts.try_aggregator("one").await;
    assert!(refused.is_err());
}
