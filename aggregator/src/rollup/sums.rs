//! The pass over the events: who used what when, and the counters it goes to.

use super::{
    Rolled, Tally,
    countable::Countable,
    partial::Counter,
    view::{Answers, CatalogView, Cell, holding},
};
use weir_catalog::{Metric, Span};
use weir_events::{Properties, PropertyReader};
use weir_ids::{OrganizationId, SubscriptionId};
use weir_usage::{UsageRow, UsageValueRow};

/// Sums over events in their order, and the rows they come to.
pub(super) struct Sums<'e, 'c, C> {
    catalog: &'c C,
    spans: Answers<(OrganizationId, &'e str), &'c [Span]>,
    codes: Answers<(OrganizationId, &'e str), Code<'c>>,
    codes_known: u32,
    /// By subscription, bucket and code: where in `counters` their counters begin.
    places: Answers<(SubscriptionId, u32, u32), usize>,
    counters: Vec<Counter<'c>>,
    properties: PropertyReader,
    tally: Tally,
}

/// The metrics of an event code, under a number of its own.
#[derive(Clone, Copy)]
struct Code<'c> {
    number: u32,
    metrics: &'c [Metric],
    reads_properties: bool,
}

impl<'e, 'c, C: CatalogView> Sums<'e, 'c, C> {
    pub fn new(catalog: &'c C) -> Self {
        Self {
            catalog,
            spans: Answers::default(),
            codes: Answers::default(),
            codes_known: 0,
            places: Answers::default(),
            counters: Vec::new(),
            properties: PropertyReader::default(),
            tally: Tally::default(),
        }
    }

    /// Counts an event; the subscription it belongs to.
    pub fn add(&mut self, event: &Countable<'e>) -> Option<SubscriptionId> {
        self.tally.new += 1;
        let Some(bucket) = event.bucket() else {
            self.tally.times_out_of_range += 1;
            self.tally.unmatched += 1;
            return None;
        };
        let (catalog, organization) = (self.catalog, event.organization);
        let external_id = event.external_subscription_id;
        let spans = self
            .spans
            .get((organization, external_id), || catalog.spans(organization, external_id));
        let Some(subscription) = holding(spans, event.timestamp_us) else {
            self.tally.unmatched += 1;
            return None;
        };
        self.count(event, Cell { organization, subscription, bucket });
        Some(subscription)
    }

    fn count(&mut self, event: &Countable<'e>, cell: Cell) {
        let code = self.code(event);
        let first = self.place(cell, code);
        let properties = match code.reads_properties {
            true => self.properties.read(event.properties),
            false => Properties::NONE,
        };
        for counter in self.counters.iter_mut().skip(first).take(code.metrics.len()) {
            if counter.count(event, properties).is_none() {
                self.tally.fields_missing += 1;
            }
        }
    }

    fn code(&mut self, event: &Countable<'e>) -> Code<'c> {
        let (catalog, organization, code) = (self.catalog, event.organization, event.code);
        let known = &mut self.codes_known;
        self.codes.get((organization, code), || {
            *known += 1;
            let metrics = catalog.metrics(organization, code);
            let reads_properties = metrics.iter().any(Metric::reads_properties);
            Code { number: *known, metrics, reads_properties }
        })
    }

    /// Where the counters of a cell and code begin.
    fn place(&mut self, cell: Cell, code: Code<'c>) -> usize {
        let (catalog, counters) = (self.catalog, &mut self.counters);
        self.places.get((cell.subscription, cell.bucket, code.number), || {
            let first = counters.len();
            let counter = |metric| Counter::new(cell, metric, catalog.targets(cell, metric));
            counters.extend(code.metrics.iter().map(counter));
            first
        })
    }

    pub fn into_rolled(self) -> Rolled {
        let (mut usage, mut values) = (Vec::new(), Vec::new());
        for counter in self.counters {
            counter.into_rows(&mut usage, &mut values);
        }
        sort_usage(&mut usage);
        values.sort_unstable_by(|a, b| value_key(a).cmp(&value_key(b)));
        Rolled { usage, values, tally: self.tally }
    }
}

/// Puts rows into the order of their table, those of one place by their newest event: the same rows
/// always come out in the same order, as a repeated insert needs.
pub(crate) fn sort_usage(usage: &mut [UsageRow]) {
    usage.sort_unstable_by(|a, b| usage_key(a).cmp(&usage_key(b)));
}

fn usage_key(row: &UsageRow) -> impl Ord {
    let UsageRow { organization, subscription, metric, bucket, generation, group, latest, .. } =
        row;
    (organization, subscription, metric, bucket, generation, group, latest)
}

fn value_key(row: &UsageValueRow) -> impl Ord {
    let UsageValueRow {
        organization, subscription, metric, bucket, generation, group, value, ..
    } = row;
    (organization, subscription, metric, bucket, generation, group, value)
}
