//! `loadtest`: puts load on a server and accounts what it costs; runs Weir's benchmarks.
//!
//! Speaks only wire formats: HTTP, JSON, Prometheus' text, `/proc`. It knows none of our crates, so
//! the same load can be put on any server.

mod api;
mod bench;
mod body;
mod connection;
mod cpu;
mod event;
mod format;
mod latency;
mod load;
mod memory;
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
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Send(args) => send::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
