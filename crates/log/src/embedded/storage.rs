//! The records on disk: fjall, with the records themselves in value logs beside the keys.
//!
//! ```text
//! DIR/lock        held while the log is open
//! DIR/records/    the engine's files
//!   records       partition (u32, big endian), offset (u64, big endian) -> record
//!   meta          "format", "partitions", "start" + partition
//! ```

use super::EmbeddedOptions;
use crate::{LogError, Stored};
use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};
use std::{
    fs::{self, File, TryLockError},
    io,
    ops::Range,
    path::Path,
    sync::Arc,
};

const FORMAT: &[u8] = b"1";
/// Records that are deleted in one step: some milliseconds of the engine's time.
const DELETED_AT_ONCE: usize = 1_000;
/// The journals hold what memory holds twice over; the rest is freed by the next flush.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// One and no more: while another one compacts, fjall's first worker takes and returns the same
/// message as fast as it can, for a third of all that ingestion costs.
const WORKERS: usize = 1;
/// Small enough that the files of released records go away as a whole.
const VALUE_FILE_BYTES: u64 = 32 << 20;

/// Where the engine's files are, in the log's directory.
pub(super) const RECORDS: &str = "records";

/// The engine, open. Dropping it closes it and then gives the lock back.
pub(super) struct Storage {
    records: Keyspace,
    meta: Keyspace,
    database: Database,
    _lock: Arc<File>,
}

impl Storage {
    /// Opens the records in `dir`, which is locked, or makes their place.
    pub fn open(
        dir: &Path,
        lock: Arc<File>,
        partitions: u32,
        options: &EmbeddedOptions,
    ) -> Result<Self, LogError> {
        let place = dir.join(RECORDS);
        if !place.try_exists().map_err(LogError::open("its directory"))? {
            create(dir, &place, partitions, options)?;
        }
        let storage = Self::open_engine(&place, lock, options).map_err(|error| match error {
            fjall::Error::Locked => LogError::InUse { dir: dir.to_owned() },
            other => LogError::open("its files")(other),
        })?;
        storage.check(dir, partitions)?;
        Ok(storage)
    }

