//! Sums under construction: one metric's use in one cell, by group.

use super::{
    countable::{Countable, storable},
    view::{Cell, bucket_time},
};
use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use weir_catalog::{Metric, Targets};
use weir_events::{EventFields, Position, Properties, Quantity, group_of};
use weir_ids::BillableMetricId;
use weir_usage::{Latest, UsageRow, UsageValueRow};

/// The row of a cell that a roll has computed again, whatever is left in it: it says when, and adds
/// nothing to what is there.
pub(crate) fn touched(
    cell: Cell,
    metric: BillableMetricId,
    generation: u64,
    changed_at: DateTime<Utc>,
) -> UsageRow {
    // Less than every value and before every time: merged with others, it is not seen.
    let least = Quantity::from_scaled(-Quantity::MAX.scaled());
    let before =
        When { timestamp_us: i64::MIN, received_at_us: i64::MIN, position: Position::ZERO };
    let sum = Partial {
        events: 0,
        total: Quantity::ZERO,
        value_seconds: 0,
        greatest: least,
        latest: (before, Quantity::ZERO),
        changed_at_us: changed_at.timestamp_micros(),
    };
    sum.row(Place { cell, metric, generation, group: "" })
}

/// What decides which of two events is the later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct When {
    /// Unix microseconds.
    pub timestamp_us: i64,
    /// Unix microseconds.
    pub received_at_us: i64,
    pub position: Position,
}

impl When {
    pub fn of(event: &Countable<'_>) -> Self {
        Self {
            timestamp_us: event.timestamp_us,
            received_at_us: event.received_at_us,
            position: event.position,
        }
    }
}

/// The last operation on a distinct value, and whether it was `add`.
type Operation = (When, bool);

/// What one metric counts in one cell. The sums are the same for every generation they go to.
pub(super) struct Counter<'c> {
    cell: Cell,
    metric: &'c Metric,
    targets: Targets,
    /// What has no value of the metric's dimensions, and all where it has none.
    plain: Group,
    /// Where the metric has dimensions. Apart, as most have not, and a chunk may have a counter for
    /// each of its events.
    groups: Option<Box<HashMap<String, Group>>>,
}

impl<'c> Counter<'c> {
    pub fn new(cell: Cell, metric: &'c Metric, targets: Targets) -> Self {
        Self { cell, metric, targets, plain: Group::default(), groups: None }
    }

    /// Counts an event; `None` if it lacks what the metric counts.
    pub fn count(&mut self, event: &Countable<'_>, properties: Properties<'_>) -> Option<()> {
        if self.targets.is_empty() {
            return Some(());
        }
        let (code, timestamp_us) = (event.code, event.timestamp_us);
        let measured = self.metric.measure(EventFields { code, timestamp_us, properties }).ok()?;
        let when = When::of(event);
        let addend = Addend::new(when, measured.value, self.cell.bucket)?;
        let group = self.group(properties);
        if let Some((value, added)) = measured.distinct {
            let operation = (when, added);
            let values = &mut group.more.get_or_insert_default().values;
            let last = values.entry(value).or_insert(operation);
            *last = operation.max(*last);
        }
        group.add(addend);
        Some(())
    }

    fn group(&mut self, properties: Properties<'_>) -> &mut Group {
        if self.metric.dimensions.is_empty() {
            return &mut self.plain;
        }
        let group = group_of(properties, &self.metric.dimensions);
        if group.is_empty() {
            return &mut self.plain;
        }
        self.groups.get_or_insert_default().entry(group).or_default()
    }

