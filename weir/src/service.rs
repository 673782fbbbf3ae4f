//! `weir __service`: a service that roles apart need, in the foreground, so that a test can kill it,
//! hold it up, and start it again where it was.

use crate::engine;
use anyhow::{Context, bail};
use std::path::PathBuf;
use weir_runtime::{
    Shutdown,
    postgres::{PostgresOptions, PrivatePostgres},
    server,
};
use weir_usage::engine::{Door, Engine, EngineOptions};

/// Four roles and two aggregators, each with a pool.
const POSTGRES_CONNECTIONS_MAX: u16 = 100;

/// Run one service. It prints the variables that lead to it, and then `ready`.
#[derive(Debug, clap::Subcommand)]
pub enum ServiceCommand {
    /// A Postgres on a Unix socket beside the directory.
    Postgres { dir: PathBuf },
    /// A ClickHouse engine.
    Clickhouse {
        dir: PathBuf,
        /// On 127.0.0.1, the same at each start.
        #[arg(long)]
        port: u16,
        #[arg(long, env = "CLICKHOUSE_PASSWORD", hide_env_values = true)]
        password: String,
    },
}

impl ServiceCommand {
    /// Runs until SIGTERM. Errors: it does not start, or ends by itself.
    pub async fn run(self) -> anyhow::Result<()> {
        let shutdown = Shutdown::new();
        server::cancel_on_signals(shutdown.clone())?;
        match self {
            Self::Postgres { dir } => postgres(dir, shutdown).await,
            Self::Clickhouse { dir, port, password } => {
                clickhouse(dir, Door { port, password }, shutdown).await
            }
        }
    }
}

async fn postgres(dir: PathBuf, shutdown: Shutdown) -> anyhow::Result<()> {
    let options = PostgresOptions { durable: true, max_connections: POSTGRES_CONNECTIONS_MAX };
    let started = tokio::task::spawn_blocking(move || PrivatePostgres::start(&dir, options));
    let postgres = started.await?.context("starting Postgres")?;
    println!("DATABASE_URL={}\nready", postgres.url());
    tokio::select! {
        status = postgres.ended() => bail!("Postgres ended by itself ({status:?})"),
        () = shutdown.cancelled() => {}
    }
    Ok(tokio::task::spawn_blocking(|| postgres.stop()).await?)
}

async fn clickhouse(dir: PathBuf, door: Door, shutdown: Shutdown) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    let started = tokio::task::spawn_blocking(move || {
        Engine::start_at(program, &dir, &EngineOptions::default(), door)
    });
    let engine = started.await?.context("starting the ClickHouse engine")?;
    for (name, value) in engine::options(&engine).environment() {
        println!("{name}={value}");
    }
    println!("ready");
    tokio::select! {
        status = engine.ended() => bail!("the ClickHouse engine ended by itself ({status:?})"),
        () = shutdown.cancelled() => {}
    }
    engine.stop().await;
    Ok(())
}
