//! The role as a process of its own, against Kafka, ClickHouse and Postgres.

use crate::{Aggregator, Config, RoleOptions, connect, metrics};
use weir_runtime::{Shutdown, health, server, telemetry};

/// Takes the log into ClickHouse until shutdown, then gives its partitions back.
/// Errors: a neighbour that does not answer at the start; an address that is taken.
pub async fn run(options: RoleOptions, config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let handle = telemetry::init_metrics()?;
    metrics::describe();
    let observed_at = server::bind(options.metrics_listen).await?;
    let health_at = server::bind(options.listen).await?;
    let (deps, checks) = connect(&options, config, &shutdown).await?;
    let aggregator = Aggregator::start(deps, shutdown.clone()).await?;
    let serving = tokio::try_join!(
        server::serve(health_at, health::router(checks), shutdown.clone()),
        server::serve(observed_at, telemetry::metrics_router(handle), shutdown.clone()),
    );
    // Also when serving failed: the partitions are handed over in order.
    shutdown.cancel();
    aggregator.join().await;
    serving.map(drop)
}
