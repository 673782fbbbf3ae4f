//! `idle`: what a deployment takes that does nothing.

use super::{BenchArgs, Deployment, report::Report, settle, step};
use crate::memory;

const BUDGET_MEGABYTES: f64 = 500.0;
/// Long enough that what starts has started, and the background shows.
const REST_S: u64 = 20;

pub fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    step("idle: a fresh deployment at rest");
    let deployment = Deployment::start(args, &[])?;
    settle(REST_S);
    let before = deployment.used()?;
    settle(REST_S);
    let spent = deployment.used()?.since(&before);
    let used = memory::used(&[deployment.pid()])?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let resident = megabytes(used.values().map(|memory| memory.resident).sum());
    let proportional = megabytes(used.values().map(|memory| memory.proportional).sum());
    let parts: Vec<String> = used
        .iter()
        .map(|(name, memory)| format!("{name} {:.0}", megabytes(memory.proportional)))
        .collect();
    // Postgres' processes share most of their pages: the sum of what each has resident counts the
    // same memory again and again.
    let note = format!("{}; {resident:.0} as the sum of all RSS", parts.join(", "));
    let name = "idle: MB of memory, each page counted once";
    report.at_most_noted(name, proportional, BUDGET_MEGABYTES, &note);
    let share = spent.total() / REST_S as f64 * 100.0;
    report.noted("idle: % of one core", share, &report_parts(&spent, REST_S as f64 / 100.0));
    deployment.stop()
}

/// The parts of a sum of processor time, each divided by `unit`.
pub fn report_parts(spent: &crate::cpu::Spent, unit: f64) -> String {
    let parts = spent.parts.iter().filter(|(_, seconds)| *seconds > 0.0);
    let parts: Vec<_> =
        parts.map(|(name, seconds)| format!("{name} {:.2}", seconds / unit)).collect();
    parts.join(", ")
}
