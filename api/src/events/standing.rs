//! What has become of stored events since they came: voided, or adopted by a later subscription.

use crate::{context::Context, error::OpError};
use std::collections::{BTreeMap, BTreeSet};
use weir_ids::SubscriptionId;
use weir_store::{
    Tx, billable_metrics,
    rolls::{self, Adopted},
    voids::{self, Void},
};
use weir_usage::{EventRow, Unmatched};

/// What tells, now, for what events count.
pub struct Standing {
    codes_known: BTreeSet<String>,
    adopted: BTreeMap<String, Vec<Adopted>>,
}

impl Standing {
    /// Loads it.
    pub async fn load(ctx: &Context, tx: &mut Tx) -> Result<Self, OpError> {
        let codes = billable_metrics::event_codes(tx, ctx.organization).await?;
        let mut adopted: BTreeMap<String, Vec<Adopted>> = BTreeMap::new();
        for one in rolls::adopted(tx, ctx.organization).await? {
            adopted.entry(one.external_id.clone()).or_default().push(one);
        }
        Ok(Self { codes_known: codes.into_iter().collect(), adopted })
    }

    /// The same, as ClickHouse is asked for events that count for nothing.
    pub fn unmatched(&self) -> Unmatched {
        let span = |one: &Adopted| (one.external_id.clone(), one.from, one.to);
        Unmatched {
            codes_known: self.codes_known.iter().cloned().collect(),
            adopted: self.adopted.values().flatten().map(span).collect(),
        }
    }

    /// The subscription that the event counts for.
    pub fn subscription(&self, event: &EventRow<'_>) -> Option<SubscriptionId> {
        let at = event.timestamp;
        let holds = |one: &&Adopted| one.from <= at && one.to.is_none_or(|to| at < to);
        let adopted = self.adopted.get(event.external_subscription_id.as_ref());
        let adopted = adopted.into_iter().flatten().find(holds).map(|one| one.subscription);
        event.subscription.or(adopted)
    }

    /// Whether the event counts for a subscription and a metric, or would if it were not voided.
    pub fn is_matched(&self, event: &EventRow<'_>) -> bool {
        self.subscription(event).is_some() && self.codes_known.contains(event.code.as_ref())
    }
}

/// The voids among these events, by transaction id.
pub async fn voids_of(
    ctx: &Context,
    tx: &mut Tx,
    events: &[EventRow<'_>],
) -> Result<BTreeMap<String, Void>, OpError> {
    let ids: Vec<String> = events.iter().map(|event| event.transaction_id.to_string()).collect();
    Ok(voids::find_many(tx, ctx.organization, &ids).await?)
}
