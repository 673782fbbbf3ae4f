//! The storage, and how it is opened again after a write that failed.
//!
//! Then nobody knows what the disk holds behind the last group that was acknowledged: what a failed
//! fsync leaves in memory need not be on the disk, and what would be written behind such a hole would
//! be lost with it. So the storage is closed, gets a new journal, is opened, and what was never
//! acknowledged is taken out: it holds what was promised, and all of that is on the disk.

use super::{EmbeddedOptions, Partition, storage, storage::Storage};
use crate::{LogError, error::Reopening};
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// What must be free before the storage is opened again: a group as large as they get, and what the
/// engine writes beside it. With less it would soon fail again.
const ROOM_MIB: usize = 16;
/// Written and removed to see whether there is room: quotas too count only what is really written.
const ROOM: &str = "room";
const ROOM_STEP: &str = "room on the disk";

pub(super) struct Engine {
    dir: PathBuf,
    partitions: u32,
    options: EmbeddedOptions,
    /// None between closing and opening again, and where the latter fails.
    storage: RwLock<Option<Storage>>,
    // Behind the storage: given back when that is closed.
    lock: Arc<File>,
}

impl Engine {
    /// Opens or creates the storage in `dir`. Errors: `InUse`, `PartitionCount`, `Format`, `Open`.
    pub fn open(dir: &Path, partitions: u32, options: EmbeddedOptions) -> Result<Self, LogError> {
        let lock = Arc::new(storage::lock(dir)?);
        // Of a process that was killed while it looked for room.
        let _absent = fs::remove_file(dir.join(ROOM));
        let storage = Storage::open(dir, Arc::clone(&lock), partitions, &options)?;
        let storage = RwLock::new(Some(storage));
        Ok(Self { dir: dir.to_owned(), partitions, options, storage, lock })
    }

    /// The storage, which stays open as long as the guard is held. Errors: `Unavailable` while it is
    /// opened again.
    pub fn storage(&self) -> Result<MappedRwLockReadGuard<'_, Storage>, LogError> {
        RwLockReadGuard::try_map(self.storage.read(), Option::as_ref)
            .map_err(|_closed| LogError::unavailable(Reopening))
    }

    /// Opens the storage again with what is acknowledged in these partitions, as soon as there is
    /// room; until there is, it can be read as it is. Waits for those who are reading. Blocks.
    /// Errors: `Open`; to be called again then.
    pub fn open_again(&self, partitions: &[Partition]) -> Result<(), LogError> {
        find_room(&self.dir).map_err(LogError::open(ROOM_STEP))?;
        let mut place = self.storage.write();
        // The engine writes what it still has when it is closed, so this comes first.
        *place = None;
        // Fails where the records are gone, perhaps with their disk: no new log may take their place.
        begin_journal(&self.dir.join(storage::RECORDS)).map_err(LogError::open("a new journal"))?;
        let lock = Arc::clone(&self.lock);
        let storage = Storage::open(&self.dir, lock, self.partitions, &self.options)?;
        let kept = partitions
            .iter()
            .map(|partition| partition.start.load(Ordering::SeqCst)..*partition.end.borrow());
        storage.restore((0..).zip(kept)).map_err(LogError::open("what was acknowledged"))?;
        *place = Some(storage);
        Ok(())
    }
}

/// Whether opening again has failed because the disk is still full.
pub(super) fn wants_room(error: &LogError) -> bool {
    matches!(error, LogError::Open { step: ROOM_STEP, .. })
}

fn find_room(dir: &Path) -> io::Result<()> {
    let path = dir.join(ROOM);
    let found = File::create(&path).and_then(|mut file| {
        let block = vec![1; 1 << 20];
        (0..ROOM_MIB).try_for_each(|_| file.write_all(&block))?;
        file.sync_all()
    });
    let given_back = fs::remove_file(&path);
    found.and(given_back)
}

/// Makes the engine write to a new journal: it takes the one with the greatest number, and reads the
/// others to the end of what is whole in them.
fn begin_journal(place: &Path) -> io::Result<()> {
    const SUFFIX: &str = ".jnl";
    let mut newest: Option<u64> = None;
    for entry in fs::read_dir(place)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        newest = newest.max(number);
    }
    let newest = newest.ok_or(io::ErrorKind::NotFound)?;
    let journal = File::open(place.join(format!("{newest}{SUFFIX}")))?;
    // The try before this one has made it, and nobody has written to it.
    if journal.metadata()?.len() == 0 {
        return Ok(());
    }
    journal.sync_all()?;
    File::create_new(place.join(format!("{}{SUFFIX}", newest + 1)))?;
    File::open(place)?.sync_all()
}
