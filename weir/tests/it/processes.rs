//! Processes and directories of the tests. None outlives the tests, however those end.

use crate::eventually;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    collections::HashSet,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

/// What a command's environment keeps of ours: nothing that would lead it to another deployment.
const KEPT: [&str; 8] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "WEIR_LIBCHDB",
    "WEIR_PG_BIN",
    "RUST_BACKTRACE",
];
const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// Lines of a log that a failed test shows.
const LOG_LINES: usize = 60;
/// Below the ports that the kernel gives to outgoing connections, of which the tests make many.
const PORTS: std::ops::Range<u16> = 18_000..31_000;

/// Reads what there is of ours until we are gone, then ends and removes it.
const WATCH: &str = r#"
groups=' ' dirs=
while read -r what name; do
  case $what in
    group) groups="$groups$name " ;;
    ended) groups="${groups%%" $name "*} ${groups#*" $name "}" ;;
    dir) dirs="$dirs $name" ;;
  esac
done
for group in $groups; do kill -9 "-$group"; done
for dir in $dirs; do
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    rm -rf "$dir" && break
    sleep 0.2
  done
done
"#;

static WATCHER: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut command = Command::new("sh");
    command.args(["-c", WATCH]).process_group(0);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Mutex::new(child.unwrap().stdin.unwrap())
});

fn tell_watcher(what: &str, name: &str) {
    let mut watcher = WATCHER.lock().unwrap();
    watcher.write_all(format!("{what} {name}\n").as_bytes()).unwrap();
}

/// The program under test, in an environment of its own.
pub fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::null());
    command
}

/// What a command left behind.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The output of a command that went well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }

    /// Asserts that the command failed and said why.
    #[track_caller]
    pub fn refused(&self, why: &str) {
        assert!(!self.status.success() && self.err.contains(why), "wanted {why:?}: {self:?}");
    }
}

/// Runs a command to its end.
pub async fn run(command: Command) -> Said {
    let mut command = tokio::process::Command::from(command);
    let ending = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND_TIMEOUT, ending).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} does not end")).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { status: output.status, out: text(output.stdout), err: text(output.stderr) }
}

/// A directory that root's Postgres can reach, which runs as another user.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        let made = tempfile::Builder::new().prefix("weir-e2e-").tempdir_in("/var/tmp").unwrap();
        let path = made.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        if !kept() {
            tell_watcher("dir", &path.display().to_string());
        }
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if kept() {
            return eprintln!("kept: {}", self.0.display());
        }
        // Processes of a killed Postgres notice it a moment later. What is left, the watcher takes.
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir_all(&self.0).is_err() && self.0.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn kept() -> bool {
    std::env::var_os("WEIR_TEST_KEEP").is_some()
}

/// A process that leads a group of its own and writes into a log.
pub struct Process {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it; `log` is made anew.
    pub fn spawn(mut command: Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        let child = command.spawn().unwrap();
        tell_watcher("group", &child.id().to_string());
        Self { child, log, ended: None }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// What it has written so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Sends a signal to the whole group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).unwrap();
    }

    /// SIGKILL to the whole group.
    pub fn kill(&mut self) {
        if self.status().is_none() {
            self.signal_group(Signal::KILL);
            let status = self.child.wait().unwrap();
            self.settle(Some(status));
        }
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            let status = self.child.try_wait().unwrap();
            self.settle(status);
        }
        self.ended
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        eventually("the end of a process", async || {
            self.status().ok_or_else(|| "it still runs".to_owned())
        })
        .await
    }

    fn settle(&mut self, status: Option<ExitStatus>) {
        if status.is_some() && self.ended.is_none() {
            self.ended = status;
            tell_watcher("ended", &self.child.id().to_string());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- the end of {}\n{}", self.log.display(), last.join("\n"));
        }
    }
}

/// Processes that work in a directory or were told of it.
pub fn living_in(dir: &Path) -> Vec<String> {
    let name = dir.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let at_home = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        (at_home || command.contains(name)).then(|| format!("{pid} {command}"))
    });
    processes.collect()
}

/// A port that is free, and that no other test gets.
pub fn free_port() -> u16 {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}
