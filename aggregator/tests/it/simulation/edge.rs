//! An edge in the simulation: the real one, from its router on, in a runtime of its own.
//!
//! Its requests move when the world gives them a turn, its log answers when the world says so, and
//! no timer of its runs out: what happens in which order comes from the seed alone.

use super::{PARTITIONS, START_US, World, catalog::KEY, dice::Dice, senders::Copy};
use axum::{Router, body::Body};
use bytes::Bytes;
use chrono::DateTime;
use http::{Request, StatusCode, header};
use parking_lot::Mutex;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};
use tower::ServiceExt;
use weir_aggregator::Known;
use weir_catalog::Catalog;
use weir_events::{EventId, FirstCopy, KnownIds, KnownIdsError, Position};
use weir_ingest::{Config, Ingest, IngestDeps};
use weir_log::{Append, EventLog, LogError, Stored};
use weir_runtime::{Clock, Shutdown};

/// Turns of the runtime in which a request comes as far as it can.
const TURNS: usize = 8;

static CONFIG: LazyLock<Config> = LazyLock::new(|| Config::load().unwrap());

/// The log as one edge reaches it.
struct Client {
    /// By partition: the first record that is kept, and all there were when the edge started.
    tail: Vec<(u64, Vec<Bytes>)>,
    calls: Mutex<Vec<Call>>,
}

/// Records on their way to the log, or the answer on its way back.
struct Call {
    records: Vec<Append>,
    outcomes: Option<Vec<Result<u64, LogError>>>,
    answer: oneshot::Sender<Vec<Result<u64, LogError>>>,
}

#[async_trait::async_trait]
impl EventLog for Client {
    fn partitions(&self) -> u32 {
        PARTITIONS
    }

    async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
        let (answer, answered) = oneshot::channel();
        self.calls.lock().push(Call { records, outcomes: None, answer });
        answered.await.unwrap()
    }

    async fn end(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.tail[partition as usize].1.len() as u64)
    }

    async fn start(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.tail[partition as usize].0)
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        _: usize,
        _: Duration,
    ) -> Result<Vec<Stored>, LogError> {
        let (start, records) = &self.tail[partition as usize];
        if from < *start {
            return Err(LogError::BelowStart { partition, from, start: *start });
        }
        let kept = (0..).zip(records).skip(from as usize);
        Ok(kept.map(|(offset, bytes)| Stored { offset, bytes: bytes.clone() }).collect())
    }

    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }

    async fn release(&self, _: u32, _: u64) {}
}

/// An index that is there and knows nothing.
struct Silent(Arc<Known>);

impl KnownIds for Silent {
    fn find(
        &self,
        partition: u32,
        ids: &[EventId],
    ) -> Result<Vec<Option<FirstCopy>>, KnownIdsError> {
        self.0.find(partition, &[])?;
        Ok(vec![None; ids.len()])
    }

    fn covered_to(&self, partition: u32) -> Position {
        self.0.covered_to(partition)
    }
}

/// A request whose sender waits.
struct Post {
    copies: Vec<Copy>,
    is_single: bool,
    task: JoinHandle<(StatusCode, Bytes)>,
}

/// An edge's process.
pub struct Edge {
    runtime: Runtime,
    log: Arc<Client>,
    catalog: Arc<Catalog>,
    clock: Clock,
    /// How far its clock is from the truth, in microseconds.
    clock_off_us: i64,
    router: Router,
    posts: Vec<Post>,
    /// Transactions that it must not accept again: read from the log or accepted by it.
    knows: BTreeSet<u64>,
}

impl Edge {
    /// Starts one, beside an index where it is in an aggregator's process: then it waits for that.
    pub fn start(world: &World, dice: &mut Dice, known: Option<&Arc<Known>>) -> Option<Self> {
        if known.is_some_and(|known| (0..PARTITIONS).any(|at| known.find(at, &[]).is_err())) {
            return None;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let tail = world.logs.iter().map(|log| {
            let records = log.records.iter().map(|logged| logged.bytes.clone());
            (log.start, records.collect())
        });
        let log = Arc::new(Client { tail: tail.collect(), calls: Mutex::default() });
        let clock = Clock::test(DateTime::UNIX_EPOCH);
        let snapshot = Arc::clone(world.catalogs.at(world.catalogs.newest()));
        let catalog = Catalog::standing(no_database(), clock.clone(), snapshot);
        let mut config = CONFIG.clone();
        if !world.guards.tail_is_read {
            config.recent.tail_records_max = 0;
        }
        let deps = IngestDeps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            catalog: Arc::clone(&catalog),
            clock: clock.clone(),
            known: known.map(|known| match world.guards.index_is_asked {
                true => Arc::clone(known) as Arc<dyn KnownIds>,
                false => Arc::new(Silent(Arc::clone(known))),
            }),
            config,
        };
        let starting = Ingest::start_with_guards(deps, Shutdown::new(), world.guards.edge);
        let router = runtime.block_on(starting).unwrap().router();
        let kept = world.logs.iter().flat_map(|log| {
            // With the index also what the log has let go of is known.
            let from = if known.is_some() { 0 } else { log.start as usize };
            log.records[from..].iter().flat_map(|logged| logged.copies())
        });
        let knows = kept.map(|copy| copy.transaction).collect();
        let clock_off_us = clock_jump(dice);
        Some(Self { runtime, log, catalog, clock, clock_off_us, router, posts: Vec::new(), knows })
    }

    pub fn jump_clock(&mut self, dice: &mut Dice) {
        self.clock_off_us = clock_jump(dice);
    }

