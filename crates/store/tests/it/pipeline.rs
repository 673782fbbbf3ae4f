//! Partitions and intents: of two owners one wins, and what was open is written again.

use crate::fixtures::{at, month};
use sqlx::{ConnectOptions, PgPool};
use std::time::Duration;
use weir_store::intents::{
    ChunkCounts, Intent, adopt, count_unverified, find_open, finish, open, set_verified, unverified,
};
use weir_store::partitions::{
    claim, covers, ensure, list, min_watermark, release, renew, set_watermark,
};
use weir_store::{PgConnection, StoreError};

const LEASE: Duration = Duration::from_secs(600);
const COUNTS: ChunkCounts = ChunkCounts { events: 5, duplicates: 1, conflicts: 2 };

fn chunk(epoch: u64, from: u64, to: u64) -> Intent {
    Intent { partition: 0, from, to, catalog_version: 3, epoch }
}

async fn expire_lease(conn: &mut PgConnection) {
    sqlx::query("UPDATE log_partitions SET lease_until = clock_timestamp() - interval '1 second'")
        .execute(conn)
        .await
        .unwrap();
}

/// Polls, with a deadline, until some other session of this database waits for a lock.
pub async fn until_someone_waits_for_a_lock(pool: &PgPool) {
    let waits = async {
        loop {
            let waiting: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock')",
            )
            .fetch_one(pool)
            .await
            .unwrap();
            if waiting {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waits).await.unwrap();
}

fn is_fenced<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced { partition: 0, .. }))
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_owner_that_is_held_up_within_a_transaction_keeps_its_partition_no_longer_than_a_lease(
    pool: PgPool,
) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 1).await.unwrap();
    let url = pool.connect_options().to_url_lossy();
    // Others have five minutes.
    let patient = weir_store::connect(url.as_str(), 1).await.unwrap();
    let setting: String = sqlx::query_scalar("SHOW idle_in_transaction_session_timeout")
        .fetch_one(&patient)
        .await
        .unwrap();
    assert_eq!(setting, "5min");
    let silence_max = Duration::from_millis(100);
    let held_up = weir_store::connect_impatiently(url.as_str(), 1, silence_max).await.unwrap();
    let mut tx = held_up.begin().await.unwrap();
    assert!(claim(&mut tx, 0, "held up", LEASE).await.unwrap().is_some());
    let next = tokio::time::timeout(LEASE / 10, claim(&mut conn, 0, "next", LEASE)).await;
    assert!(next.unwrap().unwrap().is_some());
    // What it was about to do is undone, and it learns of that.
    assert!(tx.commit().await.is_err());
    claim(&mut held_up.acquire().await.unwrap(), 0, "held up", LEASE).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn the_number_of_partitions_is_fixed_at_creation(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(min_watermark(&mut conn).await.unwrap(), None);
    ensure(&mut conn, 4).await.unwrap();
    ensure(&mut conn, 4).await.unwrap();
    let result = ensure(&mut conn, 8).await;
    assert!(
        matches!(result, Err(StoreError::PartitionCount { existing: 4, wanted: 8 })),
        "{result:?}"
    );
    let all = list(&mut conn).await.unwrap();
    assert_eq!(all.iter().map(|one| one.partition).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn two_that_make_partitions_at_once_agree(pool: PgPool) {
    let make = |count| {
        let pool = pool.clone();
        async move { ensure(&mut pool.acquire().await.unwrap(), count).await }
    };
    let (four, eight) = tokio::join!(make(4), make(8));
    assert!(four.is_ok() != eight.is_ok(), "{four:?} {eight:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_partition_has_one_owner_until_its_lease_ends_or_is_released(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 1).await.unwrap();
    let first = claim(&mut conn, 0, "a", LEASE).await.unwrap().unwrap();
    assert_eq!((first.epoch, first.committed, first.open), (1, 0, None));
    assert_eq!(claim(&mut conn, 0, "b", LEASE).await.unwrap(), None);
    assert!(renew(&mut conn, 0, 1, LEASE).await.unwrap());
    assert_eq!(claim(&mut conn, 7, "a", LEASE).await.unwrap(), None, "no such partition");

    let again = claim(&mut conn, 0, "a", LEASE).await.unwrap().unwrap();
    assert_eq!(again.epoch, 2, "after a crash the same owner need not wait");
    assert!(!renew(&mut conn, 0, 1, LEASE).await.unwrap());

    expire_lease(&mut conn).await;
    let other = claim(&mut conn, 0, "b", LEASE).await.unwrap().unwrap();
    assert_eq!(other.epoch, 3);
    release(&mut conn, 0, 2).await.unwrap();
    assert_eq!(
        claim(&mut conn, 0, "a", LEASE).await.unwrap(),
        None,
        "an old epoch releases nothing"
    );
    release(&mut conn, 0, 3).await.unwrap();
    assert!(!renew(&mut conn, 0, 3, LEASE).await.unwrap(), "what is released is not renewed");
    assert_eq!(claim(&mut conn, 0, "a", LEASE).await.unwrap().unwrap().epoch, 4);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn of_many_that_claim_at_once_one_wins(pool: PgPool) {
    ensure(&mut pool.acquire().await.unwrap(), 1).await.unwrap();
    let claims = (0..6).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut conn = pool.acquire().await.unwrap();
            claim(&mut conn, 0, &format!("owner {number}"), LEASE).await.unwrap().is_some()
        })
    });
    let mut winners = 0;
    for claim in claims.collect::<Vec<_>>() {
        winners += u32::from(claim.await.unwrap());
    }
    assert_eq!(winners, 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_chunk_is_opened_and_finished_once(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 1).await.unwrap();
    claim(&mut conn, 0, "a", LEASE).await.unwrap();
    open(&mut conn, &chunk(1, 0, 10)).await.unwrap();
    open(&mut conn, &chunk(1, 0, 10)).await.expect("a lost answer may be asked for again");
    assert!(is_fenced(&open(&mut conn, &chunk(1, 0, 11)).await), "other bounds");
    assert!(
        is_fenced(&open(&mut conn, &chunk(1, 10, 20)).await),
        "not from the committed position"
    );
    assert!(is_fenced(&finish(&mut conn, &chunk(1, 0, 11), &COUNTS).await));
    finish(&mut conn, &chunk(1, 0, 10), &COUNTS).await.unwrap();
    finish(&mut conn, &chunk(1, 0, 10), &COUNTS)
        .await
        .expect("a lost answer may be asked for again");
    assert!(is_fenced(&open(&mut conn, &chunk(1, 0, 10)).await), "done is done");

    open(&mut conn, &chunk(1, 10, 20)).await.unwrap();
    assert_eq!(find_open(&mut conn, 0).await.unwrap(), Some(chunk(1, 10, 20)));
    assert_eq!(list(&mut conn).await.unwrap()[0].committed, 10);
    let done = unverified(&mut conn, "a", 10).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].intent, done[0].counts), (chunk(1, 0, 10), COUNTS));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_new_owner_adopts_the_open_chunk_and_the_old_one_is_fenced(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 1).await.unwrap();
    claim(&mut conn, 0, "a", LEASE).await.unwrap();
    open(&mut conn, &chunk(1, 0, 10)).await.unwrap();
    expire_lease(&mut conn).await;
    let taken = claim(&mut conn, 0, "b", LEASE).await.unwrap().unwrap();
    assert_eq!((taken.epoch, taken.open), (2, Some(chunk(1, 0, 10))));

    // Before and after the adoption: the old owner can do nothing.
    for _ in 0..2 {
        assert!(is_fenced(&open(&mut conn, &chunk(1, 0, 10)).await));
        assert!(is_fenced(&finish(&mut conn, &chunk(1, 0, 10), &COUNTS).await));
        assert!(is_fenced(&adopt(&mut conn, 0, 1).await));
        assert!(!set_watermark(&mut conn, 0, 1, month(2)).await.unwrap());
        assert!(is_fenced(&open(&mut conn, &chunk(2, 0, 12)).await), "the new one adopts first");
        assert_eq!(adopt(&mut conn, 0, 2).await.unwrap(), Some(chunk(2, 0, 10)));
    }
    finish(&mut conn, &chunk(2, 0, 10), &COUNTS).await.unwrap();
    assert!(is_fenced(&finish(&mut conn, &chunk(1, 0, 10), &COUNTS).await), "not even once done");
    assert_eq!(adopt(&mut conn, 0, 2).await.unwrap(), None);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn nobody_runs_away_from_a_chunk_that_stays_open(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 2).await.unwrap();
    for partition in [0, 1] {
        claim(&mut conn, partition, "one", LEASE).await.unwrap().unwrap();
    }
    open(&mut conn, &chunk(1, 0, 10)).await.unwrap();
    // 5,001 chunks of the other partition, as if they had been opened and finished since.
    sqlx::query(
        "INSERT INTO chunk_intents (partition, from_position, to_position, catalog_version, epoch,
             state, events, duplicates, conflicts, done_at)
         SELECT 1, n, n + 1, 3, 1, 'done', 1, 0, 0, clock_timestamp()
         FROM generate_series(1000, 6000) n",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    let other = Intent { partition: 1, ..chunk(1, 0, 10) };
    let refused = open(&mut conn, &other).await;
    assert!(matches!(refused, Err(StoreError::Stalled { behind: 0 })), "{refused:?}");
    open(&mut conn, &chunk(1, 0, 10)).await.unwrap();
    finish(&mut conn, &chunk(1, 0, 10), &COUNTS).await.unwrap();
    open(&mut conn, &other).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_owner_whose_lease_has_run_out_opens_nothing_but_may_finish(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 1).await.unwrap();
    claim(&mut conn, 0, "a", LEASE).await.unwrap();
    open(&mut conn, &chunk(1, 0, 10)).await.unwrap();
    expire_lease(&mut conn).await;
    finish(&mut conn, &chunk(1, 0, 10), &COUNTS).await.expect("nobody else has claimed");
    assert!(is_fenced(&open(&mut conn, &chunk(1, 10, 20)).await));
    assert!(renew(&mut conn, 0, 1, LEASE).await.unwrap());
    open(&mut conn, &chunk(1, 10, 20)).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_owner_that_waits_for_a_claim_finds_itself_fenced(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 1).await.unwrap();
    claim(&mut conn, 0, "a", LEASE).await.unwrap();
    open(&mut conn, &chunk(1, 0, 10)).await.unwrap();
    expire_lease(&mut conn).await;
    let mut other = pool.begin().await.unwrap();
    claim(&mut other, 0, "b", LEASE).await.unwrap().unwrap();
    let finishing = tokio::spawn({
        let pool = pool.clone();
        async move { finish(&mut pool.acquire().await.unwrap(), &chunk(1, 0, 10), &COUNTS).await }
    });
    until_someone_waits_for_a_lock(&pool).await;
    other.commit().await.unwrap();
    assert!(is_fenced(&finishing.await.unwrap()));
    assert_eq!(list(&mut conn).await.unwrap()[0].committed, 0);
    assert_eq!(adopt(&mut conn, 0, 2).await.unwrap(), Some(chunk(2, 0, 10)));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn the_least_watermark_counts_and_none_goes_back(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    ensure(&mut conn, 2).await.unwrap();
    claim(&mut conn, 0, "a", LEASE).await.unwrap();
    claim(&mut conn, 1, "a", LEASE).await.unwrap();
    assert!(set_watermark(&mut conn, 0, 1, month(3)).await.unwrap());
    assert_eq!(min_watermark(&mut conn).await.unwrap(), None, "unknown of the other partition");
    assert!(set_watermark(&mut conn, 1, 1, month(2)).await.unwrap());
    assert_eq!(min_watermark(&mut conn).await.unwrap(), Some(month(2)));
    assert!(set_watermark(&mut conn, 1, 1, at("2026-01-01T00:00:00Z")).await.unwrap());
    assert_eq!(min_watermark(&mut conn).await.unwrap(), Some(month(2)));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_instant_is_covered_when_every_partition_has_passed_it(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    assert!(covers(&mut conn, month(3)).await.unwrap(), "nothing was ever accepted");
    ensure(&mut conn, 2).await.unwrap();
    for partition in [0, 1] {
        assert!(!covers(&mut conn, month(2)).await.unwrap());
        claim(&mut conn, partition, "a", LEASE).await.unwrap();
        assert!(set_watermark(&mut conn, partition, 1, month(2)).await.unwrap());
    }
    assert!(covers(&mut conn, month(2)).await.unwrap());
    assert!(!covers(&mut conn, month(3)).await.unwrap());
}

/// A partition of owner `a` with `count` done chunks of one position each, and one more open.
async fn with_done_chunks(conn: &mut PgConnection, count: u32) {
    ensure(conn, 1).await.unwrap();
    sqlx::query(
        "INSERT INTO chunk_intents (partition, from_position, to_position, catalog_version, epoch,
             state, events, duplicates, conflicts, done_at)
         SELECT 0, n, n + 1, 1, 1, 'done', 1, 0, 0, clock_timestamp()
         FROM generate_series(0, $1::integer - 1) n",
    )
    .bind(i32::try_from(count).unwrap())
    .execute(&mut *conn)
    .await
    .unwrap();
    sqlx::query("UPDATE log_partitions SET committed = $1")
        .bind(i64::from(count))
        .execute(&mut *conn)
        .await
        .unwrap();
    claim(conn, 0, "a", LEASE).await.unwrap();
    open(conn, &chunk(1, count.into(), u64::from(count) + 1)).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn of_verified_chunks_the_last_thousand_are_kept_and_all_others(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    with_done_chunks(&mut conn, 1_100).await;
    set_verified(&mut conn, &[(0, 60)]).await.unwrap();
    finish(&mut conn, &chunk(1, 1_100, 1_101), &COUNTS).await.unwrap();
    let kept: (i64, i64) = sqlx::query_as("SELECT count(*), min(from_position) FROM chunk_intents")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(kept, (1_041, 60), "those that are not verified are kept");
    set_verified(&mut conn, &[(0, 1_101)]).await.unwrap();
    open(&mut conn, &chunk(1, 1_101, 1_102)).await.unwrap();
    finish(&mut conn, &chunk(1, 1_101, 1_102), &COUNTS).await.unwrap();
    let kept: (i64, i64) = sqlx::query_as("SELECT count(*), min(from_position) FROM chunk_intents")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(kept, (1_000, 102));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn chunks_are_verified_once_by_the_owner_oldest_first(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    with_done_chunks(&mut conn, 10).await;
    let from = |chunks: Vec<weir_store::intents::DoneChunk>| -> Vec<u64> {
        chunks.iter().map(|chunk| chunk.intent.from).collect()
    };
    assert_eq!(from(unverified(&mut conn, "a", 3).await.unwrap()), [0, 1, 2]);
    assert!(from(unverified(&mut conn, "b", 3).await.unwrap()).is_empty(), "it holds nothing");
    set_verified(&mut conn, &[(0, 3)]).await.unwrap();
    set_verified(&mut conn, &[(0, 2)]).await.unwrap();
    assert_eq!(from(unverified(&mut conn, "a", 3).await.unwrap()), [3, 4, 5], "never back");
    assert_eq!(count_unverified(&mut conn, "a").await.unwrap(), 7, "the open one is not done");
}
