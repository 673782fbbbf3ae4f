//! Carries out the protocol's commands on the log, the index, ClickHouse and Postgres.
//!
//! Whatever fails is logged and counted here, and answered as `Failed`: the protocol decides when
//! it is tried again.

use crate::{
    Shared, catch_up,
    chunk::{Decoded, Limits},
    dedup::{Index, IndexError, Merged, judge, new_entries},
    error::AggregatorError,
    metrics::{self, PartitionMetrics},
    protocol::{CatalogAt, Command, Counts, Elapsed, Event, Intent},
    rollup::{Decision, conflict_rows, new_events, roll_up},
    trouble::Trouble,
};
use std::{path::PathBuf, sync::Arc, sync::atomic::Ordering, time::Duration};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout},
};
use weir_events::Position;
use weir_log::Stored;
use weir_runtime::Clock;
use weir_store::{StoreError, intents, partitions};
use weir_usage::{Chunk, EventBlock};

/// Ids are kept for a day longer than the edge takes their events: clocks differ, and records of
/// one partition are not quite in the order of their receipt.
const FORGET_MARGIN_US: i64 = 86_400 * 1_000_000;

/// What one partition's task holds between commands.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    partition: u32,
    metrics: PartitionMetrics,
    index: Option<Index>,
    work: Option<Work>,
    merge: Option<JoinHandle<Result<Merged, IndexError>>>,
    trouble: Trouble,
    owned: bool,
    released_to: u64,
}

/// The chunk in hand.
struct Work {
    chunk: Arc<Decoded>,
    decision: Option<Arc<Decision>>,
    /// Bounds the memory of all partitions together.
    _decoding: OwnedSemaphorePermit,
}

/// Asks Postgres for another lease; why there is no answer.
pub(crate) async fn renew(
    shared: Arc<Shared>,
    partition: u32,
    epoch: u64,
    sent_at: Elapsed,
) -> (Event, Option<String>) {
    let asked = async {
        let mut connection = shared.pool.acquire().await?;
        partitions::renew(&mut connection, partition, epoch, shared.config.lease()).await
    };
    match timeout(shared.config.insert_timeout(), asked).await {
        Ok(Ok(true)) => (Event::Renewed { sent_at }, None),
        Ok(Ok(false)) => {
            tracing::warn!(partition, epoch, "another owner has taken the partition");
            (Event::RenewalRefused, None)
        }
        Ok(Err(error)) => (Event::RenewalFailed, Some(error.to_string())),
        Err(_) => (Event::RenewalFailed, Some("no answer in time".to_owned())),
    }
}

impl Executor {
    pub fn new(shared: Arc<Shared>, partition: u32) -> Self {
        Self {
            shared,
            partition,
            metrics: PartitionMetrics::new(partition),
            index: None,
            work: None,
            merge: None,
            trouble: Trouble::default(),
            owned: false,
            released_to: 0,
        }
    }

    /// Says how far the partition is, for the lag.
    pub fn committed(&self, committed: Position) {
        if let Some(progress) = self.shared.progress.get(self.partition as usize) {
            progress.owned.store(self.owned, Ordering::Relaxed);
            progress.committed.store(committed.offset(), Ordering::Relaxed);
        }
    }

    /// Gives up what others could see of the partition.
    pub fn leave(&mut self) {
        self.shared.known.set(self.partition, None);
        self.owned = false;
        self.work = None;
        if let Some(progress) = self.shared.progress.get(self.partition as usize) {
            progress.owned.store(false, Ordering::Relaxed);
        }
    }

    /// The same, and lets go of the index: another owner goes on, and its files may be old when the
    /// partition comes back.
    pub async fn retire(&mut self) {
        self.leave();
        // A merge that ends after the next opening would write into its directory.
        self.end_merge().await;
        self.index = None;
        self.released_to = 0;
        self.metrics.not_owned();
    }

