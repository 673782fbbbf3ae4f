//! One role as a process of its own.

use weir_runtime::{Shutdown, health, server, telemetry};

fn shutdown() -> anyhow::Result<Shutdown> {
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    Ok(shutdown)
}

/// `weir ingest`
pub async fn ingest(options: weir_ingest::RoleOptions) -> anyhow::Result<()> {
    weir_ingest::run(options, weir_ingest::Config::load()?, shutdown()?).await?;
    Ok(())
}

/// `weir aggregator`
pub async fn aggregator(options: weir_aggregator::Arguments) -> anyhow::Result<()> {
    let metrics = telemetry::init_metrics()?;
    weir_aggregator::describe_metrics();
    let shutdown = shutdown()?;
    let (deps, checks) = weir_aggregator::connect(&options, &shutdown).await?;
    let aggregator = weir_aggregator::Aggregator::start(deps, shutdown.clone()).await?;
    let listener = server::bind(options.metrics_listen).await?;
    let app = health::router(checks).merge(telemetry::metrics_router(metrics));
    let serving = server::serve(listener, app, shutdown.clone()).await;
    // Also when serving failed: the partitions are handed over in order.
    shutdown.cancel();
    aggregator.join().await;
    serving
}

/// `weir invoicer`
pub async fn invoicer(options: weir_invoicer::RoleOptions) -> anyhow::Result<()> {
    weir_invoicer::run_role(options, weir_invoicer::Config::load()?, shutdown()?).await?;
    Ok(())
}

/// `weir api`
pub async fn api(options: weir_api::RoleOptions) -> anyhow::Result<()> {
    weir_api::run(options, weir_api::Config::load()?, shutdown()?).await?;
    Ok(())
}
