//! The processes: a `weir up`, or services and roles apart, each to be struck by itself.

use super::{
    ChaosArgs, LogKind,
    disk::Disk,
    faults::{Blow, Fault, Part, Planned},
};
use crate::{
    api::Api,
    process::{self, Process, command, engine_of, free_address, postgres_of},
};
use anyhow::{Context, bail, ensure};
use http::{HeaderName, header};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Engine, Postgres, migrations and a broker start cold; a debug build on a busy machine is slow.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// `weir up` has ten seconds for requests under way, and then the rest.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// The embedded log looks for room every five seconds at the rarest, and reads its journals again.
const SELF_HELP: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const DATABASE: &str = "weir";

/// Who must answer for the house to be whole, and is started in this order.
const SERVICES: [Part; 3] = [Part::Postgres, Part::Engine, Part::Broker];
const ROLES: [Part; 5] =
    [Part::Aggregator, Part::Aggregator2, Part::Ingest, Part::Invoicer, Part::Api];

/// So that nobody waits long for what was killed, and so that the edge forgets ids: then it takes
/// copies that only the aggregator can tell from the first.
const HURRY: [(&str, &str); 6] = [
    ("INGEST__LOG__KAFKA__DELIVERY_TIMEOUT_MS", "2000"),
    ("AGGREGATOR__LEASE__SECONDS", "6"),
    ("AGGREGATOR__LEASE__INSERT_TIMEOUT_SECONDS", "3"),
    ("AGGREGATOR__LEASE__HELD_RETRY_MS", "200"),
    ("INGEST__RECENT__IDS_MAX", "20000"),
    ("INGEST__RECENT__TAIL_RECORDS_MAX", "20"),
];

/// A deployment.
pub struct House {
    log: LogKind,
    weir: PathBuf,
    kafka: PathBuf,
    clock: &'static str,
    processes: BTreeMap<Part, Process>,
    addresses: BTreeMap<Part, SocketAddr>,
    /// What every role and operator is told, apart.
    environment: Vec<(String, String)>,
    /// Processes that ended although nobody struck them, and were started again.
    pub collapsed: Vec<String>,
    disk: Option<Disk>,
    // Behind the disk, which lies in it.
    dir: Dir,
}

