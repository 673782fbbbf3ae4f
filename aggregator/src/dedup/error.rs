//! Why the index can't answer or keep something.

use std::{io, path::PathBuf};

/// Trouble with the index's files.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file system refused; the same may work later.
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A file does not hold what its checksum says. The index is built again, never believed.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged { path: PathBuf, what: &'static str },
}

impl IndexError {
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Of reading a file that must be there, as long as it was: a missing or cut one is damaged.
    pub(super) fn read(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::damaged(path, "it is missing"),
            io::ErrorKind::UnexpectedEof => Self::damaged(path, "it is too short"),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }

    pub(super) fn damaged(path: &std::path::Path, what: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), what }
    }
}
