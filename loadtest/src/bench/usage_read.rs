//! `usage-read`: current usage of one subscription, with few and with many events stored.

use super::{
    BenchArgs, Deployment, catalog, idle::report_parts, plan, report::Report, settle, step,
};
use crate::{
    body::Subjects,
    event::Times,
    latency::{Latencies, Summary},
    load::{self, Plan, now_us},
    text::grouped,
};
use std::time::Instant;

const BUDGET_RATIO: f64 = 2.0;
const READS: u64 = 1_000;
/// The subscriptions that have all the events: so few that each has usage in nearly all of the
/// month's quarters of an hour already with the few events.
const SUBSCRIPTIONS: u64 = 200;
/// Inserts are over; merges of what was inserted last go on for a moment.
const REST_S: u64 = 10;

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
    deployment.stop()
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
    let filled = load::run(&Plan { times, subjects, ..usual })?;
    deployment.wait_until_counted(from + filled.events)?;
    settle(REST_S);
    let before = deployment.used()?;
    let mut latencies = Latencies::default();
    for read in 0..READS {
        let path = catalog::usage_path(catalog::PREFIX, read * 7 % SUBSCRIPTIONS);
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
