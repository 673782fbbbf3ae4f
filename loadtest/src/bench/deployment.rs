//! A `weir up` of our own, on a directory that is removed afterwards.

use super::BenchArgs;
use crate::{
    api::{Api, metric},
    cpu::{self, Used},
};
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Engine, Postgres and migrations start cold in some seconds.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// An aggregator that counts nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// How often the aggregator's count is read: a render of all metrics takes well under 1 ms.
const POLL: Duration = Duration::from_millis(50);

/// The deployment, running.
pub struct Deployment {
    data: PathBuf,
    keep: bool,
    child: Child,
    /// Of the process itself, as `cpu` tells processes apart.
    name: String,
    url: String,
    key: String,
    /// With the deployment's key.
    pub api: Api,
    metrics: Api,
}

impl Deployment {
    /// Starts `weir up` with these variables besides the usual ones and waits until it is ready.
    pub fn start(args: &BenchArgs, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let weir = match &args.weir {
            Some(weir) => weir.clone(),
            None => std::env::current_exe()?.with_file_name("weir"),
        };
        ensure!(weir.exists(), "there is no {}: cargo build --release -p weir", weir.display());
        // /var/tmp and not a home directory: root's Postgres runs as another user.
        let data = tempfile::Builder::new().prefix("weir-bench-").tempdir_in("/var/tmp")?.keep();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o711))?;
        let (listen, metrics) = (free_address()?, free_address()?);
        let log = fs::File::create(data.join("weir.log"))?;
        let mut command = Command::new(&weir);
        command.arg("up").arg("--data").arg(&data);
        command.arg("--listen").arg(listen.to_string());
        command.arg("--metrics-listen").arg(metrics.to_string());
        command.env("WEIR_LOG", "warn").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().context("starting weir")?;
        let url = format!("http://{listen}");
        let mut deployment = Self {
            data,
            keep: args.keep,
            child,
            api: Api::new(&url, None)?,
            metrics: Api::new(&format!("http://{metrics}"), None)?,
            name: format!("{} up", weir.file_name().unwrap_or_default().display()),
            url,
            key: String::new(),
        };
        deployment.wait_until_ready()?;
        deployment.key = deployment.make_key(&weir)?;
        deployment.api = deployment.client()?;
        Ok(deployment)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// The name that `cpu` gives to the process of all roles.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process whose children are the rest of the deployment.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Another client with the deployment's key.
    pub fn client(&self) -> anyhow::Result<Api> {
        Api::new(&self.url, Some(&self.key))
    }

    /// The processor time used so far.
    pub fn used(&self) -> anyhow::Result<Used> {
        cpu::used(&[self.pid()])
    }

    /// The sum of a metric over its labels.
    pub fn metric(&mut self, name: &str) -> anyhow::Result<f64> {
        Ok(metric(&self.metrics.get("/metrics")?, name, ""))
    }

    /// Waits until so many events in all are in the rollups. Errors: no progress for a minute.
    pub fn wait_until_counted(&mut self, events: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (-1.0, Instant::now());
        loop {
            let counted = self.metric("aggregator_events_total")?;
            if counted >= events as f64 {
                return Ok(());
            }
            if counted > last {
                (last, since) = (counted, Instant::now());
            }
            ensure!(since.elapsed() < STUCK, "{counted} of {events} events counted, and no more");
            std::thread::sleep(POLL);
        }
    }

    /// Bytes on disk of a part of the data directory: `log`, `index`, `clickhouse`.
    pub fn disk_bytes(&self, part: &str) -> u64 {
        bytes_below(&self.data.join(part))
    }

    /// Ends it in order and removes its directory.
    pub fn stop(mut self) -> anyhow::Result<()> {
        kill_process(self.process()?, Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "weir did not end in order: {status}");
        Ok(())
    }

    fn process(&self) -> anyhow::Result<Pid> {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id")
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if self.api.get("/readyz").is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                self.keep = true;
                bail!("weir ended ({status}); its log is {}", self.data.join("weir.log").display());
            }
            std::thread::sleep(POLL);
        }
        self.keep = true;
        bail!("weir is not ready; its log is {}", self.data.join("weir.log").display())
    }

    fn make_key(&self, weir: &Path) -> anyhow::Result<String> {
        let mut command = Command::new(weir);
        command.args(["keys", "create", "--name", "loadtest", "--data"]).arg(&self.data);
        let output = command.env("WEIR_LOG", "warn").stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "no key could be made");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // It has ended already unless something went wrong.
        if let (Ok(None), Ok(process)) = (self.child.try_wait(), self.process()) {
            let _gone = kill_process_group(process, Signal::KILL);
            let _ended = self.child.wait();
        }
        if self.keep {
            println!("  kept: {}", self.data.display());
        } else if let Err(error) = fs::remove_dir_all(&self.data) {
            eprintln!("loadtest: {} is not removed: {error}", self.data.display());
        }
    }
}

/// An address that nobody listens on at the moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
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
