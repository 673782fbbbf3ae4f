//! `freshness`: how long an accepted event takes to be in its subscription's current usage.

use super::{
    BenchArgs, Deployment, Known, catalog, idle::report_parts, plan, report::Report, step,
};
use crate::{
    api::Api,
    cpu::Machine,
    latency::Latencies,
    load::{self, Plan, now_us},
};
use anyhow::{Context, bail, ensure};
use serde_json::json;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const BUDGET_P99_S: f64 = 1.0;
/// The resolution; each look costs a query.
const POLL: Duration = Duration::from_millis(50);
/// An event that is not seen for so long is lost.
const LOST: Duration = Duration::from_secs(60);
/// Finds the pipeline's rate where it has not been measured.
const RATE_EVENTS: u64 = 2_000_000;

pub fn run(
    args: &BenchArgs,
    deployment: &mut Deployment,
    known: &Known,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rate = match args.freshness_rate.or(known.pipeline_rate.map(|rate| rate / 2.0)) {
        Some(rate) => rate,
        None => pipeline_rate(deployment)? / 2.0,
    };
    step(&format!("freshness: from accepted to visible, at {rate:.0} events/s"));
    let events = (rate * args.freshness_s as f64) as u64;
    let load = Plan { rate: Some(rate), ..plan(deployment, events)? };
    let (before, begun) = (deployment.used()?, Machine::now());
    let (done, client) = (AtomicBool::new(false), deployment.client()?);
    // One probe: whoever looks takes processor time from what is looked at.
    let (outcome, mut latencies) = std::thread::scope(|scope| {
        let probe = scope.spawn(|| probe(client, &done));
        let outcome = load::run(&load);
        done.store(true, Ordering::Relaxed);
        match probe.join() {
            Ok(latencies) => Ok((outcome?, latencies?)),
            Err(_) => bail!("the probe panicked"),
        }
    })?;
    let spent = deployment.used()?.since(&before);
    let summary = latencies.summary();
    println!(
        "  {} probes: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms, beside {:.0} events/s",
        latencies.len(),
        summary.p50.as_secs_f64() * 1e3,
        summary.p99.as_secs_f64() * 1e3,
        summary.max.as_secs_f64() * 1e3,
        outcome.rate()
    );
    let note = format!(
        "p50 {:.2} s, {} probes beside {:.0} events/s; cores: {}; the host took {:.0} %",
        summary.p50.as_secs_f64(),
        latencies.len(),
        outcome.rate(),
        report_parts(&spent, outcome.elapsed.as_secs_f64()),
        Machine::now().stolen_since(begun)
    );
    let name = "freshness: s from accepted to visible, p99";
    report.at_most_noted(name, summary.p99.as_secs_f64(), BUDGET_P99_S, &note);
    Ok(())
}

fn pipeline_rate(deployment: &mut Deployment) -> anyhow::Result<f64> {
    let counted = deployment.metric("aggregator_events_total")? as u64;
    let begun = Instant::now();
    let outcome = load::run(&plan(deployment, RATE_EVENTS)?)?;
    deployment.wait_until_counted(counted + outcome.events)?;
    Ok(outcome.events as f64 / begun.elapsed().as_secs_f64())
}

/// One event after the other, each until it is seen.
fn probe(mut api: Api, done: &AtomicBool) -> anyhow::Result<Latencies> {
    let path = catalog::usage_path(catalog::PROBE);
    let count = |api: &mut Api| catalog::events_of(&api.get(&path)?);
    let mut latencies = Latencies::default();
    let mut seen = count(&mut api)?;
    while !done.load(Ordering::Relaxed) {
        let event = json!({
            "transactionId": format!("probe-{}", now_us()),
            "externalSubscriptionId": catalog::external_id(catalog::PROBE),
            "code": catalog::EVENT_CODE,
            "properties": { "input_tokens": 1, "output_tokens": 1 },
        });
        let answer = api.post("/api/billing/v2/events", &event)?;
        ensure!(answer["status"] == "accepted", "a probe was answered {answer}");
        let accepted = Instant::now();
        while count(&mut api).context("looking for a probe")? == seen {
            ensure!(accepted.elapsed() < LOST, "an accepted event is not in usage after {LOST:?}");
            std::thread::sleep(POLL);
        }
        latencies.add(accepted.elapsed());
        seen += 1;
    }
    Ok(latencies)
}
