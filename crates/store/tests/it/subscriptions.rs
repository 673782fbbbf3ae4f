//! Subscriptions.

use crate::fixtures::{ACME, OTHER, base, deployment, month, subscription};
use sqlx::PgPool;
use weir_ids::{CustomerId, SubscriptionId};
use weir_store::subscriptions::{self, NextDue};
use weir_store::{StoreError, Tx};

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_subscription_is_read_as_it_was_written(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut wanted = subscription(ACME, 2, 1, 1);
    wanted.name = Some("second".to_owned());
    subscriptions::insert(&mut tx, &wanted, None).await.unwrap();
    assert_eq!(subscriptions::find(&mut tx, ACME, wanted.id).await.unwrap(), Some(wanted.clone()));
    wanted.ending_at = Some(month(12));
    wanted.terminated_at = Some(month(6));
    wanted.skip_final_invoice = true;
    wanted.updated_at = month(6);
    subscriptions::save(&mut tx, &wanted).await.unwrap();
    assert_eq!(subscriptions::lock(&mut tx, ACME, wanted.id).await.unwrap(), Some(wanted.clone()));
    let of_customer =
        subscriptions::of_customer(&mut tx, ACME, CustomerId::from_u128(1)).await.unwrap();
    assert_eq!(of_customer.len(), 2);
    let missing = subscriptions::save(&mut tx, &subscription(ACME, 9, 1, 1)).await;
    assert!(matches!(missing, Err(StoreError::NotFound)), "{missing:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_external_id_names_one_subscription_at_a_time(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    deployment(&pool, OTHER, "Other").await;
    let mut twin = subscription(ACME, 2, 1, 1);
    twin.external_id = "sub-1".to_owned();
    twin.started_at = month(5);
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let result = subscriptions::insert(&mut tx, &twin, None).await;
    assert!(result.unwrap_err().is_duplicate_of("subscriptions_external_id_overlap"));
    drop(tx);

    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut first = subscription(ACME, 1, 1, 1);
    first.terminated_at = Some(month(5));
    subscriptions::save(&mut tx, &first).await.unwrap();
    subscriptions::insert(&mut tx, &twin, None).await.expect("from the very instant of its end");
    let live = async |tx: &mut Tx, now| {
        let found = subscriptions::find_live_by_external_id(tx, ACME, "sub-1", now).await.unwrap();
        found.map(|found| found.id.as_u128())
    };
    assert_eq!(live(&mut tx, month(4)).await, Some(1));
    assert_eq!(live(&mut tx, month(5)).await, Some(2));
    twin.terminated_at = Some(month(6));
    subscriptions::save(&mut tx, &twin).await.unwrap();
    assert_eq!(live(&mut tx, month(6)).await, None);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn one_called_off_before_it_began_is_in_nobodys_way(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut pending = subscription(ACME, 2, 1, 1);
    pending.started_at = month(6);
    subscriptions::insert(&mut tx, &pending, None).await.unwrap();
    pending.terminated_at = Some(month(3));
    subscriptions::save(&mut tx, &pending).await.unwrap();
    let mut next = subscription(ACME, 3, 1, 1);
    next.external_id = pending.external_id;
    next.started_at = month(4);
    subscriptions::insert(&mut tx, &next, None).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_plan_or_customer_of_another_organization_is_refused(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    deployment(&pool, OTHER, "Other").await;
    let mut conn = pool.acquire().await.unwrap();
    // Both exist, in another organization.
    for foreign in
        [subscription(ACME, 2, base(OTHER) + 1, 1), subscription(ACME, 2, 1, base(OTHER) + 1)]
    {
        let result = subscriptions::insert(&mut conn, &foreign, None).await;
        assert!(matches!(result, Err(StoreError::Violation { .. })), "{result:?}");
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn dues_are_set_for_many_at_once_or_not_at_all(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    subscriptions::insert(&mut tx, &subscription(ACME, 2, 1, 1), None).await.unwrap();
    let due =
        |id, at| NextDue { organization: ACME, subscription: SubscriptionId::from_u128(id), at };
    let dues = [due(1, None), due(2, Some(month(7)))];
    subscriptions::set_next_due(&mut tx, &dues).await.unwrap();
    let stored: Vec<Option<crate::fixtures::Time>> =
        sqlx::query_scalar("SELECT next_due_at FROM subscription_dues ORDER BY subscription_id")
            .fetch_all(&mut *tx)
            .await
            .unwrap();
    assert_eq!(stored, [None, Some(month(7))]);
    let missing = subscriptions::set_next_due(&mut tx, &[due(1, None), due(9, None)]).await;
    assert!(matches!(missing, Err(StoreError::NotFound)), "{missing:?}");
}
