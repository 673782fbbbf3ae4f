//! The aggregator as a process of its own: what it is told on the command line, and its parts.

use crate::{AggregatorDeps, Config};
use anyhow::Context;
use std::{net::SocketAddr, path::PathBuf};
use weir_catalog::Catalog;
use weir_runtime::{
    Clock, Shutdown,
    health::{Check, told},
};
use weir_usage::ClickHouseOptions;

/// Connections to Postgres: a statement is short, so a few serve all partitions.
const POSTGRES_CONNECTIONS_MAX: u32 = 10;

/// Where everything is.
#[derive(Debug, Clone, clap::Args)]
pub struct RoleOptions {
    /// Kafka brokers, `host:port,…`
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: String,
    /// Kafka topic with the events
    #[arg(long, env = "KAFKA_TOPIC", default_value = "weir-events")]
    pub kafka_topic: String,
    /// Partitions of the topic, fixed when the deployment is created; 8 unless the configuration
    /// says otherwise
    #[arg(long, env = "KAFKA_PARTITIONS")]
    pub kafka_partitions: Option<u32>,
    #[command(flatten)]
    pub clickhouse: ClickHouseOptions,
    /// Postgres, `postgres://…`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Directory of the indexes of seen ids; kept over restarts, not shared
    #[arg(long, env = "INDEX_DIR", default_value = "/var/lib/weir/index")]
    pub index_dir: PathBuf,
    /// Name among the aggregators, the same after a restart
    #[arg(long, env = "OWNER", default_value_t = default_owner())]
    pub owner: String,
    /// Health. The aggregator takes no requests.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8083")]
    pub listen: SocketAddr,
    /// Where Prometheus reads metrics.
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:9464")]
    pub metrics_listen: SocketAddr,
}

/// The host's name: two aggregators on one host must be told apart by hand.
fn default_owner() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "aggregator".to_owned(), |name| name.trim().to_owned())
}

/// Connects to everything and brings both schemas up to date; also gives the checks of `/readyz`.
///
/// Errors: a setting that can't work, or a part that does not answer.
pub async fn connect(
    options: &RoleOptions,
    mut config: Config,
    shutdown: &Shutdown,
) -> anyhow::Result<(AggregatorDeps, Vec<Check>)> {
    // First what costs nothing to find.
    std::fs::create_dir_all(&options.index_dir)
        .with_context(|| format!("making INDEX_DIR {}", options.index_dir.display()))?;
    // Whoever is silent for a lease is not the owner any more: the next one must not wait for its locks.
    let (url, silence_max) = (&options.database_url, config.lease());
    let pool = weir_store::connect_impatiently(url, POSTGRES_CONNECTIONS_MAX, silence_max)
        .await
        .context("connecting to Postgres")?;
    weir_store::migrate(&pool).await?;
    let usage = options.clickhouse.connect();
    usage.migrate().await.context("connecting to ClickHouse")?;
    config.log.brokers = Some(options.kafka_brokers.clone());
    config.log.topic.clone_from(&options.kafka_topic);
    config.log.partitions = options.kafka_partitions.unwrap_or(config.log.partitions);
    let log = config.log.open().await.context("connecting to Kafka")?;
    let clock = Clock::real();
    let catalog = Catalog::start(pool.clone(), clock.clone(), shutdown.clone()).await?;
    let (index_dir, owner) = (options.index_dir.clone(), options.owner.clone());
    let deps = AggregatorDeps { log, usage, pool, catalog, clock, index_dir, owner, config };
    let checks = checks(&deps);
    Ok((deps, checks))
}

fn checks(deps: &AggregatorDeps) -> Vec<Check> {
    let (log, usage, pool) = (deps.log.clone(), deps.usage.clone(), deps.pool.clone());
    vec![
        Check::new("log", move || {
            let log = log.clone();
            async move { log.ready().await.map_err(|error| told(&error)) }
        }),
        Check::new("clickhouse", move || {
            let usage = usage.clone();
            async move { usage.ping().await.map_err(|error| told(&error)) }
        }),
        Check::new("postgres", move || {
            let pool = pool.clone();
            async move { weir_store::ping(&pool).await.map_err(|error| told(&error)) }
        }),
    ]
}
