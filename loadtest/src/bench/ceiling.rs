//! `ceiling`: what an edge would cost that only parses and appends: the share that no idea can save.

use super::{BenchArgs, Known, plan_for, report::Report, step};
use crate::{
    api::Api,
    cpu,
    load::{self, Plan, now_us},
    process::{self, Process, free_address},
    send::per_million,
};
use anyhow::ensure;
use std::time::{Duration, Instant};

/// It has nothing to start but the log.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
const WARM_UP_EVENTS: u64 = 200_000;

pub fn run(args: &BenchArgs, known: &mut Known, report: &mut Report) -> anyhow::Result<()> {
    step("ceiling: parse and append, and nothing else");
    let dir = tempfile::Builder::new().prefix("weir-floor-").tempdir_in("/var/tmp")?;
    let listen = free_address()?;
    let mut command = process::command(process::weir(args.weir.as_deref())?);
    command.args(["__floor", "edge"]).arg(dir.path().join("log"));
    command.args(["--listen", &listen.to_string()]).env("WEIR_LOG", "warn");
    let mut process = Process::start(command, dir.path().join("floor.log"))?;
    let url = format!("http://{listen}");
    let deadline = Instant::now() + START_TIMEOUT;
    while Api::new(&url, None)?.get("/healthz").is_err() {
        let ended = process.ended()?;
        let in_time = ended.is_none() && Instant::now() < deadline;
        ensure!(in_time, "the floor does not start ({ended:?}):\n{}", process.last_words());
        std::thread::sleep(POLL);
    }
    let plan = plan_for(&url, None, args.ingest_events)?;
    load::run(&Plan { events: WARM_UP_EVENTS.min(args.ingest_events), ..plan.clone() })?;
    let mut least = f64::INFINITY;
    for _ in 0..args.repeat.max(1) {
        let before = cpu::used(&[process.pid()])?;
        let fresh = Plan { run: now_us().unsigned_abs(), ..plan.clone() };
        let mut outcome = load::run(&fresh)?;
        let spent = cpu::used(&[process.pid()])?.since(&before);
        print!("{}", crate::send::report(&mut outcome, &spent));
        least = least.min(per_million(spent.roots, outcome.events));
    }
    known.ceiling_cpu = Some(least);
    report.noted("ceiling: parse and append alone: CPU-s per million", least, "");
    Ok(())
}
