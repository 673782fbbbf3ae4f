//! An organization that has its events stored before metric or subscription exist.

use crate::deployment::{ACME, BATCH, Deployment, SINGLE, embedded, event, event_with};
use serde_json::{Value, json};
use sqlx::PgPool;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_is_not_there_yet_is_accepted_and_stored(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    deployment.rows().settings(ACME, true, None).await;
    deployment.catalog.refresh().await.unwrap();
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let events = [
        event("good"),
        event_with("code", "code", json!("not-yet")),
        event_with("subscription", "externalSubscriptionId", json!("sub-9")),
        event_with("early", "timestamp", json!("2026-02-01T00:00:00Z")),
        event_with("missing", "properties", Value::Null),
        event_with("null", "properties", json!({ "tokens": null })),
        event_with("text", "properties", json!({ "tokens": "many" })),
    ];
    let answer = edge.batch(&events).await;
    assert_eq!(answer.words(), ["accepted"; 7], "{answer:?}");
    assert_eq!(edge.logged().await.len(), 7);
    assert_eq!(edge.batch(&events).await.json["duplicates"], 7);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_can_never_count_is_rejected_all_the_same(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    deployment.rows().settings(ACME, true, None).await;
    deployment.catalog.refresh().await.unwrap();
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let cases = [
        (event_with("a", "transactionId", json!("")), ("transactionId", "REQUIRED")),
        (event_with("b", "code", Value::Null), ("code", "REQUIRED")),
        (event_with("c", "timestamp", json!("soon")), ("timestamp", "INVALID_TIMESTAMP")),
        (event_with("d", "extra", json!(1)), ("extra", "UNKNOWN_FIELD")),
        (
            event_with("e", "properties", json!({ "tokens": "12345678901234567" })),
            ("properties.tokens", "TOO_MANY_DIGITS"),
        ),
    ];
    let events: Vec<Value> = cases.iter().map(|(event, _)| event.clone()).collect();
    let answer = edge.batch(&events).await;
    for (index, (event, fault)) in cases.iter().enumerate() {
        assert_eq!(answer.fault(index), *fault, "{event}");
    }
    assert_eq!(edge.post(BATCH, "broken").await.code(), 400);
    assert!(edge.logged().await.is_empty());
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_organization_is_as_strict_as_it_says_at_the_moment(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let unknown = |id: &str| event_with(id, "code", json!("not-yet")).to_string();
    assert_eq!(edge.post(SINGLE, unknown("a")).await.reason(), "UNKNOWN_CODE");
    for (id, lenient, code) in [("b", true, 202), ("c", false, 400), ("d", true, 202)] {
        deployment.rows().settings(ACME, lenient, None).await;
        deployment.catalog.refresh().await.unwrap();
        assert_eq!(edge.post(SINGLE, unknown(id)).await.code(), code, "{id}");
    }
}
