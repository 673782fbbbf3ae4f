//! Voids are said once.

use crate::fixtures::{ACME, OTHER, month, organization};
use sqlx::PgPool;
use weir_store::voids::{Void, find_many, insert};
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
