//! Rolls: computing usage again from raw events, under a new generation, beside the live chunks.
//!
//! One task for a process. It starts what waits, and takes what is under way further in the
//! partitions that the process holds: one chunk of one roll in one partition at a time, so that
//! memory is bounded and live chunks come first. What a chunk is, and what follows a crash, is in
//! [`work`].

mod scope;
pub mod work;

use crate::{
    AggregatorError, Lease, Shared, config::RetryConfig, driver::drained, metrics, trouble::Trouble,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use weir_runtime::Shutdown;
use weir_store::{
    StoreError,
    rolls::{self, Roll},
};
use work::{Progress, Tools, Work};

/// How often Postgres is asked for rolls where the catalog does not change.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often is looked whether there is something to do; looking costs nothing.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The longest pause after a chunk while live chunks are at work.
const YIELD_MAX: Duration = Duration::from_secs(5);

/// Starts rolls and works on them until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let mut roller = Roller::new(shared);
    tokio::select! {
        () = roller.run(&shutdown) => {}
        // Postgres or ClickHouse hangs: what was under way is done again as after a crash.
        () = drained(&shutdown) => {}
    }
}

/// Generation and partition.
type Key = (u64, u32);

struct Roller {
    shared: Arc<Shared>,
    tools: Tools,
    parts: BTreeMap<Key, Part>,
    /// The catalog's version when Postgres was asked for rolls.
    asked_at_version: u64,
    ask_after: Instant,
    /// Which part was worked on last: the next one's turn is next.
    last: Key,
    /// Live chunks come first until then.
    work_after: Instant,
    trouble: Trouble,
}

/// A roll in one partition.
struct Part {
    work: Work,
    /// Nothing is left here, as far as is known.
    finished: bool,
    failures: u32,
    trouble: Trouble,
    after: Instant,
    /// When this process took it up.
    began: Option<Instant>,
    events: u64,
}

impl Roller {
    fn new(shared: Arc<Shared>) -> Self {
        let tools = Tools {
            usage: shared.usage.clone(),
            pool: shared.pool.clone(),
            catalog: Arc::clone(&shared.catalog),
            rows_max: shared.config.roll.rows_max,
            insert_timeout: shared.config.insert_timeout(),
        };
        let now = Instant::now();
        Self {
            shared,
            tools,
            parts: BTreeMap::new(),
            asked_at_version: 0,
            ask_after: now,
            last: (0, 0),
            work_after: now,
            trouble: Trouble::default(),
        }
    }

