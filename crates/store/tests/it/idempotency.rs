//! Creates that are sent twice.

use crate::fixtures::{ACME, OTHER, organization};
use sqlx::PgPool;
use sqlx::types::Uuid;
use weir_store::Tx;
use weir_store::idempotency::{Claim, Request, claim, record};

const FIRST: Request<'static> = Request { key: "key", rpc: "CreatePlan", hash: [7; 32] };

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_repeat_learns_what_the_first_request_made(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    organization(&pool, OTHER, "Other").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    assert_eq!(claim(&mut tx, ACME, &FIRST).await.unwrap(), Claim::New);
    record(&mut tx, ACME, FIRST.key, 42).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let done = Claim::Done { resource: Uuid::from_u128(42) };
    assert_eq!(claim(&mut tx, ACME, &FIRST).await.unwrap(), done);
    for other in [Request { hash: [8; 32], ..FIRST }, Request { rpc: "CreateCustomer", ..FIRST }] {
        assert_eq!(claim(&mut tx, ACME, &other).await.unwrap(), Claim::Mismatch);
    }
    let mut tx = Tx::begin(&pool, OTHER).await.unwrap();
    assert_eq!(
        claim(&mut tx, OTHER, &FIRST).await.unwrap(),
        Claim::New,
        "keys are per organization"
    );
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_request_that_failed_leaves_its_key_free(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    claim(&mut tx, ACME, &FIRST).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    assert_eq!(claim(&mut tx, ACME, &FIRST).await.unwrap(), Claim::New);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn of_two_at_once_the_second_waits_and_sees_the_outcome(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut first = Tx::begin(&pool, ACME).await.unwrap();
    assert_eq!(claim(&mut first, ACME, &FIRST).await.unwrap(), Claim::New);
    let second = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut tx = Tx::begin(&pool, ACME).await.unwrap();
            claim(&mut tx, ACME, &FIRST).await.unwrap()
        }
    });
    crate::pipeline::until_someone_waits_for_a_lock(&pool).await;
    record(&mut first, ACME, FIRST.key, 5).await.unwrap();
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), Claim::Done { resource: Uuid::from_u128(5) });
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn keys_expire_after_a_day(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    for key in ["key", "another"] {
        let mut tx = Tx::begin(&pool, ACME).await.unwrap();
        claim(&mut tx, ACME, &Request { key, ..FIRST }).await.unwrap();
        record(&mut tx, ACME, key, 42).await.unwrap();
        tx.commit().await.unwrap();
    }
    sqlx::query("UPDATE idempotency_keys SET claimed_at = now() - interval '24 hours 1 second'")
        .execute(&pool)
        .await
        .unwrap();
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let other = Request { hash: [9; 32], ..FIRST };
    assert_eq!(claim(&mut tx, ACME, &other).await.unwrap(), Claim::New);
    record(&mut tx, ACME, other.key, 43).await.unwrap();
    tx.commit().await.unwrap();
    let left: Vec<String> =
        sqlx::query_scalar("SELECT key FROM idempotency_keys").fetch_all(&pool).await.unwrap();
    assert_eq!(left, ["key"], "expired ones go with the next claim");
}
