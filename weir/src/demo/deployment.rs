//! The deployment under demonstration: `weir up`, or Kafka with the roles as separate processes.

use super::{LogKind, client::Client};
use crate::services::Services;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Engine, Postgres and migrations start cold in a few seconds; a broker in some more.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A deployment in a directory of its own.
pub struct Deployment {
    kind: LogKind,
    data: PathBuf,
    keep: bool,
    exe: PathBuf,
    api: SocketAddr,
    ingest: SocketAddr,
    /// One address a role for metrics.
    metrics: Vec<SocketAddr>,
    group: Vec<Child>,
    key: Option<String>,
    services: Option<Services>,
}

impl Deployment {
    /// A deployment that is not started yet.
    pub fn new(kind: LogKind, data: Option<PathBuf>) -> anyhow::Result<Self> {
        let keep = data.is_some();
        let data = match data {
            Some(data) => data,
            // /var/tmp and not a home directory: root's Postgres runs as another user.
            None => tempfile::Builder::new().prefix("weir-demo-").tempdir_in("/var/tmp")?.keep(),
        };
        fs::create_dir_all(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o711))?;
        let api = free_address()?;
        let ingest = if kind == LogKind::Embedded { api } else { free_address()? };
        let metrics = (0..4).map(|_| free_address()).collect::<anyhow::Result<_>>()?;
        let exe = std::env::current_exe()?;
        Ok(Self {
            kind,
            data,
            keep,
            exe,
            api,
            ingest,
            metrics,
            group: Vec::new(),
            key: None,
            services: None,
        })
    }

    /// Starts it, the first time with a test clock, and waits until it is ready.
    pub async fn start(&mut self, test_clock: Option<&str>) -> anyhow::Result<()> {
        let begun = Instant::now();
        match self.kind {
            LogKind::Embedded => self.start_up(test_clock)?,
            LogKind::Kafka => self.start_roles(test_clock).await?,
        }
        for address in [self.api, self.ingest] {
            self.wait_until_ready(address).await?;
        }
        if self.key.is_none() {
            self.key = Some(self.operator(&["keys", "create", "--name", "demo"])?);
        }
        println!("  ready on http://{} in {:.1} s", self.api, begun.elapsed().as_secs_f32());
        Ok(())
    }

    /// A client with the key that `start` made.
    pub fn client(&self) -> anyhow::Result<Client> {
        let key = self.key.clone().context("the deployment has started")?;
        Client::new(format!("http://{}", self.api), format!("http://{}", self.ingest), key)
    }

    /// SIGKILL to every process of the group at once, children included.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let leader = self.group.first().context("nothing runs")?;
        let group =
            i32::try_from(leader.id()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process_group(group, Signal::KILL)?;
        for child in &mut self.group {
            child.wait()?;
        }
        self.group.clear();
        Ok(())
    }

    /// `weir clock advance`, which returns when all that fell due is billed.
    pub async fn advance_clock(&self, to: &str) -> anyhow::Result<()> {
        self.operator(&["clock", "advance", "--to", to]).map(drop)
    }

    /// Ends in order and removes what was temporary.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        for child in self.group.iter().rev() {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                rustix::process::kill_process(pid, Signal::TERM)?;
            }
        }
        for child in &mut self.group {
            let status = child.wait()?;
            ensure!(status.success(), "a process did not end in order: {status}");
        }
        self.group.clear();
        if let Some(services) = self.services.take() {
            services.stop().await;
        }
        if self.keep {
            println!("Kept: weir up --data {}", self.data.display());
        } else {
            fs::remove_dir_all(&self.data)?;
        }
        println!("Look next: README.md (use it with curl), `weir up --help`, docs/api.md");
        Ok(())
    }

    fn start_up(&mut self, test_clock: Option<&str>) -> anyhow::Result<()> {
        let mut command = Command::new(&self.exe);
        command.arg("up").arg("--data").arg(&self.data);
        command.arg("--listen").arg(self.api.to_string());
        command.arg("--metrics-listen").arg(self.metrics[0].to_string());
        if let Some(time) = test_clock {
            command.args(["--test-clock", time]);
        }
        self.spawn(command)
    }

    async fn start_roles(&mut self, test_clock: Option<&str>) -> anyhow::Result<()> {
        if self.services.is_none() {
            self.services = Some(Services::start(&self.data).await?);
            let mut migrate = self.role("migrate")?;
            if let Some(time) = test_clock {
                migrate.args(["--test-clock", time]);
            }
            ensure!(migrate.status()?.success(), "weir migrate failed");
            self.operator(&["organizations", "create", "Demo"])?;
        }
        let listen = [self.ingest, self.api, free_address()?, free_address()?];
        for (n, role) in ["ingest", "api", "aggregator", "invoicer"].into_iter().enumerate() {
            let mut command = self.role(role)?;
            command.env("LISTEN", listen[n].to_string());
            command.env("METRICS_LISTEN", self.metrics[n].to_string());
            command.env("INDEX_DIR", self.data.join("index"));
            self.spawn(command)?;
        }
        Ok(())
    }

    fn role(&self, role: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.exe);
        command.arg(role).envs(self.services.as_ref().context("services run")?.environment());
        Ok(command)
    }

    /// Runs one process of the group; the first one makes the group.
    fn spawn(&mut self, mut command: Command) -> anyhow::Result<()> {
        let leader = match self.group.first() {
            Some(child) => i32::try_from(child.id())?,
            None => 0,
        };
        let log = fs::File::options().create(true).append(true).open(self.data.join("demo.log"))?;
        command.env("WEIR_LOG", std::env::var("WEIR_LOG").unwrap_or_else(|_| "warn".to_owned()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(leader);
        self.group.push(command.spawn().context("starting weir")?);
        Ok(())
    }

    /// Runs an operator's command and answers what it prints.
    fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.exe);
        command.args(args).env("WEIR_LOG", "warn");
        match &self.services {
            Some(services) => command.envs(services.environment()),
            None => command.arg("--data").arg(&self.data),
        };
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "weir {} failed", args.join(" "));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    async fn wait_until_ready(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let url = format!("http://{address}/readyz");
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        while Instant::now() < deadline {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            for child in &mut self.group {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "weir ended ({status}); its log is {}",
                        self.data.join("demo.log").display()
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "not ready within {START_TIMEOUT:?}; the log is {}",
            self.data.join("demo.log").display()
        )
    }
}

/// An address that nobody listens on at the moment.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Drop for Deployment {
    /// After an error: leave no process behind. The data stay, for whoever looks into it.
    fn drop(&mut self) {
        if !self.group.is_empty() && self.kill().is_err() {
            eprintln!("some processes of the demo may still run");
        }
    }
}
