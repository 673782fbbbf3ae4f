//! The roles as processes of their own, on a Kafka, an engine and a Postgres of the tests'.

use crate::{
    client::{self, Client},
    eventually,
    processes::{Dir, Process, Said, free_port, run, weir},
    up::PLACES,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    path::Path,
    process::Command,
};
use tokio::sync::{Mutex, MutexGuard, OnceCell, SemaphorePermit};
use weir_runtime::postgres::{PostgresOptions, PrivatePostgres};
use weir_store::{PgPool, Timestamp};
use weir_usage::engine::{Engine, EngineOptions};

const ROLES: [&str; 4] = ["ingest", "api", "aggregator", "invoicer"];
/// It weighs as much as two of `weir up`.
const PLACES_TAKEN: u32 = 2;
const CLOCK_START: &str = "2026-03-10T00:00:00Z";
const DATABASE: &str = "weir";

/// Services and roles. There is one of it, and one test at a time has it.
pub struct Apart {
    kafka_ports: (u16, u16),
    /// What every role is told.
    environment: Vec<(&'static str, String)>,
    database_url: String,
    roles: BTreeMap<&'static str, Role>,
    // They end with this process.
    postgres: Option<PrivatePostgres>,
    _engine: Engine,
    dir: Dir,
}

struct Role {
    process: Option<Process>,
    port: u16,
    starts: u32,
}

/// A turn at the deployment.
pub struct Turn {
    apart: MutexGuard<'static, Apart>,
    _places: SemaphorePermit<'static>,
}

impl Deref for Turn {
    type Target = Apart;
    fn deref(&self) -> &Apart {
        &self.apart
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Apart {
        &mut self.apart
    }
}

/// Somebody who sends events, and the month that is to be billed.
pub struct Account {
    pub client: Client,
    /// The present, and the first instant of the next month.
    pub month: (String, String),
}

impl Account {
    /// The same sender, who sends events to the api role.
    pub fn at_the_other_door(&self) -> Client {
        let mut client = self.client.clone();
        client.edge.clone_from(&client.api);
        client
    }
}

/// The deployment with everything running, for this test alone.
pub async fn turn() -> Turn {
    static APART: OnceCell<Mutex<Apart>> = OnceCell::const_new();
    let apart = APART.get_or_init(async || Mutex::new(Apart::start().await)).await;
    let mut apart = apart.lock().await;
    let places = PLACES.acquire_many(PLACES_TAKEN).await.unwrap();
    apart.all_up().await;
    Turn { apart, _places: places }
}

impl Apart {
    async fn start() -> Self {
        let dir = Dir::new();
        let kafka_ports = (free_port(), free_port());
        let (kafka, services) =
            tokio::join!(kafka(dir.path(), kafka_ports, "start"), services(dir.path()));
        kafka.ok();
        let (postgres, engine) = services;
        let database_url = postgres.url();
        let environment = vec![
            ("DATABASE_URL", database_url.clone()),
            ("KAFKA_BROKERS", format!("127.0.0.1:{}", kafka_ports.0)),
            ("CLICKHOUSE_URL", engine.url()),
            ("CLICKHOUSE_USER", engine.user().to_owned()),
            ("CLICKHOUSE_PASSWORD", engine.password().to_owned()),
            ("CLICKHOUSE_DATABASE", DATABASE.to_owned()),
            // So that nobody waits long for what a test has killed.
            ("INGEST__LOG__KAFKA__DELIVERY_TIMEOUT_MS", "2000".to_owned()),
            ("AGGREGATOR__LEASE__SECONDS", "6".to_owned()),
            ("AGGREGATOR__LEASE__INSERT_TIMEOUT_SECONDS", "3".to_owned()),
            ("AGGREGATOR__LEASE__HELD_RETRY_MS", "200".to_owned()),
        ];
        let roles = BTreeMap::new();
        let apart = Self {
            kafka_ports,
            environment,
            database_url,
            roles,
            postgres: Some(postgres),
            _engine: engine,
            dir,
        };
        apart.operator(&["migrate", "--test-clock", CLOCK_START]).await.ok();
        apart
    }

    /// Starts what a test before left dead.
    async fn all_up(&mut self) {
        self.start_kafka().await;
        self.start_postgres().await;
        for role in ROLES {
            self.start_role(role);
        }
        for role in ROLES {
            self.wait_until_ready(role).await;
        }
    }

    /// Starts a role, unless it runs. `aggregator-2` is another aggregator.
    pub fn start_role(&mut self, name: &'static str) {
        let port = self.port(name);
        let ingest = format!("http://127.0.0.1:{}", self.port("ingest"));
        let mut command = weir();
        command.arg(name.trim_end_matches("-2")).envs(self.environment.clone());
        command.env("LISTEN", format!("127.0.0.1:{port}"));
        command.env("METRICS_LISTEN", "127.0.0.1:0").env("INGEST_URL", ingest);
        command.env("OWNER", name).env("INDEX_DIR", self.dir.path().join(format!("index-{name}")));
        let role = self.roles.get_mut(name).unwrap();
        if let Some(process) = &mut role.process
            && process.status().is_none()
        {
            // A test that failed may have left it paused.
            return process.signal(Signal::CONT);
        }
        role.starts += 1;
        let log = self.dir.path().join(format!("{name}-{}.log", role.starts));
        role.process = Some(Process::spawn(command, log));
    }

