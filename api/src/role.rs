//! The role as a process of its own, against Postgres and ClickHouse.

use crate::{ApiDeps, Config, events::ingest, metrics, router};
use anyhow::Context;
use axum::Router;
use http::Uri;
use sqlx::{PgPool, postgres::PgListener};
use std::{net::SocketAddr, time::Duration};
use weir_runtime::{
    Clock, Shutdown,
    health::{self, Check},
    server, telemetry,
};
use weir_usage::{ClickHouse, ClickHouseOptions};

/// How often a deployment on a test clock is asked where it stands, should a notification be lost.
const CLOCK_INTERVAL: Duration = Duration::from_millis(500);

/// Where the role listens and what it connects to.
#[derive(Debug, Clone, clap::Args)]
pub struct RoleOptions {
    /// gRPC, REST and health.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Where Prometheus reads metrics.
    #[arg(long, env = "METRICS_LISTEN", default_value = "0.0.0.0:9464")]
    pub metrics_listen: SocketAddr,
    /// `postgres://…`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    #[command(flatten)]
    pub clickhouse: ClickHouseOptions,
    /// The ingest role, `http://host:8081`: events posted here are handed to it. Without it they
    /// answer 503.
    #[arg(long, env = "INGEST_URL")]
    pub ingest_url: Option<Uri>,
}

/// Serves until shutdown.
/// Errors: a database that can't be reached at the start; an address that is taken.
pub async fn run(options: RoleOptions, config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let handle = telemetry::init_metrics()?;
    metrics::describe();
    let connections_max = config.postgres.connections_max;
    let pool = weir_store::connect(&options.database_url, connections_max).await?;
    let usage = options.clickhouse.connect();
    usage.ping().await.context("ClickHouse")?;
    let clock = Clock::real();
    follow(&pool, &clock).await?;
    tokio::spawn(keep_following(pool.clone(), clock.clone(), shutdown.clone()));

    let checks = checks(&pool, &usage);
    let observed = telemetry::metrics_router(handle);
    let observed_at = server::bind(options.metrics_listen).await?;
    let served_at = server::bind(options.listen).await?;
    tracing::info!(listen = %options.listen, "the API answers");
    let events = options.ingest_url.map(ingest::proxy);
    let app = router(ApiDeps { pool, usage, clock, events, config }).merge(checks);
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
    let mut listener = None;
    // A deployment never changes from the real clock to a test clock.
    while clock.is_test() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CLOCK_INTERVAL) => {}
            () = notified(&pool, &mut listener) => {}
        }
        if let Err(error) = follow(&pool, &clock).await {
            tracing::warn!(%error, "can't read the test clock");
        }
    }
}

/// Returns when Postgres says that the clock, or something of the catalog, has changed.
async fn notified(pool: &PgPool, listener: &mut Option<PgListener>) {
    let heard = async {
        let listener = match listener {
            Some(listener) => listener,
            None => {
                let mut fresh = PgListener::connect_with(pool).await?;
                fresh.listen(weir_store::CATALOG_CHANNEL).await?;
                listener.insert(fresh)
            }
        };
        listener.recv().await
    };
    if heard.await.is_err() {
        // Asking goes on by the interval, and then a new one is made.
        *listener = None;
        std::future::pending::<()>().await;
    }
}
