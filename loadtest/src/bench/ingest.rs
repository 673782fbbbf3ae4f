//! `ingest`: the edge and the log alone.
//!
//! The aggregator takes one chunk of each partition and then waits for longer than the benchmark
//! lasts, so that the processor time of `weir up` is that of the edge.

use super::{
    BenchArgs, Deployment, Known, catalog, idle::report_parts, plan, report::Report, step,
};
use crate::{
    connection::Protocol,
    load::{self, Encoding, Plan, now_us},
    send::per_million,
};
use anyhow::ensure;

const BUDGET_BATCHES: f64 = 1.0;
/// Of what parsing and appending alone would take, the rest is for answers, checks and verdicts.
const BUDGET_SHARE: f64 = 60.0;
const BUDGET_SINGLE: f64 = 12.0;
/// Fills pools, tables and the aggregator's one chunk.
const WARM_UP_EVENTS: u64 = 200_000;
/// Events that are sent one by one: some ten seconds of them.
const SINGLE_EVENTS: u64 = 300_000;
const SINGLE_CONNECTIONS: usize = 64;
const ENVIRONMENT: [(&str, &str); 3] = [
    ("AGGREGATOR__CHUNK__INTERVAL_MS", "3600000"),
    ("AGGREGATOR__CHUNK__INTERVAL_MAX_MS", "3600000"),
    // The edge remembers what the aggregator has not taken: all of it here.
    ("INGEST__RECENT__UNCOVERED_IDS_MAX", "30000000"),
];

pub fn run(args: &BenchArgs, known: &mut Known, report: &mut Report) -> anyhow::Result<()> {
    step("ingest: the edge and the log, with an aggregator that waits");
    let mut deployment = Deployment::start(args, &ENVIRONMENT)?;
    catalog::create(&mut deployment)?;
    load::run(&plan(&deployment, WARM_UP_EVENTS)?)?;
    let counted = deployment.metric("aggregator_events_total")?;

    let batches = plan(&deployment, args.ingest_events)?;
    let measure = |report: &mut Report, name: &str, budget, plan: &Plan| {
        least(&deployment, plan, args.repeat, report, &format!("ingest: {name}"), budget)
    };
    let cpu = measure(report, "batches of 1,000", Some(BUDGET_BATCHES), &batches)?;
    known.ingest_cpu = Some(cpu);
    if let Some(ceiling) = known.ceiling_cpu {
        let share = ceiling / cpu * 100.0;
        let name = "ingest: % of the rate of parse and append alone, batches of 1,000";
        report.at_least_noted(name, share, BUDGET_SHARE, "by processor time");
    }
    let events = args.ingest_events.min(SINGLE_EVENTS);
    let some = Plan { events, ..batches };
    let zstd = Plan { encoding: Encoding::Zstd, ..some.clone() };
    measure(report, "batches of 1,000, zstd", None, &zstd)?;
    measure(report, "batches of 100", None, &Plan { batch: 100, ..some.clone() })?;
    let single = Plan { batch: 1, connections: SINGLE_CONNECTIONS, ..some };
    measure(report, "one event a request, 64 connections", Some(BUDGET_SINGLE), &single)?;
    let streams = Plan {
        protocol: Protocol::Http2,
        connections: 4,
        streams: SINGLE_CONNECTIONS / 4,
        ..single
    };
    measure(report, "one event a request, HTTP/2, 4 × 16 streams", None, &streams)?;

    let later = deployment.metric("aggregator_events_total")?;
    ensure!(
        later <= counted.max(WARM_UP_EVENTS as f64),
        "the aggregator did not wait: {later} events"
    );
    deployment.stop()
}

/// The least of several measurements, in processor seconds of the edge for a million events.
fn least(
    deployment: &Deployment,
    plan: &Plan,
    repeat: u64,
    report: &mut Report,
    name: &str,
    budget: Option<f64>,
) -> anyhow::Result<f64> {
    println!("  {name}");
    let mut best: Option<(f64, String)> = None;
    for _ in 0..repeat.max(1) {
        let fresh = Plan { run: now_us().unsigned_abs(), ..plan.clone() };
        let (cpu, note) = measure(deployment, &fresh)?;
        if best.as_ref().is_none_or(|(least, _)| cpu < *least) {
            best = Some((cpu, note));
        }
    }
    let (cpu, note) = best.unwrap_or_default();
    let name = format!("{name}: CPU-s per million");
    match budget {
        Some(budget) => report.at_most_noted(&name, cpu, budget, &note),
        None => report.noted(&name, cpu, &note),
    }
    Ok(cpu)
}

/// Processor seconds of the edge for a million events, and what else there is to say.
fn measure(deployment: &Deployment, plan: &Plan) -> anyhow::Result<(f64, String)> {
    let before = deployment.used()?;
    let mut outcome = load::run(plan)?;
    let spent = deployment.used()?.since(&before);
    print!("{}", crate::send::report(&mut outcome, &spent));
    let unit = outcome.events as f64 / 1e6;
    let note = format!(
        "{}; generator {:.2}; {}",
        report_parts(&spent, unit),
        outcome.own_cpu / unit,
        outcome.latencies.summary()
    );
    Ok((per_million(spent.roots, outcome.events), note))
}
