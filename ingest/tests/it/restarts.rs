//! What an edge knows after a restart, without the aggregator's index and with one that comes late.

use crate::deployment::{Deployment, SINGLE, embedded, event, event_with};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use weir_events::{EventId, FirstCopy, KnownIds, KnownIdsError, Position};
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

/// An index that is there when it has been asked for so often.
struct Late {
    asked: AtomicU32,
    held_after: u32,
}

impl KnownIds for Late {
    fn find(
        &self,
        partition: u32,
        ids: &[EventId],
    ) -> Result<Vec<Option<FirstCopy>>, KnownIdsError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) < self.held_after {
            return Err(KnownIdsError::NotHeld { partition });
        }
        Ok(vec![None; ids.len()])
    }

    fn covered_to(&self, _: u32) -> Position {
        Position::ZERO
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_edge_waits_for_an_index_however_long_that_takes_to_be_built(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let log = embedded(dir.path()).await;
    let first = deployment.edge(log.clone()).await;
    assert_eq!(first.post(SINGLE, event("t-1").to_string()).await.code(), 202);
    let mut config = Config::load().unwrap();
    // Less than the index takes: it bounds what the log takes.
    config.recent.tail_timeout_ms = 100;
    let known = Arc::new(Late { asked: AtomicU32::new(0), held_after: 10 });
    let edge = deployment.edge_with(log, Some(known.clone()), config).await;
    assert!(known.asked.load(Ordering::Relaxed) > 10);
    assert_eq!(edge.post(SINGLE, event("t-1").to_string()).await.code(), 200, "it is in the log");
}
