//! What a roll counts: its raw events, and under which generation they go where.

use crate::rollup::{CatalogView, Cell, Countable, Rolled, roll_up_events, sort_usage, touched};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use weir_catalog::{Metric, Snapshot, Span, Targets};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::{
    rolls::{Roll, RollKind},
    voids::Void,
};
use weir_usage::{BUCKET_SECONDS, EventRow, RawScope};

/// A roll, prepared for looking up what it covers.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    generation: u64,
    organization: OrganizationId,
    subject: Subject,
}

#[derive(Debug, Clone)]
enum Subject {
    Metric(BillableMetricId),
    Subscriptions(BTreeSet<SubscriptionId>),
    /// With the bucket's Unix seconds.
    Cells(BTreeSet<(SubscriptionId, u32)>),
}

impl Scope {
    pub fn of(roll: &Roll) -> Self {
        let subject = match &roll.kind {
            RollKind::Metric { metric } => Subject::Metric(*metric),
            RollKind::Subscriptions { subscriptions } => {
                Subject::Subscriptions(subscriptions.iter().map(|one| one.id).collect())
            }
            RollKind::Cells { cells } => {
                // A bucket that a column can't hold has no rows.
                let cell = |(subscription, bucket): &(SubscriptionId, DateTime<Utc>)| {
                    Some((*subscription, u32::try_from(bucket.timestamp()).ok()?))
                };
                Subject::Cells(cells.iter().filter_map(cell).collect())
            }
        };
        Self { generation: roll.generation, organization: roll.organization, subject }
    }

    /// The raw events that may count; none where nothing can. `external_ids` are those of the cells'
    /// subscriptions.
    pub fn raw(
        &self,
        roll: &Roll,
        snapshot: &Snapshot,
        external_ids: Vec<String>,
    ) -> Option<RawScope> {
        let all = RawScope {
            organization: self.organization,
            codes: Vec::new(),
            external_subscription_ids: Vec::new(),
            times: Vec::new(),
        };
        let raw = match &roll.kind {
            RollKind::Metric { metric } => {
                let code = snapshot.event_code(self.organization, *metric, self.generation)?;
                RawScope { codes: vec![code.to_owned()], ..all }
            }
            RollKind::Subscriptions { subscriptions } => {
                let names: BTreeSet<_> = subscriptions.iter().map(|one| &one.external_id).collect();
                let external_subscription_ids = names.into_iter().cloned().collect();
                RawScope { external_subscription_ids, ..all }
            }
            RollKind::Cells { cells } => {
                let end = |start: DateTime<Utc>| start + TimeDelta::seconds(BUCKET_SECONDS);
                let times = cells.iter().map(|(_, start)| (*start, end(*start))).collect();
                RawScope { external_subscription_ids: external_ids, times, ..all }
            }
        };
        // An empty list would not restrict.
        let restricted = !raw.codes.is_empty() || !raw.external_subscription_ids.is_empty();
        restricted.then_some(raw)
    }

    /// Rolls up a chunk's raw events without those that are void in the roll's generation.
    pub fn roll_up(
        &self,
        snapshot: &Snapshot,
        events: &[EventRow<'_>],
        voids: &BTreeMap<String, Void>,
    ) -> Rolled {
        let view = View { scope: self, snapshot };
        let void = |event: &EventRow<'_>| {
            voids
                .get(event.transaction_id.as_ref())
                .filter(|void| void.generation.is_some_and(|first| first <= self.generation))
        };
        let counted = events.iter().filter(|event| void(event).is_none()).map(Countable::from);
        let mut rolled = roll_up_events(counted, &view);
        let mut touches = Touches::default();
        for event in events {
            let received_at = event.received_at;
            let changed_at =
                void(event).map_or(received_at, |void| void.voided_at.max(received_at));
            touches.add(&view, &Countable::from(event), changed_at);
        }
        rolled.usage.extend(touches.0.into_iter().map(|((cell, metric), changed_at)| {
            touched(cell, metric, self.generation, changed_at)
        }));
        sort_usage(&mut rolled.usage);
        rolled
    }
}

/// When the metrics of a cell changed last. A cell whose events are all void leaves a row too: else
/// nobody would see that it changed.
#[derive(Default)]
struct Touches(BTreeMap<(Cell, BillableMetricId), DateTime<Utc>>);

impl Touches {
    /// Touches all cells of the roll that the event may ever have counted for: also those of a
    /// subscription that does not hold any more at its time.
    fn add(&mut self, view: &View<'_>, event: &Countable<'_>, changed_at: DateTime<Utc>) {
        let Subject::Cells(cells) = &view.scope.subject else { return };
        let Some(bucket) = event.bucket() else { return };
        let organization = event.organization;
        for span in view.spans(organization, event.external_subscription_id) {
            if !cells.contains(&(span.id, bucket)) {
                continue;
            }
            let cell = Cell { organization, subscription: span.id, bucket };
            for metric in view.metrics(organization, event.code) {
                let last = self.0.entry((cell, metric.id)).or_insert(changed_at);
                *last = changed_at.max(*last);
            }
        }
    }
}

/// The catalog as the roll goes by it: all that it does not cover goes nowhere.
struct View<'a> {
    scope: &'a Scope,
    snapshot: &'a Snapshot,
}

impl CatalogView for View<'_> {
    fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric] {
        CatalogView::metrics(self.snapshot, organization, event_code)
    }

    fn spans(&self, organization: OrganizationId, external_id: &str) -> &[Span] {
        CatalogView::spans(self.snapshot, organization, external_id)
    }

    fn targets(&self, cell: Cell, metric: &Metric) -> Targets {
        let covered = match &self.scope.subject {
            // Its definition from before is in the catalog too.
            Subject::Metric(id) => metric.id == *id && metric.generation == self.scope.generation,
            Subject::Subscriptions(all) => all.contains(&cell.subscription) && !metric.rolling,
            Subject::Cells(all) => {
                all.contains(&(cell.subscription, cell.bucket)) && !metric.rolling
            }
        };
        if covered { Targets::only(self.scope.generation) } else { Targets::default() }
    }
}
