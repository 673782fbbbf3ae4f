//! `dedup`: the index of seen ids, alone: memory and processor time for an id, and building it again.

use super::{BenchArgs, report::Report, step};
use crate::{cpu, process, send::per_million, text::grouped};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

const BUDGET_BYTES: f64 = 4.0;
const BUDGET_CPU: f64 = 0.6;
/// For ten millions; for others in proportion.
const BUDGET_REBUILD_S_PER_MILLION: f64 = 1.0;

pub fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let ids = args.dedup_ids;
    step(&format!("dedup: the index alone, with {} ids", grouped(ids)));
    let dir = tempfile::Builder::new().prefix("weir-floor-").tempdir_in("/var/tmp")?;
    let mut command = process::command(process::weir(args.weir.as_deref())?);
    command.args(["__floor", "dedup"]).arg(dir.path().join("index"));
    command.args(["--ids", &ids.to_string()]).env("WEIR_LOG", "warn");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().context("its input")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut next = || -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&lines.next().context("the floor has ended")??)?)
    };
    let filled = next()?;
    let used = cpu::used(&[child.id()])?.since(&cpu::Used::default());
    writeln!(input)?;
    let rebuilt = next()?;
    writeln!(input)?;
    let status = child.wait()?;
    ensure!(status.success(), "the floor ended with {status}");

    let number = |json: &Value, name: &str| json[name].as_f64().context(name.to_owned());
    let bytes = number(&filled, "memory_bytes")? / ids as f64;
    report.at_most("dedup: bytes of memory for an id", bytes, BUDGET_BYTES);
    let cpu = per_million(used.roots, ids);
    report.at_most("dedup: CPU-s per million fresh ids", cpu, BUDGET_CPU);
    let millions = ids as f64 / 1e6;
    let name = format!("dedup: s to build {} ids again, the index alone", grouped(ids));
    let budget = BUDGET_REBUILD_S_PER_MILLION * millions;
    report.at_most(&name, number(&rebuilt, "seconds")?, budget);
    Ok(())
}
