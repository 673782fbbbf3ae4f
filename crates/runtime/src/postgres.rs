//! A private Postgres: started from the installed binaries, on a Unix socket only, and ended with us.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A crashed server may need to replay its log before it answers.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a killed predecessor's processes may take to notice and end.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(10);
/// A fast shutdown writes one checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often we look whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Unix socket addresses have 107 usable bytes; `.s.PGSQL.5432` and a slash take 15.
const SOCKET_DIR_MAX: usize = 90;
/// The system user that runs Postgres when we are root, because Postgres refuses to be root.
const SERVICE_USER: &str = "postgres";
const DATABASE: &str = "weir";

/// Why the private Postgres does not run.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(
        "no Postgres server found: install the package `postgresql`, or set WEIR_PG_BIN to its bin directory"
    )]
    NotInstalled,
    #[error(
        "Postgres can't run as root and there is no user `{SERVICE_USER}`: install the package `postgresql`"
    )]
    NoServiceUser,
    #[error(
        "user `{SERVICE_USER}` can't reach {0}: choose a data directory whose parents others may enter, such as /var/lib/weir"
    )]
    Unreachable(PathBuf),
    #[error("{program} failed: {message}")]
    Failed { program: &'static str, message: String },
    #[error("Postgres ended while starting ({0}); its log is {1}")]
    Ended(ExitStatus, PathBuf),
    #[error("Postgres did not answer within {timeout:?}; its log is {log}")]
    Slow { log: PathBuf, timeout: Duration },
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// A running server; it ends with the process, at the latest.
pub struct PrivatePostgres {
    socket_dir: PathBuf,
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
}

/// How durable and how large the server is.
#[derive(Debug, Clone, Copy)]
pub struct PostgresOptions {
    /// `false` only for tests: a power cut may then lose everything.
    pub durable: bool,
    pub max_connections: u16,
}

impl PrivatePostgres {
    /// Starts the server on `dir` (made by `initdb` when it does not exist) and makes the database.
    ///
    /// Errors: not installed, directory not reachable for its user, no answer in time.
    pub fn start(dir: &Path, options: PostgresOptions) -> Result<Self, PostgresError> {
        let tools = Tools::locate()?;
        let dir = absolute(dir)?;
        let socket_dir = socket_dir(&dir);
        tools.own_directory(&socket_dir)?;
        tools.initialize(&dir)?;
        let log = dir.with_extension("log");
        let deadline = Instant::now() + PREDECESSOR_TIMEOUT;
        loop {
            let (pid, ended) = tools.spawn(&dir, &socket_dir, &log, options)?;
            let server = Self { socket_dir: socket_dir.clone(), pid, ended };
            match server.wait_until_ready(&tools, &log) {
                Ok(()) => {
                    server.create_database(&tools)?;
                    return Ok(server);
                }
                // Processes of a server that was killed live on for a moment and hold its memory.
                Err(PostgresError::Ended(..)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The connection string of the database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres:///{DATABASE}?host={}&user=weir", url_encoded(&self.socket_dir))
    }

    /// Returns when the server has ended, for whatever reason.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        ended.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Ends the server: running transactions are aborted, everything committed is on disk. Blocks.
    pub fn stop(self) {
        for signal in [Signal::INT, Signal::QUIT, Signal::KILL] {
            if self.wait(Duration::ZERO).is_some() {
                return;
            }
            // An error means that it has just ended; the wait below sees that.
            let _gone = kill_process(self.pid, signal);
            if self.wait(STOP_TIMEOUT).is_some() {
                return;
            }
        }
    }

    /// How it ended, when it does so in this time.
    fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let status = *self.ended.borrow();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn wait_until_ready(&self, tools: &Tools, log: &Path) -> Result<(), PostgresError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.wait(Duration::from_millis(50)) {
                return Err(PostgresError::Ended(status, log.to_owned()));
            }
            let ready = tools
                .command("pg_isready")
                .args(["-q", "-d", "postgres", "-h"])
                .arg(&self.socket_dir)
                .status()
                .map_err(|error| PostgresError::Io("pg_isready".into(), error))?;
            if ready.success() {
                return Ok(());
            }
        }
        Err(PostgresError::Slow { log: log.to_owned(), timeout: START_TIMEOUT })
    }

    fn create_database(&self, tools: &Tools) -> Result<(), PostgresError> {
        let output = tools
            .command("createdb")
            .args(["-U", "weir", "-h"])
            .arg(&self.socket_dir)
            .arg(DATABASE)
            .output()
            .map_err(|error| PostgresError::Io("createdb".into(), error))?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || message.contains("already exists") {
            return Ok(());
        }
        Err(PostgresError::Failed { program: "createdb", message })
    }
}

/// The installed programs and, when we are root, the user they run as.
struct Tools {
    bin: PathBuf,
    service: Option<(u32, u32)>,
}

impl Tools {
    fn locate() -> Result<Self, PostgresError> {
        let bin = match std::env::var_os("WEIR_PG_BIN") {
            Some(bin) => PathBuf::from(bin),
            None => newest_bin().ok_or(PostgresError::NotInstalled)?,
        };
        if !bin.join("postgres").exists() {
            return Err(PostgresError::NotInstalled);
        }
        let service = if rustix::process::geteuid().is_root() {
            Some(service_ids().ok_or(PostgresError::NoServiceUser)?)
        } else {
            None
        };
        Ok(Self { bin, service })
    }

    /// A program, run as the service user when we are root.
    fn command(&self, program: &str) -> Command {
        let path = self.bin.join(program);
        let mut command = match self.service {
            None => Command::new(path),
            Some(_) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", SERVICE_USER, "--regid", SERVICE_USER, "--init-groups"]);
                command.arg("--").arg(path);
                command
            }
        };
        command.current_dir("/").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command
    }

    /// Makes `dir` for the server's user alone; root still gets in.
    fn own_directory(&self, dir: &Path) -> Result<(), PostgresError> {
        let io = |error| PostgresError::Io(dir.to_owned(), error);
        fs::create_dir_all(dir).map_err(io)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(io)?;
        if let Some((user, group)) = self.service {
            chown(dir, Some(user), Some(group)).map_err(io)?;
            let reachable = Command::new("setpriv")
                .args(["--reuid", SERVICE_USER, "--regid", SERVICE_USER, "--init-groups"])
                .args(["--", "test", "-w"])
                .arg(dir)
                .status()
                .map_err(io)?;
            if !reachable.success() {
                return Err(PostgresError::Unreachable(dir.to_owned()));
            }
        }
        Ok(())
    }

    /// `initdb` into a neighbour that is renamed when complete, so that a crash leaves no half cluster.
    fn initialize(&self, dir: &Path) -> Result<(), PostgresError> {
        if dir.join("PG_VERSION").exists() {
            return Ok(());
        }
        let fresh = dir.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(|error| PostgresError::Io(fresh.clone(), error))?;
        }
        self.own_directory(&fresh)?;
        let output = self
            .command("initdb")
            .args(["-U", "weir", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&fresh)
            .output()
            .map_err(|error| PostgresError::Io("initdb".into(), error))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(PostgresError::Failed { program: "initdb", message });
        }
        fs::rename(&fresh, dir).map_err(|error| PostgresError::Io(dir.to_owned(), error))
    }

    /// Runs the server under a thread of its own: the kernel ends a child with the *thread* that
    /// made it (`PR_SET_PDEATHSIG`), so that thread must live as long as the child.
    fn spawn(
        &self,
        dir: &Path,
        socket_dir: &Path,
        log: &Path,
        options: PostgresOptions,
    ) -> Result<(Pid, watch::Receiver<Option<ExitStatus>>), PostgresError> {
        let io = |path: &Path, error| PostgresError::Io(path.to_owned(), error);
        let output = fs::File::create(log).map_err(|error| io(log, error))?;
        let errors = output.try_clone().map_err(|error| io(log, error))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if self.service.is_some() {
            command.args(["--reuid", SERVICE_USER, "--regid", SERVICE_USER, "--init-groups"]);
        }
        command
            .arg("--")
            .arg(self.bin.join("postgres"))
            .arg("-D")
            .arg(dir)
            .arg("-k")
            .arg(socket_dir);
        for setting in settings(options) {
            command.arg("-c").arg(setting);
        }
        // Ctrl-C in the terminal is for us; the server is stopped when we have finished.
        command.process_group(0);
        command.current_dir("/").stdin(Stdio::null()).stdout(output).stderr(errors);
        let (pid_sender, pid) = mpsc::sync_channel(1);
        let (ended_sender, ended) = watch::channel(None);
        std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn(move || match command.spawn() {
                Err(error) => {
                    let _unheard = pid_sender.send(Err(error));
                }
                Ok(mut child) => {
                    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                    let _unheard =
                        pid_sender.send(pid.ok_or_else(|| io::Error::other("no process id")));
                    if let Ok(status) = child.wait() {
                        // Nobody waits for it any more when the send fails.
                        let _unheard = ended_sender.send(Some(status));
                    }
                }
            })
            .map_err(|error| io(dir, error))?;
        let pid = pid.recv().map_err(|_| io(dir, io::Error::other("the starting thread ended")))?;
        Ok((pid.map_err(|error| io(Path::new("setpriv"), error))?, ended))
    }
}

