//! `loadtest`: puts load on a server and accounts what it costs; runs Weir's benchmarks; breaks what
//! can break and recounts.
//!
//! Speaks only wire formats: HTTP, JSON, Prometheus' text, `/proc`. It knows none of our crates, so
//! the same load can be put on any server.

mod api;
mod bench;
mod body;
pub mod chaos;
mod connection;
mod cpu;
mod event;
mod format;
mod latency;
mod load;
mod memory;
mod process;
mod send;
mod text;

use clap::Parser;
use std::process::ExitCode;

/// Put load on a server and account what it costs.
#[derive(Debug, Parser)]
#[command(version, about)]
enum Command {
    /// Send events to a server that runs, and account the processor time of its processes.
    Send(send::SendArgs),
    /// Run Weir's benchmarks against their budgets.
    Bench(bench::BenchArgs),
    /// Kill, pause and fill what Weir runs on, under load, and recount every event.
    Chaos(chaos::ChaosArgs),
}

/// Runs what the command line says. The status is 1 when something differs or fails.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Send(args) => send::run(&args).map(|()| true),
        Command::Bench(args) => bench::run(&args).map(|()| true),
        Command::Chaos(args) => chaos::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
