//! The role as a process of its own, against Postgres and ClickHouse.

use crate::{ApiDeps, Config, metrics, router};
use anyhow::Context;
use axum::Router;
use sqlx::PgPool;
use std::{net::SocketAddr, time::Duration};
use weir_runtime::{
    Clock, Shutdown,
    health::{self, Check},
    server, telemetry,
};
use weir_usage::ClickHouse;

/// How often a deployment on a test clock is asked where it stands.
const CLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// Where the role listens and what it connects to.
#[derive(Debug, Clone, clap::Args)]
pub struct RoleOptions {
    /// gRPC and REST.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Metrics and health.
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:9464")]
    pub metrics_listen: SocketAddr,
    /// `postgres://…`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// `http://host:8123`
    #[arg(long, env = "CLICKHOUSE_URL")]
    pub clickhouse_url: String,
    #[arg(long, env = "CLICKHOUSE_USER", default_value = "default")]
    pub clickhouse_user: String,
    #[arg(long, env = "CLICKHOUSE_PASSWORD", default_value = "", hide_env_values = true)]
    pub clickhouse_password: String,
    #[arg(long, env = "CLICKHOUSE_DATABASE", default_value = "weir")]
    pub clickhouse_database: String,
}

/// Serves until shutdown. Events are taken by the ingest role on its own port, not here.
/// Errors: a database that can't be reached at the start; an address that is taken.
pub async fn run(options: RoleOptions, config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let handle = telemetry::init_metrics()?;
    metrics::describe();
    let connections_max = config.postgres.connections_max;
    let pool = weir_store::connect(&options.database_url, connections_max).await?;
    let usage = ClickHouse::connect(
        &options.clickhouse_url,
        &options.clickhouse_user,
        &options.clickhouse_password,
        &options.clickhouse_database,
    );
    usage.ping().await.context("ClickHouse")?;
    let clock = Clock::real();
    follow(&pool, &clock).await?;
    tokio::spawn(keep_following(pool.clone(), clock.clone(), shutdown.clone()));

    let observed = telemetry::metrics_router(handle).merge(checks(&pool, &usage));
    let observed_at = server::bind(options.metrics_listen).await?;
    let served_at = server::bind(options.listen).await?;
    tracing::info!(listen = %options.listen, "the API answers");
    let app = router(ApiDeps { pool, usage, clock, events: None, config });
    tokio::try_join!(
        server::serve(served_at, app, shutdown.clone()),
        server::serve(observed_at, observed, shutdown),
    )?;
    Ok(())
}

fn checks(pool: &PgPool, usage: &ClickHouse) -> Router {
    let (pool, usage) = (pool.clone(), usage.clone());
    health::router(vec![
        Check::new("postgres", move || {
            let pool = pool.clone();
            async move { weir_store::ping(&pool).await.map_err(|error| error.to_string()) }
        }),
        Check::new("clickhouse", move || {
            let usage = usage.clone();
            async move { usage.ping().await.map_err(|error| error.to_string()) }
        }),
    ])
}

/// Takes over the deployment's test clock, if it runs on one.
async fn follow(pool: &PgPool, clock: &Clock) -> Result<(), weir_store::StoreError> {
    let mut connection = pool.acquire().await?;
    if let Some(test) = weir_store::clock::test_clock(&mut connection).await? {
        clock.set(test.now);
    }
    Ok(())
}

async fn keep_following(pool: PgPool, clock: Clock, shutdown: Shutdown) {
    // A deployment never changes from the real clock to a test clock.
    while clock.is_test() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CLOCK_INTERVAL) => {}
        }
        if let Err(error) = follow(&pool, &clock).await {
            tracing::warn!(%error, "can't read the test clock");
        }
    }
}
