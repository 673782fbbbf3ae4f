//! The edge apart: its log is Kafka, its catalog a Postgres that the other roles share.

use crate::{Config, Ingest, IngestDeps, TailError};
use std::net::SocketAddr;
use std::time::Duration;
use weir_catalog::{Catalog, CatalogError};
use weir_log::LogError;
use weir_runtime::{Clock, Shutdown, health::Check};

/// Where the edge finds its neighbours, and where it is found. Not `Debug`: the URL may hold a
/// password.
#[derive(Clone, clap::Args)]
pub struct RoleOptions {
    /// Kafka's brokers: host:port,…
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: String,
    /// Kafka's topic; made if it does not exist.
    #[arg(long, env = "KAFKA_TOPIC", default_value = "weir-events")]
    pub kafka_topic: String,
    /// Partitions of the topic, fixed when a deployment is made; 8 unless the configuration says
    /// otherwise.
    #[arg(long, env = "KAFKA_PARTITIONS")]
    pub kafka_partitions: Option<u32>,
    /// Postgres, as a URL.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Where events are taken.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// Where metrics are shown.
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:9464")]
    pub metrics_listen: SocketAddr,
}

/// Why the edge can't be put together; the text names the neighbour.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("Postgres")]
    Postgres(#[from] sqlx::Error),
    #[error("the catalog")]
    Catalog(#[from] CatalogError),
    #[error("the log")]
    Log(#[from] LogError),
    #[error(transparent)]
    Tail(#[from] TailError),
}

/// A connected edge and what must answer for it to be ready.
pub struct Parts {
    pub ingest: Ingest,
    pub checks: Vec<Check>,
}

/// One for LISTEN, one for refreshes, two to spare when one hangs.
const CONNECTIONS_MAX: u32 = 4;
/// Postgres may be starting at the same time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects to Postgres and Kafka and reads the log's tail.
///
/// Errors: a neighbour that does not answer, a topic with another number of partitions.
pub async fn connect(
    options: &RoleOptions,
    mut config: Config,
    shutdown: Shutdown,
) -> Result<Parts, ConnectError> {
    let clock = Clock::real();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect(&options.database_url)
        .await?;
    let catalog = Catalog::start(pool.clone(), clock.clone(), shutdown.clone()).await?;
    config.log.brokers = Some(options.kafka_brokers.clone());
    config.log.topic.clone_from(&options.kafka_topic);
    config.log.partitions = options.kafka_partitions.unwrap_or(config.log.partitions);
    let log = config.log.open().await?;
    let deps = IngestDeps { log, catalog, clock, known: None, config };
    let ingest = Ingest::start(deps, shutdown).await?;
    let mut checks = ingest.checks();
    checks.push(Check::new("postgres", move || {
        let pool = pool.clone();
        async move { pool.acquire().await.map(drop).map_err(|error| error.to_string()) }
    }));
    Ok(Parts { ingest, checks })
}
