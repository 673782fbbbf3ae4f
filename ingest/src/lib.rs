//! The ingest edge: takes events over HTTP, makes them durable in the log, answers a verdict each.
//!
//! Knows keys, metrics and subscriptions from the catalog's snapshot, and repeats from the ids it
//! remembers; knows nothing of usage, prices or invoices. `accepted` is never answered before the
//! log has the event durably, and a failed append leaves nothing behind.

mod accept;
mod auth;
mod body;
mod config;
mod connect;
mod flights;
mod format;
mod http;
mod judge;
mod limits;
mod metrics;
mod outlive;
mod pack;
mod rate;
mod recent;
mod refresh;
mod refusal;
mod request_id;
mod role;
mod status;
mod tail;
mod verdict;

pub use config::{Config, InvalidConfig};
pub use connect::{ConnectError, Parts, RoleOptions, connect};
pub use role::run;
pub use tail::TailError;

use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;
use weir_catalog::Catalog;
use weir_events::KnownIds;
use weir_log::EventLog;
use weir_runtime::{
    Clock, Shutdown,
    health::{Check, told},
};

/// What the edge works with.
pub struct IngestDeps {
    pub log: Arc<dyn EventLog>,
    pub catalog: Arc<Catalog>,
    pub clock: Clock,
    /// The aggregator's index, where it is in this process: then verdicts are exact for ever.
    pub known: Option<Arc<dyn KnownIds>>,
    pub config: Config,
}

/// A running edge. Clones are the same edge.
#[derive(Clone)]
pub struct Ingest {
    edge: Arc<Edge>,
}

struct Edge {
    log: Arc<dyn EventLog>,
    packer: Arc<pack::Packer>,
    catalog: Arc<Catalog>,
    clock: Clock,
    known: Option<Arc<dyn KnownIds>>,
    config: Config,
    recent: recent::RecentIds,
    flights: flights::Flights,
    refresher: refresh::Refresher,
    limits: limits::Limits,
    rates: rate::Rates,
    metrics: metrics::Metrics,
    tasks: TaskTracker,
    guards: Guards,
}

/// The guards, for tests that show what each is for. All are on in every other place.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guards {
    /// A copy of an event that is on its way waits for how that fares.
    pub copies_wait: bool,
    /// What the log did not take is new again.
    pub failed_claims_go: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self { copies_wait: true, failed_claims_go: true }
    }
}

impl Ingest {
    /// Reads the log's tail, so that repeats are known, and is ready then. Waits for the aggregator's
    /// index, where it is in this process, as long as that takes.
    ///
    /// Errors: the tail can't be read within `recent.tail_timeout_ms`, or `shutdown` comes first.
    pub async fn start(deps: IngestDeps, shutdown: Shutdown) -> Result<Self, TailError> {
        Self::start_with_guards(deps, shutdown, Guards::default()).await
    }

    #[doc(hidden)]
    pub async fn start_with_guards(
        deps: IngestDeps,
        shutdown: Shutdown,
        guards: Guards,
    ) -> Result<Self, TailError> {
        let IngestDeps { log, catalog, clock, known, config } = deps;
        let recent = recent::RecentIds::new(
            log.partitions(),
            config.keep(known.is_some(), log.partitions()),
        );
        let loaded = tail::load(log.as_ref(), known.as_ref(), &recent, &config);
        match shutdown.run_until_cancelled(loaded).await {
            Some(outcome) => outcome?,
            None => return Err(TailError::Ending),
        }
        let metrics = metrics::Metrics::new();
        metrics.recent_ids.set(recent.len() as f64);
        let refresher = refresh::Refresher::new(
            catalog.clone(),
            Duration::from_millis(config.catalog.refresh_interval_ms),
            Duration::from_millis(config.catalog.refresh_timeout_ms),
        );
        let limits = limits::Limits::new(
            config.load.requests_max,
            config.load.body_bytes_max,
            metrics.in_flight_bytes.clone(),
        );
        let flights = flights::Flights::default();
        let tasks = TaskTracker::new();
        let edge = Edge {
            packer: pack::Packer::new(log.clone()),
            log,
            catalog,
            clock,
            known,
            config,
            recent,
            flights,
            refresher,
            limits,
            rates: rate::Rates::default(),
            metrics,
            tasks,
            guards,
        };
        Ok(Self { edge: Arc::new(edge) })
    }

    /// The routes: `POST /api/billing/v2/events`, `/events/batch` and `/events:batchCreate`.
    pub fn router(&self) -> axum::Router {
        http::router(self.edge.clone())
    }

    /// What must answer for the edge to take events.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let log = self.edge.log.clone();
        vec![Check::new("log", move || {
            let log = log.clone();
            async move { log.ready().await.map_err(|error| told(&error)) }
        })]
    }

    /// Waits until what has been handed to the log is settled. To be called when no more requests
    /// come in, before the log is closed.
    pub async fn drain(&self) {
        self.edge.tasks.close();
        self.edge.tasks.wait().await;
    }
}
