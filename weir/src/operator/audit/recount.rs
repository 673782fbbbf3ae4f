//! What was used, counted from the events themselves.

use super::progress::Progress;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet};
use weir_aggregator::rollup::{CatalogView, Cell, Countable, roll_up_events};
use weir_billing::{
    book::{DistinctUnion, Span as Reach, UsageBook, UsageWindow},
    line::Pricing,
    usage::{Latest, Overflow, UsageTotal},
};
use weir_catalog::{Metric, Snapshot, Span, Targets};
use weir_events::Position;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_money::Amount;
use weir_store::{PgPool, voids};
use weir_usage::{BUCKET_SECONDS, ClickHouse, EventRow, RawScope, UsageRow, UsageValueRow};

/// Events that are in memory at once: some 100 MB.
const EVENTS_MAX: u64 = 200_000;
/// Events of a recount that are named: nobody reads more.
const NOTED_MAX: usize = 100_000;

/// Where to count.
pub struct Source<'a> {
    pub pool: &'a PgPool,
    pub usage: &'a ClickHouse,
    pub organization: OrganizationId,
    /// The catalog that the invoice went by.
    pub snapshot: &'a Snapshot,
    /// Events received from here on may not be on the invoice.
    pub counted_to: Option<DateTime<Utc>>,
}

/// Why an event may make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    Late,
    Voided,
}

/// An event that may make a difference.
#[derive(Debug, Clone)]
pub struct Noted {
    pub note: Note,
    pub transaction_id: String,
    pub subscription: SubscriptionId,
    pub timestamp: DateTime<Utc>,
    pub metrics: Vec<BillableMetricId>,
}

/// What was counted.
#[derive(Default)]
pub struct Recount {
    windows: BTreeMap<UsageWindow, Counted>,
    /// The first of them, at most.
    pub noted: Vec<Noted>,
    /// Events looked at.
    pub events: u64,
}

#[derive(Default)]
struct Counted {
    totals: BTreeMap<(BillableMetricId, String), UsageTotal>,
    overflows: BTreeSet<BillableMetricId>,
    /// The last operation on a value: when, in which order, and whether it was added.
    values: BTreeMap<(BillableMetricId, String, String), Operation>,
}

type Operation = (DateTime<Utc>, DateTime<Utc>, Position, bool);

