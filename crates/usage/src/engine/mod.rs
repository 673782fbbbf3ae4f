//! The analytics engine of `weir up`: a real ClickHouse in a child process, spoken to over HTTP.
//!
//! The program starts itself again as `PROGRAM __engine DIR`; that child loads the engine's library
//! ([`child_main`]) and never outlives us. See [`Engine`].

mod child;
mod config;
pub(crate) mod deduplication_logs;
mod library;
mod recent;

pub use child::{ChildError, child_main};
pub use library::{Library, LibraryMissing};

use crate::ClickHouse;
use child::{IN_USE_STATUS, PORT_FILE, StartMessage};
use recent::Recent;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fmt, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What the child's command line starts with.
pub const CHILD_COMMAND: &str = "__engine";
/// The engine is ready within one second; a large database on a cold disk needs more.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(10);
/// A shutdown waits for running inserts and merges to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How large and how durable the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// The engine refuses queries rather than use more memory than this.
    pub memory_max_bytes: u64,
    /// `false` only for tests: a power cut may then lose rows. A killed process loses none either way.
    pub durable: bool,
}

impl Default for EngineOptions {
    /// Durable, at most 1.5 GB: chunks of 200,000 events need about 300 MB, merges the rest.
    fn default() -> Self {
        Self { memory_max_bytes: 1_500_000_000, durable: true }
    }
}

/// Where an engine answers, and who may ask. Not `Debug`: it holds the password.
pub struct Door {
    /// On 127.0.0.1; 0: any that is free.
    pub port: u16,
    pub password: String,
}

/// Why the engine does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    LibraryMissing(#[from] LibraryMissing),
    #[error(
        "another process runs the analytics engine on {0}: stop it, or choose another data directory"
    )]
    InUse(PathBuf),
    #[error("the analytics engine ended while starting ({status}): {message}")]
    Ended { status: ExitStatus, message: String },
    #[error("the analytics engine did not answer within {timeout:?}: {message}")]
    Slow { timeout: Duration, message: String },
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// A running engine. It ends when this is dropped or the process ends, however that happens.
pub struct Engine {
    port: u16,
    password: String,
    data: PathBuf,
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
}

/// Without the password.
impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("data", &self.data)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the engine on `dir` (made when it does not exist) by running `program __engine dir`,
    /// a program that calls [`child_main`], and waits until it answers: blocks for about half a second.
    ///
    /// Errors: no library, another process on `dir`, no answer in a minute.
    pub fn start(
        program: impl AsRef<OsStr>,
        dir: &Path,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let password = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        Self::start_at(program, dir, options, Door { port: 0, password })
    }

    /// The same at a door that the next engine on `dir` may have again, for users in other processes.
    pub fn start_at(
        program: impl AsRef<OsStr>,
        dir: &Path,
        options: &EngineOptions,
        door: Door,
    ) -> Result<Self, EngineError> {
        let library = Library::locate()?;
        let dir =
            std::path::absolute(dir).map_err(|error| EngineError::Io(dir.to_owned(), error))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| EngineError::Io(dir.clone(), error))?;
        let Door { port, password } = door;
        let message = StartMessage {
            parent: std::process::id(),
            library: library.path().to_owned(),
            port,
            password: password.clone(),
            memory_max_bytes: options.memory_max_bytes,
            durable: options.durable,
        };
        let (process, recent) = spawn(program.as_ref(), &dir, message)?;
        let port = match wait_for_port(&process, &dir, &recent) {
            Ok(port) => port,
            Err(error) => {
                process.kill();
                return Err(error);
            }
        };
        let data = child::data_dir(&dir);
        if options.durable {
            deduplication_logs::make_synchronous(&data);
        }
        let Process { pid, ended } = process;
        Ok(Self { port, password, data, pid, ended })
    }

    /// Where it answers HTTP, on this machine only.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The only user that may do anything.
    #[must_use]
    pub fn user(&self) -> &'static str {
        config::USER
    }

    /// Another one at each start; nowhere on disk and on no command line.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A handle on one of its databases. Prefer this to [`ClickHouse::connect`]: its `migrate` also
    /// makes the deduplication logs of new tables as durable as their rows.
    #[must_use]
    pub fn connect(&self, database: &str) -> ClickHouse {
        ClickHouse::connect(&self.url(), self.user(), &self.password, database)
            .of_engine(&self.data)
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Returns when the engine has ended, for whatever reason.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        ended.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Ends the engine cleanly and answers how it ended. `None`: it was killed after 20 seconds, which
    /// loses nothing acknowledged.
    pub async fn stop(self) -> Option<ExitStatus> {
        let shutdown = self.connect("system");
        let asked = tokio::time::timeout(STOP_TIMEOUT, shutdown.shut_down());
        // The engine ends without an answer to this very query.
        let _answer = tokio::select! {
            answer = asked => answer.ok(),
            _status = self.ended() => None,
        };
        let ended = tokio::time::timeout(STOP_TIMEOUT, self.ended()).await;
        if ended.is_err() {
            tracing::warn!(pid = self.pid(), "the analytics engine does not stop, killing it");
        }
        ended.ok().flatten()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        Process { pid: self.pid, ended: self.ended.clone() }.kill();
    }
}

