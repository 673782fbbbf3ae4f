//! The one thread that writes: it takes all that waits, writes it as one group with one fsync, and
//! then answers everybody in it.

use super::{EmbeddedOptions, Shared, engine};
use crate::{
    Append, LogError,
    error::{CannotWrite, Closed},
    metrics,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::{
    mpsc::{
        self,
        error::{TryRecvError, TrySendError},
    },
    oneshot,
};

/// The records of one `append`, all in one group.
pub(super) struct Request {
    records: Vec<Append>,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<u64>, LogError>>,
}

impl Request {
    pub fn new(records: Vec<Append>, reply: oneshot::Sender<Result<Vec<u64>, LogError>>) -> Self {
        let bytes = records.iter().map(|record| record.bytes.len()).sum();
        Self { records, bytes, reply }
    }
}

/// The queue of the committing thread. Dropping it writes what is queued and ends the thread.
pub(super) struct Committer {
    queue: Option<mpsc::Sender<Request>>,
    queue_bytes_max: usize,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    queued_bytes: AtomicUsize,
    /// A write failed, and the engine is not opened again yet.
    failed: AtomicBool,
    /// How it failed.
    cause: Mutex<String>,
}

/// The pause before the first look whether the log can write again, and what it grows to: a look is
/// 16 MiB written and, where there is room, the journals read.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How soon a request is refused that came in when the write failed.
const REFUSE_EVERY: Duration = Duration::from_millis(20);

impl Committer {
    pub fn start(shared: Arc<Shared>, options: &EmbeddedOptions) -> Result<Self, LogError> {
        let (queue, requests) = mpsc::channel(options.queue_requests_max);
        let state = Arc::new(State::default());
        let worker = Worker {
            next: shared.partitions.iter().map(|partition| *partition.end.borrow()).collect(),
            shared,
            requests,
            group_bytes_max: options.group_bytes_max,
            state: Arc::clone(&state),
        };
        let thread = std::thread::Builder::new()
            .name("weir-log".to_owned())
            .spawn(move || worker.run())
            .map_err(LogError::open("its thread"))?;
        let queue_bytes_max = options.queue_bytes_max;
        Ok(Self { queue: Some(queue), queue_bytes_max, state, thread: Some(thread) })
    }

    /// Queues a request. Errors: `Busy` at once when too much waits; `Rejected` after a failure, until
    /// the log writes again.
    pub fn send(&self, request: Request) -> Result<(), LogError> {
        if self.state.failed.load(Ordering::Acquire) {
            return Err(self.state.refusal());
        }
        let bytes = request.bytes;
        // A request larger than the whole queue passes when it is alone.
        let room = |queued: usize| {
            (queued == 0 || queued + bytes <= self.queue_bytes_max).then_some(queued + bytes)
        };
        let queued = &self.state.queued_bytes;
        if queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Err(busy());
        }
        let refused = match self.queue.as_ref().map(|queue| queue.try_send(request)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(TrySendError::Full(_))) => busy(),
            Some(Err(TrySendError::Closed(_))) | None => LogError::rejected(Closed),
        };
        queued.fetch_sub(bytes, Ordering::Relaxed);
        Err(refused)
    }

    /// Errors: `Unavailable` after a write has failed, until the log writes again.
    pub fn ready(&self) -> Result<(), LogError> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Err(LogError::unavailable(Closed));
        }
        if self.state.failed.load(Ordering::Acquire) {
            return Err(LogError::unavailable(self.state.trouble()));
        }
        Ok(())
    }
}

impl State {
    fn trouble(&self) -> CannotWrite {
        CannotWrite(self.cause.lock().clone())
    }

    /// For what was not written.
    fn refusal(&self) -> LogError {
        LogError::rejected(self.trouble())
    }
}

fn busy() -> LogError {
    metrics::refused_busy();
    LogError::Busy
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log's thread panicked");
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// The offset that the next record of each partition gets.
    next: Vec<u64>,
    group_bytes_max: usize,
    state: Arc<State>,
}

impl Worker {
    fn run(mut self) {
        while let Some(first) = self.requests.blocking_recv() {
            let mut bytes = first.bytes;
            let mut group = vec![first];
            while bytes < self.group_bytes_max {
                let Ok(request) = self.requests.try_recv() else { break };
                bytes += request.bytes;
                group.push(request);
            }
            self.commit(group);
            self.state.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if self.state.failed.load(Ordering::Acquire) && !self.recover() {
                return;
            }
        }
    }

    /// Opens the engine again, as often as that takes, and refuses what comes meanwhile. False: the
    /// log is closed.
    fn recover(&mut self) -> bool {
        let (mut pause, mut told) = (PAUSE_FIRST, false);
        while self.refuse_for(pause) {
            match self.shared.engine.open_again(&self.shared.partitions) {
                Ok(()) => {
                    metrics::reopened();
                    tracing::info!("the log writes again");
                    self.state.failed.store(false, Ordering::Release);
                    return true;
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    if told || engine::wants_room(&error) {
                        tracing::debug!(%error, cause, "the log still cannot write");
                    } else {
                        tracing::error!(%error, cause, "there is room and the log cannot be opened");
                        told = true;
                    }
                }
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        false
    }

    /// Answers for a while what was queued when the write failed. False: the log is closed.
    fn refuse_for(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            match self.requests.try_recv() {
                Ok(request) => {
                    self.state.queued_bytes.fetch_sub(request.bytes, Ordering::Relaxed);
                    // Nobody waits any more where the request was cancelled.
                    let _ = request.reply.send(Err(self.state.refusal()));
                }
                Err(TryRecvError::Empty) => thread::sleep(REFUSE_EVERY),
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    fn commit(&mut self, group: Vec<Request>) {
        let started = Instant::now();
        let mut writes: Vec<(u32, u64, Bytes)> = Vec::new();
        let mut waiting = Vec::with_capacity(group.len());
        for request in group {
            let first = writes.len();
            for Append { partition, bytes } in request.records {
                // `append` has checked the partition.
                if let Some(next) = self.next.get_mut(partition as usize) {
                    writes.push((partition, *next, bytes));
                    // Never given again, also when this write fails: it may be in the journal.
                    *next += 1;
                }
            }
            let offsets: Vec<u64> =
                writes.iter().skip(first).map(|(_, offset, _)| *offset).collect();
            waiting.push((request.reply, offsets));
        }
        let records = writes.len() as u64;
        let outcome = self.write(writes);
        if outcome.is_ok() {
            metrics::committed(records, started.elapsed());
            for (partition, next) in self.shared.partitions.iter().zip(&self.next) {
                partition.end.send_if_modified(|end| {
                    let grown = *end < *next;
                    *end = *next;
                    grown
                });
            }
        }
        for (reply, offsets) in waiting {
            // Nobody waits any more where the request was cancelled.
            let _ = reply.send(outcome.clone().map(|()| offsets));
        }
    }

    fn write(&self, records: Vec<(u32, u64, Bytes)>) -> Result<(), LogError> {
        let storage = self.shared.engine.storage()?;
        storage.write(records).map_err(|error| {
            tracing::error!(%error, "the log cannot write; it takes nothing until it can again");
            *self.state.cause.lock() = error.to_string();
            self.state.failed.store(true, Ordering::Release);
            match error {
                // Checked before anything is written.
                fjall::Error::Poisoned => LogError::rejected(error),
                _ => LogError::unknown(error),
            }
        })
    }
}
