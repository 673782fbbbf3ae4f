//! The log in a local directory, for a deployment of one process.

mod committer;
mod engine;
mod storage;

use crate::{Append, EventLog, LogError, Stored, error::Closed, metrics};
use committer::{Committer, Request};
use engine::Engine;
use serde::Deserialize;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex, oneshot, watch};

/// Bounds of the embedded log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddedOptions {
    /// Calls of `append` that may wait for the disk. 4,096 is more than ingest has requests open.
    pub queue_requests_max: usize,
    /// Bytes that may wait for the disk: 64 MiB are 2 million events, a second of full load.
    pub queue_bytes_max: usize,
    /// Bytes after which a group is written although more wait: 8 MiB are 10 ms of a slow disk.
    pub group_bytes_max: usize,
    /// Bytes kept in memory before they become a file. The journal has them already.
    pub memtable_bytes: u64,
    /// Cache of what is read. Readers follow the end of the log, which is in memory anyway.
    pub cache_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            queue_requests_max: 4_096,
            queue_bytes_max: 64 << 20,
            group_bytes_max: 8 << 20,
            memtable_bytes: 32 << 20,
            cache_bytes: 16 << 20,
        }
    }
}

/// A log in a directory that one process has open at a time.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    committer: Committer,
}

struct Shared {
    engine: Engine,
    partitions: Vec<Partition>,
}

struct Partition {
    /// Sent after a group is durable, so a reader never sees what could still be lost.
    end: watch::Sender<u64>,
    start: AtomicU64,
    /// Records below are deleted from the disk. Held during a release: one at a time.
    deleted_to: Mutex<u64>,
}

/// Partitions of a new embedded log: one process has one set of cores, and each partition more makes
/// chunks smaller and each event dearer. Four keep two inserts under way while two are prepared.
pub const NEW_EMBEDDED_PARTITIONS: u32 = 4;

impl EmbeddedLog {
    /// Opens the log in `dir` with the partitions it has, or creates it with
    /// [`NEW_EMBEDDED_PARTITIONS`]. Blocks and fails as [`EmbeddedLog::open`] does.
    pub fn open_as_it_is(dir: &Path, options: EmbeddedOptions) -> Result<Self, LogError> {
        match Self::open(dir, NEW_EMBEDDED_PARTITIONS, options.clone()) {
            Err(LogError::PartitionCount { found, .. }) => Self::open(dir, found, options),
            opened => opened,
        }
    }

    /// Opens the log in `dir`, or creates it with this number of partitions. Blocks while the disk
    /// is read. Errors: `InUse`, `PartitionCount`, `Format`, `Open`.
    ///
    /// When a write fails, as on a full disk, nothing is taken until the log can write again, which it
    /// finds out by itself.
    pub fn open(dir: &Path, partitions: u32, options: EmbeddedOptions) -> Result<Self, LogError> {
        metrics::describe_embedded();
        let engine = Engine::open(dir, partitions, options.clone())?;
        let storage = engine.storage()?;
        let partitions = (0..partitions)
            .map(|partition| {
                let bounds = storage.bounds(partition)?;
                Ok(Partition {
                    end: watch::Sender::new(bounds.end),
                    start: AtomicU64::new(bounds.start),
                    deleted_to: Mutex::new(0),
                })
            })
            .collect::<Result<_, fjall::Error>>()
            .map_err(LogError::open("its records"))?;
        drop(storage);
        let shared = Arc::new(Shared { engine, partitions });
        let committer = Committer::start(Arc::clone(&shared), &options)?;
        Ok(Self { shared, committer })
    }

    fn partition(&self, partition: u32) -> Result<&Partition, LogError> {
        self.shared.partition(partition)
    }
}

impl Shared {
    fn partition(&self, partition: u32) -> Result<&Partition, LogError> {
        self.partitions.get(partition as usize).ok_or_else(|| LogError::NoSuchPartition {
            partition,
            partitions: u32::try_from(self.partitions.len()).unwrap_or(u32::MAX),
        })
    }

    fn read(&self, partition: u32, from: u64, max_bytes: usize) -> Result<Vec<Stored>, LogError> {
        let place = self.partition(partition)?;
        let end = *place.end.borrow();
        let storage = self.engine.storage()?;
        let mut records = storage.records(partition, from..end);
        // After the snapshot that `records` is: a release moves the start before it deletes, so
        // what it deletes is seen here either as a record or as a start beyond it.
        let start = place.start.load(Ordering::SeqCst);
        if from < start {
            return Err(LogError::BelowStart { partition, from, start });
        }
        let (mut out, mut bytes) = (Vec::new(), 0);
        while bytes < max_bytes.max(1) {
            let Some(record) = records.next() else { break };
            let record = record.map_err(LogError::unavailable)?;
            bytes += record.bytes.len().max(1);
            out.push(record);
        }
        Ok(out)
    }

    fn release(&self, partition: u32, before: u64, deleted_to: &mut u64) -> Result<(), LogError> {
        let place = self.partition(partition)?;
        let before = before.min(*place.end.borrow());
        let storage = self.engine.storage()?;
        // The disk first: what is deleted below a start that is not there would be a gap.
        if place.start.load(Ordering::SeqCst) < before {
            storage.set_start(partition, before).map_err(LogError::unavailable)?;
            place.start.fetch_max(before, Ordering::SeqCst);
        }
        // Step by step, so that appends get their turn between.
        while let Some(last) =
            storage.delete_some(partition, *deleted_to..before).map_err(LogError::unavailable)?
        {
            *deleted_to = last + 1;
        }
        *deleted_to = before.max(*deleted_to);
        Ok(())
    }
}

#[async_trait::async_trait]
impl EventLog for EmbeddedLog {
    fn partitions(&self) -> u32 {
        u32::try_from(self.shared.partitions.len()).unwrap_or(u32::MAX)
    }

    async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
        let count = records.len();
        if let Some(wrong) = records.iter().find_map(|r| self.partition(r.partition).err()) {
            return vec![Err(wrong); count];
        }
        if count == 0 {
            return Vec::new();
        }
        let (reply, answer) = oneshot::channel();
        let outcome = match self.committer.send(Request::new(records, reply)) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(LogError::unknown(Closed))),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(offsets) => offsets.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    async fn end(&self, partition: u32) -> Result<u64, LogError> {
        Ok(*self.partition(partition)?.end.borrow())
    }

    async fn start(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.partition(partition)?.start.load(Ordering::SeqCst))
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Stored>, LogError> {
        let mut ends = self.partition(partition)?.end.subscribe();
        let end = *ends.borrow_and_update();
        if from > end {
            return Err(LogError::BeyondEnd { partition, from, end });
        }
        if from == end {
            match tokio::time::timeout(wait, ends.wait_for(|end| *end > from)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(LogError::unavailable(Closed)),
                Err(_elapsed) => return Ok(Vec::new()),
            }
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.read(partition, from, max_bytes)).await
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.committer.ready()
    }

    async fn release(&self, partition: u32, before: u64) {
        let shared = Arc::clone(&self.shared);
        let released = blocking(move || {
            let mut deleted_to = shared.partition(partition)?.deleted_to.blocking_lock();
            shared.release(partition, before, &mut deleted_to)
        });
        if let Err(error) = released.await {
            tracing::warn!(partition, before, %error, "records could not be released");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(LogError::unavailable(e)))
}
