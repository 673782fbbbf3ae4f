//! Repeats: in one batch, in another order of keys, and with the aggregator's index.

use crate::deployment::{Deployment, SINGLE, embedded, event, event_with};
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use weir_events::{EventId, FirstCopy, KnownIds, KnownIdsError, Position, decode_record, event_id};
use weir_ingest::Config;
use weir_log::EventLog;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn repeats_within_one_batch_are_told_apart(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let other = event_with("a", "properties", json!({ "tokens": 6 }));
    let answer = edge.batch(&[event("a"), event("b"), event("a"), other, event("b")]).await;
    assert_eq!(answer.words(), ["accepted", "accepted", "duplicate", "conflict", "duplicate"]);
    assert_eq!(answer.json["duplicates"], 2);
    assert_eq!(answer.json["conflicts"], 1);
    assert_eq!(edge.logged().await.len(), 2);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn the_form_of_an_event_makes_no_conflict_but_its_content_does(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let send = |body: &'static str| edge.post(SINGLE, body);
    let first = r#"{"transactionId":"t","externalSubscriptionId":"sub-1","code":"tokens",
        "timestamp":"2026-03-10T11:00:00Z","properties":{"tokens":1,"model":"x"}}"#;
    assert_eq!(send(first).await.code(), 202);
    let reordered = r#"{"properties":{"model":"x", "tokens":1},"timestamp":"2026-03-10T12:00:00+01:00",
        "code":"tokens","externalSubscriptionId":"sub-1","transactionId":"t"}"#;
    assert_eq!(send(reordered).await.code(), 200);
    let later = r#"{"transactionId":"t","externalSubscriptionId":"sub-1","code":"tokens",
        "timestamp":"2026-03-10T11:00:01Z","properties":{"tokens":1,"model":"x"}}"#;
    assert_eq!(send(later).await.code(), 409);
}

/// The aggregator's index, moved on by hand.
struct Index {
    log: Arc<dyn EventLog>,
    state: Mutex<IndexState>,
}

#[derive(Default)]
struct IndexState {
    ids: HashMap<EventId, FirstCopy>,
    covered_to: HashMap<u32, Position>,
    held: bool,
}

impl Index {
    fn over(log: &Arc<dyn EventLog>) -> Arc<Self> {
        let state = IndexState { held: true, ..IndexState::default() };
        Arc::new(Self { log: log.clone(), state: Mutex::new(state) })
    }

    /// Takes in all that is in the log, and lets the log forget it.
    async fn catch_up(&self) {
        for partition in 0..self.log.partitions() {
            let end = self.log.end(partition).await.unwrap();
            let covered = self.state.lock().covered_to.get(&partition).copied();
            let mut from = covered.unwrap_or(Position::ZERO).offset();
            while from < end {
                let wait = Duration::from_secs(120);
                for stored in self.log.read(partition, from, 1 << 20, wait).await.unwrap() {
                    from = stored.offset + 1;
                    let record = decode_record(&stored.bytes).unwrap();
                    let mut state = self.state.lock();
                    for (event, index) in record.events().zip(0..) {
                        let id = event_id(record.header.organization, event.transaction_id);
                        let position = Position::new(stored.offset, index);
                        let first = FirstCopy { position, content_hash: event.content_hash };
                        state.ids.entry(id).or_insert(first);
                    }
                }
            }
            self.state.lock().covered_to.insert(partition, Position::new(end, 0));
            self.log.release(partition, end).await;
        }
    }
}

impl KnownIds for Index {
    fn find(
        &self,
        partition: u32,
        ids: &[EventId],
    ) -> Result<Vec<Option<FirstCopy>>, KnownIdsError> {
        let state = self.state.lock();
        if !state.held {
            return Err(KnownIdsError::NotHeld { partition });
        }
        Ok(ids.iter().map(|id| state.ids.get(id).copied()).collect())
    }

