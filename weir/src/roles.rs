//! One role as a process of its own.

use weir_runtime::{Shutdown, server};

fn shutdown() -> anyhow::Result<Shutdown> {
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    Ok(shutdown)
}

/// `weir ingest`
pub async fn ingest(options: weir_ingest::RoleOptions) -> anyhow::Result<()> {
    weir_ingest::run(options, weir_ingest::Config::load()?, shutdown()?).await
}

/// `weir aggregator`
pub async fn aggregator(options: weir_aggregator::RoleOptions) -> anyhow::Result<()> {
    weir_aggregator::run(options, weir_aggregator::Config::load()?, shutdown()?).await
}

/// `weir invoicer`
pub async fn invoicer(options: weir_invoicer::RoleOptions) -> anyhow::Result<()> {
    weir_invoicer::run_role(options, weir_invoicer::Config::load()?, shutdown()?).await
}

/// `weir api`
pub async fn api(options: weir_api::RoleOptions) -> anyhow::Result<()> {
    weir_api::run(options, weir_api::Config::load()?, shutdown()?).await
}
