//! A log that fails on demand, and what the edge then answers.

use crate::deployment::{BATCH, Deployment, Edge, SINGLE, embedded, event};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use sqlx::PgPool;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use weir_ingest::Config;
use weir_log::{Append, EventLog, LogError, Stored};

/// What happens to the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The log is down: surely not written.
    Rejected,
    /// The acknowledgement got lost, the records did not.
    WrittenButUnknown,
    /// Only the records of even partitions are written.
    OddPartitionsDown,
}

/// A real log with faults in front of it.
pub struct FaultyLog {
    inner: Arc<dyn EventLog>,
    faults: Mutex<VecDeque<Fault>>,
    /// Appends wait for a permit each, when it is closed off by hand.
    gate: Semaphore,
    gated: bool,
    pub waiting: Semaphore,
}

impl FaultyLog {
    pub fn new(inner: Arc<dyn EventLog>, faults: &[Fault]) -> Arc<Self> {
        Self::build(inner, faults, false)
    }

    /// Every append waits until `let_through`.
    pub fn gated(inner: Arc<dyn EventLog>, faults: &[Fault]) -> Arc<Self> {
        Self::build(inner, faults, true)
    }

    fn build(inner: Arc<dyn EventLog>, faults: &[Fault], gated: bool) -> Arc<Self> {
        Arc::new(Self {
            inner,
            faults: Mutex::new(faults.iter().copied().collect()),
            gate: Semaphore::new(0),
            gated,
            waiting: Semaphore::new(0),
        })
    }

    pub fn let_through(&self, appends: usize) {
        self.gate.add_permits(appends);
    }

