//! A `weir up` of our own, on a directory that is removed afterwards.

use super::BenchArgs;
use crate::{
    api::{Api, metric},
    cpu::{self, Used},
    process::{self, Process, free_address},
};
use anyhow::{Context, bail, ensure};
use http::{HeaderName, header};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Engine, Postgres and migrations start cold in some seconds.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests under way, a checkpoint, the engine's end.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// An aggregator that counts nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// How often the aggregator's count is read: a render of all metrics takes well under 1 ms.
const POLL: Duration = Duration::from_millis(50);
/// Quiet is what uses less than so much of a core for so long; at rest it is a fortieth.
const QUIET_CORES: f64 = 0.1;
const QUIET_LOOK: Duration = Duration::from_secs(5);
/// The merges of 50 million events take a minute or two.
const QUIET_MAX: Duration = Duration::from_secs(600);

/// The deployment, running.
pub struct Deployment {
    weir: PathBuf,
    environment: Vec<(String, String)>,
    listen: SocketAddr,
    metrics_listen: SocketAddr,
    process: Process,
    url: String,
    key: String,
    /// With the deployment's key.
    pub api: Api,
    metrics: Api,
    // Behind the process, which works in it.
    data: Data,
}

/// Removed at the end, unless it shall be kept.
struct Data {
    path: PathBuf,
    keep: bool,
}

impl Drop for Data {
    fn drop(&mut self) {
        if self.keep {
            println!("  kept: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("loadtest: {} is not removed: {error}", self.path.display());
        }
    }
}

impl Deployment {
    /// Starts `weir up` with these variables besides the usual ones and waits until it is ready.
    pub fn start(args: &BenchArgs, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let weir = process::weir(args.weir.as_deref())?;
        let data = Data { path: process::directory("weir-bench-")?, keep: args.keep };
        let (listen, metrics_listen) = (free_address()?, free_address()?);
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (own(name), own(value))).collect();
        let url = format!("http://{listen}");
        let mut deployment = Self {
            process: launch(&weir, &data.path, &environment, [listen, metrics_listen])?,
            weir,
            environment,
            listen,
            metrics_listen,
            api: Api::new(&url, None)?,
            metrics: Api::new(&format!("http://{metrics_listen}"), None)?,
            url,
            key: String::new(),
            data,
        };
        deployment.wait_until_ready()?;
        let key = deployment.operator(&["keys", "create", "--name", "loadtest"])?;
        deployment.key = key.trim().to_owned();
        deployment.api = deployment.client()?;
        Ok(deployment)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// The process whose children are the rest of the deployment.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Another client with the deployment's key.
    pub fn client(&self) -> anyhow::Result<Api> {
        Api::new(&self.url, Some(&self.key))
    }

    /// A client of its ClickHouse.
    pub fn clickhouse(&self) -> anyhow::Result<Api> {
        let text = fs::read(self.data.path.join("connections.json"))?;
        let json: Value = serde_json::from_slice(&text)?;
        let of = |name: &str| {
            let text = json["clickhouse"][name].as_str().map(str::to_owned);
            text.with_context(|| format!("no {name} in connections.json"))
        };
        let name = HeaderName::from_static;
        let headers = vec![
            (name("x-clickhouse-user"), of("clickhouse_user")?),
            (name("x-clickhouse-key"), of("clickhouse_password")?),
            (name("x-clickhouse-database"), of("clickhouse_database")?),
            (header::CONTENT_TYPE, "text/plain".to_owned()),
        ];
        Api::with_headers(&of("clickhouse_url")?, headers)
    }

    /// The processor time used so far.
    pub fn used(&self) -> anyhow::Result<Used> {
        cpu::used(&[self.pid()])
    }

    /// The sum of a metric over its labels.
    pub fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        Ok(metric(&self.metrics.get("/metrics")?, name, ""))
    }

    /// Waits until it does next to nothing: what was inserted is merged. Errors: it never does.
    pub fn wait_until_quiet(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let before = self.used()?;
            std::thread::sleep(QUIET_LOOK);
            let used = self.used()?.since(&before).total();
            if used <= QUIET_CORES * QUIET_LOOK.as_secs_f64() {
                return Ok(());
            }
            ensure!(begun.elapsed() < QUIET_MAX, "it is still busy after {QUIET_MAX:?}");
        }
    }

    /// Waits until so many events in all are in the rollups. Errors: no progress for a minute.
    pub fn wait_until_counted(&mut self, events: u64) -> anyhow::Result<()> {
        self.wait_for("aggregator_events_total", events)
    }

    /// Waits until a metric has come to so much. Errors: no progress for a minute.
    pub fn wait_for(&mut self, name: &str, wanted: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (-1.0, Instant::now());
        loop {
            let now = self.metric(name)?;
            if now >= wanted as f64 {
                return Ok(());
            }
            if now > last {
                (last, since) = (now, Instant::now());
            }
            ensure!(since.elapsed() < STUCK, "{name} is {now} of {wanted}, and does not grow");
            std::thread::sleep(POLL);
        }
    }

    /// Bytes on disk of a part of the data directory: `log`, `index`, `clickhouse`.
    pub fn disk_bytes(&self, part: &str) -> u64 {
        bytes_below(&self.data.path.join(part))
    }

    /// Ends it in order and starts it again, without the index of seen ids. Answers when it started.
    pub fn restart_without_index(&mut self) -> anyhow::Result<Instant> {
        self.end()?;
        fs::remove_dir_all(self.data.path.join("index")).context("the index")?;
        let (started, addresses) = (Instant::now(), [self.listen, self.metrics_listen]);
        self.process = launch(&self.weir, &self.data.path, &self.environment, addresses)?;
        self.metrics = Api::new(&format!("http://{}", self.metrics_listen), None)?;
        self.api = self.client()?;
        self.wait_until_ready()?;
        Ok(started)
    }

    /// An operator's command on this deployment, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.weir);
        command.args(args).arg("--data").arg(&self.data.path).env("WEIR_LOG", "warn");
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs an operator's command and gives what it prints.
    pub fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.command(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir {}: {said}", args.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Ends it in order and removes its directory.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(END_TIMEOUT)?;
        ensure!(status.success(), "weir did not end in order: {status}");
        Ok(())
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if self.api.get("/readyz").is_ok() {
                return Ok(());
            }
            if let Some(status) = self.process.ended()? {
                bail!("weir ended ({status}):\n{}", self.process.last_words());
            }
            std::thread::sleep(POLL);
        }
        bail!("weir is not ready:\n{}", self.process.last_words())
    }
}

fn launch(
    weir: &Path,
    data: &Path,
    environment: &[(String, String)],
    [listen, metrics_listen]: [SocketAddr; 2],
) -> anyhow::Result<Process> {
    let mut command = process::command(weir);
    command.arg("up").arg("--data").arg(data);
    command.args(["--listen", &listen.to_string()]);
    command.args(["--metrics-listen", &metrics_listen.to_string()]);
    command.env("WEIR_LOG", "warn").envs(environment.iter().cloned());
    Process::start(command, data.join("weir.log"))
}

fn own(text: &str) -> String {
    text.to_owned()
}

/// What goes away meanwhile counts as nothing.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        })
        .sum()
}
