//! `usage-read`: current usage of one subscription, with few and with many events stored.

use super::{BenchArgs, Deployment, catalog, idle::report_parts, plan, report::Report, step};
use crate::{
    body::Subjects,
    cpu::Used,
    event::Times,
    latency::{Latencies, Summary},
    load::{self, Plan, now_us},
    text::grouped,
};
use std::time::Instant;

const BUDGET_RATIO: f64 = 2.0;
/// Of the index of seen ids: bytes of memory for an id; ten seconds for ten million.
const BUDGET_ID: f64 = 4.0;
const BUDGET_REBUILD_S_PER_MILLION: f64 = 1.0;
/// Events of a request: as few requests as the contract allows bodies.
const BATCH: usize = 5_000;
const READS: u64 = 1_000;
/// The subscriptions that have all the events: so few that each has usage in nearly all of the
/// month's quarters of an hour already with the few events.
const SUBSCRIPTIONS: u64 = 200;

pub fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let mut deployment = Deployment::start(args, &[])?;
    catalog::create(&mut deployment)?;
    let few = fill_and_read(&mut deployment, 0, args.read_events_few, report)?;
    let many = fill_and_read(&mut deployment, args.read_events_few, args.read_events_many, report)?;
    let seconds = |summary: Summary| summary.p99.as_secs_f64().max(1e-6);
    let name = format!(
        "usage-read: p99 at {} events / p99 at {}",
        grouped(args.read_events_many),
        grouped(args.read_events_few)
    );
    report.at_most(&name, seconds(many) / seconds(few), BUDGET_RATIO);
    rebuild(&mut deployment, args.read_events_many, report)?;
    deployment.stop()
}

/// The index of seen ids is lost, and built again from ClickHouse.
fn rebuild(deployment: &mut Deployment, ids: u64, report: &mut Report) -> anyhow::Result<()> {
    step("dedup: the index is lost");
    let known = deployment.metric("aggregator_dedup_ids")?;
    let bytes = deployment.metric("aggregator_dedup_memory_bytes")? / known.max(1.0);
    report.at_most("dedup: bytes of memory for an id, in a running deployment", bytes, BUDGET_ID);
    // It is built before anybody is told that the deployment is ready: so a start is counted with it.
    let started = deployment.restart_without_index()?;
    deployment.wait_for("aggregator_dedup_ids", known as u64)?;
    let seconds = started.elapsed().as_secs_f64();
    let spent = deployment.used()?.since(&Used::default());
    // Ten seconds for fewer ids too: the start alone takes some.
    let budget = BUDGET_REBUILD_S_PER_MILLION * (ids as f64 / 1e6).max(10.0);
    let name = format!("dedup: s to start and build {} ids again from ClickHouse", grouped(ids));
    let parts = report_parts(&spent, ids as f64 / 1e6);
    report.at_most_noted(&name, seconds, budget, &format!("CPU-s per million: {parts}"));
    Ok(())
}

/// Stores events, dated over the month so far, until there are `to`, and reads.
fn fill_and_read(
    deployment: &mut Deployment,
    from: u64,
    to: u64,
    report: &mut Report,
) -> anyhow::Result<Summary> {
    step(&format!("usage-read: with {} events", grouped(to)));
    let now = now_us();
    let usual = plan(deployment, to - from)?;
    let times =
        Times::Spread { from_us: catalog::month_start_us(now), to_us: now, events: to - from };
    let subjects = Subjects { count: SUBSCRIPTIONS, ..usual.subjects.clone() };
    let filled = load::run(&Plan { times, subjects, batch: BATCH, ..usual })?;
    deployment.wait_until_counted(from + filled.events)?;
    deployment.wait_until_quiet()?;
    let before = deployment.used()?;
    let mut latencies = Latencies::default();
    for read in 0..READS {
        let path = catalog::usage_path(read * 7 % SUBSCRIPTIONS);
        let begun = Instant::now();
        deployment.api.get(&path)?;
        latencies.add(begun.elapsed());
    }
    let spent = deployment.used()?.since(&before);
    let summary = latencies.summary();
    println!("  {summary}; {:.2} CPU-ms a read", spent.total() / READS as f64 * 1e3);
    let name = format!("usage-read: ms at {} events, p99", grouped(to));
    let note = format!(
        "p50 {:.1} ms; CPU-ms a read: {}",
        summary.p50.as_secs_f64() * 1e3,
        report_parts(&spent, READS as f64 / 1e3)
    );
    report.noted(&name, summary.p99.as_secs_f64() * 1e3, &note);
    Ok(summary)
}