    /// Adds its rows, in no order.
    pub fn into_rows(self, usage: &mut Vec<UsageRow>, values: &mut Vec<UsageValueRow>) {
        let Self { cell, metric, targets, plain, groups } = self;
        let groups = groups.into_iter().flat_map(|groups| *groups);
        for (name, group) in [(String::new(), plain)].into_iter().chain(groups) {
            for generation in targets.iter() {
                let place = Place { cell, metric: metric.id, generation, group: &name };
                usage.extend(group.sum.as_ref().map(|sum| sum.row(place)));
                let Some(more) = &group.more else { continue };
                usage.extend(more.full.iter().map(|sum| sum.row(place)));
                let rows = more.values.iter().map(|(value, last)| place.value_row(value, *last));
                values.extend(rows);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    cell: Cell,
    metric: BillableMetricId,
    generation: u64,
    group: &'a str,
}

impl Place<'_> {
    fn value_row(self, value: &str, operation: Operation) -> UsageValueRow {
        let (when, added) = operation;
        UsageValueRow {
            organization: self.cell.organization,
            subscription: self.cell.subscription,
            metric: self.metric,
            bucket: bucket_time(self.cell.bucket),
            generation: self.generation,
            group: self.group.to_owned(),
            value: value.to_owned(),
            timestamp: storable(when.timestamp_us),
            received_at: storable(when.received_at_us),
            position: when.position,
            added,
        }
    }
}

#[derive(Default)]
struct Group {
    sum: Option<Partial>,
    more: Option<Box<More>>,
}

/// What only some groups have.
#[derive(Default)]
struct More {
    /// Sums that were full: 38 digits. The table adds rows up in 76, so a further row loses nothing.
    full: Vec<Partial>,
    values: HashMap<String, Operation>,
}

impl Group {
    fn add(&mut self, addend: Addend) {
        let sum = match &self.sum {
            None => Partial::of(addend),
            Some(sum) => sum.checked_add(addend).unwrap_or_else(|| {
                self.more.get_or_insert_default().full.push(*sum);
                Partial::of(addend)
            }),
        };
        self.sum = Some(sum);
    }
}

/// One event's value and when it was.
#[derive(Clone, Copy)]
struct Addend {
    when: When,
    value: Quantity,
    /// Value times seconds since the bucket's start, scaled by 10^18.
    value_seconds: i128,
}

impl Addend {
    /// `None`: the value is beyond all that an event may have (16 digits before the point).
    fn new(when: When, value: Quantity, bucket: u32) -> Option<Self> {
        let since_us = when.timestamp_us - i64::from(bucket) * 1_000_000;
        let value_seconds = value.scaled().checked_mul(i128::from(since_us))?;
        Some(Self { when, value, value_seconds })
    }
}

#[derive(Clone, Copy)]
struct Partial {
    events: u64,
    total: Quantity,
    value_seconds: i128,
    greatest: Quantity,
    latest: (When, Quantity),
    changed_at_us: i64,
}

impl Partial {
    fn of(Addend { when, value, value_seconds }: Addend) -> Self {
        Self {
            events: 1,
            total: value,
            value_seconds,
            greatest: value,
            latest: (when, value),
            changed_at_us: when.received_at_us,
        }
    }

    fn checked_add(&self, Addend { when, value, value_seconds }: Addend) -> Option<Self> {
        Some(Self {
            events: self.events + 1,
            total: self.total.checked_add(value)?,
            value_seconds: self.value_seconds.checked_add(value_seconds)?,
            greatest: self.greatest.max(value),
            latest: self.latest.max((when, value)),
            changed_at_us: self.changed_at_us.max(when.received_at_us),
        })
    }

    fn row(&self, place: Place<'_>) -> UsageRow {
        let Self { events, total, value_seconds, greatest, latest: (when, value), .. } = *self;
        let latest = Latest {
            timestamp: storable(when.timestamp_us),
            received_at: storable(when.received_at_us),
            position: when.position,
            value,
        };
        UsageRow {
            organization: place.cell.organization,
            subscription: place.cell.subscription,
            metric: place.metric,
            bucket: bucket_time(place.cell.bucket),
            generation: place.generation,
            group: place.group.to_owned(),
            events,
            total,
            value_seconds,
            greatest,
            latest,
            changed_at: storable(self.changed_at_us),
        }
    }
}
