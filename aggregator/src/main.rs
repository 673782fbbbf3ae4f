//! `weir-aggregator`: the aggregator as a process of its own.

use clap::Parser;
use weir_aggregator::{Aggregator, Arguments, Config, connect, describe_metrics};
use weir_runtime::{Shutdown, health, server, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.check_config {
        return Config::load().map(drop);
    }
    telemetry::init_logs()?;
    let metrics = telemetry::init_metrics()?;
    describe_metrics();
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    let (deps, checks) = connect(&arguments, &shutdown).await?;
    let aggregator = Aggregator::start(deps, shutdown.clone()).await?;
    let listener = server::bind(arguments.metrics_listen).await?;
    let app = health::router(checks).merge(telemetry::metrics_router(metrics));
    let serving = server::serve(listener, app, shutdown.clone()).await;
    // Also when serving failed: the partitions are handed over in order.
    shutdown.cancel();
    aggregator.join().await;
    serving
}
