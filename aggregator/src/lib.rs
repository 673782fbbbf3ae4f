//! The aggregator: takes each partition of the event log into ClickHouse, every event exactly once.
//!
//! ```text
//! protocol   what is done in which order, and what after a failure: a pure state machine
//! dedup      the exact index of seen ids of a partition
//! chunk      a range of the log, decoded
//! rollup     a chunk's events as rows of usage: pure
//! driver     one task for each partition: protocol, executor (the IO), renewals of the lease
//! balance    which partitions are whose: pure; balancer looks at Postgres for it
//! roll       usage computed again from raw events, beside the chunks; retire deletes what it replaced
//! known      the indexes as the edge asks them in `weir up`
//! verifier   compares what is stored with what was meant to be
//! ```
//!
//! It knows nothing of prices, plans or invoices, and nothing of HTTP.

pub mod balance;
mod balancer;
mod catch_up;
pub mod chunk;
mod config;
mod connect;
pub mod dedup;
mod driver;
mod error;
mod executor;
mod known;
mod lag;
mod metrics;
pub mod protocol;
mod retire;
mod role;
pub mod roll;
pub mod rollup;
mod trouble;
mod verifier;

pub use config::{Config, ConfigInvalid, DEFAULTS};
pub use connect::{RoleOptions, connect};
pub use error::AggregatorError;
pub use known::Known;
pub use metrics::describe as describe_metrics;
pub use role::run;

use parking_lot::Mutex;
use sqlx::PgPool;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64},
    },
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use weir_catalog::Catalog;
use weir_events::KnownIds;
use weir_log::EventLog;
use weir_runtime::{Clock, Shutdown};
use weir_store::StoreError;
use weir_usage::ClickHouse;

/// What the aggregator works with.
pub struct AggregatorDeps {
    pub log: Arc<dyn EventLog>,
    /// Migrated.
    pub usage: ClickHouse,
    /// Migrated.
    pub pool: PgPool,
    pub catalog: Arc<Catalog>,
    /// Not read: leases and watermarks go by Postgres' clock, events by the time in their records.
    pub clock: Clock,
    /// Where the indexes live; nobody else writes there.
    pub index_dir: PathBuf,
    /// The same after a restart, so that it has its partitions back at once; 1 to 255 characters,
    /// and different from every other aggregator's.
    pub owner: String,
    pub config: Config,
}

/// How far a partition is, for those who watch.
#[derive(Default)]
struct Progress {
    owned: AtomicBool,
    /// Offset.
    committed: AtomicU64,
    /// The watermark, Unix microseconds; 0: none yet.
    marked_us: AtomicI64,
    /// Of the newest chunk; 0: none yet.
    chunk_events: AtomicU64,
    chunk_records: AtomicU64,
}

/// The hold on a partition, as its task last heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub epoch: u64,
    /// Others may claim the partition from here on.
    pub until: Instant,
}

/// What all partitions' tasks share.
struct Shared {
    log: Arc<dyn EventLog>,
    usage: ClickHouse,
    pool: PgPool,
    catalog: Arc<Catalog>,
    index_dir: PathBuf,
    owner: String,
    config: Config,
    known: Arc<Known>,
    progress: Vec<Progress>,
    /// By partition; none while another process, or nobody, holds it.
    leases: Vec<watch::Sender<Option<Lease>>>,
    /// By partition; whether this process should hold it, as far as balance goes.
    wanted: Vec<watch::Sender<bool>>,
    /// Indexes that may be built at once.
    rebuilding: Semaphore,
    /// Chunks that may be in memory at once.
    decoding: Arc<Semaphore>,
    /// Held by the one index merge that runs.
    merging: Arc<Mutex<()>>,
}

impl Shared {
    /// Whether this process should hold the partition.
    fn wants(&self, partition: u32) -> bool {
        self.wanted.get(partition as usize).is_some_and(|wanted| *wanted.borrow())
    }

    /// Waits until this process should hold the partition.
    async fn until_wanted(&self, partition: u32) {
        match self.wanted.get(partition as usize).map(watch::Sender::subscribe) {
            // The sender is ours and lives as long as we do.
            Some(mut wanted) => drop(wanted.wait_for(|wanted| *wanted).await),
            None => std::future::pending().await,
        }
    }
}

/// A running aggregator.
pub struct Aggregator {
    known: Arc<Known>,
    tasks: JoinSet<()>,
}

impl Aggregator {
    /// Makes sure of the partitions in Postgres and of the retention in ClickHouse, and starts a
    /// task for each partition. What fails afterwards is tried again until `shutdown`.
    ///
    /// Errors: an invalid configuration; `PartitionCount` where the deployment has another number
    /// of partitions than the log; Postgres or ClickHouse not reachable.
    pub async fn start(deps: AggregatorDeps, shutdown: Shutdown) -> Result<Self, AggregatorError> {
        deps.config.validate()?;
        let partitions = deps.log.partitions();
        let mut connection = deps.pool.acquire().await.map_err(StoreError::from)?;
        weir_store::partitions::ensure(&mut connection, partitions).await?;
        drop(connection);
        deps.usage.set_retention(deps.config.retention.raw_days).await?;
        let known = Arc::new(Known::new(partitions));
        let AggregatorDeps { log, usage, pool, catalog, clock: _, index_dir, owner, config } = deps;
        let shared = Arc::new(Shared {
            decoding: Arc::new(Semaphore::new(config.chunk.in_flight_max)),
            merging: Arc::default(),
            progress: (0..partitions).map(|_| Progress::default()).collect(),
            wanted: (0..partitions).map(|_| watch::Sender::new(false)).collect(),
            rebuilding: Semaphore::new(config.index.rebuilds_max),
            leases: (0..partitions).map(|_| watch::Sender::new(None)).collect(),
            known: Arc::clone(&known),
            log,
            usage,
            pool,
            catalog,
            index_dir,
            owner,
            config,
        });
        let mut tasks = JoinSet::new();
        for partition in 0..partitions {
            tasks.spawn(driver::run(Arc::clone(&shared), partition, shutdown.clone()));
            tasks.spawn(lag::run(Arc::clone(&shared), partition, shutdown.clone()));
        }
        tasks.spawn(balancer::run(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(roll::run(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(retire::run(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(verifier::run(shared, shutdown));
        Ok(Self { known, tasks })
    }

    /// The ids this process has seen, for an edge in the same process.
    #[must_use]
    pub fn known(&self) -> Arc<dyn KnownIds> {
        Arc::clone(&self.known) as Arc<dyn KnownIds>
    }

    /// Waits until every task has ended, which they do after `shutdown`. Dropping it instead kills
    /// them where they stand, which is as safe as a crash.
    pub async fn join(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the aggregator failed");
            }
        }
    }
}