    fn covered_to(&self, partition: u32) -> Position {
        self.state.lock().covered_to.get(&partition).copied().unwrap_or_default()
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn with_the_index_verdicts_are_exact_whatever_was_forgotten(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let log = embedded(dir.path()).await;
    let index = Index::over(&log);
    let config = Config::load().unwrap();
    let events: Vec<Value> = (0..300).map(|n| event(&format!("t-{n}"))).collect();
    {
        let edge = deployment.edge_with(log.clone(), Some(index.clone()), config.clone()).await;
        assert_eq!(edge.batch(&events[..200]).await.json["accepted"], 200);
        index.catch_up().await;
        assert_eq!(edge.batch(&events[100..250]).await.json["duplicates"], 100);
    }
    // 200 are in the index only, 50 in the log behind it, 50 are new.
    let edge = deployment.edge_with(log.clone(), Some(index.clone()), config).await;
    let answer = edge.batch(&events).await;
    assert_eq!((&answer.json["duplicates"], &answer.json["accepted"]), (&json!(250), &json!(50)));
    let other = event_with("t-0", "properties", json!({ "tokens": 6 }));
    assert_eq!(edge.post(SINGLE, other.to_string()).await.code(), 409);
    let twice = edge.batch(&[event("t-1"), event("t-1"), event("n"), event("n")]).await;
    assert_eq!(twice.words(), ["duplicate", "duplicate", "accepted", "duplicate"]);
    let held: usize = events.len() + 1;
    index.catch_up().await;
    assert_eq!(index.state.lock().ids.len(), held, "each id is in the log once");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn any_number_of_copies_of_what_only_the_index_knows_get_their_verdicts(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let log = embedded(dir.path()).await;
    let index = Index::over(&log);
    let config = Config::load().unwrap();
    {
        let edge = deployment.edge_with(log.clone(), Some(index.clone()), config.clone()).await;
        assert_eq!(edge.batch(&[event("t")]).await.words(), ["accepted"]);
        index.catch_up().await;
    }
    let edge = deployment.edge_with(log, Some(index), config).await;
    let mut copies = vec![event("t"); 9];
    copies.push(event_with("t", "properties", json!({ "tokens": 6 })));
    let expected = [["duplicate"; 9].as_slice(), &["conflict"]].concat();
    assert_eq!(edge.batch(&copies).await.words(), expected);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn without_an_answer_of_the_index_nothing_is_called_new(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let log = embedded(dir.path()).await;
    let index = Index::over(&log);
    let known: Arc<dyn KnownIds> = index.clone();
    let edge = deployment.edge_with(log, Some(known), Config::load().unwrap()).await;
    index.state.lock().held = false;
    let put_off = edge.post(SINGLE, event("t").to_string()).await;
    assert!(put_off.asks_for_a_retry() && put_off.reason() == "INDEX_UNAVAILABLE", "{put_off:?}");
    index.state.lock().held = true;
    assert_eq!(edge.post(SINGLE, event("t").to_string()).await.code(), 202);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_aggregator_that_stands_still_never_stops_ingest(pool: PgPool) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let log = embedded(dir.path()).await;
    let index = Index::over(&log);
    let mut config = Config::load().unwrap();
    config.body.events_max = 10_000;
    config.recent.uncovered_ids_max = 24_000;
    let edge = deployment.edge_with(log, Some(index.clone()), config.clone()).await;
    let events: Vec<Value> = (0..40_000).map(|n| event(&format!("t-{n}"))).collect();
    for batch in events.chunks(10_000) {
        assert_eq!(edge.batch(batch).await.json["accepted"], 10_000);
    }
    // Old ones are let go: a repeat is taken again, and the aggregator counts the first copy.
    let gauge = |name: &str| -> usize {
        let text = shown.render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (held, forgotten) =
        (gauge("ingest_recent_ids"), gauge("ingest_recent_ids_forgotten_total"));
    assert!(held <= 24_000, "{held}");
    assert_eq!(held + forgotten, 40_000);
    let newest = edge.batch(&events[39_000..]).await;
    assert_eq!(newest.json["duplicates"], 1_000);
    let oldest = edge.batch(&events[..1_000]).await;
    assert_eq!(oldest.json["accepted"], 1_000);

    // Nor does it keep an edge from starting, and once it has caught up verdicts are exact again.
    drop(edge);
    let log = index.log.clone();
    let edge = deployment.edge_with(log, Some(index.clone()), config).await;
    assert_eq!(edge.batch(&events[39_000..]).await.json["duplicates"], 1_000);
    index.catch_up().await;
    assert_eq!(edge.batch(&events[..10_000]).await.json["duplicates"], 10_000);
    assert_eq!(index.state.lock().ids.len(), 40_000, "each id counts once");
}