    /// Returns when one more append waits at the gate.
    pub async fn reached(&self) {
        self.waiting.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl EventLog for FaultyLog {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
        let fault = self.faults.lock().pop_front();
        if self.gated {
            self.waiting.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
        }
        let count = records.len();
        match fault {
            None => self.inner.append(records).await,
            Some(Fault::Rejected) => (0..count).map(|_| Err(rejected())).collect(),
            Some(Fault::WrittenButUnknown) => {
                self.inner.append(records).await;
                (0..count).map(|_| Err(unknown())).collect()
            }
            Some(Fault::OddPartitionsDown) => {
                let mut outcomes = Vec::new();
                for record in records {
                    outcomes.push(match record.partition % 2 {
                        0 => self.inner.append(vec![record]).await.remove(0),
                        _ => Err(rejected()),
                    });
                }
                outcomes
            }
        }
    }

    async fn end(&self, partition: u32) -> Result<u64, LogError> {
        self.inner.end(partition).await
    }

    async fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.inner.start(partition).await
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Stored>, LogError> {
        self.inner.read(partition, from, max_bytes, wait).await
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.inner.ready().await
    }

    async fn release(&self, partition: u32, before: u64) {
        self.inner.release(partition, before).await;
    }
}

pub fn rejected() -> LogError {
    LogError::Rejected(Arc::new(std::io::Error::other("the broker is down")))
}

fn unknown() -> LogError {
    LogError::Unknown(Arc::new(std::io::Error::other("the acknowledgement got lost")))
}

async fn edge_over(pool: PgPool, dir: &std::path::Path, faults: &[Fault]) -> (Deployment, Edge) {
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(FaultyLog::new(embedded(dir).await, faults)).await;
    (deployment, edge)
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn when_the_log_is_down_the_sender_is_told_to_retry_and_the_retry_is_no_duplicate(
    pool: PgPool,
) {
    let dir = tempfile::tempdir().unwrap();
    let (_deployment, edge) = edge_over(pool, dir.path(), &[Fault::Rejected; 2]).await;
    let single = edge.post(SINGLE, event("t").to_string()).await;
    assert!(single.asks_for_a_retry(), "{single:?}");
    assert_eq!(single.reason(), "LOG_UNAVAILABLE");
    let body = json!([event("t"), event("u"), event("t")]).to_string();
    let batch = edge.post(BATCH, body.clone()).await;
    assert!(batch.asks_for_a_retry(), "{batch:?}");
    assert!(edge.logged().await.is_empty());
    let again = edge.post(BATCH, body).await;
    assert_eq!(again.words(), ["accepted", "accepted", "duplicate"]);
    assert_eq!(edge.logged().await.len(), 2);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn when_some_partitions_are_down_only_their_events_are_to_be_retried(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let (_deployment, edge) = edge_over(pool, dir.path(), &[Fault::OddPartitionsDown]).await;
    let events: Vec<_> = (0..40).map(|n| event(&format!("t-{n}"))).collect();
    let first = edge.batch(&events).await;
    assert_eq!(first.code(), 200);
    let first_words: Vec<String> = first.words().iter().map(|word| (*word).to_owned()).collect();
    let taken = first_words.iter().filter(|word| *word == "accepted").count();
    assert!(0 < taken && taken < 40 && edge.logged().await.len() == taken, "{first_words:?}");
    let second = edge.batch(&events).await;
    for (before, after) in first_words.iter().zip(second.words()) {
        match before.as_str() {
            "accepted" => assert_eq!(after, "duplicate"),
            "retry" => assert_eq!(after, "accepted"),
            other => panic!("{other}"),
        }
    }
    assert_eq!(edge.logged().await.len(), 40);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_unknown_outcome_is_never_called_accepted_or_duplicate(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let (_deployment, edge) = edge_over(pool, dir.path(), &[Fault::WrittenButUnknown]).await;
    assert!(edge.post(SINGLE, event("t").to_string()).await.asks_for_a_retry());
    assert_eq!(edge.post(SINGLE, event("t").to_string()).await.code(), 202);
    // Twice in the log: the aggregator counts the first copy.
    assert_eq!(edge.logged().await.len(), 2);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_copy_waits_for_the_first_and_is_a_duplicate_when_that_lands(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::gated(embedded(dir.path()).await, &[]);
    let edge = Deployment::new(pool).await.edge(log.clone()).await;
    let first = edge.post(SINGLE, event("t").to_string());
    let copies = async {
        log.reached().await;
        let twice = [event("t"), event("t")];
        let copies = edge.batch(&twice);
        tokio::pin!(copies);
        // Enough turns for the copies to come as far as they can: they wait, and append nothing.
        for _ in 0..100 {
            assert!(futures::poll!(copies.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(log.waiting.available_permits(), 0);
        log.let_through(1);
        copies.await
    };
    let (first, copies) = tokio::join!(first, copies);
    assert_eq!(first.code(), 202);
    assert_eq!(copies.words(), ["duplicate", "duplicate"]);
    assert_eq!(edge.logged().await.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_copy_takes_the_place_of_a_first_that_failed(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::gated(embedded(dir.path()).await, &[Fault::Rejected]);
    let edge = Deployment::new(pool).await.edge(log.clone()).await;
    let first = edge.post(SINGLE, event("t").to_string());
    let copy = async {
        log.reached().await;
        let copy = edge.post(SINGLE, event("t").to_string());
        tokio::pin!(copy);
        for _ in 0..100 {
            assert!(futures::poll!(copy.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        log.let_through(2);
        copy.await
    };
    let (first, copy) = tokio::join!(first, copy);
    assert!(first.asks_for_a_retry(), "{first:?}");
    assert_eq!(copy.code(), 202);
    assert_eq!(edge.logged().await.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_sender_that_goes_away_leaves_nothing_undecided(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::gated(embedded(dir.path()).await, &[]);
    let edge = Deployment::new(pool).await.edge(log.clone()).await;
    tokio::select! {
        _ = edge.post(SINGLE, event("t").to_string()) => panic!("the gate is closed"),
        () = log.reached() => {}
    }
    log.let_through(1);
    assert_eq!(edge.post(SINGLE, event("t").to_string()).await.code(), 200, "it was written");
    assert_eq!(edge.logged().await.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_log_that_does_not_answer_in_time_leaves_the_outcome_open(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let log = FaultyLog::gated(embedded(dir.path()).await, &[]);
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    config.load.request_timeout_ms = 50;
    let edge = deployment.edge_with(log.clone(), None, config).await;
    let late = edge.post(SINGLE, event("t").to_string()).await;
    assert!(late.asks_for_a_retry() && late.reason() == "OUTCOME_UNKNOWN", "{late:?}");
    log.let_through(1);
    assert_eq!(edge.post(SINGLE, event("t").to_string()).await.code(), 200);
}
