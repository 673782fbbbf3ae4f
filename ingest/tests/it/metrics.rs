//! What the edge counts.

use crate::deployment::{BATCH, Deployment, embedded, event, event_with};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use sqlx::PgPool;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn verdicts_bytes_and_answers_are_counted(pool: PgPool) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    // The test's runtime has one thread, so the edge's tasks record here too.
    let _recording = metrics::set_default_local_recorder(&recorder);
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let other = event_with("a", "properties", json!({ "tokens": 6 }));
    let unknown = event_with("c", "code", json!("nope"));
    let body = json!([event("a"), event("b"), event("a"), other, unknown, 1]).to_string();
    assert_eq!(edge.post(BATCH, body.clone()).await.code(), 200);
    assert_eq!(edge.post(BATCH, "broken").await.code(), 400);
    let text = shown.render();
    for line in [
        "ingest_events_accepted_total 2".to_owned(),
        "ingest_events_duplicate_total 1".to_owned(),
        "ingest_events_conflict_total 1".to_owned(),
        "ingest_events_rejected_total{reason=\"UNKNOWN_CODE\"} 1".to_owned(),
        "ingest_events_rejected_total{reason=\"NOT_AN_OBJECT\"} 1".to_owned(),
        format!("ingest_bytes_total {}", body.len() + "broken".len()),
        "ingest_requests_total{status=\"200\"} 1".to_owned(),
        "ingest_requests_total{status=\"400\"} 1".to_owned(),
        "ingest_append_seconds_count 1".to_owned(),
        "ingest_recent_ids 2".to_owned(),
        "ingest_in_flight_bytes 0".to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
    }
}
