//! The aggregator as a process of its own: what it is told on the command line, and its parts.

use crate::{AggregatorDeps, Config};
use anyhow::Context;
use clap::Parser;
use std::{net::SocketAddr, path::PathBuf};
use weir_catalog::Catalog;
use weir_log::LogConfig;
use weir_runtime::{Clock, Shutdown, health::Check};
use weir_usage::ClickHouse;

/// Connections to Postgres: a statement is short, so a few serve all partitions.
const POSTGRES_CONNECTIONS_MAX: u32 = 10;

/// Where everything is.
#[derive(Debug, Clone, Parser)]
#[command(name = "weir-aggregator", version, about = "Takes the event log into ClickHouse")]
pub struct Arguments {
    /// Kafka brokers, `host:port,…`
    #[arg(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: String,
    /// Kafka topic with the events
    #[arg(long, env = "KAFKA_TOPIC", default_value = "weir-events")]
    pub kafka_topic: String,
    /// Partitions of the topic, fixed when the deployment is created
    #[arg(long, env = "LOG_PARTITIONS", default_value_t = LogConfig::default().partitions)]
    pub log_partitions: u32,
    /// ClickHouse, `http://host:port`
    #[arg(long, env = "CLICKHOUSE_URL")]
    pub clickhouse_url: String,
    #[arg(long, env = "CLICKHOUSE_USER", default_value = "default")]
    pub clickhouse_user: String,
    #[arg(long, env = "CLICKHOUSE_PASSWORD", default_value = "", hide_env_values = true)]
    pub clickhouse_password: String,
    #[arg(long, env = "CLICKHOUSE_DATABASE", default_value = "weir")]
    pub clickhouse_database: String,
    /// Postgres, `postgres://…`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Directory of the indexes of seen ids; kept over restarts, not shared
    #[arg(long, env = "INDEX_DIR", default_value = "weir-index")]
    pub index_dir: PathBuf,
    /// Name among the aggregators, the same after a restart
    #[arg(long, env = "OWNER", default_value_t = default_owner())]
    pub owner: String,
    /// Health and metrics
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:9464")]
    pub metrics_listen: SocketAddr,
    /// Check the configuration and end
    #[arg(long)]
    pub check_config: bool,
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
    arguments: &Arguments,
    shutdown: &Shutdown,
) -> anyhow::Result<(AggregatorDeps, Vec<Check>)> {
    let config = Config::load()?;
    let pool = weir_store::connect(&arguments.database_url, POSTGRES_CONNECTIONS_MAX)
        .await
        .context("connecting to Postgres")?;
    weir_store::migrate(&pool).await?;
    let usage = ClickHouse::connect(
        &arguments.clickhouse_url,
        &arguments.clickhouse_user,
        &arguments.clickhouse_password,
        &arguments.clickhouse_database,
    );
    usage.migrate().await.context("connecting to ClickHouse")?;
    let log = LogConfig {
        partitions: arguments.log_partitions,
        brokers: Some(arguments.kafka_brokers.clone()),
        topic: arguments.kafka_topic.clone(),
        ..LogConfig::default()
    };
    let log = log.open().await.context("connecting to Kafka")?;
    let clock = Clock::real();
    let catalog = Catalog::start(pool.clone(), clock.clone(), shutdown.clone()).await?;
    let (index_dir, owner) = (arguments.index_dir.clone(), arguments.owner.clone());
    let deps = AggregatorDeps { log, usage, pool, catalog, clock, index_dir, owner, config };
    let checks = checks(&deps);
    Ok((deps, checks))
}

fn checks(deps: &AggregatorDeps) -> Vec<Check> {
    let (log, usage, pool) = (deps.log.clone(), deps.usage.clone(), deps.pool.clone());
    vec![
        Check::new("log", move || {
            let log = log.clone();
            async move { log.ready().await.map_err(|error| error.to_string()) }
        }),
        Check::new("clickhouse", move || {
            let usage = usage.clone();
            async move { usage.ping().await.map_err(|error| error.to_string()) }
        }),
        Check::new("postgres", move || {
            let pool = pool.clone();
            async move { weir_store::ping(&pool).await.map_err(|error| error.to_string()) }
        }),
    ]
}
