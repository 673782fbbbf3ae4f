//! The one directory that holds a deployment of `weir up`, and what others must know to reach it.

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    io::Write,
    os::unix::{
        fs::{OpenOptionsExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};
use weir_usage::ClickHouseOptions;

/// How operator's commands reach a running `weir up`; written at its start, readable by its owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connections {
    pub database_url: String,
    pub clickhouse: ClickHouseOptions,
    pub listen: String,
    pub metrics_listen: String,
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The directory given, or that of WEIR_DATA, or the default: /var/lib/weir for root, else under
    /// the home directory.
    pub fn resolve(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let dir = match given.or_else(|| std::env::var_os("WEIR_DATA").map(PathBuf::from)) {
            Some(dir) => dir,
            None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/weir"),
            None => match std::env::var_os("XDG_DATA_HOME") {
                Some(data) => PathBuf::from(data).join("weir"),
                None => {
                    PathBuf::from(std::env::var_os("HOME").context("set --data: there is no HOME")?)
                        .join(".local/share/weir")
                }
            },
        };
        Ok(Self(std::path::absolute(dir)?))
    }

    /// Makes the directory. Others may pass through it, because Postgres runs as another user
    /// when we are root; what is in it is closed to them one by one.
    pub fn create(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("can't make {}", self.0.display()))?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o711))?;
        for private in ["log", "index", "clickhouse"] {
            let dir = self.0.join(private);
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Keeps any other `weir up` off this directory while the returned file is held.
    pub fn lock(&self) -> anyhow::Result<File> {
        let path = self.0.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "another weir is running on {}: stop it, or choose another directory with --data",
                self.0.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).context("locking the data directory"),
        }
    }

    /// Tells operator's commands how to reach us; the file appears whole or not at all.
    pub fn write_connections(&self, connections: &Connections) -> anyhow::Result<()> {
        let path = self.0.join("connections.json");
        let fresh = self.0.join("connections.json.new");
        let mut file =
            File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(connections)?)?;
        fs::rename(&fresh, &path)?;
        Ok(())
    }

    /// Removes what `write_connections` wrote.
    pub fn forget_connections(&self) {
        // It may be gone already, and then there is nothing to forget.
        let _gone = fs::remove_file(self.0.join("connections.json"));
    }

    /// How to reach the deployment that runs on this directory.
    pub fn connections(&self) -> anyhow::Result<Connections> {
        let path = self.0.join("connections.json");
        let text = fs::read(&path).with_context(|| {
            format!("no weir is running on {} (or it is not yours to see)", self.0.display())
        })?;
        // A killed one leaves the file.
        ensure!(self.answers(), "no weir is running on {}", self.0.display());
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Where a running `weir up` answers its operator.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.part("admin.sock")
    }

    /// Whether a `weir up` runs on this directory and has come up.
    #[must_use]
    pub fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// The directory of one part.
    #[must_use]
    pub fn part(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}
