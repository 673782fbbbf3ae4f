//! `weir-ingest`: the edge as a process of its own, against Kafka and Postgres.

use clap::Parser;
use weir_runtime::{Shutdown, server, telemetry};

#[derive(Parser)]
#[command(name = "weir-ingest", version, about = "Takes usage events into the log")]
struct Arguments {
    #[command(flatten)]
    role: weir_ingest::RoleOptions,
    /// Checks the configuration and ends.
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = weir_ingest::Config::load()?;
    if arguments.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    let _traces = telemetry::init("weir-ingest")?;
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    weir_ingest::run(arguments.role, config, shutdown).await
}
