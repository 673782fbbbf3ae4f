//! `ingest`: the edge and the log alone.
//!
//! The aggregator takes one chunk of each partition and then waits for longer than the benchmark
//! lasts, so that the processor time of `weir up` is that of the edge.

use super::{
    BenchArgs, Deployment, Known, catalog, idle::report_parts, plan, report::Report, step,
};
use crate::{
    connection::Protocol,
    load::{self, Encoding, Plan},
    send::per_million,
};
use anyhow::ensure;

const WEIR: &str = "weir up";
const BUDGET_BATCHES: f64 = 1.0;
const BUDGET_SINGLE: f64 = 12.0;
/// Fills pools, tables and the aggregator's one chunk.
const WARM_UP_EVENTS: u64 = 200_000;
/// Events that are sent one by one: some ten seconds of them.
const SINGLE_EVENTS: u64 = 300_000;
const SINGLE_CONNECTIONS: usize = 64;
const AGGREGATOR_WAITS: [(&str, &str); 1] = [("AGGREGATOR__CHUNK__INTERVAL_MS", "3600000")];

pub fn run(args: &BenchArgs, known: &mut Known, report: &mut Report) -> anyhow::Result<()> {
    step("ingest: the edge and the log, with an aggregator that waits");
    let mut deployment = Deployment::start(args, &AGGREGATOR_WAITS)?;
    catalog::create(&mut deployment)?;
    load::run(&plan(&deployment, WARM_UP_EVENTS)?)?;
    let counted = deployment.metric("aggregator_events_total")?;

    let batches = plan(&deployment, args.ingest_events)?;
    let cpu =
        measure(&deployment, &batches, report, "ingest: batches of 1,000", Some(BUDGET_BATCHES))?;
    known.ingest_cpu = Some(cpu);
    let some = Plan { events: args.ingest_events.min(SINGLE_EVENTS), ..plan(&deployment, 0)? };
    let zstd = Plan { encoding: Encoding::Zstd, run: some.run + 1, ..some.clone() };
    measure(&deployment, &zstd, report, "ingest: batches of 1,000, zstd", None)?;
    let small = Plan { batch: 100, run: some.run + 2, ..some.clone() };
    measure(&deployment, &small, report, "ingest: batches of 100", None)?;
    let single = Plan { batch: 1, connections: SINGLE_CONNECTIONS, run: some.run + 3, ..some };
    let name = "ingest: one event a request, 64 connections";
    measure(&deployment, &single, report, name, Some(BUDGET_SINGLE))?;
    let streams = Plan {
        protocol: Protocol::Http2,
        connections: 4,
        streams: SINGLE_CONNECTIONS / 4,
        run: single.run + 1,
        ..single
    };
    let name = "ingest: one event a request, HTTP/2, 4 × 16 streams";
    measure(&deployment, &streams, report, name, None)?;

    let later = deployment.metric("aggregator_events_total")?;
    ensure!(
        later <= counted.max(WARM_UP_EVENTS as f64),
        "the aggregator did not wait: {later} events"
    );
    deployment.stop()
}

/// Processor seconds of the edge for a million events.
fn measure(
    deployment: &Deployment,
    plan: &Plan,
    report: &mut Report,
    name: &str,
    budget: Option<f64>,
) -> anyhow::Result<f64> {
    let before = deployment.used()?;
    let mut outcome = load::run(plan)?;
    let spent = deployment.used()?.since(&before);
    print!("  {name}\n{}", crate::send::report(&mut outcome, &spent));
    let cpu = per_million(spent.of(WEIR), outcome.events);
    let name = format!("{name}: CPU-s per million");
    let unit = outcome.events as f64 / 1e6;
    let parts = format!(
        "{}; generator {:.2}; {}",
        report_parts(&spent, unit),
        outcome.own_cpu / unit,
        outcome.latencies.summary()
    );
    match budget {
        Some(budget) => report.at_most_noted(&name, cpu, budget, &parts),
        None => report.noted(&name, cpu, &parts),
    }
    Ok(cpu)
}
