//! What a chunk adds to usage: pure, and the same whenever it is done again.
//!
//! Each new event goes to the subscription that was active at its timestamp, and to every metric
//! that counts its code. The result is sorted, so the same chunk gives the same blocks.

use crate::{
    chunk::{Decoded, EventInLog},
    dedup::Verdict,
};
use chrono::{DateTime, Utc};
use hashbrown::{HashMap, hash_map::Entry};
use weir_catalog::{Aggregation, Metric, Snapshot};
use weir_events::{Position, Quantity, distinct_of, property, value_of};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_usage::{ConflictRow, EventRow, Latest, UsageRow, UsageValueRow, bucket_of};

/// What the rollup asks of a catalog snapshot.
pub trait CatalogView {
    /// The metrics that count events of this code.
    fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric];

    /// The subscription of this external id that was active at `at_us` (Unix microseconds).
    fn subscription_at(
        &self,
        organization: OrganizationId,
        external_id: &str,
        at_us: i64,
    ) -> Option<SubscriptionId>;
}

impl CatalogView for Snapshot {
    fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric] {
        self.metrics(organization, event_code)
    }

    fn subscription_at(
        &self,
        organization: OrganizationId,
        external_id: &str,
        at_us: i64,
    ) -> Option<SubscriptionId> {
        self.subscription_at(organization, external_id, at_us)
    }
}

/// What became of a chunk's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub new: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    /// New, but no subscription was active at their time; of `new`.
    pub unmatched: u64,
    /// Times that an event did not count for a metric because its field is missing or no number.
    pub fields_missing: u64,
    /// Timestamps that no bucket can hold; stored as unmatched.
    pub times_out_of_range: u64,
}

/// A chunk, judged and rolled up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// One for each event, in log order.
    pub verdicts: Vec<Verdict>,
    /// One for each new event, in log order.
    pub subscriptions: Vec<Option<SubscriptionId>>,
    /// Sorted by organization, subscription, metric, bucket.
    pub usage: Vec<UsageRow>,
    /// Sorted by the same and the value.
    pub values: Vec<UsageValueRow>,
    pub tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    organization: OrganizationId,
    subscription: SubscriptionId,
    metric: BillableMetricId,
    bucket: DateTime<Utc>,
}

/// Rolls up the new events of a chunk.
#[must_use]
pub fn roll_up(chunk: &Decoded, verdicts: Vec<Verdict>, catalog: &impl CatalogView) -> Decision {
    let mut sums = Sums::default();
    let mut subscriptions = Vec::with_capacity(verdicts.len());
    for (event, verdict) in chunk.events().zip(&verdicts) {
        match verdict {
            Verdict::Duplicate => sums.tally.duplicates += 1,
            Verdict::Conflict { .. } => sums.tally.conflicts += 1,
            Verdict::New => subscriptions.push(sums.add(&event, catalog)),
        }
    }
    let (usage, values, tally) = sums.into_rows();
    Decision { verdicts, subscriptions, usage, values, tally }
}

/// The rows of a chunk's new events, in log order.
#[must_use]
pub fn event_rows<'a>(
    chunk: &'a Decoded,
    decision: &Decision,
    partition: u32,
) -> Vec<EventRow<'a>> {
    let mut subscriptions = decision.subscriptions.iter();
    chunk
        .events()
        .zip(&decision.verdicts)
        .filter(|(_, verdict)| **verdict == Verdict::New)
        .map(|(event, _)| EventRow {
            organization: event.organization,
            subscription: subscriptions.next().copied().flatten(),
            external_subscription_id: event.fields.external_subscription_id.into(),
            code: event.fields.code.into(),
            transaction_id: event.fields.transaction_id.into(),
            event_id: event.id,
            timestamp: storable(event.fields.timestamp_us),
            received_at: storable(event.received_at_us),
            partition,
            position: event.position,
            content_hash: event.fields.content_hash,
            properties: event.fields.properties.into(),
        })
        .collect()
}

/// The rows of a chunk's conflicts, in log order.
#[must_use]
pub fn conflict_rows<'a>(
    chunk: &'a Decoded,
    decision: &Decision,
    partition: u32,
) -> Vec<ConflictRow<'a>> {
    chunk
        .events()
        .zip(&decision.verdicts)
        .filter_map(|(event, verdict)| match verdict {
            Verdict::New | Verdict::Duplicate => None,
            Verdict::Conflict { first } => Some(ConflictRow {
                organization: event.organization,
                transaction_id: event.fields.transaction_id.into(),
                event_id: event.id,
                partition,
                position: event.position,
                first_position: *first,
                received_at: storable(event.received_at_us),
            }),
        })
        .collect()
}

/// 1900-01-01 and 2299-12-31 in Unix seconds: what a `DateTime64(6)` column holds.
const STORABLE_S: std::ops::RangeInclusive<i64> = -2_208_988_800..=10_413_705_600;

/// The instant as the columns can hold it. The edge refuses others; one that got past it must not
/// keep its partition from going on.
fn storable(at_us: i64) -> DateTime<Utc> {
    let seconds = at_us.div_euclid(1_000_000).clamp(*STORABLE_S.start(), *STORABLE_S.end());
    let micros = at_us.rem_euclid(1_000_000);
    DateTime::from_timestamp_micros(seconds * 1_000_000 + micros).unwrap_or(DateTime::UNIX_EPOCH)
}