    pub async fn carry_out(&mut self, command: Command, origin: Instant) -> Event {
        let begun = Instant::now();
        let (operation, outcome) = match command {
            Command::Claim => ("claim", self.claim(origin).await),
            Command::CatchUp { to } => ("catch_up", self.catch_up(to).await),
            Command::Probe => ("probe", self.probe().await),
            Command::Mark { epoch, at_us } => ("mark", self.mark(epoch, at_us).await),
            Command::Read { from, to } => ("read", self.read(from, to).await),
            Command::Decide { catalog } => ("decide", self.decide(catalog).await),
            Command::Open { epoch, intent } => ("open", self.open(epoch, intent).await),
            Command::Insert { token } => ("insert", self.insert(&token).await),
            Command::Finish { epoch, intent, counts } => {
                ("finish", self.finish(epoch, intent, counts).await)
            }
            Command::Remember { to } => ("remember", self.remember(to).await),
            Command::Wait { until } => {
                tokio::time::sleep_until(origin + until).await;
                return Event::Waited;
            }
        };
        match outcome {
            Ok(event) => {
                self.trouble.worked_in(self.partition, operation);
                let took_ms = begun.elapsed().as_millis() as u64;
                tracing::debug!(partition = self.partition, operation, took_ms, "done");
                event
            }
            Err(error) => self.failure(operation, &error),
        }
    }

    fn failure(&mut self, operation: &'static str, error: &AggregatorError) -> Event {
        let partition = self.partition;
        metrics::failed(operation);
        match error {
            AggregatorError::Store(StoreError::Fenced { .. }) => {
                tracing::warn!(partition, operation, "fenced: another owner may have taken over");
                self.leave();
                Event::Fenced
            }
            AggregatorError::Index(IndexError::Damaged { .. }) => {
                tracing::error!(partition, operation, %error, "the index is built again");
                self.drop_index();
                Event::IndexLost
            }
            AggregatorError::NothingInHand => {
                tracing::error!(partition, operation, %error, "the partition is read again");
                Event::IndexLost
            }
            AggregatorError::LogLost { .. } => {
                if self.trouble.failed(operation) {
                    tracing::error!(partition, operation, %error, "a person must look");
                }
                Event::Failed
            }
            _ => {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                if self.trouble.failed(operation) {
                    tracing::warn!(partition, operation, %error, cause, "failed, will be tried again");
                } else {
                    tracing::debug!(partition, operation, %error, cause, "failed again");
                }
                Event::Failed
            }
        }
    }

    fn drop_index(&mut self) {
        self.shared.known.set(self.partition, None);
        self.index = None;
        self.work = None;
    }

    fn index_dir(&self) -> PathBuf {
        self.shared.index_dir.join(format!("{:05}", self.partition))
    }

    async fn claim(&mut self, origin: Instant) -> Result<Event, AggregatorError> {
        self.work = None;
        if !self.shared.wants(self.partition) {
            self.retire().await;
            self.shared.until_wanted(self.partition).await;
        }
        let sent_at = origin.elapsed();
        let mut connection = self.shared.pool.acquire().await.map_err(StoreError::from)?;
        let (owner, lease) = (&self.shared.owner, self.shared.config.lease());
        let Some(claim) = partitions::claim(&mut connection, self.partition, owner, lease).await?
        else {
            self.leave();
            return Ok(Event::Held);
        };
        let (partition, epoch, committed) = (self.partition, claim.epoch, claim.committed);
        let open = match claim.open {
            Some(_) => intents::adopt(&mut connection, partition, epoch).await?,
            None => None,
        };
        let open = open.map(|open| Intent {
            from: Position::from_u64(open.from),
            to: Position::from_u64(open.to),
            catalog_version: open.catalog_version,
        });
        let committed = Position::from_u64(committed);
        self.owned = true;
        metrics::partition_claimed();
        tracing::info!(partition, epoch, %committed, redo = open.is_some(), "partition claimed");
        let catalog_floor = claim.catalog_floor;
        Ok(Event::Claimed { epoch, committed, catalog_floor, open, sent_at })
    }

    async fn catch_up(&mut self, to: Position) -> Result<Event, AggregatorError> {
        self.work = None;
        self.end_merge().await;
        let index = match self.index.take() {
            Some(index) => index,
            None => {
                let (dir, partition) = (self.index_dir(), self.partition);
                let table_ids_max = self.shared.config.index.table_ids_max;
                blocking(move || catch_up::open(&dir, partition, table_ids_max)).await??
            }
        };
        let dir = self.index_dir();
        let index = catch_up::catch_up(&self.shared, self.partition, &dir, index, to).await?;
        self.metrics.index(index.reader().ids(), index.reader().memory_bytes());
        self.shared.known.set(self.partition, Some(index.reader()));
        self.index = Some(index);
        Ok(Event::CaughtUp)
    }

