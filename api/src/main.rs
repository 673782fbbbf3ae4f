//! `weir-api`: the API as a process of its own.

use clap::Parser;
use weir_runtime::{Shutdown, server, telemetry};

#[derive(Parser)]
#[command(name = "weir-api", version, about = "Serves the API as gRPC and REST")]
struct Arguments {
    #[command(flatten)]
    role: weir_api::RoleOptions,
    /// Checks the configuration and ends.
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = weir_api::Config::load()?;
    if arguments.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    let _traces = telemetry::init("weir-api")?;
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    weir_api::run(arguments.role, config, shutdown).await
}
