//! Processes that we start: none outlives us, however we end.

use crate::cpu;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often we look whether something has happened.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of a log that an error shows.
const LOG_LINES: usize = 15;

/// A command whose process the kernel kills when the thread ends that starts it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A process with a log.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. Signals of a terminal don't reach it.
    pub fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = fs::File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended()?.is_none() {
            send(self.pid(), signal)?;
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end. Errors: it goes on for longer.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        bail!("it does not end within {patience:?}:\n{}", self.last_words())
    }

    /// Waits until its log holds a line. Errors: it ends, or says nothing of the kind in time.
    pub fn wait_for_line(&mut self, line: &str, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let said = self.said();
            if said.lines().any(|said| said == line) {
                return Ok(said);
            }
            let ended = self.ended()?;
            ensure!(ended.is_none(), "it ended ({ended:?}):\n{}", self.last_words());
            std::thread::sleep(LOOK_AGAIN);
        }
        bail!("it does not say {line:?}:\n{}", self.last_words())
    }

    /// What it has written so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of that.
    pub fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("loadtest: process {} is not killed: {error:#}", self.pid());
        }
    }
}

/// Sends a signal to a process; one that is gone needs none.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("sending a signal"),
    }
}

/// A ClickHouse engine below a process.
pub fn engine_of(root: u32) -> anyhow::Result<u32> {
    let tree = cpu::tree(&[root])?;
    let engine = tree.iter().find(|process| process.name.ends_with(" __engine"));
    Ok(engine.context("no engine runs")?.pid)
}

/// The server process of a Postgres below a process, and then all of its own.
pub fn postgres_of(root: u32) -> anyhow::Result<Vec<u32>> {
    let tree = cpu::tree(&[root])?;
    let is_server = |process: &&cpu::Process| process.name == "postgres" && process.parent == root;
    let server = tree.iter().find(is_server).context("no Postgres runs")?.pid;
    let below = tree.iter().filter(|process| process.parent == server);
    Ok(std::iter::once(server).chain(below.map(|process| process.pid)).collect())
}

/// An address that nobody listens on at the moment, below those that the kernel gives to outgoing
/// connections: it stays free while its owner is dead.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    const PORTS: std::ops::Range<u16> = 10_000..18_000;
    let mut dice = crate::load::now_us().unsigned_abs();
    for _ in 0..1_000 {
        dice = crate::event::mix(dice);
        let port = PORTS.start + (dice % u64::from(PORTS.end - PORTS.start)) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port is free in {PORTS:?}")
}

/// A new directory that root's Postgres can reach, which runs as another user.
pub fn directory(prefix: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    // /var/tmp and not a home directory.
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in("/var/tmp")?.keep();
    fs::set_permissions(&made, fs::Permissions::from_mode(0o711))?;
    Ok(made)
}

/// The program: the one given, or the `weir` beside ours.
pub fn weir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let weir = match given {
        Some(given) => given.to_owned(),
        None => std::env::current_exe()?.with_file_name("weir"),
    };
    ensure!(weir.exists(), "there is no {}: cargo build -p weir", weir.display());
    Ok(std::path::absolute(weir)?)
}