/// Counts the windows that these prices need: every stored event that is not voided, once.
/// Errors: a database that does not answer.
pub async fn recount(
    source: &Source<'_>,
    pricings: &[Pricing<'_>],
    external_ids: BTreeSet<String>,
    progress: &Progress,
) -> anyhow::Result<Recount> {
    let windows = pricings.iter().flat_map(|pricing| pricing.windows());
    let windows = windows.map(|window| (window, Counted::default())).collect();
    let mut recount = Recount { windows, ..Recount::default() };
    if recount.windows.is_empty() {
        return Ok(recount);
    }
    let scope = RawScope {
        organization: source.organization,
        codes: Vec::new(),
        external_subscription_ids: external_ids.into_iter().collect(),
        times: recount.windows.keys().map(bounds).collect(),
    };
    let mut connection = source.pool.acquire().await?;
    let partitions = weir_store::partitions::list(&mut connection).await?;
    for partition in &partitions {
        let (mut from, below) = (Position::ZERO, Position::from_u64(partition.committed));
        while from < below {
            let number = partition.partition;
            let to = source.usage.raw_boundary(&scope, number, from, below, EVENTS_MAX).await?;
            let events = source.usage.raw_events(&scope, Some(number), from, to).await?;
            let ids: Vec<String> =
                events.iter().map(|event| event.transaction_id.to_string()).collect();
            let voids = voids::find_many(&mut connection, source.organization, &ids).await?;
            let is_void = |event: &EventRow<'_>| voids.contains_key(event.transaction_id.as_ref());
            recount.add(source, &events, is_void);
            progress.counted(number, partitions.len(), recount.events);
            from = to;
        }
    }
    Ok(recount)
}

/// Whole buckets, as usage is read.
fn bounds(window: &UsageWindow) -> (DateTime<Utc>, DateTime<Utc>) {
    let end = weir_usage::bucket_of(window.period.end);
    let rest = if end < window.period.end { BUCKET_SECONDS } else { 0 };
    (weir_usage::bucket_of(window.period.start), end + TimeDelta::seconds(rest))
}

impl Recount {
    fn add(
        &mut self,
        source: &Source<'_>,
        events: &[EventRow<'static>],
        is_void: impl Fn(&EventRow<'_>) -> bool,
    ) {
        self.events += events.len() as u64;
        let view = AsItWas(source.snapshot);
        let counted = events.iter().filter(|event| !is_void(event)).map(Countable::from);
        let rolled = roll_up_events(counted, &view);
        for (window, counted) in &mut self.windows {
            let (start, end) = bounds(window);
            let inside = |subscription, bucket| {
                subscription == window.subscription && start <= bucket && bucket < end
            };
            for row in rolled.usage.iter().filter(|row| inside(row.subscription, row.bucket)) {
                counted.add_total(row, window.period.end);
            }
            for row in rolled.values.iter().filter(|row| inside(row.subscription, row.bucket)) {
                counted.add_value(row);
            }
        }
        for event in events {
            let is_late = source.counted_to.is_some_and(|to| event.received_at >= to);
            let note = match (is_void(event), is_late) {
                (true, _) => Note::Voided,
                (false, true) => Note::Late,
                (false, false) => continue,
            };
            self.note(source, event, note);
        }
    }

    fn note(&mut self, source: &Source<'_>, event: &EventRow<'_>, note: Note) {
        let at = event.timestamp.timestamp_micros();
        let external_id = &event.external_subscription_id;
        let holder = source.snapshot.subscription_at(source.organization, external_id, at);
        let Some(subscription) = holder.filter(|_| self.noted.len() < NOTED_MAX) else { return };
        let metrics = source.snapshot.metrics(source.organization, &event.code);
        self.noted.push(Noted {
            note,
            transaction_id: event.transaction_id.to_string(),
            subscription,
            timestamp: event.timestamp,
            metrics: metrics.iter().map(|metric| metric.id).collect(),
        });
    }

    /// The usage that the price needs.
    pub fn book(&self, pricing: &Pricing<'_>) -> UsageBook {
        let mut book = UsageBook::new();
        for window in pricing.windows() {
            let Some(counted) = self.windows.get(&window) else { continue };
            counted.fill(&mut book, (window.subscription, window.span));
        }
        // A group that can't be read is met again when it is priced.
        for union in pricing.unions(&book).unwrap_or_default() {
            let count =
                self.windows.get(&union.window).map_or(0, |counted| counted.distinct(&union));
            book.insert_union(union, count);
        }
        book
    }
}

impl Counted {
    fn add_total(&mut self, row: &UsageRow, end: DateTime<Utc>) {
        let Some(total) = total(row, end) else {
            self.overflows.insert(row.metric);
            return;
        };
        let key = (row.metric, row.group.clone());
        let sum = self.totals.entry(key).or_default();
        match sum.and(total) {
            Ok(both) => *sum = both,
            Err(Overflow) => {
                self.overflows.insert(row.metric);
            }
        }
    }

    fn add_value(&mut self, row: &UsageValueRow) {
        let key = (row.metric, row.group.clone(), row.value.clone());
        let operation = (row.timestamp, row.received_at, row.position, row.added);
        let last = self.values.entry(key).or_insert(operation);
        *last = operation.max(*last);
    }

    fn fill(&self, book: &mut UsageBook, (subscription, reach): (SubscriptionId, Reach)) {
        let mut distinct: BTreeMap<(BillableMetricId, &str), u64> = BTreeMap::new();
        for ((metric, group, _), (.., added)) in &self.values {
            *distinct.entry((*metric, group)).or_default() += u64::from(*added);
        }
        for ((metric, group), total) in &self.totals {
            let distinct = distinct.get(&(*metric, group.as_str())).copied().unwrap_or(0);
            let total = UsageTotal { distinct, ..*total };
            book.insert((subscription, reach), *metric, group.clone(), total);
        }
        for metric in &self.overflows {
            book.overflow(subscription, *metric);
        }
    }

    /// Values whose last operation in any of the groups is `add`.
    fn distinct(&self, union: &DistinctUnion) -> u64 {
        let mut last: BTreeMap<&str, Operation> = BTreeMap::new();
        for ((metric, group, value), operation) in &self.values {
            if *metric == union.metric && union.groups.contains(group) {
                let newest = last.entry(value).or_insert(*operation);
                *newest = (*newest).max(*operation);
            }
        }
        last.values().filter(|operation| operation.3).count() as u64
    }
}

/// A row as a total of its window. `None`: beyond 38 digits.
fn total(row: &UsageRow, end: DateTime<Utc>) -> Option<UsageTotal> {
    // Σ value × (end − event) is Σ value × (end − bucket) less Σ value × (event − bucket).
    let to_end = (end - row.bucket).num_microseconds()?;
    let to_end = Amount::from_scaled(to_end.into(), 6);
    let whole = Amount::from(row.total).checked_mul(to_end)?;
    let latest = Latest {
        timestamp: row.latest.timestamp,
        received_at: row.latest.received_at,
        position: row.latest.position.as_u64(),
        value: row.latest.value,
    };
    Some(UsageTotal {
        events: row.events,
        total: row.total,
        greatest: Some(row.greatest),
        latest: Some(latest),
        distinct: 0,
        value_seconds: whole.checked_sub(Amount::from_scaled(row.value_seconds, 18))?,
    })
}

/// The catalog as it was read from: each metric once, whatever generations there were.
struct AsItWas<'a>(&'a Snapshot);

impl CatalogView for AsItWas<'_> {
    fn metrics(&self, organization: OrganizationId, event_code: &str) -> &[Metric] {
        CatalogView::metrics(self.0, organization, event_code)
    }

    fn spans(&self, organization: OrganizationId, external_id: &str) -> &[Span] {
        CatalogView::spans(self.0, organization, external_id)
    }

    fn targets(&self, _: Cell, metric: &Metric) -> Targets {
        if metric.rolling { Targets::default() } else { Targets::only(0) }
    }
}