fn settings(options: PostgresOptions) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=".to_owned(),
        "unix_socket_permissions=0700".to_owned(),
        format!("max_connections={}", options.max_connections),
        // Small on purpose: the catalog fits, and an idle deployment shall not weigh much.
        "shared_buffers=48MB".to_owned(),
        "max_wal_size=512MB".to_owned(),
        "jit=off".to_owned(),
        "timezone=UTC".to_owned(),
        "log_min_messages=warning".to_owned(),
    ];
    if !options.durable {
        settings.extend(
            ["fsync", "synchronous_commit", "full_page_writes"].map(|n| format!("{n}=off")),
        );
    }
    settings
}

fn newest_bin() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("postgres").exists().then_some((version, bin))
        })
        .max_by_key(|(version, _)| *version)
        .map(|(_, bin)| bin);
    newest.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
    })
}

/// The service user's ids, by way of `id`, which also asks directories other than /etc/passwd.
fn service_ids() -> Option<(u32, u32)> {
    let ask = |flag: &str| {
        let output = Command::new("id").args([flag, SERVICE_USER]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((ask("-u")?, ask("-g")?))
}

/// Byte by byte: in a path anything may stand, in a URL most of it has a meaning.
fn url_encoded(path: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(byte);
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(
            |byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") },
        )
        .collect()
}

fn absolute(dir: &Path) -> Result<PathBuf, PostgresError> {
    std::path::absolute(dir).map_err(|error| PostgresError::Io(dir.to_owned(), error))
}

/// Beside the data directory, or in /tmp under the directory's inode where that path is too long.
fn socket_dir(dir: &Path) -> PathBuf {
    let beside = dir.with_extension("socket");
    if beside.as_os_str().len() <= SOCKET_DIR_MAX {
        return beside;
    }
    let parent = dir.parent().and_then(|parent| fs::metadata(parent).ok());
    let (device, inode) = parent.map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()));
    PathBuf::from(format!("/tmp/weir-postgres-{device:x}-{inode:x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_url_means_nothing_but_itself() {
        assert_eq!(url_encoded(Path::new("/var/tmp/a-b_c.d~1")), "/var/tmp/a-b_c.d~1");
        assert_eq!(url_encoded(Path::new("/a b&c=%41+ü?#")), "/a%20b%26c%3D%2541%2B%C3%BC%3F%23");
    }

    #[test]
    fn long_paths_get_a_short_socket_directory() {
        assert_eq!(socket_dir(Path::new("/data/postgres")), Path::new("/data/postgres.socket"));
        let long = PathBuf::from(format!("/{}/postgres", "x".repeat(120)));
        assert!(socket_dir(&long).as_os_str().len() <= SOCKET_DIR_MAX);
    }
}
