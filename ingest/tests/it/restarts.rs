//! What an edge without the aggregator's index knows after a restart.

use crate::deployment::{Deployment, SINGLE, embedded, event, event_with};
use serde_json::{Value, json};
use sqlx::PgPool;
use weir_ingest::Config;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn repeats_are_known_after_a_restart(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let events: Vec<Value> = (0..500).map(|n| event(&format!("t-{n}"))).collect();
    {
        let edge = deployment.edge(embedded(dir.path()).await).await;
        for part in events.chunks(20) {
            assert_eq!(edge.batch(part).await.json["accepted"], 20);
        }
    }
    let edge = deployment.edge(embedded(dir.path()).await).await;
    assert_eq!(edge.batch(&events).await.json["duplicates"], 500);
    let other = event_with("t-7", "properties", json!({ "tokens": 6 }));
    assert_eq!(edge.post(SINGLE, other.to_string()).await.code(), 409);
    assert_eq!(edge.logged().await.len(), 500);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn only_the_newest_of_the_tail_is_read(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let log = embedded(dir.path()).await;
    let first = deployment.edge(log.clone()).await;
    for n in 0..100 {
        assert_eq!(first.post(SINGLE, event(&format!("t-{n}")).to_string()).await.code(), 202);
    }
    let mut config = Config::load().unwrap();
    config.recent.tail_records_max = 5;
    let edge = deployment.edge_with(log, None, config).await;
    assert_eq!(edge.post(SINGLE, event("t-99").to_string()).await.code(), 200);
    // Not known any more, so taken again: the aggregator counts the first copy.
    assert_eq!(edge.post(SINGLE, event("t-0").to_string()).await.code(), 202);
}