struct Process {
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    fn status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Between the end of the process and our knowing its status lie microseconds: too few for its id
    /// to become another's.
    fn kill(&self) {
        if self.status().is_none() {
            // An error means that it has just ended.
            let _gone = kill_process(self.pid, Signal::KILL);
        }
    }
}

/// Runs the child under a thread of its own: the kernel ends a child with the *thread* that made it
/// (`PR_SET_PDEATHSIG`), so that thread must live as long as the child. It passes on what the child writes.
fn spawn(
    program: &OsStr,
    dir: &Path,
    message: StartMessage,
) -> Result<(Process, Recent), EngineError> {
    let mut command = Command::new(program);
    command
        .arg(CHILD_COMMAND)
        .arg(dir)
        // Ctrl-C in the terminal is for us; the engine is stopped when we have finished.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let recent = Recent::default();
    let lines = recent.clone();
    let (started_sender, started) = mpsc::sync_channel(1);
    let (ended_sender, ended) = watch::channel(None);
    let io = |path: &Path, error| EngineError::Io(path.to_owned(), error);
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || match command.spawn().and_then(|child| greet(child, &message)) {
            Err(error) => drop(started_sender.send(Err(error))),
            Ok((mut child, pid)) => {
                drop(started_sender.send(Ok(pid)));
                if let Some(errors) = child.stderr.take() {
                    pass_on(BufReader::new(errors), &lines);
                }
                if let Ok(status) = child.wait() {
                    let _nobody_waits = ended_sender.send(Some(status));
                }
            }
        })
        .map_err(|error| io(dir, error))?;
    let pid = started.recv().map_err(|_| io(dir, io::Error::other("the starting thread ended")))?;
    let pid = pid.map_err(|error| io(Path::new(program), error))?;
    Ok((Process { pid, ended }, recent))
}

/// Hands the child its password and settings; standard input is seen by nobody else.
fn greet(mut child: Child, message: &StartMessage) -> io::Result<(Child, Pid)> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
    let message = serde_json::to_vec(message)?;
    if let Some(mut input) = child.stdin.take() {
        // A child that ended before reading says why on its standard error.
        let _ended = input.write_all(&message);
    }
    Ok((child, pid))
}

fn pass_on(mut errors: impl BufRead, recent: &Recent) {
    let mut line = Vec::new();
    while let Ok(1..) = errors.read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() {
            tracing::warn!(target: "weir_usage::engine", "{text}");
            recent.push(text);
        }
        line.clear();
    }
}

fn wait_for_port(process: &Process, dir: &Path, recent: &Recent) -> Result<u16, EngineError> {
    let deadline = Instant::now() + START_TIMEOUT;
    let file = dir.join(PORT_FILE);
    while Instant::now() < deadline {
        if let Some(status) = process.status() {
            return Err(match status.code() {
                Some(code) if code == i32::from(IN_USE_STATUS) => {
                    EngineError::InUse(dir.to_owned())
                }
                _ => EngineError::Ended { status, message: recent.text() },
            });
        }
        if let Some(port) = read_port(&file, process.pid) {
            return Ok(port);
        }
        std::thread::sleep(START_POLL);
    }
    Err(EngineError::Slow { timeout: START_TIMEOUT, message: recent.text() })
}

/// The file is `PID <tab> PORT <newline>`: another engine's file is not mistaken for our child's,
/// nor a half-written one for a whole.
fn read_port(file: &Path, pid: Pid) -> Option<u16> {
    let text = fs::read_to_string(file).ok()?;
    let (owner, port) = text.strip_suffix('\n')?.split_once('\t')?;
    (owner.parse() == Ok(pid.as_raw_nonzero().get())).then(|| port.parse().ok()).flatten()
}
