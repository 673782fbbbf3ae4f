//! Log, Postgres and ClickHouse with the guarantees that the real ones give, and no more.

use super::{Guards, senders::Copy};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use weir_aggregator::protocol::{Counts, Intent};
use weir_events::{EventId, Position, Record};
use weir_ids::SubscriptionId;
use weir_usage::{UsageRow, UsageValueRow};

/// Tokens a table remembers: more than the chunks that are written while an insert may be late, as
/// in earnest.
pub const TOKENS_KEPT: usize = 10;
/// Chunks that may be opened while an older one stays open.
pub const OPENED_SINCE_MAX: u64 = 4;

/// A record in the log.
pub struct Logged {
    /// When it got there.
    pub at: Duration,
    pub bytes: Bytes,
    pub record: Record,
}

impl Logged {
    pub fn copies(&self) -> impl Iterator<Item = Copy> {
        self.record.events().map(|event| Copy::of(&event))
    }
}

/// A partition's records.
#[derive(Default)]
pub struct Log {
    pub records: Vec<Logged>,
    /// Records before this one are gone.
    pub start: u64,
}

/// Why a statement changed nothing.
#[derive(Debug)]
pub enum Refused {
    /// Another owner has the partition, or the statement does not fit what is recorded.
    Fenced,
    CatalogTooOld {
        floor: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub intent: Intent,
    epoch: u64,
    /// Of all partitions' chunks, in the order of their opening.
    sequence: u64,
    pub done: Option<Counts>,
}

/// One partition's rows in Postgres; every function is a transaction.
#[derive(Default)]
pub struct Row {
    owner: Option<usize>,
    epoch: u64,
    lease_until: Duration,
    pub committed: Position,
    pub watermark_us: Option<i64>,
    pub intents: BTreeMap<Position, Recorded>,
    /// The newest chunk's.
    pub sequence: u64,
    /// By the version that a roll takes hold in: the first chunk that has it, where the roll ends.
    pub rolls: BTreeMap<u64, Position>,
    /// The newest of these versions: no chunk has an older one from then on.
    catalog_floor: u64,
}

/// What whoever claims a partition is told.
pub struct Claim {
    pub epoch: u64,
    pub committed: Position,
    pub catalog_floor: u64,
    pub open: Option<Intent>,
}

impl Row {
    pub fn claim(&mut self, owner: usize, now: Duration, lease: Duration) -> Option<Claim> {
        let free = self.owner.is_none_or(|held_by| held_by == owner) || self.lease_until < now;
        if !free {
            return None;
        }
        self.owner = Some(owner);
        self.epoch += 1;
        self.lease_until = now + lease;
        let epoch = self.epoch;
        let open = self.intents.values_mut().find(|recorded| recorded.done.is_none());
        let open = open.map(|recorded| {
            recorded.epoch = epoch;
            recorded.intent
        });
        let (committed, catalog_floor) = (self.committed, self.catalog_floor);
        Some(Claim { epoch, committed, catalog_floor, open })
    }

    pub fn renew(&mut self, epoch: u64, now: Duration, lease: Duration) -> bool {
        if self.epoch == epoch {
            self.lease_until = now + lease;
        }
        self.epoch == epoch
    }

    pub fn open(
        &mut self,
        guards: &Guards,
        (epoch, sequence): (u64, u64),
        intent: Intent,
        now: Duration,
        rolls: &[u64],
    ) -> Result<(), Refused> {
        let held = self.epoch == epoch && self.lease_until > now && self.committed == intent.from;
        if guards.fencing && !held {
            return Err(Refused::Fenced);
        }
        if intent.catalog_version < self.catalog_floor {
            return Err(Refused::CatalogTooOld { floor: self.catalog_floor });
        }
        let sequence = self.intents.get(&intent.from).map_or(sequence, |old| old.sequence);
        let recorded = Recorded { intent, epoch, sequence, done: None };
        if guards.fencing {
            let other = self
                .intents
                .values()
                .any(|old| old.done.is_none() && (old.intent, old.epoch) != (intent, epoch));
            let done = self.intents.get(&intent.from).is_some_and(|old| old.done.is_some());
            if other || done {
                return Err(Refused::Fenced);
            }
        }
        self.intents.insert(intent.from, recorded);
        self.sequence = self.sequence.max(sequence);
        for roll in rolls.iter().filter(|roll| **roll <= intent.catalog_version) {
            self.rolls.entry(*roll).or_insert(intent.from);
            if guards.catalog_floor {
                self.catalog_floor = self.catalog_floor.max(*roll);
            }
        }
        Ok(())
    }