    async fn run(&mut self, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wait() => {}
            }
            if self.must_ask() {
                self.ask().await;
            }
            if let Some(key) = self.next() {
                self.work(key, shutdown).await;
            }
        }
    }

    /// Waits until there is something to do.
    async fn wait(&self) {
        while !self.must_ask() && self.next().is_none() {
            sleep(LOOK_EVERY).await;
        }
    }

    fn must_ask(&self) -> bool {
        Instant::now() >= self.ask_after
            || self.asked_at_version != self.shared.catalog.snapshot().version
    }

    /// Starts what waits, and learns what is under way.
    async fn ask(&mut self) {
        // The version first: what comes with a later one is asked for again.
        self.asked_at_version = self.shared.catalog.snapshot().version;
        self.ask_after = Instant::now() + ASK_EVERY;
        match self.rolling().await {
            Ok(rolling) => {
                self.trouble.worked("roll");
                self.take_in(rolling);
            }
            Err(error) => {
                metrics::failed("roll");
                if self.trouble.failed("roll") {
                    tracing::warn!(%error, "rolls not asked for, will be tried again");
                }
            }
        }
    }

    async fn rolling(&self) -> Result<Vec<Roll>, AggregatorError> {
        let mut connection = self.shared.pool.acquire().await.map_err(StoreError::from)?;
        let started = rolls::start_due(&mut connection).await?;
        if started > 0 {
            metrics::rolls_started(started);
            tracing::info!(started, "rolls started");
        }
        Ok(rolls::rolling(&mut connection).await?)
    }

    /// Keeps what is known of the parts. A finished one is looked at once more: two partitions that
    /// finish at the same moment may each have seen the other unfinished.
    fn take_in(&mut self, rolling: Vec<Roll>) {
        metrics::rolls_under_way(rolling.len());
        let mut known = std::mem::take(&mut self.parts);
        for roll in rolling {
            let roll = Arc::new(roll);
            for partition in 0..self.shared.log.partitions() {
                let key = (roll.generation, partition);
                let part = known.remove(&key).map(|part| Part { finished: false, ..part });
                let part =
                    part.unwrap_or_else(|| Part::new(&self.tools, Arc::clone(&roll), partition));
                self.parts.insert(key, part);
            }
        }
    }

    /// The lease on a partition, where there is one.
    fn lease(&self, partition: u32) -> Option<Lease> {
        let lease = *self.shared.leases.get(partition as usize)?.borrow();
        lease.filter(|lease| lease.until > Instant::now())
    }

    /// The part whose turn it is.
    fn next(&self) -> Option<Key> {
        let now = Instant::now();
        if now < self.work_after {
            return None;
        }
        let is_ready = |(key, part): (&Key, &Part)| {
            let ready = !part.finished && part.after <= now && self.lease(key.1).is_some();
            ready.then_some(*key)
        };
        let behind = (std::ops::Bound::Excluded(self.last), std::ops::Bound::Unbounded);
        let mut in_turn = self.parts.range(behind).chain(self.parts.range(..=self.last));
        in_turn.find_map(is_ready)
    }

    /// One chunk of a part.
    async fn work(&mut self, key: Key, shutdown: &Shutdown) {
        self.last = key;
        let began = Instant::now();
        loop {
            // Between two steps: one that is under way may end in order.
            if shutdown.is_cancelled() {
                return;
            }
            let Some(lease) = self.lease(key.1) else { return };
            let Some(part) = self.parts.get_mut(&key) else { return };
            let progress = part.advance(key, lease, &self.shared.config.retry).await;
            match progress {
                Some(Progress::Working) => {}
                Some(Progress::ChunkDone { events }) => {
                    metrics::roll_chunk_done(events, began.elapsed());
                    break;
                }
                Some(Progress::PartitionDone | Progress::Ended) | None => return,
            }
        }
        let live =
            self.shared.decoding.available_permits() < self.shared.config.chunk.in_flight_max;
        if live {
            self.work_after = Instant::now() + began.elapsed().min(YIELD_MAX);
        }
    }
}

impl Part {
    fn new(tools: &Tools, roll: Arc<Roll>, partition: u32) -> Self {
        Self {
            work: Work::new(tools.clone(), roll, partition),
            finished: false,
            failures: 0,
            trouble: Trouble::default(),
            after: Instant::now(),
            began: None,
            events: 0,
        }
    }

    /// One step; none where it failed and is tried again after a while.
    async fn advance(&mut self, key: Key, lease: Lease, retry: &RetryConfig) -> Option<Progress> {
        let (generation, partition) = key;
        match self.work.advance(lease).await {
            Ok(progress) => {
                self.failures = 0;
                self.trouble.worked_in(partition, "roll");
                self.note(key, progress);
                Some(progress)
            }
            // A chunk was open where the roll was to be taken up; or the partition is another's.
            Err(AggregatorError::Store(StoreError::Fenced { .. })) => {
                self.after = Instant::now() + Duration::from_millis(retry.first_ms);
                None
            }
            Err(error) => {
                let wait_ms = retry.first_ms.saturating_mul(1 << self.failures.min(16));
                self.failures += 1;
                self.after = Instant::now() + Duration::from_millis(wait_ms.min(retry.max_ms));
                metrics::failed("roll");
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                if self.trouble.failed("roll") {
                    tracing::warn!(generation, partition, %error, cause, "failed, will be tried again");
                } else {
                    tracing::debug!(generation, partition, %error, cause, "failed again");
                }
                None
            }
        }
    }

    fn note(&mut self, (generation, partition): Key, progress: Progress) {
        match progress {
            Progress::Working => {
                if self.began.is_none() {
                    self.began = Some(Instant::now());
                    tracing::info!(generation, partition, "roll taken up");
                }
            }
            Progress::ChunkDone { events } => self.events += events,
            Progress::PartitionDone | Progress::Ended => {
                self.finished = true;
                // Only where this process had a part in it.
                if let Some(began) = self.began.take() {
                    let outcome = if progress == Progress::Ended { "ended" } else { "computed" };
                    metrics::roll_partition(outcome);
                    let (events, elapsed) = (self.events, began.elapsed());
                    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(generation, partition, events, elapsed_ms, outcome, "roll left");
                }
            }
        }
    }
}
