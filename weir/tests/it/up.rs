//! A deployment of `weir up`.

use crate::{
    client::{Client, http},
    eventually,
    processes::{Dir, Process, Said, run, weir},
};
use rustix::process::Signal;
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

/// Nothing in a path has a meaning.
const DATA: &str = "data & 100%20 più";
/// Each deployment takes some 450 MB.
const DEPLOYMENTS_MAX: usize = 3;
pub static PLACES: Semaphore = Semaphore::const_new(DEPLOYMENTS_MAX);

/// `weir up` in a directory of its own, on ports that the kernel chooses.
pub struct Up {
    process: Process,
    url: String,
    metrics_url: String,
    key: Option<String>,
    starts: u32,
    environment: Vec<(&'static str, String)>,
    dir: Dir,
    _place: SemaphorePermit<'static>,
}

impl Up {
    /// On the real clock.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// On a test clock.
    pub async fn at(test_clock: &str) -> Self {
        Self::with(&[("WEIR_TEST_CLOCK", test_clock)]).await
    }

    /// With more in its environment.
    pub async fn with(environment: &[(&'static str, &str)]) -> Self {
        let mut up = Self::begin(environment).await;
        up.wait_until_ready().await;
        assert!(up.key.is_some(), "the first start prints a key");
        up
    }

    /// Launched; nothing more is known of it.
    pub async fn begin(environment: &[(&'static str, &str)]) -> Self {
        let place = PLACES.acquire().await.unwrap();
        let dir = Dir::new();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self {
            process: launch(dir.path(), &environment, 1),
            url: String::new(),
            metrics_url: String::new(),
            key: None,
            starts: 1,
            environment,
            dir,
            _place: place,
        }
    }

    /// Starts it again after `kill` or `terminate`.
    pub async fn restart(&mut self) {
        self.launch();
        self.wait_until_ready().await;
    }

    /// The same without waiting.
    pub fn launch(&mut self) {
        assert!(self.process.status().is_some(), "it still runs");
        self.starts += 1;
        self.process = launch(self.dir.path(), &self.environment, self.starts);
    }

    /// SIGKILL to the whole group.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and what it ends with.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.end().await
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A caller with the first key.
    pub fn client(&self) -> Client {
        Client::new(&self.url, &self.url, self.key.as_ref().expect("it has a key"))
    }

    /// `http://host:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn metrics_url(&self) -> &str {
        &self.metrics_url
    }

    /// The deployment's data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join(DATA)
    }

    /// A directory beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An operator's command on this deployment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = weir();
        command.args(args).arg("--data").arg(self.data()).env("WEIR_LOG", "warn");
        command
    }

    /// Runs an operator's command.
    pub async fn operator(&self, args: &[&str]) -> Said {
        run(self.command(args)).await
    }

    /// Moves the test clock.
    pub async fn advance(&self, to: &str) -> String {
        self.operator(&["clock", "advance", "--to", to]).await.ok()
    }

    /// Makes an organization and a caller with every scope in it.
    pub async fn organization(&self, name: &str) -> Client {
        self.operator(&["organizations", "create", name]).await.ok();
        let create = ["keys", "create", "--name", "all", "--organization", name];
        self.client().with_key(&self.operator(&create).await.ok())
    }

    pub async fn wait_until_ready(&mut self) {
        let http = http();
        eventually("weir up", async || {
            if let Some(status) = self.process.status() {
                panic!("it ended ({status}): {}", self.process.said());
            }
            let address = self.announced("health").ok_or("nothing announced")?;
            let answer = http.get(&address).send().await.map_err(|error| error.to_string())?;
            answer.status().is_success().then_some(()).ok_or_else(|| answer.status().to_string())
        })
        .await;
        let health = self.announced("health").expect("it is ready");
        self.url = health.trim_end_matches("/readyz").to_owned();
        self.metrics_url = self.announced("metrics").expect("it is ready");
        if let Some(key) = self.announced("API key") {
            assert_eq!(self.key.replace(key), None, "a key is made only once");
        }
    }

    /// What the program printed in the line with this name.
    fn announced(&self, name: &str) -> Option<String> {
        let said = self.process.said();
        let mut values =
            said.lines().filter_map(|line| line.strip_prefix("  ")?.strip_prefix(name));
        Some(values.next()?.trim().to_owned())
    }
}

fn launch(dir: &Path, environment: &[(&'static str, String)], number: u32) -> Process {
    let mut command = weir();
    command.arg("up").arg("--data").arg(dir.join(DATA));
    command.args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Process::spawn(command, dir.join(format!("up-{number}.log")))
}

/// A deployment on the real clock, for tests that neither stop it nor care who else uses it: each
/// makes organizations of its own.
pub async fn shared() -> &'static Up {
    static SHARED: OnceCell<Up> = OnceCell::const_new();
    SHARED.get_or_init(Up::start).await
}
