//! How many events a second an organization may send.

use crate::deployment::{ACME, BATCH, Deployment, KEY, SINGLE, embedded, event};
use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use sqlx::PgPool;
use weir_ids::OrganizationId;
use weir_ingest::Config;

fn events(name: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| event(&format!("{name}-{n}"))).collect()
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn who_sends_more_than_its_rate_is_told_when_to_come_again(pool: PgPool) {
    const GLOBEX: OrganizationId = OrganizationId::from_u128(0x610);
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let rows = deployment.rows();
    rows.settings(ACME, false, Some(1)).await;
    rows.organization(GLOBEX, "globex").await;
    rows.key(GLOBEX, 9, "weir_globex", &["events.write"]).await;
    deployment.catalog.refresh().await.unwrap();
    let edge = deployment.edge(embedded(dir.path()).await).await;
    // Larger than the burst: it passes, and what follows waits for it.
    assert_eq!(edge.batch(&events("first", 100)).await.json["accepted"], 100);
    let refused = edge.post(SINGLE, event("next").to_string()).await;
    assert_eq!((refused.code(), refused.reason()), (429, "RATE_LIMITED"), "{refused:?}");
    assert_eq!(refused.json["code"], 8);
    assert_eq!(refused.detail("ErrorInfo")["metadata"]["eventsPerSecondMax"], "1");
    let wait: u64 = refused.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((90..=98).contains(&wait), "{wait}");
    assert_eq!(refused.detail("RetryInfo")["retryDelay"], format!("{wait}s"));
    let message = refused.json["message"].as_str().unwrap();
    assert!(message.contains("may send 1 events a second"), "{message}");
    assert_eq!(edge.logged().await.len(), 100, "nothing of it was taken");

    // Its body is not waited for, and others are not touched.
    let endless = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, String>>());
    let request = Request::post(BATCH).header(header::AUTHORIZATION, format!("Bearer {KEY}"));
    assert_eq!(edge.send(request, endless).await.code(), 429);
    let request = Request::post(BATCH).header(header::AUTHORIZATION, "Bearer weir_globex");
    assert_eq!(edge.send(request, json!(events("other", 9)).to_string()).await.code(), 200);

    // Without a rate of its own there is none.
    rows.settings(ACME, false, None).await;
    deployment.catalog.refresh().await.unwrap();
    assert_eq!(edge.post(SINGLE, event("next").to_string()).await.code(), 202);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn the_configured_rate_holds_for_who_has_none_of_its_own(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    config.load.events_per_second_max = Some(10);
    let edge = deployment.edge_with(embedded(dir.path()).await, None, config).await;
    // Also what is refused costs: it is work all the same.
    assert_eq!(edge.post(BATCH, json!(vec![1; 100]).to_string()).await.json["rejected"], 100);
    let refused = edge.batch(&events("t", 1)).await;
    assert_eq!((refused.code(), refused.reason()), (429, "RATE_LIMITED"));
    deployment.rows().settings(ACME, false, Some(1_000_000)).await;
    deployment.catalog.refresh().await.unwrap();
    // Its own goes before the configured one; what it owes it pays at the new rate's pace or waits.
    let still = edge.batch(&events("t", 1)).await;
    assert_eq!(still.detail("ErrorInfo")["metadata"]["eventsPerSecondMax"], "1000000");
}
