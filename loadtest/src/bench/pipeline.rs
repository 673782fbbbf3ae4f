//! `pipeline`: from the POST to the rollups, as fast as it is taken.

use super::{
    BenchArgs, Deployment, Known, catalog, idle::report_parts, plan, report::Report, step,
};
use crate::{load, send::per_million};
use std::time::Instant;

const BUDGET_AGGREGATOR: f64 = 2.0;
/// Fills pools, tables and parts.
const WARM_UP_EVENTS: u64 = 200_000;

pub fn run(
    args: &BenchArgs,
    deployment: &mut Deployment,
    known: &mut Known,
    report: &mut Report,
) -> anyhow::Result<()> {
    step("pipeline: from the POST to the rollups");
    let warm_up = load::run(&plan(deployment, WARM_UP_EVENTS)?)?.events;
    deployment.wait_until_counted(warm_up)?;
    let chunks_before = deployment.metric("aggregator_chunks_total")?;

    let before = deployment.used()?;
    let begun = Instant::now();
    let mut outcome = load::run(&plan(deployment, args.pipeline_events)?)?;
    let accepted = Instant::now();
    deployment.wait_until_counted(warm_up + outcome.events)?;
    let (took, lag) = (begun.elapsed(), accepted.elapsed());
    let spent = deployment.used()?.since(&before);
    print!("{}", crate::send::report(&mut outcome, &spent));

    let chunks = deployment.metric("aggregator_chunks_total")? - chunks_before;
    catalog::check_counts(deployment, warm_up + outcome.events)?;
    println!("  every event is in the usage of its subscription");
    let rate = outcome.events as f64 / took.as_secs_f64();
    known.pipeline_rate = Some(rate);

    let total = per_million(spent.total(), outcome.events);
    let parts = report_parts(&spent, outcome.events as f64 / 1e6);
    report.noted("pipeline: CPU-s per million, everything", total, &parts);
    if let Some(ingest) = known.ingest_cpu {
        let name = "pipeline: the same without the edge (aggregator, engine, Postgres)";
        report.at_most(name, total - ingest, BUDGET_AGGREGATOR);
    }
    report.noted("pipeline: events of a chunk", outcome.events as f64 / chunks.max(1.0), "");
    report.noted("pipeline: events/s beside the generator", rate, "real time, on a shared machine");
    report.noted("pipeline: s from the last answer to the last rollup", lag.as_secs_f64(), "");
    known.counted = warm_up + outcome.events;
    Ok(())
}
