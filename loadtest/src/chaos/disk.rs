//! A small disk for the log, to be filled.

use anyhow::{Context, ensure};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Larger than what the log takes at rest (its journals), small enough to be filled in memory.
const SIZE: &str = "400m";
const FILLER: &str = "filler";

/// A file system of its own, in memory, until it is dropped.
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Whether we may mount one.
    pub fn is_possible() -> bool {
        let Ok(dir) = tempfile::tempdir() else { return false };
        rustix::process::geteuid().is_root() && Self::mount(dir.path()).is_ok()
    }

    /// Mounts it on a directory. Errors: we may not.
    pub fn mount(place: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={SIZE},mode=0700"), "weir-chaos"]);
        let output = command.arg(place).output().context("mount")?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "can't mount a small disk: {said}");
        Ok(Self { place: place.to_owned() })
    }

    /// Writes until nothing more can be written.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = fs::File::create(self.place.join(FILLER))?;
        let mut block = vec![0_u8; 1 << 20];
        while !block.is_empty() {
            match file.write(&block) {
                Ok(1..) => {}
                Ok(0) => break,
                // To the last byte: the next record may be a small one.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    block.truncate(block.len() / 2);
                }
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
        Ok(())
    }

    /// Gives the room back.
    pub fn empty(&self) -> anyhow::Result<()> {
        fs::remove_file(self.place.join(FILLER)).context("emptying the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that was killed just now may still hold it.
        let done = Command::new("umount").arg("-l").arg(&self.place).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("loadtest: {} is still mounted", self.place.display());
        }
    }
}