    async fn probe(&mut self) -> Result<Event, AggregatorError> {
        // The clock first: what is accepted before this instant is before the log's end.
        let mut connection = self.shared.pool.acquire().await.map_err(StoreError::from)?;
        let at = weir_store::clock::database_now(&mut connection).await?;
        drop(connection);
        let end = self.shared.log.end(self.partition).await?;
        Ok(Event::Probed { at_us: at.timestamp_micros(), end })
    }

    async fn mark(&mut self, epoch: u64, at_us: i64) -> Result<Event, AggregatorError> {
        let at = chrono::DateTime::from_timestamp_micros(at_us).unwrap_or_default();
        let mut connection = self.shared.pool.acquire().await.map_err(StoreError::from)?;
        let held = partitions::set_watermark(&mut connection, self.partition, epoch, at).await?;
        if let Some(progress) = self.shared.progress.get(self.partition as usize) {
            progress.marked_us.store(at_us, Ordering::Relaxed);
        }
        Ok(if held { Event::Marked } else { Event::Fenced })
    }

    async fn read(
        &mut self,
        from: Position,
        to: Option<Position>,
    ) -> Result<Event, AggregatorError> {
        self.work = None;
        let bytes_max = self.shared.config.chunk.read_bytes_max;
        let mut stored = match to {
            Some(to) => catch_up::read_range(&self.shared, self.partition, from, to).await?,
            None => self.read_news(from, bytes_max, self.read_wait()).await?,
        };
        let Some(first) = stored.first() else {
            return Ok(Event::Read { to: from, full: false });
        };
        if first.offset != from.offset() {
            catch_up::check_start(&self.shared, self.partition, from).await?;
        }
        let decoding = match Arc::clone(&self.shared.decoding).try_acquire_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let turn = Arc::clone(&self.shared.decoding).acquire_owned().await;
                let turn = turn.map_err(|_| AggregatorError::Ending)?;
                let left = bytes_max.saturating_sub(bytes_of(&stored));
                // What came in while others had their turn goes into the same chunk.
                if let (None, Some(last), true) = (to, stored.last(), left > 0) {
                    let on = Position::new(last.offset + 1, 0);
                    stored.extend(self.read_news(on, left, Duration::ZERO).await?);
                }
                turn
            }
        };
        let limits = if to.is_some() { Limits::NONE } else { self.shared.config.limits() };
        let (chunk, stored) = blocking(move || {
            let pairs = stored.iter().map(|record| (record.offset, record.bytes.as_ref()));
            (Decoded::decode(from, pairs, limits), stored)
        })
        .await?;
        self.report_unreadable(&chunk, &stored).await;
        let (to, full) = (chunk.to(), self.is_full(&chunk, &stored));
        self.work = Some(Work { chunk: Arc::new(chunk), decision: None, _decoding: decoding });
        Ok(Event::Read { to, full })
    }

    fn read_wait(&self) -> Duration {
        Duration::from_millis(self.shared.config.chunk.read_wait_ms)
    }

    async fn read_news(
        &self,
        from: Position,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Stored>, AggregatorError> {
        let read = self.shared.log.read(self.partition, from.offset(), bytes_max, wait).await;
        read.map_err(|error| catch_up::lost_below(from, error))
    }

    /// Whether one of the chunk's bounds was reached, so that there may be more in the log.
    fn is_full(&self, chunk: &Decoded, stored: &[Stored]) -> bool {
        let left_over = stored.last().is_some_and(|last| last.offset >= chunk.to().offset());
        left_over || bytes_of(stored) >= self.shared.config.chunk.read_bytes_max
    }

    /// Keeps the bytes of unreadable records beside the index, for whoever looks.
    async fn report_unreadable(&self, chunk: &Decoded, stored: &[Stored]) {
        for bad in chunk.unreadable() {
            metrics::record_unreadable();
            let (partition, offset) = (self.partition, bad.offset);
            let dir = self.shared.index_dir.join("unreadable");
            let path = dir.join(format!("{partition:05}-{offset:015}.record"));
            let bytes = stored.iter().find(|record| record.offset == offset);
            let kept = match bytes {
                Some(record) => {
                    let made = tokio::fs::create_dir_all(&dir).await;
                    made.is_ok() && tokio::fs::write(&path, &record.bytes).await.is_ok()
                }
                None => false,
            };
            let (error, path) = (&bad.error, path.display());
            tracing::error!(partition, offset, %error, kept, %path, "unreadable record passed over");
        }
    }

    #[tracing::instrument(level = "debug", name = "aggregator.decide", skip_all, fields(partition = self.partition))]
    async fn decide(&mut self, catalog: CatalogAt) -> Result<Event, AggregatorError> {
        let (Some(work), Some(index)) = (&mut self.work, &self.index) else {
            return Err(AggregatorError::NothingInHand);
        };
        let snapshot = match catalog {
            CatalogAt::AtLeast(floor) => {
                let least = work.chunk.catalog_version().max(floor);
                self.shared.catalog.at_least(least).await?
            }
            CatalogAt::Exactly(version) => self.shared.catalog.as_of(version).await?,
        };
        let (chunk, reader, started) = (Arc::clone(&work.chunk), index.reader(), Instant::now());
        let catalog_version = snapshot.version;
        let decision = blocking(move || {
            let known = reader.find(chunk.ids())?;
            let verdicts = judge(&chunk.seen(), &known);
            Ok::<_, IndexError>(roll_up(&chunk, verdicts, snapshot.as_ref()))
        })
        .await??;
        metrics::decided(started.elapsed());
        let counts = Counts {
            events: decision.tally.new,
            duplicates: decision.tally.duplicates,
            conflicts: decision.tally.conflicts,
        };
        work.decision = Some(Arc::new(decision));
        Ok(Event::Decided { catalog_version, counts })
    }

    fn stored_intent(&self, epoch: u64, intent: Intent) -> intents::Intent {
        intents::Intent {
            partition: self.partition,
            from: intent.from.as_u64(),
            to: intent.to.as_u64(),
            catalog_version: intent.catalog_version,
            epoch,
        }
    }

    #[tracing::instrument(level = "debug", name = "aggregator.open", skip_all, fields(partition = self.partition))]
    async fn open(&mut self, epoch: u64, intent: Intent) -> Result<Event, AggregatorError> {
        let intent = self.stored_intent(epoch, intent);
        let mut connection = self.shared.pool.acquire().await.map_err(StoreError::from)?;
        match intents::open(&mut connection, &intent).await {
            Ok(()) => Ok(Event::Opened),
            Err(StoreError::CatalogTooOld { floor: catalog_floor, .. }) => {
                Ok(Event::CatalogTooOld { catalog_floor })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn decided(&self) -> Result<(&Arc<Decoded>, &Arc<Decision>), AggregatorError> {
        let work = self.work.as_ref().ok_or(AggregatorError::NothingInHand)?;
        let decision = work.decision.as_ref().ok_or(AggregatorError::NothingInHand)?;
        Ok((&work.chunk, decision))
    }

    #[tracing::instrument(level = "debug", name = "aggregator.insert", skip_all, fields(partition = self.partition))]
    async fn insert(&mut self, token: &str) -> Result<Event, AggregatorError> {
        let (chunk, decision) = self.decided()?;
        let (chunk, decision, partition) =
            (Arc::clone(chunk), Arc::clone(decision), self.partition);
        let (events, chunk, decision) = blocking(move || {
            (EventBlock::of(&new_events(&chunk, &decision, partition)), chunk, decision)
        })
        .await?;
        let rows = Chunk {
            events: events?,
            usage: decision.usage.clone(),
            values: decision.values.clone(),
            conflicts: conflict_rows(&chunk, &decision, partition),
        };
        let started = Instant::now();
        let wait = self.shared.config.insert_timeout();
        timeout(wait, self.shared.usage.insert_chunk(&rows, token))
            .await
            .map_err(|_| AggregatorError::InsertTimeout { wait })??;
        metrics::inserted(started.elapsed());
        Ok(Event::Inserted)
    }

    #[tracing::instrument(level = "debug", name = "aggregator.finish", skip_all, fields(partition = self.partition))]
    async fn finish(
        &mut self,
        epoch: u64,
        intent: Intent,
        counts: Counts,
    ) -> Result<Event, AggregatorError> {
        let intent = self.stored_intent(epoch, intent);
        let Counts { events, duplicates, conflicts } = counts;
        let counts = intents::ChunkCounts { events, duplicates, conflicts };
        let mut connection = self.shared.pool.acquire().await.map_err(StoreError::from)?;
        intents::finish(&mut connection, &intent, &counts).await?;
        Ok(Event::Finished)
    }

    async fn remember(&mut self, to: Position) -> Result<Event, AggregatorError> {
        let (chunk, decision) = self.decided()?;
        let (chunk, decision) = (Arc::clone(chunk), Arc::clone(decision));
        let (tally, events, records) = (decision.tally, chunk.len() as u64, chunk.records());
        let mut index = self.index.take().ok_or(AggregatorError::NothingInHand)?;
        let window_us = self.shared.config.window_us();
        let (index, remembered) = blocking(move || {
            let entries = new_entries(&chunk.seen(), &decision.verdicts);
            let remembered = index
                .remember(&entries, catch_up::covered(&chunk, to))
                .and_then(|()| forget(&mut index, &chunk, window_us));
            (index, remembered)
        })
        .await?;
        self.index = Some(index);
        metrics::ids_forgotten(remembered?);
        self.work = None;
        metrics::chunk_done(events, &tally);
        if let Some(progress) = self.shared.progress.get(self.partition as usize) {
            progress.chunk_events.store(events, Ordering::Relaxed);
            progress.chunk_records.store(records, Ordering::Relaxed);
        }
        if tally.unmatched > 0 {
            let (partition, unmatched) = (self.partition, tally.unmatched);
            tracing::warn!(
                partition,
                unmatched,
                "events of no active subscription are stored apart"
            );
        }
        self.tend_index(to).await?;
        Ok(Event::Remembered)
    }

    /// Lets the log drop what the index has on disk; puts merged runs in place, starts merges.
    async fn tend_index(&mut self, committed: Position) -> Result<(), AggregatorError> {
        if self.merge.as_ref().is_some_and(JoinHandle::is_finished) {
            self.end_merge().await;
        }
        let Some(index) = &mut self.index else { return Ok(()) };
        self.metrics.index(index.reader().ids(), index.reader().memory_bytes());
        let sealed_to = index.sealed_to().min(committed).offset();
        if self.merge.is_none()
            && let Some(merge) = index.due_merge()
        {
            let merging = Arc::clone(&self.shared.merging);
            self.merge = Some(spawn_blocking(move || {
                // One merge at a time: they are work for a quiet core.
                let _turn = merging.lock();
                merge.run()
            }));
        }
        if sealed_to > self.released_to {
            self.released_to = sealed_to;
            self.shared.log.release(self.partition, sealed_to).await;
        }
        Ok(())
    }

    /// Waits for the merge under way, if any, and puts its run in place.
    async fn end_merge(&mut self) {
        let Some(merge) = self.merge.take() else { return };
        let merged = merge.await;
        let Some(mut index) = self.index.take() else { return };
        let installed = match merged {
            Ok(Ok(merged)) => match blocking(move || (index.install(merged), index)).await {
                Ok((installed, back)) => {
                    index = back;
                    installed.map_err(AggregatorError::Index)
                }
                Err(error) => return self.merge_failed(&error),
            },
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = installed {
            index.abandon();
            self.merge_failed(&error);
            // A damaged run: nothing of this index is believed any more.
            if matches!(error, AggregatorError::Index(IndexError::Damaged { .. })) {
                return self.drop_index();
            }
        }
        self.index = Some(index);
    }

    fn merge_failed(&self, error: &AggregatorError) {
        metrics::failed("merge");
        tracing::warn!(partition = self.partition, %error, "index merge failed, will be tried again");
    }
}

fn bytes_of(stored: &[Stored]) -> usize {
    stored.iter().map(|record| record.bytes.len()).sum()
}

/// Forgets what lies further back than the window; how many ids.
///
/// Time goes by the log, so that one who is days behind still knows what the edge went by when it
/// took the events; and by the clock, so that a record of an edge that lives in the future does not
/// make an index forget what is needed.
fn forget(index: &mut Index, chunk: &Decoded, window_us: Option<i64>) -> Result<u64, IndexError> {
    let received_at = chunk.events().map(|event| event.received_at_us).max();
    let (Some(window_us), Some(received_at)) = (window_us, received_at) else { return Ok(0) };
    let now_us = Clock::real().now().timestamp_micros().min(received_at);
    index.forget_before(now_us - window_us - FORGET_MARGIN_US)
}

/// Runs what takes the processor or waits for the disk where that harms nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AggregatorError> {
    Ok(spawn_blocking(work).await?)
}
