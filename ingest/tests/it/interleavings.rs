//! Random repeats, interleaved at random, over a log that answers after random pauses.

use crate::deployment::{Deployment, Edge, event_with};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use weir_log::{Append, EventLog, LogError, Stored};

const PARTITIONS: u32 = 2;

/// A log in memory. An append takes some turns of the executor, and may fail, as its seed says.
struct WaywardLog {
    records: Mutex<Vec<Vec<Bytes>>>,
    seed: AtomicU64,
    /// Of 100 records so many fail.
    failing: AtomicU64,
}

impl WaywardLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::new(vec![Vec::new(); PARTITIONS as usize]),
            seed: AtomicU64::new(1),
            failing: AtomicU64::new(0),
        })
    }

    /// An empty log with this fate.
    fn reset(&self, seed: u64, failing: u64) {
        self.records.lock().iter_mut().for_each(Vec::clear);
        self.seed.store(seed | 1, Ordering::Relaxed);
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// A number below `below` (xorshift: a failing seed can be played again).
    fn draw(&self, below: u64) -> u64 {
        let mut x = self.seed.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.store(x, Ordering::Relaxed);
        (x >> 11) % below
    }

    async fn pause(&self) {
        for _ in 0..self.draw(4) {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl EventLog for WaywardLog {
    fn partitions(&self) -> u32 {
        PARTITIONS
    }

    async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
        self.pause().await;
        let failing = self.failing.load(Ordering::Relaxed);
        let outcomes = records
            .into_iter()
            .map(|append| {
                if self.draw(100) < failing {
                    return Err(crate::faults::rejected());
                }
                let mut partitions = self.records.lock();
                let partition = &mut partitions[append.partition as usize];
                partition.push(append.bytes);
                Ok(partition.len() as u64 - 1)
            })
            .collect();
        self.pause().await;
        outcomes
    }

    async fn end(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.records.lock()[partition as usize].len() as u64)
    }

    async fn start(&self, _: u32) -> Result<u64, LogError> {
        Ok(0)
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        _: usize,
        _: Duration,
    ) -> Result<Vec<Stored>, LogError> {
        let records = self.records.lock();
        let all = (0..).zip(&records[partition as usize]).skip(from as usize);
        Ok(all.map(|(offset, bytes)| Stored { offset, bytes: bytes.clone() }).collect())
    }

    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }

    async fn release(&self, _: u32, _: u64) {}
}

/// Requests of events; an event is (which id, which content).
type Schedule = Vec<Vec<(u8, u8)>>;

fn schedule() -> impl Strategy<Value = Schedule> {
    prop::collection::vec(prop::collection::vec((0..6_u8, 0..2_u8), 1..8), 1..10)
}

/// Sends all requests at once; for each id the (content, verdict) of its copies.
async fn play(edge: &Edge, case: u64, schedule: &Schedule) -> HashMap<u8, Vec<(u8, String)>> {
    let requests = schedule.iter().map(|request| async move {
        let events: Vec<Value> = request
            .iter()
            .map(|(id, content)| {
                let properties = json!({ "tokens": content });
                event_with(&format!("{case}-{id}"), "properties", properties)
            })
            .collect();
        edge.batch(&events).await
    });
    let mut verdicts: HashMap<u8, Vec<(u8, String)>> = HashMap::new();
    for (request, answer) in schedule.iter().zip(join_all(requests).await) {
        for (index, (id, content)) in request.iter().enumerate() {
            let word = match answer.code() {
                503 => "retry",
                _ => answer.json["verdicts"][index]["status"].as_str().unwrap(),
            };
            verdicts.entry(*id).or_default().push((*content, word.to_owned()));
        }
    }
    verdicts
}

/// The contents of the copies of an id that are in the log.
async fn copies(edge: &Edge, case: u64, id: u8) -> Vec<u8> {
    let name = format!("{case}-{id}");
    let logged = edge.logged().await;
    let own = logged.iter().filter(|(transaction_id, _)| *transaction_id == name);
    own.map(|(_, properties)| u8::from(properties.contains('1'))).collect()
}

async fn check(
    edge: &Edge,
    case: u64,
    schedule: &Schedule,
    fails: bool,
) -> Result<(), TestCaseError> {
    for (id, answers) in play(edge, case, schedule).await {
        let in_log = copies(edge, case, id).await;
        let count = |word: &str| answers.iter().filter(|(_, answer)| answer == word).count();
        prop_assert_eq!(count("accepted"), in_log.len(), "{}: {:?}", id, answers);
        prop_assert!(in_log.len() <= 1, "{}: {:?}", id, answers);
        if !fails {
            prop_assert_eq!((in_log.len(), count("retry")), (1, 0), "{}: {:?}", id, answers);
        }
        for (content, word) in &answers {
            let expected: &[&str] = match in_log.first() {
                None => &["retry"],
                Some(first) if first == content => &["accepted", "duplicate", "retry"],
                Some(_) => &["conflict", "retry"],
            };
            prop_assert!(expected.contains(&word.as_str()), "{}: {:?}", id, answers);
        }
    }
    Ok(())
}

async fn any_interleaving(pool: PgPool, failing: u64) {
    let log = WaywardLog::new();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(log.clone()).await;
    let runtime = tokio::runtime::Handle::current();
    let cases = AtomicU64::new(0);
    let run = move || {
        let mut runner = TestRunner::new(ProptestConfig { cases: 150, ..Default::default() });
        runner.run(&(schedule(), any::<u64>()), |(schedule, seed)| {
            log.reset(seed, failing);
            let case = cases.fetch_add(1, Ordering::Relaxed);
            runtime.block_on(check(&edge, case, &schedule, failing > 0))
        })
    };
    tokio::task::spawn_blocking(run).await.unwrap().unwrap();
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn any_interleaving_of_repeats_gives_one_accepted_per_id(pool: PgPool) {
    any_interleaving(pool, 0).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn also_with_a_failing_log_accepted_means_one_copy_and_duplicate_that_there_is_one(
    pool: PgPool,
) {
    any_interleaving(pool, 30).await;
}
