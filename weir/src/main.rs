//! `weir`: the whole of Weir in one program.

mod admin;
mod cli;
mod data_dir;
mod demo;
mod disk;
mod engine;
mod floor;
mod operator;
mod roles;
mod service;
mod services;
mod starting;
mod throwaway;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use mimalloc::MiMalloc;
use operator::NotAudited;
use std::process::ExitCode;
use weir_runtime::telemetry;

/// With the C library's allocator a fifth of what small requests cost is spent on memory.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // These two are other processes in our name: no runtime, no logs of ours.
    match command {
        Command::Engine { dir } => weir_usage::engine::child_main(&dir),
        Command::WithPostgres { command } => throwaway::with_postgres(&command),
        command => match run(command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("weir: {error:#}");
                // Apart from a difference that an audit found.
                if error.is::<NotAudited>() { ExitCode::from(2) } else { ExitCode::FAILURE }
            }
        },
    }
}

#[tokio::main]
async fn run(command: Command) -> anyhow::Result<()> {
    let _traces = telemetry::init("weir")?;
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Ingest(options) => roles::ingest(options).await,
        Command::Aggregator(options) => roles::aggregator(options).await,
        Command::Invoicer(options) => roles::invoicer(options).await,
        Command::Api(options) => roles::api(options).await,
        Command::Migrate(args) => args.run().await,
        Command::CheckConfig => operator::check_config(),
        Command::Organizations(command) => command.run().await,
        Command::Keys(command) => command.run().await,
        Command::Invoice(args) => args.run().await,
        Command::Audit(args) => args.run().await,
        Command::Failures(args) => args.run().await,
        Command::Clock(command) => command.run().await,
        Command::Log(command) => command.run().await,
        Command::Service(command) => command.run().await,
        Command::Floor(command) => command.run().await,
        Command::Engine { .. } | Command::WithPostgres { .. } => Ok(()),
    }
}
