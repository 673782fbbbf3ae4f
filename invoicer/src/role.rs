//! The role as a process of its own, against Postgres and ClickHouse.

use crate::{Config, InvoicerDeps, metrics, run};
use anyhow::Context;
use std::net::SocketAddr;
use weir_runtime::{
    Clock, Shutdown,
    health::{self, Check},
    server, telemetry,
};
use weir_usage::ClickHouseOptions;

/// What the role connects to.
#[derive(Debug, Clone, clap::Args)]
pub struct RoleOptions {
    /// Health. The invoicer takes no requests.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8082")]
    pub listen: SocketAddr,
    /// Where Prometheus reads metrics.
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:9464")]
    pub metrics_listen: SocketAddr,
    /// `postgres://…`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    #[command(flatten)]
    pub clickhouse: ClickHouseOptions,
}

/// What the role works with. Errors: Postgres or ClickHouse that don't answer.
pub async fn connect(options: &RoleOptions, config: Config) -> anyhow::Result<InvoicerDeps> {
    let pool = weir_store::connect(&options.database_url, config.postgres.connections_max).await?;
    let usage = options.clickhouse.connect();
    usage.ping().await.context("ClickHouse")?;
    // A test clock, where there is one, is read from Postgres with each look at what is due.
    Ok(InvoicerDeps { pool, usage, clock: Clock::real(), config })
}

/// Bills by schedule until shutdown. Errors: what it needs doesn't answer at the start; an address
/// that is taken.
pub async fn run_role(
    options: RoleOptions,
    config: Config,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let handle = telemetry::init_metrics()?;
    metrics::describe();
    let deps = connect(&options, config).await?;
    let health = server::bind(options.listen).await?;
    let observed = server::bind(options.metrics_listen).await?;
    let router = health::router(checks(&deps));
    let metrics_router = telemetry::metrics_router(handle);
    let billing = async {
        run(deps, shutdown.clone()).await;
        Ok(())
    };
    tokio::try_join!(
        server::serve(health, router, shutdown.clone()),
        server::serve(observed, metrics_router, shutdown.clone()),
        billing,
    )?;
    Ok(())
}

fn checks(deps: &InvoicerDeps) -> Vec<Check> {
    let (pool, usage) = (deps.pool.clone(), deps.usage.clone());
    vec![
        Check::new("postgres", move || {
            let pool = pool.clone();
            async move { weir_store::ping(&pool).await.map_err(|error| error.to_string()) }
        }),
        Check::new("clickhouse", move || {
            let usage = usage.clone();
            async move { usage.ping().await.map_err(|error| error.to_string()) }
        }),
    ]
}
