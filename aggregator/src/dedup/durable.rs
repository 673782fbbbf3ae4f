//! Files that are there wholly or not at all: temporary name, fsync, rename, fsync of the directory.

use super::error::IndexError;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// Suffix of files that a crash may leave half written.
pub(super) const TEMPORARY: &str = "tmp";

/// The name a file has until it is complete.
pub(super) fn temporary(path: &Path) -> PathBuf {
    path.with_extension(TEMPORARY)
}

/// Gives a complete file its name; it survives a power cut from here on.
pub(super) fn publish(file: &File, path: &Path) -> Result<(), IndexError> {
    file.sync_all().map_err(IndexError::io(path))?;
    fs::rename(temporary(path), path).map_err(IndexError::io(path))?;
    sync_parent(path)
}

/// Writes a small file in one go.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), IndexError> {
    let half = temporary(path);
    let mut file = File::create(&half).map_err(IndexError::io(&half))?;
    file.write_all(bytes).map_err(IndexError::io(&half))?;
    publish(&file, path)
}

fn sync_parent(path: &Path) -> Result<(), IndexError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(IndexError::io(parent))
}