    fn open_engine(
        place: &Path,
        lock: Arc<File>,
        options: &EmbeddedOptions,
    ) -> Result<Self, fjall::Error> {
        // Records are compressed when they come.
        let none = CompressionType::None;
        let database = Database::builder(place)
            .journal_compression(none)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKERS)
            .open()?;
        let values =
            KvSeparationOptions::default().compression(none).file_target_size(VALUE_FILE_BYTES);
        let records = database.keyspace("records", || {
            KeyspaceCreateOptions::default()
                .with_kv_separation(Some(values))
                .max_memtable_size(options.memtable_bytes)
        })?;
        let meta = database.keyspace("meta", KeyspaceCreateOptions::default)?;
        Ok(Self { records, meta, database, _lock: lock })
    }

    fn check(&self, dir: &Path, wanted: u32) -> Result<(), LogError> {
        let get = |key| self.meta.get(key).map_err(LogError::open("its description"));
        let format = get("format")?.unwrap_or_default();
        if &*format != FORMAT {
            let found = String::from_utf8_lossy(&format).into_owned();
            return Err(LogError::Format { dir: dir.to_owned(), found });
        }
        let stored = get("partitions")?.unwrap_or_default();
        let found = <[u8; 4]>::try_from(&*stored).map_or(0, u32::from_be_bytes);
        if found != wanted {
            return Err(LogError::PartitionCount { found, wanted });
        }
        Ok(())
    }

    /// From the first offset that can be read to the one that the next record gets.
    pub fn bounds(&self, partition: u32) -> Result<Range<u64>, fjall::Error> {
        let stored = self.meta.get(start_key(partition))?;
        let start = stored
            .and_then(|start| <[u8; 8]>::try_from(&*start).ok())
            .map_or(0, u64::from_be_bytes);
        let all = key(partition, 0)..=key(partition, u64::MAX);
        let last = self.records.range(all).next_back().map(fjall::Guard::key).transpose()?;
        let after_last = last.and_then(|key| offset_of(&key)).map_or(0, |offset| offset + 1);
        Ok(start..start.max(after_last))
    }

    /// Writes records as one group; returns when they are on the disk.
    pub fn write(&self, records: Vec<(u32, u64, Bytes)>) -> Result<(), fjall::Error> {
        // Synced before the engine shows them to readers, in the same call.
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (partition, offset, bytes) in records {
            batch.insert(&self.records, key(partition, offset), bytes);
        }
        batch.commit()
    }

    /// The records of a range as they are now.
    pub fn records(
        &self,
        partition: u32,
        offsets: Range<u64>,
    ) -> impl Iterator<Item = Result<Stored, fjall::Error>> + use<> {
        let range = key(partition, offsets.start)..key(partition, offsets.end.max(offsets.start));
        self.records.range(range).map(|entry| {
            let (key, value) = entry.into_inner()?;
            Ok(Stored { offset: offset_of(&key).unwrap_or(u64::MAX), bytes: value.into() })
        })
    }

    /// Notes where the partition starts; on the disk no later than any deletion after it.
    pub fn set_start(&self, partition: u32, start: u64) -> Result<(), fjall::Error> {
        self.meta.insert(start_key(partition), start.to_be_bytes())
    }

    /// Deletes some records of a range and gives the offset of the last; `None` when there are none.
    pub fn delete_some(
        &self,
        partition: u32,
        offsets: Range<u64>,
    ) -> Result<Option<u64>, fjall::Error> {
        let range = key(partition, offsets.start)..key(partition, offsets.end.max(offsets.start));
        let mut batch = self.database.batch();
        let mut last = None;
        for entry in self.records.range(range).take(DELETED_AT_ONCE) {
            let key = entry.key()?;
            last = offset_of(&key);
            batch.remove(&self.records, key);
        }
        batch.commit()?;
        Ok(last)
    }

    /// Makes partitions start and end where this says, and nothing be behind their ends; returns when
    /// that is on the disk.
    pub fn restore(
        &self,
        kept: impl Iterator<Item = (u32, Range<u64>)>,
    ) -> Result<(), fjall::Error> {
        for (partition, kept) in kept {
            self.set_start(partition, kept.start)?;
            let mut behind = kept.end;
            while let Some(last) = self.delete_some(partition, behind..u64::MAX)? {
                behind = last + 1;
            }
        }
        self.database.persist(PersistMode::SyncAll)
    }
}

/// Makes the log under another name and moves it into place, so that a crash leaves none or all.
fn create(
    dir: &Path,
    place: &Path,
    partitions: u32,
    options: &EmbeddedOptions,
) -> Result<(), LogError> {
    const STEP: &str = "its creation";
    let unfinished = dir.join("records.new");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LogError::open(STEP)(error));
        }
        _ => {}
    }
    let own_lock = Arc::new(File::open(dir).map_err(LogError::open(STEP))?);
    let storage =
        Storage::open_engine(&unfinished, own_lock, options).map_err(LogError::open(STEP))?;
    let mut batch = storage.database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&storage.meta, "format", FORMAT);
    batch.insert(&storage.meta, "partitions", partitions.to_be_bytes());
    batch.commit().map_err(LogError::open(STEP))?;
    drop(storage);
    fs::rename(&unfinished, place).map_err(LogError::open(STEP))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(LogError::open(STEP))
}

/// Takes the directory, which is made if it is not there. Errors: `InUse`, `Open`.
pub(super) fn lock(dir: &Path) -> Result<File, LogError> {
    let lock = fs::create_dir_all(dir)
        .and_then(|()| File::create(dir.join("lock")))
        .map_err(LogError::open("its lock file"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(LogError::open("its lock file")(error)),
    }
}

fn key(partition: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    let (head, tail) = key.split_at_mut(4);
    head.copy_from_slice(&partition.to_be_bytes());
    tail.copy_from_slice(&offset.to_be_bytes());
    key
}

fn offset_of(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|offset| u64::from_be_bytes(*offset))
}

fn start_key(partition: u32) -> [u8; 9] {
    let mut key = *b"start\0\0\0\0";
    let (_, tail) = key.split_at_mut(5);
    tail.copy_from_slice(&partition.to_be_bytes());
    key
}
