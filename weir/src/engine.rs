//! The ClickHouse engine as a child of this program: `weir __engine DIR`.

use anyhow::Context;
use std::path::{Path, PathBuf};
use weir_usage::{
    ClickHouseOptions,
    engine::{Engine, EngineOptions},
};

/// The database in the engine.
pub const DATABASE: &str = "weir";

/// Starts the engine on `dir`.
pub async fn start(dir: &Path) -> anyhow::Result<Engine> {
    let (program, dir): (PathBuf, _) = (std::env::current_exe()?, dir.to_owned());
    let started = tokio::task::spawn_blocking(move || {
        Engine::start(program, &dir, &EngineOptions::default())
    });
    started.await?.context("starting the ClickHouse engine")
}

/// How others reach it.
pub fn options(engine: &Engine) -> ClickHouseOptions {
    ClickHouseOptions {
        clickhouse_url: engine.url(),
        clickhouse_user: engine.user().to_owned(),
        clickhouse_password: engine.password().to_owned(),
        clickhouse_database: DATABASE.to_owned(),
        clickhouse_cluster: None,
    }
}
