//! `weir-aggregator`: the aggregator as a process of its own.

use clap::Parser;
use weir_runtime::{Shutdown, server, telemetry};

#[derive(Parser)]
#[command(name = "weir-aggregator", version, about = "Takes the event log into ClickHouse")]
struct Arguments {
    #[command(flatten)]
    role: weir_aggregator::RoleOptions,
    /// Checks the configuration and ends.
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = weir_aggregator::Config::load()?;
    if arguments.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    let _traces = telemetry::init("weir-aggregator")?;
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    weir_aggregator::run(arguments.role, config, shutdown).await
}
