//! `weir-invoicer`: the invoicer as a process of its own, against ClickHouse and Postgres.

use clap::Parser;
use weir_runtime::{Shutdown, server, telemetry};

#[derive(Parser)]
#[command(name = "weir-invoicer", version, about = "Bills what is due")]
struct Arguments {
    #[command(flatten)]
    role: weir_invoicer::RoleOptions,
    /// Checks the configuration and ends.
    #[arg(long)]
    check_config: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config = weir_invoicer::Config::load()?;
    if arguments.check_config {
        println!("the configuration is valid");
        return Ok(());
    }
    let _traces = telemetry::init("weir-invoicer")?;
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    weir_invoicer::run_role(arguments.role, config, shutdown).await?;
    Ok(())
}
