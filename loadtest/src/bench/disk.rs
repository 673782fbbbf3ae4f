//! `disk`: what an event takes when the parts are merged.

use super::{Deployment, report::Report, step};
use anyhow::Context;

const BUDGET_RAW_BYTES: f64 = 45.0;

/// After events have been counted: merges all parts, and measures.
pub fn run(deployment: &Deployment, events: u64, report: &mut Report) -> anyhow::Result<()> {
    step("disk: what an event takes, merged");
    let mut clickhouse = deployment.clickhouse()?;
    let tables = "SELECT name FROM system.tables WHERE database = currentDatabase() \
                  AND engine LIKE '%MergeTree' FORMAT TSV";
    for table in clickhouse.ask("/", tables)?.lines() {
        clickhouse.ask("/", &format!("OPTIMIZE TABLE {table} FINAL"))?;
    }
    // Only active parts: those that were merged away are deleted some minutes later.
    let mut bytes = |condition: &str| -> anyhow::Result<f64> {
        let query = format!(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active \
             AND database = currentDatabase() AND table {condition} FORMAT TSV"
        );
        let answer = clickhouse.ask("/", &query)?;
        answer.trim().parse().with_context(|| format!("{answer} is no number"))
    };
    let each = |bytes: f64| bytes / events as f64;
    let (raw, others) = (each(bytes("= 'events'")?), each(bytes("!= 'events'")?));
    let file = |part| each(deployment.disk_bytes(part) as f64);
    let note = format!(
        "besides: rollups {others:.1}, log {:.1} (released later), index {:.1}",
        file("log"),
        file("index")
    );
    report.at_most_noted("disk: bytes of a raw event", raw, BUDGET_RAW_BYTES, &note);
    Ok(())
}