/// Removed at the end, unless it shall be kept.
struct Dir {
    path: PathBuf,
    keep: bool,
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.keep {
            return println!("  kept: {}", self.path.display());
        }
        // Processes of a killed Postgres notice it a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir_all(&self.path).is_err() && self.path.exists() {
            if Instant::now() > deadline {
                return eprintln!("loadtest: {} is not removed", self.path.display());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl House {
    /// Starts everything on a test clock that stands at `clock`, the log on a small disk of its own
    /// if that is wanted, and waits until it is ready.
    pub fn start(args: &ChaosArgs, clock: &'static str, with_disk: bool) -> anyhow::Result<Self> {
        let dir = Dir { path: process::directory("weir-chaos-")?, keep: args.keep };
        let mut house = Self {
            log: args.log,
            weir: process::weir(args.weir.as_deref())?,
            kafka: std::path::absolute(&args.kafka)?,
            clock,
            processes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            environment: Vec::new(),
            collapsed: Vec::new(),
            disk: None,
            dir,
        };
        if with_disk {
            house.mount()?;
        }
        match args.log {
            LogKind::Embedded => house.start_part(Part::Up)?,
            LogKind::Kafka => house.start_apart()?,
        }
        house.wait_until_ready(START_PATIENCE)?;
        Ok(house)
    }

    /// Puts the log on a small disk, before anything starts. Errors: we may not mount one.
    fn mount(&mut self) -> anyhow::Result<()> {
        let place = match self.log {
            LogKind::Embedded => self.data().join("log"),
            LogKind::Kafka => self.dir.path.join("kafka/data"),
        };
        fs::create_dir_all(&place)?;
        self.disk = Some(Disk::mount(&place)?);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.path.join("data")
    }

    fn start_apart(&mut self) -> anyhow::Result<()> {
        ensure!(self.kafka.exists(), "there is no {}: say --kafka PATH", self.kafka.display());
        let password = format!("{:032x}", u128::from(crate::load::now_us().unsigned_abs()) << 32);
        let broker = self.address(Part::Broker)?;
        let own = [
            ("CLICKHOUSE_PASSWORD".to_owned(), password),
            ("KAFKA_BROKERS".to_owned(), broker.to_string()),
        ];
        let hurry = HURRY.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.extend(own.into_iter().chain(hurry));
        for part in SERVICES {
            self.start_part(part)?;
        }
        self.operator(&["migrate", "--test-clock", self.clock])?;
        ROLES.into_iter().try_for_each(|role| self.start_part(role))
    }

    /// The part's address, always the same.
    fn address(&mut self, part: Part) -> anyhow::Result<SocketAddr> {
        if let Some(address) = self.addresses.get(&part) {
            return Ok(*address);
        }
        // Not even two of ours at once get the same.
        let address = loop {
            let address = free_address()?;
            if !self.addresses.values().any(|taken| *taken == address) {
                break address;
            }
        };
        self.addresses.insert(part, address);
        Ok(address)
    }

    fn start_part(&mut self, part: Part) -> anyhow::Result<()> {
        let address = self.address(part)?;
        let name = part.name();
        let mut command = command(if part == Part::Broker { &self.kafka } else { &self.weir });
        command.env("WEIR_LOG", "warn").envs(self.environment.iter().cloned());
        match part {
            Part::Up => {
                command.arg("up").arg("--data").arg(self.data());
                command.args(["--listen", &address.to_string(), "--metrics-listen", "127.0.0.1:0"]);
                command.env("WEIR_TEST_CLOCK", self.clock);
            }
            Part::Broker => {
                command.arg("run").env("KAFKA_DIR", self.dir.path.join("kafka"));
                command.env("KAFKA_PORT", address.port().to_string()).env("KAFKA_HEAP", "256m");
                // A port of its own that stays: that of a part that does not exist here.
                let controller = self.address(Part::Disk)?;
                command.env("KAFKA_CTRL_PORT", controller.port().to_string());
            }
            Part::Engine => {
                command.args(["__service", "clickhouse"]).arg(self.dir.path.join("clickhouse"));
                command.args(["--port", &address.port().to_string()]);
            }
            Part::Postgres => {
                command.args(["__service", "postgres"]).arg(self.dir.path.join("postgres"));
            }
            _ => {
                let ingest = format!("http://{}", self.address(Part::Ingest)?);
                command.arg(name.trim_end_matches("-2"));
                command.env("LISTEN", address.to_string()).env("METRICS_LISTEN", "127.0.0.1:0");
                command.env("INGEST_URL", ingest).env("OWNER", name);
                command.env("INDEX_DIR", self.dir.path.join(format!("index-{name}")));
            }
        }
        let log = self.dir.path.join(format!("{name}.log"));
        if matches!(part, Part::Engine | Part::Postgres) && log.exists() {
            // Its log says when it is ready, each time.
            fs::remove_file(&log)?;
        }
        self.processes.insert(part, Process::start(command, log)?);
        match part {
            Part::Engine | Part::Postgres => {
                let process = self.process(part)?;
                let said = process.wait_for_line("ready", START_PATIENCE).context(name)?;
                let variables = said.lines().filter_map(|line| line.split_once('='));
                for (name, value) in variables.filter(|(name, _)| !name.contains(' ')) {
                    self.environment.retain(|(known, _)| known != name);
                    self.environment.push((name.to_owned(), value.to_owned()));
                }
                Ok(())
            }
            Part::Broker => self.wait_for_broker(),
            _ => Ok(()),
        }
    }

    fn wait_for_broker(&mut self) -> anyhow::Result<()> {
        let address = self.address(Part::Broker)?;
        let deadline = Instant::now() + START_PATIENCE;
        while TcpStream::connect(address).is_err() {
            let process = self.process(Part::Broker)?;
            let ended = process.ended()?;
            ensure!(ended.is_none(), "the broker ended ({ended:?}):\n{}", process.last_words());
            ensure!(Instant::now() < deadline, "the broker does not answer");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn process(&mut self, part: Part) -> anyhow::Result<&mut Process> {
        self.processes.get_mut(&part).with_context(|| format!("there is no {}", part.name()))
    }

    /// Who can be asked whether they are ready.
    fn asked(&self) -> Vec<Part> {
        match self.log {
            LogKind::Embedded => vec![Part::Up],
            LogKind::Kafka => ROLES.to_vec(),
        }
    }

    /// Waits until everybody is. Errors: somebody ends or is not in time.
    fn wait_until_ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        for part in self.asked() {
            let url = format!("http://{}", self.address(part)?);
            loop {
                let answer = Api::new(&url, None)?.get("/readyz");
                let Err(error) = answer else { break };
                let process = self.process(part)?;
                let (ended, name) = (process.ended()?, part.name());
                if ended.is_some() || Instant::now() > deadline {
                    let words = process.last_words();
                    bail!("{name} is not ready ({ended:?}, {error:#}):\n{words}");
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Lets a fault happen and heals it: everything answers again when this returns.
    pub fn strike(&mut self, planned: Planned) -> anyhow::Result<()> {
        let Planned { fault: Fault { blow, part }, lasts } = planned;
        let inside = self.log == LogKind::Embedded && matches!(part, Part::Engine | Part::Postgres);
        // What holds the part: in a `weir up` that is no process of ours.
        let holder = if inside { Part::Up } else { part };
        match blow {
            Blow::Fill => self.fill(lasts)?,
            Blow::Pause => {
                self.signal(part, holder, Signal::STOP)?;
                std::thread::sleep(lasts);
                self.signal(part, holder, Signal::CONT)?;
            }
            Blow::Kill | Blow::End => {
                let signal = if blow == Blow::Kill { Signal::KILL } else { Signal::TERM };
                // In order, a service ends by its holder's hand; killed, it is killed itself.
                if blow == Blow::End {
                    self.process(holder)?.signal(signal)?;
                } else {
                    self.signal(part, holder, signal)?;
                }
                let status = self.process(holder)?.wait(END_PATIENCE).context(part.name())?;
                let orderly = matches!(part, Part::Broker) || status.success();
                ensure!(blow == Blow::Kill || orderly, "{} ended with {status}", part.name());
                std::thread::sleep(lasts);
                self.start_part(holder)?;
            }
        }
        self.mend()
    }

    fn fill(&mut self, lasts: Duration) -> anyhow::Result<()> {
        let disk = self.disk.as_ref().context("there is no small disk")?;
        disk.fill()?;
        std::thread::sleep(lasts);
        disk.empty()?;
        if self.log == LogKind::Embedded {
            self.wait_until_ready(SELF_HELP).context("a log that has room again")?;
        }
        Ok(())
    }

    fn signal(&mut self, part: Part, holder: Part, signal: Signal) -> anyhow::Result<()> {
        let root = self.process(holder)?.pid();
        let pids = match part {
            Part::Engine => vec![engine_of(root)?],
            Part::Postgres => postgres_of(root)?,
            _ => vec![root],
        };
        // Of a killed Postgres the others notice it by themselves, in their own time.
        let pids = if signal == Signal::KILL { &pids[..1] } else { &pids[..] };
        pids.iter().try_for_each(|pid| process::send(*pid, signal))
    }

    /// Starts again whoever ended by himself, as a supervisor does, until all are ready.
    pub fn mend(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let parts: Vec<Part> = self.processes.keys().copied().collect();
            for part in parts {
                if let Some(status) = self.process(part)?.ended()? {
                    let words = self.process(part)?.last_words();
                    let last = words.lines().last().unwrap_or_default();
                    self.collapsed.push(format!("{} ({status}): {last}", part.name()));
                    self.start_part(part)?;
                }
            }
            match self.wait_until_ready(START_PATIENCE / 4) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Where events are taken, `http://host:port` each.
    pub fn doors(&mut self) -> anyhow::Result<Vec<String>> {
        let parts = match self.log {
            LogKind::Embedded => vec![Part::Up],
            LogKind::Kafka => vec![Part::Ingest, Part::Api],
        };
        parts.into_iter().map(|part| Ok(format!("http://{}", self.address(part)?))).collect()
    }

    /// Runs an operator's command and gives what it printed.
    pub fn operator(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.weir);
        command.args(args).env("WEIR_LOG", "warn");
        if self.log == LogKind::Embedded {
            command.arg("--data").arg(self.data());
        } else {
            command.envs(self.environment.iter().cloned());
        }
        let output = command.output().context("an operator's command")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weir {}: {said}", args.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A client of ClickHouse itself.
    pub fn clickhouse(&self) -> anyhow::Result<Api> {
        let (url, user, password) = match self.log {
            LogKind::Kafka => {
                let of = |wanted: &str| {
                    let found = self.environment.iter().find(|(name, _)| name == wanted);
                    found.map(|(_, value)| value.clone()).with_context(|| wanted.to_owned())
                };
                (of("CLICKHOUSE_URL")?, of("CLICKHOUSE_USER")?, of("CLICKHOUSE_PASSWORD")?)
            }
            LogKind::Embedded => {
                let text = fs::read(self.data().join("connections.json"))?;
                let json: Value = serde_json::from_slice(&text)?;
                let of = |name: &str| {
                    let text = json["clickhouse"][name].as_str().map(str::to_owned);
                    text.with_context(|| format!("no {name}"))
                };
                (of("clickhouse_url")?, of("clickhouse_user")?, of("clickhouse_password")?)
            }
        };
        let name = HeaderName::from_static;
        let headers = vec![
            (name("x-clickhouse-user"), user),
            (name("x-clickhouse-key"), password),
            (name("x-clickhouse-database"), DATABASE.to_owned()),
            (header::CONTENT_TYPE, "text/plain".to_owned()),
        ];
        Api::with_headers(&url, headers)
    }
}
