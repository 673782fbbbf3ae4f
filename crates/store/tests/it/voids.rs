//! Voids are said once.

use crate::fixtures::{ACME, OTHER, month, organization};
use sqlx::PgPool;
use std::collections::BTreeSet;
use weir_store::voids::{Void, find_many, insert, insert_many, lock};
use weir_store::{StoreError, Tx};

fn void(transaction_id: &str) -> Void {
    Void {
        organization: ACME,
        transaction_id: transaction_id.to_owned(),
        external_subscription_id: "sub-1".to_owned(),
        code: "tokens".to_owned(),
        timestamp: month(2),
        voided_at: month(3),
        voided_by: "operator".to_owned(),
        reason: Some("sent by mistake".to_owned()),
        generation: None,
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_second_void_changes_nothing_and_says_so(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    organization(&pool, OTHER, "Other").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    assert!(insert(&mut tx, &void("a")).await.unwrap());
    let again = Void { voided_by: "another".to_owned(), voided_at: month(4), ..void("a") };
    assert!(!insert(&mut tx, &again).await.unwrap());
    let ids = ["a", "b"].map(str::to_owned);
    let found = find_many(&mut tx, ACME, &ids).await.unwrap();
    assert_eq!(found.into_values().collect::<Vec<_>>(), [void("a")]);
    tx.commit().await.unwrap();

    let mut conn = pool.acquire().await.unwrap();
    assert!(find_many(&mut conn, OTHER, &ids).await.unwrap().is_empty());
    let theirs = Void { organization: OTHER, ..void("a") };
    assert!(insert(&mut conn, &theirs).await.unwrap(), "ids are an organization's own");
    let nobody = Void { voided_by: String::new(), ..void("c") };
    let refused = insert(&mut conn, &nobody).await;
    assert!(matches!(refused, Err(StoreError::Violation { .. })), "{refused:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn many_are_voided_at_once_and_only_those_that_were_not(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    insert(&mut tx, &void("b")).await.unwrap();
    let later = |id| Void { voided_at: month(4), reason: None, ..void(id) };
    let all = ["a", "b", "c"].map(later);
    assert_eq!(insert_many(&mut tx, &all).await.unwrap(), 2);
    assert_eq!(insert_many(&mut tx, &all).await.unwrap(), 0);
    assert_eq!(insert_many(&mut tx, &[]).await.unwrap(), 0);
    let found = find_many(&mut tx, ACME, &["a", "b"].map(str::to_owned)).await.unwrap();
    assert_eq!(found.into_values().collect::<Vec<_>>(), [later("a"), void("b")]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn ids_that_postgres_cannot_hold_were_never_voided(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    insert(&mut conn, &void("a")).await.unwrap();
    let ids = ["a\0", "a", "\0"].map(str::to_owned);
    let found = find_many(&mut conn, ACME, &ids).await.unwrap();
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), ["a".to_owned()].into());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn one_at_a_time_passes_for_a_name(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut holder = Tx::begin(&pool, ACME).await.unwrap();
    lock(&mut holder, ACME, "sub-1").await.unwrap();
    let mut other = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL lock_timeout = '50ms'").execute(&mut *other).await.unwrap();
    lock(&mut other, ACME, "sub-2").await.unwrap();
    lock(&mut other, OTHER, "sub-1").await.unwrap();
    let refused = lock(&mut other, ACME, "sub-1").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    holder.commit().await.unwrap();
    lock(&mut pool.begin().await.unwrap(), ACME, "sub-1").await.unwrap();
}
