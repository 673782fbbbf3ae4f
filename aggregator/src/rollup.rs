//! What events add to usage: pure, and the same whenever it is done again.
//!
//! Each event goes to the subscription that was active at its timestamp, and to every metric that
//! counts its code, under each generation that the catalog names. The result is sorted, so the same
//! events give the same blocks. Chunks of the log, re-rolls and audits all count here.

mod countable;
mod partial;
mod sums;
mod view;

pub use countable::Countable;
pub(crate) use partial::touched;
pub(crate) use sums::sort_usage;
pub use view::{CatalogView, Cell, holding};

use crate::{chunk::Decoded, dedup::Verdict};
use countable::storable;
use sums::Sums;
use weir_ids::SubscriptionId;
use weir_usage::{ConflictRow, NewEvent, UsageRow, UsageValueRow, storable_micros};

/// What became of a chunk's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub new: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    /// New, but no subscription was active at their time; of `new`.
    pub unmatched: u64,
    /// Times that an event did not count for a metric because it lacks what the metric counts.
    pub fields_missing: u64,
    /// Timestamps that no bucket can hold; stored as unmatched.
    pub times_out_of_range: u64,
}

/// What events come to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rolled {
    /// Sorted by organization, subscription, metric, bucket, generation, group.
    pub usage: Vec<UsageRow>,
    /// Sorted by the same and the value.
    pub values: Vec<UsageValueRow>,
    pub tally: Tally,
}

/// A chunk, judged and rolled up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// One for each event, in log order.
    pub verdicts: Vec<Verdict>,
    /// One for each new event, in log order.
    pub subscriptions: Vec<Option<SubscriptionId>>,
    /// Sorted by organization, subscription, metric, bucket, generation, group.
    pub usage: Vec<UsageRow>,
    /// Sorted by the same and the value.
    pub values: Vec<UsageValueRow>,
    pub tally: Tally,
}

/// Rolls up the new events of a chunk.
#[must_use]
pub fn roll_up(chunk: &Decoded, verdicts: Vec<Verdict>, catalog: &impl CatalogView) -> Decision {
    let mut sums = Sums::new(catalog);
    let mut subscriptions = Vec::with_capacity(verdicts.len());
    let (mut duplicates, mut conflicts) = (0, 0);
    for (event, verdict) in chunk.events().zip(&verdicts) {
        match verdict {
            Verdict::Duplicate => duplicates += 1,
            Verdict::Conflict { .. } => conflicts += 1,
            Verdict::New => subscriptions.push(sums.add(&Countable::from(&event))),
        }
    }
    let Rolled { usage, values, tally } = sums.into_rolled();
    let tally = Tally { duplicates, conflicts, ..tally };
    Decision { verdicts, subscriptions, usage, values, tally }
}

/// Rolls up events that are known to be first copies: those of ClickHouse.
#[must_use]
pub fn roll_up_events<'e>(
    events: impl IntoIterator<Item = Countable<'e>>,
    catalog: &impl CatalogView,
) -> Rolled {
    let mut sums = Sums::new(catalog);
    for event in events {
        sums.add(&event);
    }
    sums.into_rolled()
}

/// A chunk's new events as they are stored, in log order.
pub fn new_events<'a>(
    chunk: &'a Decoded,
    decision: &'a Decision,
    partition: u32,
) -> Vec<NewEvent<'a>> {
    let mut events = Vec::with_capacity(decision.subscriptions.len());
    let new = chunk
        .events()
        .zip(&decision.verdicts)
        .filter(|(_, verdict)| **verdict == Verdict::New)
        .zip(&decision.subscriptions)
        .map(|((event, _), subscription)| NewEvent {
            organization: event.organization,
            subscription: *subscription,
            external_subscription_id: event.fields.external_subscription_id,
            code: event.fields.code,
            transaction_id: event.fields.transaction_id,
            timestamp_us: storable_micros(event.fields.timestamp_us),
            received_at_us: storable_micros(event.received_at_us),
            partition,
            position: event.position,
            content_hash: event.fields.content_hash,
            properties: event.fields.properties,
        });
    events.extend(new);
    events
}

/// The rows of a chunk's conflicts, in log order.
#[must_use]
pub fn conflict_rows<'a>(
    chunk: &'a Decoded,
    decision: &Decision,
    partition: u32,
) -> Vec<ConflictRow<'a>> {
    if decision.tally.conflicts == 0 {
        return Vec::new();
    }
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
