//! What the rollup asks of a catalog, and what it keeps of the answers.

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use std::hash::Hash;
use weir_catalog::{Metric, Snapshot, Span, Targets};
use weir_ids::{OrganizationId, SubscriptionId};

/// What the rollup asks of a catalog snapshot.
pub trait CatalogView {
    /// The metrics that count events of this code.
    fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric];

    /// The subscriptions of this external id, by start, without overlaps.
    fn spans(&self, organization: OrganizationId, external_id: &str) -> &[Span];

    /// The generations under which a metric's use in a bucket is written; none: it is not counted.
    fn targets(&self, cell: Cell, metric: &Metric) -> Targets;
}

/// A subscription's quarter of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    /// Its start, Unix seconds.
    pub bucket: u32,
}

impl CatalogView for Snapshot {
    fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric] {
        self.metrics(organization, event_code)
    }

    fn spans(&self, organization: OrganizationId, external_id: &str) -> &[Span] {
        self.subscription(organization, external_id).unwrap_or_default()
    }

    fn targets(&self, cell: Cell, metric: &Metric) -> Targets {
        self.targets(cell.organization, metric, cell.subscription, bucket_time(cell.bucket))
    }
}

/// The subscription among `spans` that holds at an instant in Unix microseconds.
#[must_use]
pub fn holding(spans: &[Span], at_us: i64) -> Option<SubscriptionId> {
    let started = spans.partition_point(|span| span.started_at.timestamp_micros() <= at_us);
    // They don't overlap: only the last one to start can still hold.
    let last = spans.get(started.checked_sub(1)?)?;
    let ended = last.ended_at.is_some_and(|end| end.timestamp_micros() <= at_us);
    (!ended).then_some(last.id)
}

/// The answers to one kind of question, so that each is asked once a chunk. Neighbours in the log
/// mostly share subscription and code: the last answer is looked at first.
pub(super) struct Answers<K, T> {
    all: HashMap<K, T>,
    last: Option<(K, T)>,
}

impl<K, T> Default for Answers<K, T> {
    fn default() -> Self {
        Self { all: HashMap::new(), last: None }
    }
}

impl<K: Copy + Eq + Hash, T: Copy> Answers<K, T> {
    pub fn get(&mut self, key: K, ask: impl FnOnce() -> T) -> T {
        if let Some((last, answer)) = self.last
            && last == key
        {
            return answer;
        }
        let answer = *self.all.entry(key).or_insert_with(ask);
        self.last = Some((key, answer));
        answer
    }
}

/// The start of a bucket.
pub(super) fn bucket_time(bucket: u32) -> DateTime<Utc> {
    // Every 32-bit second is a time.
    DateTime::from_timestamp(i64::from(bucket), 0).unwrap_or(DateTime::UNIX_EPOCH)
}
