//! `usage-read`: current usage of one subscription, with few and with many events stored.

use super::{BenchArgs, Deployment, catalog, idle::report_parts, plan, report::Report, step};
use crate::{
    body::Subjects,
    cpu::{Machine, Used},
    event::Times,
    latency::{Latencies, Summary},
    load::{self, Plan, now_us},
    text::grouped,
};
use anyhow::Context;
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
    let (few, many) = (args.read_events_few, args.read_events_many);
    fill(&mut deployment, 0, few)?;
    let at_few = least(&mut deployment, args.repeat, few, report)?;
    fill(&mut deployment, few, many)?;
    let at_many = least(&mut deployment, args.repeat, many, report)?;
    let seconds = |summary: Summary| summary.p99.as_secs_f64().max(1e-6);
    let name = format!("usage-read: p99 at {} events / p99 at {}", grouped(many), grouped(few));
    report.at_most(&name, seconds(at_many) / seconds(at_few), BUDGET_RATIO);
    rebuild(&mut deployment, many, report)?;
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

/// Stores events, dated over the month so far, until there are `to`.
fn fill(deployment: &mut Deployment, from: u64, to: u64) -> anyhow::Result<()> {
    step(&format!("usage-read: with {} events", grouped(to)));
    let now = now_us();
    let usual = plan(deployment, to - from)?;
    let times =
        Times::Spread { from_us: catalog::month_start_us(now), to_us: now, events: to - from };
    let subjects = Subjects { count: SUBSCRIPTIONS, ..usual.subjects.clone() };
    let filled = load::run(&Plan { times, subjects, batch: BATCH, ..usual })?;
    deployment.wait_until_counted(from + filled.events)?;
    deployment.wait_until_quiet()
}

/// Reads several times over and reports the round with the least p99: a host that takes the
/// processor away for a second makes ten reads slow, and p99 is the tenth slowest of them.
fn least(
    deployment: &mut Deployment,
    repeat: u64,
    events: u64,
    report: &mut Report,
) -> anyhow::Result<Summary> {
    let rounds =
        (0..repeat.max(1)).map(|_| read(deployment)).collect::<anyhow::Result<Vec<_>>>()?;
    let least = rounds.into_iter().min_by_key(|(summary, _)| summary.p99);
    let (summary, note) = least.context("no reads")?;
    let name = format!("usage-read: ms at {} events, p99", grouped(events));
    let note = format!("p50 {:.1} ms; {note}", summary.p50.as_secs_f64() * 1e3);
    report.noted(&name, summary.p99.as_secs_f64() * 1e3, &note);
    Ok(summary)
}

/// One round of reads, and what they cost.
fn read(deployment: &mut Deployment) -> anyhow::Result<(Summary, String)> {
    let (before, begun) = (deployment.used()?, Machine::now());
    let mut latencies = Latencies::default();
    for read in 0..READS {
        let path = catalog::usage_path(read * 7 % SUBSCRIPTIONS);
        let asked = Instant::now();
        deployment.api.get(&path)?;
        latencies.add(asked.elapsed());
    }
    let parts = report_parts(&deployment.used()?.since(&before), READS as f64 / 1e3);
    let stolen = Machine::now().stolen_since(begun);
    let (summary, note) =
        (latencies.summary(), format!("CPU-ms a read: {parts}; the host took {stolen:.0} %"));
    println!("  {summary}; {note}");
    Ok((summary, note))
}