/// The bucket of an instant, if a `DateTime` column can hold it: 1970 to early 2106.
fn bucket(at_us: i64) -> Option<DateTime<Utc>> {
    let bucket = bucket_of(DateTime::from_timestamp_micros(at_us)?);
    u32::try_from(bucket.timestamp()).ok().map(|_| bucket)
}

#[derive(Debug, Clone, Copy)]
struct Partial {
    events: u64,
    total: Quantity,
    greatest: Quantity,
    latest: Latest,
}

impl Partial {
    fn of(value: Latest) -> Self {
        Self { events: 1, total: value.value, greatest: value.value, latest: value }
    }

    fn checked_add(&self, value: Latest) -> Option<Self> {
        Some(Self {
            events: self.events + 1,
            total: self.total.checked_add(value.value)?,
            greatest: self.greatest.max(value.value),
            latest: self.latest.max(value),
        })
    }

    fn into_row(self, place: Place) -> UsageRow {
        let Place { organization, subscription, metric, bucket } = place;
        let Self { events, total, greatest, latest } = self;
        UsageRow { organization, subscription, metric, bucket, events, total, greatest, latest }
    }
}

/// The last operation on a distinct value: time, receipt, position, and whether it was `add`.
type LastOperation = (DateTime<Utc>, DateTime<Utc>, Position, bool);

#[derive(Default)]
struct Sums {
    usage: HashMap<Place, Partial>,
    /// Rows that were full: their place goes on with a new one.
    full: Vec<(Place, Partial)>,
    values: HashMap<(Place, String), LastOperation>,
    tally: Tally,
}

impl Sums {
    fn add(
        &mut self,
        event: &EventInLog<'_>,
        catalog: &impl CatalogView,
    ) -> Option<SubscriptionId> {
        self.tally.new += 1;
        let at_us = event.fields.timestamp_us;
        let Some(bucket) = bucket(at_us) else {
            self.tally.times_out_of_range += 1;
            self.tally.unmatched += 1;
            return None;
        };
        let external_id = event.fields.external_subscription_id;
        let Some(subscription) = catalog.subscription_at(event.organization, external_id, at_us)
        else {
            self.tally.unmatched += 1;
            return None;
        };
        for metric in catalog.metrics(event.organization, event.fields.code) {
            let organization = event.organization;
            let place = Place { organization, subscription, metric: metric.id, bucket };
            if self.count(place, metric, event).is_none() {
                self.tally.fields_missing += 1;
            }
        }
        Some(subscription)
    }

    /// Counts the event for one metric; `None` if it lacks what the metric counts.
    fn count(&mut self, place: Place, metric: &Metric, event: &EventInLog<'_>) -> Option<()> {
        let field =
            |key: &str| property(event.fields.properties, key).filter(|raw| raw.trim() != "null");
        let raw = match metric.aggregation {
            Aggregation::Count => None,
            Aggregation::Sum
            | Aggregation::Max
            | Aggregation::Latest
            | Aggregation::UniqueCount => Some(field(metric.field.as_deref()?)?),
        };
        let timestamp = storable(event.fields.timestamp_us);
        let received_at = storable(event.received_at_us);
        let position = event.position;
        let value = match (metric.aggregation, raw) {
            (Aggregation::UniqueCount, Some(raw)) => {
                let added = field("operation_type").is_none_or(|raw| raw.trim() != "\"remove\"");
                let operation = (timestamp, received_at, position, added);
                self.values
                    .entry((place, distinct_of(raw)))
                    .and_modify(|last| *last = operation.max(*last))
                    .or_insert(operation);
                Quantity::ZERO
            }
            (_, Some(raw)) => value_of(raw).ok()?,
            (_, None) => Quantity::ZERO,
        };
        self.sum(place, Latest { timestamp, received_at, position, value });
        Some(())
    }

    fn sum(&mut self, place: Place, value: Latest) {
        match self.usage.entry(place) {
            Entry::Vacant(vacant) => {
                vacant.insert(Partial::of(value));
            }
            Entry::Occupied(mut occupied) => match occupied.get().checked_add(value) {
                Some(sum) => *occupied.get_mut() = sum,
                // 38 digits are full. The table adds rows up in 76, so a second row loses nothing.
                None => {
                    let full = std::mem::replace(occupied.get_mut(), Partial::of(value));
                    self.full.push((place, full));
                }
            },
        }
    }

    fn into_rows(self) -> (Vec<UsageRow>, Vec<UsageValueRow>, Tally) {
        let mut usage: Vec<(Place, Partial)> = self.full.into_iter().chain(self.usage).collect();
        usage.sort_unstable_by_key(|(place, sum)| (*place, sum.latest));
        let mut values: Vec<_> = self.values.into_iter().collect();
        values.sort_unstable();
        let value_row = |((place, value), (timestamp, received_at, position, added))| {
            let Place { organization, subscription, metric, bucket } = place;
            UsageValueRow {
                organization,
                subscription,
                metric,
                bucket,
                value,
                timestamp,
                received_at,
                position,
                added,
            }
        };
        (
            usage.into_iter().map(|(place, sum)| sum.into_row(place)).collect(),
            values.into_iter().map(value_row).collect(),
            self.tally,
        )
    }
}
