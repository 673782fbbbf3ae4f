//! The catalog's history: every change is in it, under a version that only rises.

use crate::fixtures::{ACME, api_key, deployment, metric, month, organization, subscription};
use sqlx::PgPool;
use weir_ids::{ApiKeyId, BillableMetricId};
use weir_store::catalog::{CatalogRows, changes, load, version};
use weir_store::{Tx, api_keys, billable_metrics, subscriptions};

async fn loaded(pool: &PgPool, as_of: u64) -> CatalogRows {
    load(&mut pool.acquire().await.unwrap(), as_of).await.unwrap()
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn each_version_can_be_read_back_later(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), 0);
    let mut tokens = metric(ACME, 1, "tokens");
    billable_metrics::insert(&mut conn, &tokens).await.unwrap();
    tokens.event_code = "llm".to_owned();
    billable_metrics::save(&mut conn, &tokens).await.unwrap();
    tokens.name = "renamed: nothing for the hot path".to_owned();
    billable_metrics::save(&mut conn, &tokens).await.unwrap();
    billable_metrics::archive(&mut conn, ACME, tokens.id, month(2)).await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), 3);

    let codes = |rows: &CatalogRows| -> Vec<String> {
        rows.metrics.iter().map(|row| row.event_code.clone()).collect()
    };
    assert!(codes(&loaded(&pool, 0).await).is_empty());
    assert_eq!(codes(&loaded(&pool, 1).await), ["tokens"]);
    assert_eq!(codes(&loaded(&pool, 2).await), ["llm"]);
    assert!(codes(&loaded(&pool, 3).await).is_empty());

    let changed = changes(&mut conn, 1, 2).await.unwrap();
    assert_eq!(codes(&changed.closed), ["tokens"]);
    assert_eq!(codes(&changed.opened), ["llm"]);
    let changed = changes(&mut conn, 1, 3).await.unwrap();
    assert_eq!(codes(&changed.closed), ["tokens"]);
    assert!(changed.opened.metrics.is_empty(), "opened and closed in between");
    assert_eq!(changes(&mut conn, 3, 3).await.unwrap(), Default::default());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_transaction_appears_as_one_version_also_from_a_tenants_role(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let before = version(&mut pool.acquire().await.unwrap()).await.unwrap();
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    for id in 10..20 {
        billable_metrics::insert(&mut tx, &metric(ACME, id, &format!("m{id}"))).await.unwrap();
    }
    let mut changed = metric(ACME, 10, "m10");
    changed.event_code = "other".to_owned();
    billable_metrics::save(&mut tx, &changed).await.unwrap();
    billable_metrics::archive(&mut tx, ACME, BillableMetricId::from_u128(11), month(2))
        .await
        .unwrap();
    assert_eq!(
        version(&mut pool.acquire().await.unwrap()).await.unwrap(),
        before,
        "nothing before the commit"
    );
    tx.commit().await.unwrap();

    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), before + 1);
    let rows = changes(&mut conn, before, before + 1).await.unwrap();
    assert!(rows.closed.metrics.is_empty());
    assert_eq!(rows.opened.metrics.len(), 9);
    assert!(rows.opened.metrics.iter().any(|row| row.event_code == "other"));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_change_that_is_rolled_back_leaves_no_version(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    billable_metrics::insert(&mut tx, &metric(ACME, 1, "tokens")).await.unwrap();
    tx.rollback().await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), 0);
    billable_metrics::insert(&mut conn, &metric(ACME, 1, "tokens")).await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), 1);
    assert_eq!(load(&mut conn, 1).await.unwrap().metrics.len(), 1);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_ended_subscription_stays_and_one_called_off_goes(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let mut pending = subscription(ACME, 2, 1, 1);
    pending.started_at = month(6);
    subscriptions::insert(&mut conn, &pending, None).await.unwrap();
    pending.terminated_at = Some(month(4));
    subscriptions::save(&mut conn, &pending).await.unwrap();

    let mut ending = subscription(ACME, 1, 1, 1);
    ending.ending_at = Some(month(9));
    subscriptions::save(&mut conn, &ending).await.unwrap();
    ending.terminated_at = Some(month(5));
    subscriptions::save(&mut conn, &ending).await.unwrap();

    let newest = version(&mut conn).await.unwrap();
    let rows = load(&mut conn, newest).await.unwrap();
    assert_eq!(rows.subscriptions.len(), 1);
    assert_eq!(rows.subscriptions[0].id, ending.id);
    assert_eq!(rows.subscriptions[0].ended_at, Some(month(5)));
    let before = load(&mut conn, newest - 1).await.unwrap();
    assert_eq!(before.subscriptions[0].ended_at, Some(month(9)));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_revoked_key_is_gone(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let key = api_key(ACME, 5, &["events.write", "events.read"]);
    let hash = api_keys::hash("weir_secret");
    api_keys::insert(&mut conn, &key, &hash).await.unwrap();
    let rows = load(&mut conn, 1).await.unwrap();
    assert_eq!((rows.keys[0].id, rows.keys[0].hash), (key.id, hash));
    assert_eq!(rows.keys[0].scopes, key.scopes);
    assert_eq!(api_keys::find_by_hash(&mut conn, &hash).await.unwrap(), Some(key.clone()));

    api_keys::revoke(&mut conn, ACME, key.id, month(2)).await.unwrap();
    assert!(load(&mut conn, 2).await.unwrap().keys.is_empty());
    assert_eq!(api_keys::find_by_hash(&mut conn, &hash).await.unwrap(), None);
    assert!(api_keys::revoke(&mut conn, ACME, key.id, month(2)).await.is_err());
    assert!(api_keys::revoke(&mut conn, ACME, ApiKeyId::from_u128(9), month(2)).await.is_err());
    assert_eq!(api_keys::list(&mut conn, ACME).await.unwrap()[0].revoked_at, Some(month(2)));
}
