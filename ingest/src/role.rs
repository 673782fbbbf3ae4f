//! The role as a process of its own.

use crate::{Config, RoleOptions, connect};
use weir_runtime::{Shutdown, health, server, telemetry};

/// Takes events until shutdown, then settles what has been handed to the log.
/// Errors: a neighbour that does not answer at the start; an address that is taken.
pub async fn run(options: RoleOptions, config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let metrics = telemetry::metrics_router(telemetry::init_metrics()?);
    let metrics_listener = server::bind(options.metrics_listen).await?;
    tokio::spawn(server::serve(metrics_listener, metrics, shutdown.clone()));
    let parts = connect(&options, config, shutdown.clone()).await?;
    let app = parts.ingest.router().merge(health::router(parts.checks));
    let listener = server::bind(options.listen).await?;
    tracing::info!(address = %options.listen, "taking events");
    server::serve(listener, app, shutdown).await?;
    parts.ingest.drain().await;
    Ok(())
}
