//! The plain sum: every event once, in the order of the log, with the catalog of its chunk.

use super::{
    World,
    fakes::{Row, StoredConflict, StoredEvent},
    senders::Copy,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use weir_aggregator::{
    protocol::Intent,
    rollup::{CatalogView, holding},
};
use weir_catalog::{Aggregation, Snapshot};
use weir_events::{Position, Quantity, RecordEvent, RecordHeader, event_id, property, value_of};
use weir_ids::{BillableMetricId, SubscriptionId};

/// Subscription, metric, its generation, and quarter of an hour.
type Place = (SubscriptionId, BillableMetricId, u64, i64);
/// Timestamp, receipt, position.
type Order = (i64, i64, Position);

/// Count, sum, greatest, latest.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sum(u64, i128, i128, (Order, i128));

impl Sum {
    fn plus(self, other: Self) -> Self {
        let Self(count, sum, greatest, latest) = other;
        Self(self.0 + count, self.1 + sum, self.2.max(greatest), self.3.max(latest))
    }
}

#[derive(Default, PartialEq)]
struct Totals {
    usage: BTreeMap<Place, Sum>,
    values: BTreeMap<(Place, String), (Order, bool)>,
}

impl Totals {
    fn add(&mut self, place: Place, sum: Sum) {
        self.usage.entry(place).and_modify(|old| *old = old.plus(sum)).or_insert(sum);
    }

    fn operate(&mut self, place: Place, value: String, last: (Order, bool)) {
        let slot = self.values.entry((place, value)).or_insert(last);
        *slot = (*slot).max(last);
    }
}

#[derive(Default)]
struct Expected {
    events: Vec<StoredEvent>,
    conflicts: Vec<StoredConflict>,
    totals: Totals,
}

/// Panics where what is stored is not the plain sum.
pub fn compare(world: &World) {
    let mut expected = Expected::default();
    for partition in 0..world.logs.len() {
        expect_partition(world, partition, &mut expected);
    }
    let mut events = world.clickhouse.events.rows.clone();
    events.sort();
    expected.events.sort();
    assert_eq!(events.len(), expected.events.len(), "number of events");
    assert!(events == expected.events, "the events differ");
    let mut conflicts = world.clickhouse.conflicts.rows.clone();
    conflicts.sort();
    expected.conflicts.sort();
    assert!(conflicts == expected.conflicts, "the conflicts differ");
    let stored = stored_totals(world);
    let places = expected.totals.usage.keys().chain(stored.usage.keys());
    for place in places {
        let (is, should) = (stored.usage.get(place), expected.totals.usage.get(place));
        assert!(is == should, "usage of {place:?} is {is:?} and should be {should:?}");
    }
    assert!(stored.values == expected.totals.values, "the distinct values differ");
    compare_with_senders(world);
}

/// What is stored, against what senders were told.
fn compare_with_senders(world: &World) {
    let copy_at = |partition: u32, position: Position| {
        let logged = &world.logs[partition as usize].records[position.offset() as usize];
        Copy::of(&logged.record.event(position.index()).unwrap())
    };
    let mut counted: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for row in &world.clickhouse.events.rows {
        let copy = copy_at(row.partition, row.position);
        counted.entry(copy.transaction).or_default().push(copy.content);
    }
    let conflicts = world.clickhouse.conflicts.rows.iter();
    let conflicts: BTreeSet<Copy> =
        conflicts.map(|row| copy_at(row.partition, row.position)).collect();
    world.senders.compare(&counted, &conflicts);
}

fn expect_partition(world: &World, partition: usize, expected: &mut Expected) {
    let row = &world.rows[partition];
    let chunks: Vec<Intent> = row
        .intents
        .values()
        .filter(|recorded| recorded.done.is_some())
        .map(|recorded| recorded.intent)
        .collect();
    let mut at = Position::ZERO;
    for chunk in &chunks {
        assert_eq!(chunk.from, at, "chunks of partition {partition} leave a gap or overlap");
        at = chunk.to;
    }
    assert_eq!(at, row.committed, "partition {partition}: the last chunk");

    check_rolls(partition, row, &chunks);

    let mut first: HashMap<&str, (Position, u64)> = HashMap::new();
    for (offset, logged) in (0..).zip(&world.logs[partition].records) {
        let header = &logged.record.header;
        let chunk = chunks[chunks.partition_point(|chunk| chunk.to <= Position::new(offset, 0))];
        assert!(
            chunk.catalog_version >= header.catalog_version,
            "partition {partition}: {chunk:?} holds a record of catalog {}",
            header.catalog_version
        );
        let catalog = world.catalogs.at(chunk.catalog_version);
        for (index, event) in (0..).zip(logged.record.events()) {
            let position = Position::new(offset, index);
            let copy = (position, event.content_hash);
            let (first_position, content) = *first.entry(event.transaction_id).or_insert(copy);
            if first_position == position {
                expect_event(partition, position, header, &event, catalog, expected);
            } else if content != event.content_hash {
                let partition = partition as u32;
                expected.conflicts.push(StoredConflict { partition, position, first_position });
            }
        }
    }
}

/// From where a roll ends on, every chunk writes its generation.
fn check_rolls(partition: usize, row: &Row, chunks: &[Intent]) {
    for (version, end) in &row.rolls {
        let behind = chunks.iter().filter(|chunk| chunk.from >= *end);
        for chunk in behind {
            assert!(
                chunk.catalog_version >= *version,
                "partition {partition}: {chunk:?} leaves out the roll that ends at {end}"
            );
        }
    }
}

fn expect_event(
    partition: usize,
    position: Position,
    header: &RecordHeader,
    event: &RecordEvent<'_>,
    catalog: &Snapshot,
    expected: &mut Expected,
) {
    let organization = header.organization;
    let spans = CatalogView::spans(catalog, organization, event.external_subscription_id);
    let subscription = holding(spans, event.timestamp_us);
    expected.events.push(StoredEvent {
        partition: partition as u32,
        position,
        id: event_id(organization, event.transaction_id),
        content_hash: event.content_hash,
        subscription,
    });
    let Some(subscription) = subscription else { return };
    let order = (event.timestamp_us, header.received_at_us, position);
    for metric in catalog.metrics(organization, event.code) {
        let bucket = event.timestamp_us / 900_000_000 * 900;
        let place = (subscription, metric.id, metric.generation, bucket);
        let raw = property(event.properties, "v");
        let value = match (metric.aggregation, raw) {
            (Aggregation::Count, _) => 0,
            (_, None) => continue,
            (Aggregation::UniqueCount, Some(raw)) => {
                let text = raw.trim_matches('"').to_owned();
                // Numbers in their shortest form.
                let text = text.parse::<Quantity>().map_or(text, |number| number.to_string());
                let removed = event.properties.contains("remove");
                expected.totals.operate(place, text, (order, !removed));
                0
            }
            (_, Some(raw)) => match value_of(raw) {
                Ok(value) => value.scaled(),
                Err(_) => continue,
            },
        };
        expected.totals.add(place, Sum(1, value, value, (order, value)));
    }
}

fn stored_totals(world: &World) -> Totals {
    let mut totals = Totals::default();
    for row in &world.clickhouse.usage.rows {
        let latest = row.latest;
        let order = (
            latest.timestamp.timestamp_micros(),
            latest.received_at.timestamp_micros(),
            latest.position,
        );
        let place = (row.subscription, row.metric, row.generation, row.bucket.timestamp());
        let (sum, greatest) = (row.total.scaled(), row.greatest.scaled());
        totals.add(place, Sum(row.events, sum, greatest, (order, latest.value.scaled())));
    }
    for row in &world.clickhouse.values.rows {
        let place = (row.subscription, row.metric, row.generation, row.bucket.timestamp());
        let (timestamp, received_at) = (row.timestamp, row.received_at);
        let order = (timestamp.timestamp_micros(), received_at.timestamp_micros(), row.position);
        totals.operate(place, row.value.clone(), (order, row.added));
    }
    totals
}
