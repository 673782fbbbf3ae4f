//! One chunk after another of one roll in one partition.
//!
//! ```text
//! take up ─▶ bound ─▶ open ─▶ read ─▶ insert ─▶ finish ─▶ take up …
//!    └─ a chunk is open: read exactly it ─┘
//! ```
//!
//! Postgres holds all that matters, so after any failure the roll is taken up again, by this owner or
//! another: an open chunk is done again with its bounds, its catalog and its token, and ClickHouse
//! drops what it has.

use super::scope::Scope;
use crate::{AggregatorError, Lease, executor::blocking, rollup::Rolled};
use sqlx::PgPool;
use std::{mem, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use weir_catalog::Catalog;
use weir_events::Position;
use weir_store::{
    StoreError,
    rolls::{self, PartitionRoll, Roll, RollChunk, RollKind, RollState},
    voids,
};
use weir_usage::{ClickHouse, RawScope};

/// What a roll works with.
#[derive(Clone)]
pub struct Tools {
    pub usage: ClickHouse,
    pub pool: PgPool,
    pub catalog: Arc<Catalog>,
    /// Raw events of a chunk.
    pub rows_max: u64,
    /// The longest an insert may take; one begins only if the lease lasts as long.
    pub insert_timeout: Duration,
}

/// Where one step led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The chunk in hand goes on.
    Working,
    /// A chunk of so many raw events is done.
    ChunkDone { events: u64 },
    /// Nothing is left of the roll in this partition.
    PartitionDone,
    /// The roll has ended.
    Ended,
}

/// A roll in one partition.
pub struct Work {
    tools: Tools,
    roll: Arc<Roll>,
    partition: u32,
    epoch: u64,
    step: Step,
    /// What is read; none where nothing can count. Asked once for a catalog version.
    raw: Option<(u64, Arc<Scope>, Option<RawScope>)>,
}

/// What comes next.
enum Step {
    TakeUp,
    Bound { part: PartitionRoll },
    Open { chunk: RollChunk, catalog_version: u64 },
    Read { chunk: RollChunk, catalog_version: u64 },
    Insert { chunk: RollChunk, events: u64, rolled: Rolled },
    Finish { chunk: RollChunk, events: u64 },
}

impl Work {
    #[must_use]
    pub fn new(tools: Tools, roll: Arc<Roll>, partition: u32) -> Self {
        Self { tools, roll, partition, epoch: 0, step: Step::TakeUp, raw: None }
    }

    /// Takes one step under the partition's lease. After an error the next one is to take the roll
    /// up. Errors: those of Postgres and ClickHouse; `InsertTimeout`; `LeaseShort` where the lease
    /// ends before an insert might.
    pub async fn advance(&mut self, lease: Lease) -> Result<Progress, AggregatorError> {
        let step = mem::replace(&mut self.step, Step::TakeUp);
        if self.epoch != lease.epoch {
            self.epoch = lease.epoch;
            return self.take_up().await;
        }
        match step {
            Step::TakeUp => self.take_up().await,
            Step::Bound { part } => self.bound(part).await,
            Step::Open { chunk, catalog_version } => self.open(chunk, catalog_version).await,
            Step::Read { chunk, catalog_version } => self.read(chunk, catalog_version).await,
            Step::Insert { chunk, events, rolled } => {
                self.insert(lease, chunk, events, rolled).await
            }
            Step::Finish { chunk, events } => self.finish(chunk, events).await,
        }
    }

    fn then(&mut self, step: Step) -> Result<Progress, AggregatorError> {
        self.step = step;
        Ok(Progress::Working)
    }

    async fn take_up(&mut self) -> Result<Progress, AggregatorError> {
        let mut connection = self.tools.pool.acquire().await.map_err(StoreError::from)?;
        let generation = self.roll.generation;
        let taken = rolls::take_up(&mut connection, generation, self.partition, self.epoch).await?;
        drop(connection);
        let Some(part) = taken else { return Ok(Progress::Ended) };
        if part.finished {
            return Ok(Progress::PartitionDone);
        }
        match part.open_to {
            Some(to) => {
                let (chunk, catalog_version) = (self.chunk(&part, to), part.catalog_version);
                self.then(Step::Read { chunk, catalog_version })
            }
            None => self.then(Step::Bound { part }),
        }
    }

    fn chunk(&self, part: &PartitionRoll, to: u64) -> RollChunk {
        RollChunk {
            generation: self.roll.generation,
            partition: self.partition,
            from: part.done_to,
            to,
            epoch: self.epoch,
        }
    }