    /// Takes a request.
    pub fn post(&mut self, world: &mut World, dice: &mut Dice, copies: Vec<Copy>) {
        world.senders.posted.extend(&copies);
        let now = START_US + world.now.as_micros() as i64 + self.clock_off_us;
        self.clock.set(DateTime::from_timestamp_micros(now).unwrap());
        if dice.chance(3) {
            let newest = world.catalogs.newest();
            let seen = self.catalog.snapshot().version;
            let next = seen + dice.roll(newest - seen + 1);
            self.catalog.show(Arc::clone(world.catalogs.at(next)));
        }
        let is_single = copies.len() == 1 && dice.chance(50);
        let (path, body) = match copies.as_slice() {
            [one] if is_single => ("/api/billing/v2/events", one.json()),
            all => {
                let lines: Vec<String> = all.iter().map(|copy| copy.json()).collect();
                ("/api/billing/v2/events/batch", format!("[{}]", lines.join(",")))
            }
        };
        let request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {KEY}"));
        let request = request.body(Body::from(body)).unwrap();
        let router = self.router.clone();
        let task = self.runtime.spawn(async move {
            let (head, body) = router.oneshot(request).await.unwrap().into_parts();
            (head.status, axum::body::to_bytes(body, usize::MAX).await.unwrap())
        });
        self.posts.push(Post { copies, is_single, task });
        self.turn(world);
    }

    /// One of its calls to the log is carried out, or answered.
    pub fn reach_log(&mut self, world: &mut World, dice: &mut Dice) {
        let mut calls = self.log.calls.lock();
        if calls.is_empty() {
            return;
        }
        let at = dice.pick(calls.len());
        let Some(outcomes) = calls[at].outcomes.take() else {
            let records = mem::take(&mut calls[at].records);
            calls[at].outcomes = Some(world.take_records(records));
            return;
        };
        let call = calls.remove(at);
        drop(calls);
        // Nobody waits where the request's work is gone.
        let _ = call.answer.send(outcomes);
        self.turn(world);
    }

    /// A sender no longer waits: what it sent may be in the log, now or later.
    pub fn lose_sender(&mut self, world: &mut World, dice: &mut Dice) {
        if !self.posts.is_empty() {
            let post = self.posts.swap_remove(dice.pick(self.posts.len()));
            post.task.abort();
            self.turn(world);
            not_answered(world, dice, post.copies);
        }
    }

    /// Dies. What is on the way to the log may still get there.
    pub fn die(self, world: &mut World, dice: &mut Dice) {
        let Self { runtime, log, posts, .. } = self;
        drop(runtime);
        for record in log.calls.lock().drain(..).flat_map(|call| call.records) {
            if dice.chance(50) {
                world.delayed.push(record);
            }
        }
        for post in posts {
            not_answered(world, dice, post.copies);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.posts.is_empty() && self.log.calls.lock().is_empty()
    }

    /// Lets every request come as far as it can, and hears the answers.
    fn turn(&mut self, world: &mut World) {
        self.runtime.block_on(async {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
        let (ended, waiting) =
            mem::take(&mut self.posts).into_iter().partition(|post: &Post| post.task.is_finished());
        self.posts = waiting;
        for post in ended {
            self.answered(world, post);
        }
    }

    fn answered(&mut self, world: &mut World, post: Post) {
        let Post { copies, is_single, task } = post;
        let (status, body) = self.runtime.block_on(task).unwrap();
        let words = words(status, &body, is_single, copies.len());
        assert_eq!(words.len(), copies.len(), "verdicts on {copies:?}");
        let mut again = Vec::new();
        for (copy, word) in copies.into_iter().zip(words) {
            if word == "retry" {
                again.push(copy);
                continue;
            }
            world.senders.hear(copy, word, &world.durable);
            if word == "accepted" {
                let is_news = self.knows.insert(copy.transaction);
                assert!(is_news, "{copy:?} is accepted again by one edge");
            }
        }
        world.senders.send_again(again);
    }
}

/// Half of the senders that have no answer send again; the others leave it at that.
fn not_answered(world: &mut World, dice: &mut Dice, copies: Vec<Copy>) {
    if dice.chance(50) {
        world.senders.send_again(copies);
    }
}

/// The words of an answer's verdicts, in the order of the events.
fn words(status: StatusCode, body: &[u8], is_single: bool, events: usize) -> Vec<&str> {
    let text = std::str::from_utf8(body).unwrap();
    match status.as_u16() {
        503 => vec!["retry"; events],
        202 if is_single => vec!["accepted"],
        200 if is_single => vec!["duplicate"],
        409 if is_single => vec!["conflict"],
        400 if is_single => vec!["rejected"],
        200 => {
            let verdicts = text.split(r#""status":""#).skip(1);
            verdicts.map(|verdict| verdict.split('"').next().unwrap()).collect()
        }
        other => panic!("{other}: {text}"),
    }
}

/// Clocks that nobody sets are seconds off, or hours.
fn clock_jump(dice: &mut Dice) -> i64 {
    let most = [1_000, 5_000_000, 7_200_000_000][dice.pick(3)];
    dice.roll(2 * most) as i64 - most as i64
}

/// A pool that is closed: nothing of what is played here asks Postgres.
fn no_database() -> PgPool {
    static CLOSED: LazyLock<PgPool> = LazyLock::new(|| {
        let options = PgPoolOptions::new().max_lifetime(None).idle_timeout(None);
        let pool = options.connect_lazy_with(PgConnectOptions::new_without_pgpass());
        // Closed from here on; that it has no connections need not be waited for.
        drop(pool.close());
        pool
    });
    CLOSED.clone()
}
