//! `loadtest bench`: starts `weir up` on a temporary directory, puts load on it, and compares what
//! that costs with the budgets.
//!
//! Costs are processor seconds for a million events: the generator and whatever else the machine
//! does take real time from Weir, but not processor time.

mod catalog;
mod ceiling;
mod dedup;
mod deployment;
mod disk;
mod freshness;
mod idle;
mod ingest;
mod invoices;
mod pipeline;
mod plot;
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
    /// An edge that only parses and appends.
    Ceiling,
    /// The edge and the log alone: the aggregator waits.
    Ingest,
    /// The index of seen ids alone.
    Dedup,
    /// From the POST to the rollups.
    Pipeline,
    /// What an event takes on disk, after `pipeline`.
    Disk,
    /// From `accepted` to the current usage, at half the pipeline's rate.
    Freshness,
    /// Billing many customers at once.
    Invoices,
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
    /// The picture of it.
    #[arg(long, default_value = "docs/performance.svg")]
    plot: PathBuf,
    /// Write table and picture although not all benchmarks are run.
    #[arg(long)]
    write: bool,
    /// Events of `ingest`, for each measurement.
    #[arg(long, default_value_t = 1_000_000)]
    ingest_events: u64,
    /// How often each figure of `ingest` and `usage-read` is measured; the least counts, because
    /// whatever else the machine does only adds.
    #[arg(long, default_value_t = 3)]
    repeat: u64,
    /// Ids of `dedup`.
    #[arg(long, default_value_t = 10_000_000)]
    dedup_ids: u64,
    /// Customers of `invoices`.
    #[arg(long, default_value_t = 10_000)]
    invoice_subscriptions: u64,
    /// Events of `pipeline`.
    #[arg(long, default_value_t = 4_000_000)]
    pipeline_events: u64,
    /// The rate of `freshness`, events a second; half of the pipeline's when absent.
    #[arg(long)]
    freshness_rate: Option<f64>,
    /// How long `freshness` measures.
    #[arg(long, default_value_t = 60)]
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
    /// Processor seconds of parsing and appending alone, for a million events.
    ceiling_cpu: Option<f64>,
    /// Processor seconds of the edge for a million events in batches.
    ingest_cpu: Option<f64>,
    /// Events a second that the whole pipeline keeps up with.
    pipeline_rate: Option<f64>,
    /// Events that the pipeline has counted.
    counted: u64,
}

/// Runs the benchmarks. Errors: Weir does not start, refuses events, or loses one.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    use Benchmark::{Ceiling, Dedup, Disk, Freshness, Idle, Ingest, Invoices, Pipeline, UsageRead};
    let wanted = |which| args.benchmarks.is_empty() || args.benchmarks.contains(&which);
    let mut report = Report::begin();
    let mut known = Known::default();
    if wanted(Idle) {
        idle::run(args, &mut report)?;
    }
    if wanted(Ceiling) {
        ceiling::run(args, &mut known, &mut report)?;
    }
    if wanted(Ingest) {
        ingest::run(args, &mut known, &mut report)?;
    }
    if wanted(Dedup) {
        dedup::run(args, &mut report)?;
    }
    if wanted(Pipeline) || wanted(Disk) || wanted(Freshness) {
        let mut deployment = Deployment::start(args, &[])?;
        catalog::create(&mut deployment)?;
        if wanted(Pipeline) || wanted(Disk) {
            pipeline::run(args, &mut deployment, &mut known, &mut report)?;
        }
        if wanted(Freshness) {
            freshness::run(args, &mut deployment, &known, &mut report)?;
        }
        if wanted(Disk) {
            let events = deployment.metric("aggregator_events_total")? as u64;
            disk::run(&deployment, events.max(known.counted), &mut report)?;
        }
        deployment.stop()?;
    }
    if wanted(Invoices) {
        invoices::run(args, &mut report)?;
    }
    if wanted(UsageRead) {
        usage_read::run(args, &mut report)?;
    }
    print!("\n{}", report.table());
    if args.benchmarks.is_empty() || args.write {
        report.write(&args.table)?;
        plot::write(&args.plot, &report.against_budgets())?;
        println!("\nwritten to {} and {}", args.table.display(), args.plot.display());
    }
    Ok(())
}

/// The usual load: batches of 1,000 over eight connections, dated now.
fn plan(deployment: &Deployment, events: u64) -> anyhow::Result<Plan> {
    plan_for(deployment.url(), Some(deployment.key()), events)
}

fn plan_for(url: &str, key: Option<&str>, events: u64) -> anyhow::Result<Plan> {
    Ok(Plan {
        target: Target::parse(url)?,
        path: None,
        key: key.map(str::to_owned),
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
