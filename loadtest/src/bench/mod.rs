//! `loadtest bench`: starts `weir up` on a temporary directory, puts load on it, and compares what
//! that costs with the budgets.
//!
//! Costs are processor seconds for a million events: the generator and whatever else the machine
//! does take real time from Weir, but not processor time.

mod catalog;
mod deployment;
mod freshness;
mod idle;
mod ingest;
mod pipeline;
mod report;
mod usage_read;

use crate::{
    body::Subjects,
    connection::{Protocol, Target},
    event::Times,
    format::Format,
    load::{Encoding, Plan, now_us},
};
use deployment::Deployment;
use report::Report;
use std::{path::PathBuf, time::Duration};

/// Which benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Benchmark {
    /// Memory of a deployment that does nothing.
    Idle,
    /// The edge and the log alone: the aggregator waits.
    Ingest,
    /// From the POST to the rollups.
    Pipeline,
    /// From `accepted` to the current usage, at half the pipeline's rate.
    Freshness,
    /// Reading a subscription's current usage, with few and with many events.
    UsageRead,
}

/// Options of `loadtest bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Which; all, and the table is written, when none is named.
    #[arg(value_enum)]
    benchmarks: Vec<Benchmark>,
    /// The program; the `weir` beside this one when absent.
    #[arg(long)]
    weir: Option<PathBuf>,
    /// The document whose table is written.
    #[arg(long, default_value = "docs/performance.md")]
    table: PathBuf,
    /// Events of `ingest`, for each measurement.
    #[arg(long, default_value_t = 1_000_000)]
    ingest_events: u64,
    /// How often each figure of `ingest` is measured; the least counts, because whatever else the
    /// machine does only adds.
    #[arg(long, default_value_t = 3)]
    repeat: u64,
    /// Events of `pipeline`.
    #[arg(long, default_value_t = 4_000_000)]
    pipeline_events: u64,
    /// The rate of `freshness`, events a second; half of the pipeline's when absent.
    #[arg(long)]
    freshness_rate: Option<f64>,
    /// How long `freshness` measures.
    #[arg(long, default_value_t = 30)]
    freshness_s: u64,
    /// The few events of `usage-read`.
    #[arg(long, default_value_t = 1_000_000)]
    read_events_few: u64,
    /// The many events of `usage-read`.
    #[arg(long, default_value_t = 10_000_000)]
    read_events_many: u64,
    /// Keep the deployments' directories.
    #[arg(long)]
    keep: bool,
}

/// What one benchmark leaves for the next.
#[derive(Debug, Default)]
struct Known {
    /// Processor seconds of the edge for a million events in batches.
    ingest_cpu: Option<f64>,
    /// Events a second that the whole pipeline keeps up with.
    pipeline_rate: Option<f64>,
}

/// Runs the benchmarks. Errors: Weir does not start, refuses events, or loses one.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    use Benchmark::{Freshness, Idle, Ingest, Pipeline, UsageRead};
    let wanted = |which| args.benchmarks.is_empty() || args.benchmarks.contains(&which);
    let mut report = Report::default();
    let mut known = Known::default();
    if wanted(Idle) {
        idle::run(args, &mut report)?;
    }
    if wanted(Ingest) {
        ingest::run(args, &mut known, &mut report)?;
    }
    if wanted(Pipeline) || wanted(Freshness) {
        let mut deployment = Deployment::start(args, &[])?;
        catalog::create(&mut deployment)?;
        if wanted(Pipeline) {
            pipeline::run(args, &mut deployment, &mut known, &mut report)?;
        }
        if wanted(Freshness) {
            freshness::run(args, &mut deployment, &known, &mut report)?;
        }
        deployment.stop()?;
    }
    if wanted(UsageRead) {
        usage_read::run(args, &mut report)?;
    }
    print!("\n{}", report.table());
    if args.benchmarks.is_empty() {
        report.write(&args.table)?;
        println!("\nwritten to {}", args.table.display());
    }
    Ok(())
}

/// The usual load: batches of 1,000 over eight connections, dated now.
fn plan(deployment: &Deployment, events: u64) -> anyhow::Result<Plan> {
    Ok(Plan {
        target: Target::parse(deployment.url())?,
        path: None,
        key: Some(deployment.key().to_owned()),
        format: Format::Weir,
        protocol: Protocol::Http1,
        encoding: Encoding::Identity,
        batch: 1_000,
        connections: 8,
        streams: 1,
        threads: 1,
        events,
        rate: None,
        subjects: Subjects {
            prefix: catalog::PREFIX.to_owned(),
            count: catalog::SUBSCRIPTIONS,
            code: catalog::EVENT_CODE.to_owned(),
        },
        run: now_us().unsigned_abs(),
        times: Times::Now,
    })
}

/// Prints where we are.
fn step(what: &str) {
    println!("\n{what}");
}

/// Lets a deployment come to rest.
fn settle(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}
