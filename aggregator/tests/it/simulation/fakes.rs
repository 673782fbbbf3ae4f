//! Log, Postgres, ClickHouse and catalog with the guarantees that the real ones give, and no more.

use super::Guards;
use chrono::DateTime;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use weir_aggregator::{
    protocol::{Counts, Intent},
    rollup::{CatalogView, Cell},
};
use weir_catalog::{Aggregation, Metric, Span, Targets};
use weir_events::{EventId, Position};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_usage::{UsageRow, UsageValueRow};

/// Tokens a table remembers: far more than the chunks written while a lease lasts, as in earnest.
pub const TOKENS_KEPT: usize = 24;

/// A partition's records with the instant at which each was acknowledged.
#[derive(Default)]
pub struct Log {
    pub records: Vec<(Duration, Vec<u8>)>,
    /// Records before this one are gone.
    pub start: u64,
}

/// A catalog of one organization, at one version.
#[derive(Clone, Default)]
pub struct Catalog {
    pub metrics: BTreeMap<String, Vec<Metric>>,
    /// By external id.
    pub subscriptions: BTreeMap<String, Span>,
}

impl Catalog {
    pub fn add_metric(&mut self, code: &str, number: u128, aggregation: Aggregation) {
        let metric = Metric {
            id: BillableMetricId::from_u128(number),
            aggregation,
            field: (aggregation != Aggregation::Count).then(|| "v".into()),
            expression: None,
            dimensions: Vec::new(),
            generation: 0,
            rolling: false,
        };
        self.metrics.entry(code.to_owned()).or_default().push(metric);
    }

    pub fn add_subscription(&mut self, external_id: String, id: SubscriptionId) {
        let span = Span { id, started_at: DateTime::UNIX_EPOCH, ended_at: None };
        self.subscriptions.insert(external_id, span);
    }
}

impl CatalogView for Catalog {
    fn metrics(&self, _: OrganizationId, event_code: &str) -> &[Metric] {
        self.metrics.get(event_code).map_or(&[], Vec::as_slice)
    }

    fn spans(&self, _: OrganizationId, external_id: &str) -> &[Span] {
        self.subscriptions.get(external_id).map_or(&[], std::slice::from_ref)
    }

    fn targets(&self, _: Cell, metric: &Metric) -> Targets {
        Targets::only(metric.generation)
    }
}

/// Another owner has the partition, or the statement does not fit what is recorded.
#[derive(Debug)]
pub struct Fenced;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub intent: Intent,
    epoch: u64,
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
}

impl Row {
    pub fn claim(
        &mut self,
        owner: usize,
        now: Duration,
        lease: Duration,
    ) -> Option<(u64, Position, Option<Intent>)> {
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
        Some((epoch, self.committed, open))
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
        epoch: u64,
        intent: Intent,
        now: Duration,
    ) -> Result<(), Fenced> {
        let recorded = Recorded { intent, epoch, done: None };
        if guards.fencing {
            let held = self.epoch == epoch && self.lease_until > now;
            let other = self.intents.values().any(|old| old.done.is_none() && *old != recorded);
            let done = self.intents.get(&intent.from).is_some_and(|old| old.done.is_some());
            if !held || self.committed != intent.from || other || done {
                return Err(Fenced);
            }
        }
        self.intents.insert(intent.from, recorded);
        Ok(())
    }

    pub fn finish(
        &mut self,
        guards: &Guards,
        epoch: u64,
        intent: Intent,
        counts: Counts,
    ) -> Result<(), Fenced> {
        if !guards.fencing {
            self.intents.insert(intent.from, Recorded { intent, epoch, done: Some(counts) });
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
            _ => Err(Fenced),
        }
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
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), tokens: VecDeque::new() }
    }
}

impl<T: Clone> Table<T> {
    fn insert(&mut self, guards: &Guards, token: &str, rows: &[T]) {
        if rows.is_empty() || guards.tokens && self.tokens.iter().any(|seen| seen == token) {
            return;
        }
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