    fn port(&mut self, name: &'static str) -> u16 {
        let role = self.roles.entry(name).or_insert_with(|| Role {
            process: None,
            port: free_port(),
            starts: 0,
        });
        role.port
    }

    fn process(&mut self, name: &str) -> &mut Process {
        self.roles.get_mut(name).and_then(|role| role.process.as_mut()).expect(name)
    }

    /// Waits until a role has what it needs.
    pub async fn wait_until_ready(&mut self, name: &'static str) {
        let url = format!("{}/readyz", self.url(name));
        let (http, process) = (client::http(), self.process(name));
        eventually(name, async || {
            if let Some(status) = process.status() {
                panic!("{name} ended ({status}): {}", process.said());
            }
            let answer = http.get(&url).send().await.map_err(|error| error.to_string())?;
            answer.status().is_success().then_some(()).ok_or_else(|| answer.status().to_string())
        })
        .await;
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) {
        self.process(name).kill();
    }

    pub fn signal(&mut self, name: &str, signal: Signal) {
        self.process(name).signal(signal);
    }

    /// `http://host:port` of a role.
    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.roles[name].port)
    }

    pub async fn start_kafka(&self) {
        kafka(self.dir.path(), self.kafka_ports, "start").await.ok();
    }

    pub async fn stop_kafka(&self) {
        kafka(self.dir.path(), self.kafka_ports, "stop").await.ok();
    }

    /// SIGKILL.
    pub fn kill_kafka(&self) {
        let pid = std::fs::read_to_string(self.dir.path().join("kafka/pid")).unwrap();
        kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    pub async fn stop_postgres(&mut self) {
        let postgres = self.postgres.take().expect("it runs");
        tokio::task::spawn_blocking(|| postgres.stop()).await.unwrap();
    }

    pub async fn start_postgres(&mut self) {
        if self.postgres.is_none() {
            let dir = self.dir.path().to_owned();
            let started = tokio::task::spawn_blocking(move || postgres(&dir));
            self.postgres = Some(started.await.unwrap());
        }
    }

    /// Runs an operator's command.
    pub async fn operator(&self, args: &[&str]) -> Said {
        run(self.command(args)).await
    }

    /// An operator's command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = weir();
        command.args(args).envs(self.environment.clone()).env("WEIR_LOG", "warn");
        command
    }

    /// Connections of the calling test's own.
    pub async fn pool(&self) -> PgPool {
        weir_store::connect(&self.database_url, 2).await.unwrap()
    }

    /// An organization whose customer `acme` pays 1.00 for each token, from the present on.
    pub async fn account(&self, name: &str) -> Account {
        self.operator(&["organizations", "create", name]).await.ok();
        let create = ["keys", "create", "--name", "all", "--organization", name];
        let key = self.operator(&create).await.ok();
        let client = Client::new(&self.url("api"), &self.url("ingest"), &key);
        let shown = self.operator(&["clock", "show"]).await.ok();
        let now: Timestamp = shown.split(' ').next().unwrap().parse().unwrap();
        let first = chrono::NaiveDate::parse_from_str(&now.format("%Y-%m-01").to_string(), "%F");
        let next = first.unwrap() + chrono::Months::new(1);
        let month = (now.to_rfc3339(), format!("{next}T00:00:00Z"));
        let metric = client.metric("tokens", "tokens", Some("n")).await;
        let plan = client.plan("llm", 0, &[(&metric, "1")]).await;
        client.customer("acme", None).await;
        client.subscription("acme", &plan, Some(&month.0)).await;
        Account { client, month }
    }
}

async fn services(dir: &Path) -> (PrivatePostgres, Engine) {
    let dir = dir.to_owned();
    let started = tokio::task::spawn_blocking(move || {
        let options = EngineOptions::default();
        let program = env!("CARGO_BIN_EXE_weir");
        (postgres(&dir), Engine::start(program, &dir.join("clickhouse"), &options).unwrap())
    });
    started.await.unwrap()
}

fn postgres(dir: &Path) -> PrivatePostgres {
    let options = PostgresOptions { durable: true, max_connections: 100 };
    PrivatePostgres::start(&dir.join("postgres"), options).unwrap()
}

async fn kafka(dir: &Path, (port, controller): (u16, u16), what: &str) -> Said {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/kafka.sh");
    let mut command = Command::new(script);
    command.arg(what).env("KAFKA_DIR", dir.join("kafka")).env("KAFKA_HEAP", "256m");
    command.env("KAFKA_PORT", port.to_string()).env("KAFKA_CTRL_PORT", controller.to_string());
    command.env("KAFKA_OWNER", std::process::id().to_string());
    run(command).await
}
