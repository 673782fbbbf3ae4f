//! The body of the engine's process: checks its parent and its directory, then runs ClickHouse's
//! own server code in the library until it is shut down.

use super::{config, deduplication_logs};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Signal, getppid, set_parent_process_death_signal},
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::{CStr, CString, NulError, c_char, c_int, c_void},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    ptr,
    time::{Duration, Instant},
};

/// The exit status that says "another process has the directory".
pub(super) const IN_USE_STATUS: u8 = 3;
/// Written when the engine listens.
pub(super) const PORT_FILE: &str = "engine.port";
const LOCK_FILE: &str = "engine.lock";
const CONFIG_FILE: &str = "engine.xml";
/// A predecessor whose parent was killed just now may need this long to disappear.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// What the parent writes to the child's standard input.
#[derive(Serialize, Deserialize)]
pub(super) struct StartMessage {
    pub(super) parent: u32,
    pub(super) library: PathBuf,
    /// 0: any that is free.
    pub(super) port: u16,
    pub(super) password: String,
    pub(super) memory_max_bytes: u64,
    pub(super) durable: bool,
}

/// Why the engine's process ended.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    #[error("the parent process is gone")]
    Orphan,
    #[error("this command is run by weir itself: {0}")]
    Message(#[source] serde_json::Error),
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    #[error("{0} can't be passed on: {1}")]
    Path(PathBuf, #[source] NulError),
    #[error(transparent)]
    Library(#[from] libloading::Error),
    #[error("the engine failed: {0}")]
    Engine(String),
}

/// The engine's process on `dir`: returns when it has been shut down or can't run, with the status
/// to exit with; the reason is on standard error.
///
/// Only [`Engine::start`](super::Engine::start) runs this: it sends the settings by standard input.
#[must_use]
pub fn child_main(dir: &Path) -> ExitCode {
    match run(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may read it any more; the status is what counts.
            let _unread = writeln!(io::stderr(), "{error}");
            match error {
                ChildError::InUse(_) => ExitCode::from(IN_USE_STATUS),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

pub(super) fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn run(dir: &Path) -> Result<(), ChildError> {
    let message = read_message()?;
    die_with(message.parent)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| ChildError::Io(path, error)
    };
    let lock = dir.join(LOCK_FILE);
    // Held until the process ends; the kernel lets go of it then.
    let _lock = take_lock(&lock, dir)?;
    let data = data_dir(dir);
    fs::create_dir_all(&data).map_err(io(&data))?;
    deduplication_logs::repair(&data).map_err(io(&data))?;
    let port_file = dir.join(PORT_FILE);
    if port_file.exists() {
        fs::remove_file(&port_file).map_err(io(&port_file))?;
    }
    write_private(
        &dir.join(CONFIG_FILE),
        &config::engine_xml(message.memory_max_bytes, message.durable),
    )?;
    write_private(&dir.join("users.xml"), &config::users_xml(&message.password))?;
    call(&message.library, &arguments(dir, &data, &port_file, message.port)?)
}

fn read_message() -> Result<StartMessage, ChildError> {
    let mut text = Vec::new();
    let stdin = PathBuf::from("standard input");
    io::stdin().read_to_end(&mut text).map_err(|error| ChildError::Io(stdin, error))?;
    serde_json::from_slice(&text).map_err(ChildError::Message)
}

/// From here on the kernel kills us when the parent dies; it may have died before.
fn die_with(parent: u32) -> Result<(), ChildError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| ChildError::Io(PathBuf::from("parent death signal"), error.into()))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) { Ok(()) } else { Err(ChildError::Orphan) }
}

fn take_lock(path: &Path, dir: &Path) -> Result<File, ChildError> {
    let file = private().truncate(false).open(path);
    let file = file.map_err(|error| ChildError::Io(path.to_owned(), error))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ChildError::InUse(dir.to_owned())),
            Err(error) => return Err(ChildError::Io(path.to_owned(), error.into())),
        }
    }
}

fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.create(true).write(true).mode(0o600);
    options
}

fn write_private(path: &Path, text: &str) -> Result<(), ChildError> {
    let io = |error| ChildError::Io(path.to_owned(), error);
    let mut file = private().truncate(true).open(path).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)
}

/// The command line of `clickhouse local`. Its last query never ends: the call returns when the
/// engine is shut down.
fn arguments(
    dir: &Path,
    data: &Path,
    port_file: &Path,
    port: u16,
) -> Result<Vec<CString>, ChildError> {
    let quoted = port_file.as_os_str().as_bytes();
    let mut outfile = Vec::new();
    for byte in quoted {
        if matches!(byte, b'\'' | b'\\') {
            outfile.push(b'\\');
        }
        outfile.push(*byte);
    }
    let queries = [
        b"SYSTEM START LISTEN HTTP; SELECT ".as_slice(),
        std::process::id().to_string().as_bytes(),
        b" AS pid, getServerPort('http_port') AS port INTO OUTFILE '",
        &outfile,
        b"' TRUNCATE FORMAT TSV; \
          SELECT sleepEachRow(3) FROM system.numbers \
          SETTINGS max_block_size = 1, max_threads = 1 FORMAT Null",
    ]
    .concat();
    let option = |name: &str, path: &Path| [name.as_bytes(), path.as_os_str().as_bytes()].concat();
    [
        b"clickhouse".to_vec(),
        option("--path=", data),
        option("--config-file=", &dir.join(CONFIG_FILE)),
        format!("--http_port={port}").into_bytes(),
        b"--listen_host=127.0.0.1".to_vec(),
        b"--log-level=warning".to_vec(),
        b"--query".to_vec(),
        queries,
    ]
    .into_iter()
    .map(|text| CString::new(text).map_err(|error| ChildError::Path(dir.to_owned(), error)))
    .collect()
}

type Main = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;
type ResultError = unsafe extern "C" fn(*mut c_void) -> *const c_char;

#[expect(unsafe_code, reason = "the engine is a C library; these are its two plain functions")]
fn call(library: &Path, arguments: &[CString]) -> Result<(), ChildError> {
    let mut pointers: Vec<*mut c_char> =
        arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    pointers.push(ptr::null_mut());
    // SAFETY: loading runs the library's initialisers, which ClickHouse's programs run too; nothing
    // else in this process has started. The symbols have these types in chdb.h of the pinned version.
    // `arguments` outlives the call, the vector ends with a null pointer as argv does, and the engine
    // does not write to it. The result is a valid pointer or null, and its error a C string or null.
    let failure = unsafe {
        let library = libloading::Library::new(library)?;
        let main = library.get::<Main>(c"chdb_query_cmdline")?;
        let error_of = library.get::<ResultError>(c"chdb_result_error")?;
        let result = main(count, pointers.as_mut_ptr());
        let error = if result.is_null() { ptr::null() } else { error_of(result) };
        let failure =
            (!error.is_null()).then(|| CStr::from_ptr(error).to_string_lossy().into_owned());
        // Its threads may still run, so it stays loaded until the process ends.
        std::mem::forget(library);
        failure
    };
    failure.map_or(Ok(()), |message| Err(ChildError::Engine(message)))
}