    async fn bound(&mut self, part: PartitionRoll) -> Result<Progress, AggregatorError> {
        let (from, below) = (Position::from_u64(part.done_to), Position::from_u64(part.to));
        let (_, raw) = self.scope(part.catalog_version).await?;
        let to = match raw {
            Some(raw) => {
                let (usage, rows_max) = (&self.tools.usage, self.tools.rows_max);
                usage.raw_boundary(&raw, self.partition, from, below, rows_max).await?
            }
            None => below,
        };
        let chunk = self.chunk(&part, to.as_u64());
        self.then(Step::Open { chunk, catalog_version: part.catalog_version })
    }

    /// What the roll covers as of a version of the catalog, and which raw events that may be.
    async fn scope(
        &mut self,
        catalog_version: u64,
    ) -> Result<(Arc<Scope>, Option<RawScope>), AggregatorError> {
        if let Some((version, scope, raw)) = &self.raw
            && *version == catalog_version
        {
            return Ok((Arc::clone(scope), raw.clone()));
        }
        let snapshot = self.tools.catalog.as_of(catalog_version).await?;
        let external_ids = match &self.roll.kind {
            RollKind::Cells { cells } => {
                let subscriptions: Vec<_> = cells.iter().map(|(one, _)| *one).collect();
                let mut connection = self.tools.pool.acquire().await.map_err(StoreError::from)?;
                let organization = self.roll.organization;
                rolls::external_ids(&mut connection, organization, &subscriptions).await?
            }
            RollKind::Metric { .. } | RollKind::Subscriptions { .. } => Vec::new(),
        };
        let scope = Arc::new(Scope::of(&self.roll));
        let raw = scope.raw(&self.roll, &snapshot, external_ids);
        self.raw = Some((catalog_version, Arc::clone(&scope), raw.clone()));
        Ok((scope, raw))
    }

    async fn open(
        &mut self,
        chunk: RollChunk,
        catalog_version: u64,
    ) -> Result<Progress, AggregatorError> {
        let mut connection = self.tools.pool.acquire().await.map_err(StoreError::from)?;
        match rolls::open_chunk(&mut connection, &chunk).await? {
            RollState::Rolling => self.then(Step::Read { chunk, catalog_version }),
            RollState::Waiting | RollState::Done | RollState::Abandoned => Ok(Progress::Ended),
        }
    }

    async fn read(
        &mut self,
        chunk: RollChunk,
        catalog_version: u64,
    ) -> Result<Progress, AggregatorError> {
        let (scope, raw) = self.scope(catalog_version).await?;
        let Some(raw) = raw else {
            return self.then(Step::Insert { chunk, events: 0, rolled: Rolled::default() });
        };
        let (from, to) = (Position::from_u64(chunk.from), Position::from_u64(chunk.to));
        let rows = self.tools.usage.raw_events(&raw, Some(self.partition), from, to).await?;
        let ids: Vec<String> = rows.iter().map(|row| row.transaction_id.to_string()).collect();
        let mut connection = self.tools.pool.acquire().await.map_err(StoreError::from)?;
        let voids = voids::find_many(&mut connection, self.roll.organization, &ids).await?;
        drop((connection, ids));
        let snapshot = self.tools.catalog.as_of(catalog_version).await?;
        let events = rows.len() as u64;
        let rolled = blocking(move || scope.roll_up(&snapshot, &rows, &voids)).await?;
        self.then(Step::Insert { chunk, events, rolled })
    }

    async fn insert(
        &mut self,
        lease: Lease,
        chunk: RollChunk,
        events: u64,
        rolled: Rolled,
    ) -> Result<Progress, AggregatorError> {
        let wait = self.tools.insert_timeout;
        // A late insert could come when ClickHouse has forgotten the token.
        if lease.until < Instant::now() + wait {
            return Err(AggregatorError::LeaseShort { partition: self.partition });
        }
        let token = token(&chunk);
        let insert = self.tools.usage.insert_roll(&rolled.usage, &rolled.values, &token);
        timeout(wait, insert).await.map_err(|_| AggregatorError::InsertTimeout { wait })??;
        self.then(Step::Finish { chunk, events })
    }

    async fn finish(&mut self, chunk: RollChunk, events: u64) -> Result<Progress, AggregatorError> {
        let mut connection = self.tools.pool.acquire().await.map_err(StoreError::from)?;
        match rolls::finish_chunk(&mut connection, &chunk).await? {
            RollState::Done => {
                tracing::info!(chunk.generation, "roll done, readers take its generation");
            }
            RollState::Waiting | RollState::Rolling | RollState::Abandoned => {}
        }
        Ok(Progress::ChunkDone { events })
    }
}

/// Names the chunk, not its owner: one that is done again by another has the token it had.
fn token(chunk: &RollChunk) -> String {
    let RollChunk { generation, partition, from, to, epoch: _ } = chunk;
    format!("roll-{generation}-{partition}-{from}-{to}")
}