    pub fn finish(
        &mut self,
        guards: &Guards,
        epoch: u64,
        intent: Intent,
        counts: Counts,
    ) -> Result<(), Refused> {
        if !guards.fencing {
            let sequence = self.sequence;
            let done = Recorded { intent, epoch, sequence, done: Some(counts) };
            self.intents.insert(intent.from, done);
            self.committed = intent.to;
            return Ok(());
        }
        let current = self.epoch == epoch;
        let recorded = self
            .intents
            .get_mut(&intent.from)
            .filter(|recorded| recorded.epoch == epoch && recorded.intent.to == intent.to);
        match recorded {
            Some(recorded) if current && recorded.done.is_some() => Ok(()),
            Some(recorded) if current && self.committed == intent.from => {
                recorded.done = Some(counts);
                self.committed = intent.to;
                Ok(())
            }
            _ => Err(Refused::Fenced),
        }
    }

    pub fn open_sequence(&self) -> Option<u64> {
        let open = self.intents.values().find(|recorded| recorded.done.is_none());
        open.map(|recorded| recorded.sequence)
    }

    pub fn mark(&mut self, epoch: u64, at_us: i64) -> bool {
        if self.epoch == epoch {
            self.watermark_us = self.watermark_us.max(Some(at_us));
        }
        self.epoch == epoch
    }
}

/// A row of the events table, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredEvent {
    pub partition: u32,
    pub position: Position,
    pub id: EventId,
    pub content_hash: u64,
    pub subscription: Option<SubscriptionId>,
}

/// A row of the conflicts table, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredConflict {
    pub partition: u32,
    pub position: Position,
    pub first_position: Position,
}

/// What a chunk inserts.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    pub events: Vec<StoredEvent>,
    pub usage: Vec<UsageRow>,
    pub values: Vec<UsageValueRow>,
    pub conflicts: Vec<StoredConflict>,
}

/// A table that drops blocks under a token it remembers.
pub struct Table<T> {
    pub rows: Vec<T>,
    tokens: VecDeque<String>,
    /// Blocks that were taken.
    pub blocks: u64,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), tokens: VecDeque::new(), blocks: 0 }
    }
}

impl<T: Clone> Table<T> {
    fn insert(&mut self, guards: &Guards, token: &str, rows: &[T]) {
        if rows.is_empty() || guards.tokens && self.tokens.iter().any(|seen| seen == token) {
            return;
        }
        self.blocks += 1;
        self.rows.extend_from_slice(rows);
        self.tokens.push_back(token.to_owned());
        if self.tokens.len() > TOKENS_KEPT {
            self.tokens.pop_front();
        }
    }
}

#[derive(Default)]
pub struct ClickHouse {
    pub events: Table<StoredEvent>,
    pub usage: Table<UsageRow>,
    pub values: Table<UsageValueRow>,
    pub conflicts: Table<StoredConflict>,
}

impl ClickHouse {
    /// Inserts into those of the four tables whose bit is set in `tables`.
    pub fn insert(&mut self, guards: &Guards, token: &str, rows: &Rows, tables: u64) {
        if tables & 1 != 0 {
            self.events.insert(guards, token, &rows.events);
        }
        if tables & 2 != 0 {
            self.usage.insert(guards, token, &rows.usage);
        }
        if tables & 4 != 0 {
            self.values.insert(guards, token, &rows.values);
        }
        if tables & 8 != 0 {
            self.conflicts.insert(guards, token, &rows.conflicts);
        }
    }
}
