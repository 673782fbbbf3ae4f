//! Where the engine's library is.

use std::path::{Path, PathBuf};

/// The version that everything here is tried with; a newer one may keep its files differently.
const VERSION: &str = "26.7.3";

/// The engine's library file, `libchdb.so`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library(PathBuf);

/// There is no library where it is looked for.
#[derive(Debug, thiserror::Error)]
#[error(
    "no analytics engine at {0}: run deploy/dev/chdb.sh (Linux x86-64 with glibc), set WEIR_LIBCHDB \
     to a libchdb.so {VERSION}, or set CLICKHOUSE_URL to use a ClickHouse server"
)]
pub struct LibraryMissing(pub PathBuf);

impl Library {
    /// `WEIR_LIBCHDB`, else `weir/chdb/26.7.3/libchdb.so` in `XDG_CACHE_HOME` or `~/.cache`.
    pub fn locate() -> Result<Self, LibraryMissing> {
        let variable =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let path = variable("WEIR_LIBCHDB").unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".cache")))
                .unwrap_or_default();
            cache.join("weir/chdb").join(VERSION).join("libchdb.so")
        });
        if path.is_file() { Ok(Self(path)) } else { Err(LibraryMissing(path)) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}
