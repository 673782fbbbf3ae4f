//! A chunk's rows, by hand.

use chrono::{DateTime, TimeDelta};
use std::collections::HashMap;
use weir_aggregator::{
    chunk::{Decoded, Limits},
    dedup::judge,
    rollup::{
        CatalogView, Cell, Countable, Decision, conflict_rows, new_events, roll_up, roll_up_events,
    },
};
use weir_catalog::{Aggregation, Metric, Snapshot, Span, Targets};
use weir_events::{
    Dimension, Expression, Position, Quantity, RecordEvent, RecordHeader, encode_record, event_id,
};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::catalog::{CatalogRows, MetricRow, OverrideRow, SubscriptionRow};
use weir_usage::{EventRow, NewEvent, UsageRow};

const ORGANIZATION: OrganizationId = OrganizationId::from_u128(1);
const SUBSCRIPTION: SubscriptionId = SubscriptionId::from_u128(2);
const METRIC: BillableMetricId = BillableMetricId::from_u128(1);
/// 2026-03-01T10:00:00Z, a quarter's start.
const TEN: i64 = 1_772_359_200_000_000;
const QUARTER_US: i64 = 900_000_000;

struct Catalog {
    metrics: HashMap<&'static str, Vec<Metric>>,
    /// `acme` holds from ten o'clock on.
    acme: Span,
}

impl Catalog {
    /// Metric 1 counts events `e` by this aggregation of `v`.
    fn of(aggregation: Aggregation) -> Self {
        let field = (aggregation != Aggregation::Count).then(|| "v".to_owned());
        Self::with(Metric { field, ..metric(aggregation) })
    }

    fn with(metric: Metric) -> Self {
        let started_at = DateTime::from_timestamp_micros(TEN).unwrap();
        Self {
            metrics: HashMap::from([("e", vec![metric])]),
            acme: Span { id: SUBSCRIPTION, started_at, ended_at: None },
        }
    }
}

fn metric(aggregation: Aggregation) -> Metric {
    Metric {
        id: METRIC,
        aggregation,
        field: None,
        expression: None,
        dimensions: Vec::new(),
        generation: 0,
        rolling: false,
    }
}

impl CatalogView for Catalog {
    fn metrics(&self, _: OrganizationId, event_code: &str) -> &[Metric] {
        self.metrics.get(event_code).map_or(&[], Vec::as_slice)
    }

    fn spans(&self, _: OrganizationId, external_id: &str) -> &[Span] {
        if external_id == "acme" { std::slice::from_ref(&self.acme) } else { &[] }
    }

    fn targets(&self, _: Cell, metric: &Metric) -> Targets {
        Targets::only(metric.generation)
    }
}

fn event<'a>(transaction_id: &'a str, timestamp_us: i64, properties: &'a str) -> RecordEvent<'a> {
    RecordEvent {
        transaction_id,
        external_subscription_id: "acme",
        code: "e",
        timestamp_us,
        content_hash: timestamp_us as u64,
        properties,
    }
}

fn chunk(events: &[RecordEvent<'_>]) -> Decoded {
    let header =
        RecordHeader { organization: ORGANIZATION, received_at_us: TEN + 5, catalog_version: 1 };
    let record = encode_record(&header, events);
    Decoded::decode(Position::ZERO, [(0, record.as_slice())], Limits::NONE)
}

fn decide(chunk: &Decoded, catalog: &Catalog) -> Decision {
    roll_up(chunk, judge(&chunk.seen(), &vec![None; chunk.len()]), catalog)
}

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap()
}

#[test]
fn events_of_a_quarter_are_one_row_and_its_end_belongs_to_the_next() {
    let last = TEN + QUARTER_US - 1;
    let chunk = chunk(&[
        event("a", TEN, r#"{"v":0.1}"#),
        event("b", last, r#"{"v":"9007199254740993"}"#),
        event("c", TEN + 1, r#"{"v":0.2}"#),
        event("d", last + 1, r#"{"v":-7}"#),
    ]);
    let decision = decide(&chunk, &Catalog::of(Aggregation::Sum));
    let [first, second] = decision.usage.as_slice() else { panic!("{:?}", decision.usage) };
    assert_eq!((first.bucket.timestamp_micros(), first.events), (TEN, 3));
    assert_eq!(first.total, quantity("9007199254740993.3"));
    assert_eq!(first.greatest, quantity("9007199254740993"));
    assert_eq!(first.latest.value, quantity("9007199254740993"));
    assert_eq!(second.bucket.timestamp_micros(), TEN + QUARTER_US);
    assert_eq!((second.events, second.total, second.greatest), (1, quantity("-7"), quantity("-7")));
}

#[test]
fn an_event_without_a_number_does_not_count_but_is_stored() {
    let cases = [
        (r#"{}"#, Aggregation::Sum, 0),
        (r#"{"v":null}"#, Aggregation::Sum, 0),
        (r#"{"v":"x"}"#, Aggregation::Max, 0),
        (r#"{"v":12345678901234567}"#, Aggregation::Latest, 0),
        (r#"{}"#, Aggregation::UniqueCount, 0),
        (r#"{"v":"x"}"#, Aggregation::UniqueCount, 1),
        (r#"{}"#, Aggregation::Count, 1),
    ];
    for (properties, aggregation, rows) in cases {
        let chunk = chunk(&[event("a", TEN, properties)]);
        let decision = decide(&chunk, &Catalog::of(aggregation));
        assert_eq!(decision.usage.len(), rows, "{aggregation:?} of {properties}");
        assert_eq!(decision.tally.fields_missing, 1 - rows as u64);
        assert_eq!(new_events(&chunk, &decision, 0).len(), 1);
        assert_eq!(decision.subscriptions, [Some(SUBSCRIPTION)]);
    }
}

#[test]
fn a_distinct_value_has_its_last_operation_by_time_not_by_arrival() {
    let chunk = chunk(&[
        event("a", TEN + 3, r#"{"v":"x","operation_type":"remove"}"#),
        event("b", TEN + 1, r#"{"v":"x","operation_type":"add"}"#),
        event("c", TEN + 2, r#"{"v":1.0}"#),
        event("d", TEN + 2, r#"{"v":"1","operation_type":"remove"}"#),
        event("e", TEN + QUARTER_US, r#"{"v":"x"}"#),
    ]);
    let decision = decide(&chunk, &Catalog::of(Aggregation::UniqueCount));
    let rows: Vec<_> = decision
        .values
        .iter()
        .map(|row| (row.bucket.timestamp_micros() - TEN, row.value.as_str(), row.added))
        .collect();
    // Of one time and receipt, the later place in the log wins.
    assert_eq!(rows, [(0, "1", false), (0, "x", false), (QUARTER_US, "x", true)]);
    assert_eq!(decision.usage.iter().map(|row| row.events).collect::<Vec<_>>(), [4, 1]);
}

#[test]
fn what_belongs_to_no_subscription_is_stored_apart() {
    let mut stranger = event("b", TEN, r#"{"v":1}"#);
    stranger.external_subscription_id = "nobody";
    let beyond = 4_300_000_000_000_000;
    let chunk = chunk(&[event("a", TEN - 1, "{}"), stranger, event("c", beyond, r#"{"v":1}"#)]);
    let decision = decide(&chunk, &Catalog::of(Aggregation::Sum));
    assert_eq!(decision.subscriptions, [None, None, None]);
    assert!(decision.usage.is_empty());
    let tally = decision.tally;
    assert_eq!((tally.new, tally.unmatched, tally.times_out_of_range), (3, 3, 1));
    assert_eq!(new_events(&chunk, &decision, 0)[2].timestamp_us, beyond);
}

#[test]
fn repeats_add_nothing_and_conflicts_are_listed() {
    let same = event("a", TEN, r#"{"v":1}"#);
    let other = event("a", TEN + 1, r#"{"v":2}"#);
    let chunk = chunk(&[same, same, other]);
    let decision = decide(&chunk, &Catalog::of(Aggregation::Sum));
    assert_eq!(decision.usage[0].total, quantity("1"));
    assert_eq!((decision.tally.duplicates, decision.tally.conflicts), (1, 1));
    let conflicts = conflict_rows(&chunk, &decision, 7);
    let [conflict] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    assert_eq!((conflict.partition, conflict.position.index()), (7, 2));
    assert_eq!(conflict.first_position, Position::ZERO);
}

#[test]
fn the_greatest_values_of_many_events_still_fit() {
    let ids: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let most = r#"{"v":9999999999999999.999999999999}"#;
    let events: Vec<_> = ids.iter().map(|id| event(id, TEN, most)).collect();
    let chunk = chunk(&events);
    let decision = decide(&chunk, &Catalog::of(Aggregation::Sum));
    assert_eq!(decision.usage[0].total, quantity("99999999999999999999.99999999"));
}

#[test]
fn a_chunk_rolled_up_again_gives_the_same_rows_in_the_same_order() {
    let ids: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    let properties: Vec<String> = (0..500).map(|n| format!(r#"{{"v":{}}}"#, n % 40)).collect();
    let events: Vec<_> = (0_i64..)
        .zip(ids.iter().zip(&properties))
        .map(|(n, (id, properties))| event(id, TEN + (n * 7_919 % 500) * 60_000_000, properties))
        .collect();
    for aggregation in [Aggregation::Sum, Aggregation::UniqueCount] {
        let (one, two) = (chunk(&events), chunk(&events));
        let catalog = Catalog::of(aggregation);
        assert_eq!(decide(&one, &catalog), decide(&two, &catalog));
    }
}

#[test]
fn stored_events_are_counted_as_those_of_the_log_were() {
    let ids: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let properties: Vec<String> =
        (0..300).map(|n| format!(r#"{{"v":{}.5,"region":"r{}"}}"#, n % 40, n % 3)).collect();
    let events: Vec<_> = (0_i64..)
        .zip(ids.iter().zip(&properties))
        .map(|(n, (id, properties))| event(id, TEN + (n * 7_919 % 500) * 60_000_000, properties))
        .collect();
    let chunk = chunk(&events);
    let dimensions = vec![Dimension { key: "region".to_owned(), values: None }];
    for aggregation in [Aggregation::Sum, Aggregation::UniqueCount, Aggregation::WeightedSum] {
        let field = Some("v".to_owned());
        let dimensions = dimensions.clone();
        let catalog = Catalog::with(Metric { field, dimensions, ..metric(aggregation) });
        let decision = decide(&chunk, &catalog);
        let rows: Vec<_> = new_events(&chunk, &decision, 3).into_iter().map(read_back).collect();
        let again = roll_up_events(rows.iter().map(Countable::from), &catalog);
        assert_eq!((again.usage, again.values), (decision.usage, decision.values));
        assert_eq!(again.tally, decision.tally);
    }
}

/// The event as ClickHouse gives it back. The subscription at arrival is a hint, and not believed.
fn read_back(event: NewEvent<'_>) -> EventRow<'_> {
    let at = |micros| DateTime::from_timestamp_micros(micros).unwrap();
    EventRow {
        organization: event.organization,
        subscription: Some(SubscriptionId::from_u128(99)),
        external_subscription_id: event.external_subscription_id.into(),
        code: event.code.into(),
        transaction_id: event.transaction_id.into(),
        event_id: event_id(event.organization, event.transaction_id),
        timestamp: at(event.timestamp_us),
        received_at: at(event.received_at_us),
        partition: event.partition,
        position: event.position,
        content_hash: event.content_hash,
        properties: event.properties.into(),
    }
}

#[test]
fn usage_is_kept_apart_by_the_values_of_its_dimensions() {
    let dimensions = vec![
        Dimension { key: "model".to_owned(), values: Some(vec!["large".to_owned()]) },
        Dimension { key: "region".to_owned(), values: None },
    ];
    let field = Some("v".to_owned());
    let catalog = Catalog::with(Metric { field, dimensions, ..metric(Aggregation::Sum) });
    let chunk = chunk(&[
        event("a", TEN, r#"{"v":1,"region":"eu","model":"large"}"#),
        event("b", TEN, r#"{"v":2,"model":"large","region":"eu"}"#),
        event("c", TEN, r#"{"v":4,"region":"eu","model":"small"}"#),
        event("d", TEN, r#"{"v":8,"region":"us"}"#),
        event("e", TEN, r#"{"v":16,"model":"small"}"#),
        event("f", TEN, r#"{"v":32}"#),
    ]);
    let decision = decide(&chunk, &catalog);
    let groups: Vec<_> = decision
        .usage
        .iter()
        .map(|row| (row.group.as_str(), row.events, row.total.to_string()))
        .collect();
    let expected = [
        ("", 2, "48"),
        (r#"{"model":"large","region":"eu"}"#, 2, "3"),
        (r#"{"region":"eu"}"#, 1, "4"),
        (r#"{"region":"us"}"#, 1, "8"),
    ];
    assert_eq!(groups, expected.map(|(group, events, total)| (group, events, total.to_owned())));
}

#[test]
fn a_value_weighs_by_the_time_since_its_quarter_began() {
    let chunk = chunk(&[
        event("a", TEN + 1_500_000, r#"{"v":2500}"#),
        event("b", TEN + 60_000_000, r#"{"v":-0.000000000001}"#),
        event("c", TEN + QUARTER_US, r#"{"v":7}"#),
    ]);
    let decision = decide(&chunk, &Catalog::of(Aggregation::WeightedSum));
    let weighted: Vec<i128> = decision.usage.iter().map(|row| row.value_seconds).collect();
    // 2500 for 1.5 s less 10^-12 for 60 s; the last is at its quarter's start.
    assert_eq!(weighted, [3_750 * 10_i128.pow(18) - 60 * 10_i128.pow(6), 0]);
}

#[test]
fn a_full_sum_goes_on_in_a_further_row() {
    // Each is worth 9 × 10^36 of the 1.7 × 10^38 that value × time may be.
    let ids: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let most = r#"{"v":9999999999999999}"#;
    let last = TEN + QUARTER_US - 1;
    let events: Vec<_> = ids.iter().map(|id| event(id, last, most)).collect();
    let chunk = chunk(&events);
    let decision = decide(&chunk, &Catalog::of(Aggregation::WeightedSum));
    assert!(decision.usage.len() > 1);
    assert_eq!(decision.usage.iter().map(|row| row.events).sum::<u64>(), 100);
    let totals = decision.usage.iter().map(|row| row.total);
    let total = totals.reduce(|sum, total| sum.checked_add(total).unwrap()).unwrap();
    assert_eq!(total, quantity("999999999999999900"));
    let wide = |row: &UsageRow| row.value_seconds / 10_i128.pow(6);
    let one = 9_999_999_999_999_999_i128 * 10_i128.pow(6) * (i128::from(QUARTER_US) - 1);
    assert_eq!(decision.usage.iter().map(wide).sum::<i128>(), one * 100);
}

#[test]
fn an_expression_is_what_counts() {
    let expression = Expression::parse("event.properties.a * event.properties.b").unwrap();
    let metric = Metric { expression: Some(expression.into()), ..metric(Aggregation::Custom) };
    let chunk = chunk(&[
        event("a", TEN, r#"{"a":3,"b":0.5}"#),
        event("b", TEN, r#"{"a":4,"b":"2"}"#),
        event("c", TEN, r#"{"a":4}"#),
    ]);
    let decision = decide(&chunk, &Catalog::with(metric));
    assert_eq!((decision.usage[0].events, decision.usage[0].total), (2, quantity("9.5")));
    assert_eq!(decision.tally.fields_missing, 1);
}

#[test]
fn a_row_is_as_new_as_the_newest_event_in_it() {
    let header = |received_at_us| RecordHeader {
        organization: ORGANIZATION,
        received_at_us,
        catalog_version: 1,
    };
    let records = [(TEN + 70, "a"), (TEN + 90, "b"), (TEN + 80, "c")]
        .map(|(at, id)| encode_record(&header(at), &[event(id, TEN, r#"{"v":1}"#)]));
    let stored = (0..).zip(records.iter().map(Vec::as_slice));
    let chunk = Decoded::decode(Position::ZERO, stored, Limits::NONE);
    let decision = decide(&chunk, &Catalog::of(Aggregation::Sum));
    assert_eq!(decision.usage.len(), 1);
    assert_eq!(decision.usage[0].changed_at.timestamp_micros(), TEN + 90);
}

#[test]
fn what_is_rolled_is_written_both_as_it_was_and_as_it_will_be() {
    let row = |generation, rolling, field: &str| MetricRow {
        id: METRIC,
        organization: ORGANIZATION,
        event_code: "e".to_owned(),
        aggregation: Aggregation::Sum,
        field: Some(field.to_owned()),
        expression: None,
        dimensions: Vec::new(),
        generation,
        rolling,
    };
    let started_at = DateTime::from_timestamp_micros(TEN).unwrap();
    let over = |generation, bucket, rolling| OverrideRow {
        generation,
        organization: ORGANIZATION,
        subscription: SUBSCRIPTION,
        bucket,
        rolling,
    };
    let subscription = SubscriptionRow {
        id: SUBSCRIPTION,
        organization: ORGANIZATION,
        external_id: "acme".to_owned(),
        started_at,
        ended_at: None,
    };
    let snapshot = |metrics, overrides| {
        let subscriptions = vec![subscription.clone()];
        let rows = CatalogRows { metrics, subscriptions, overrides, ..CatalogRows::default() };
        Snapshot::new(1, rows)
    };
    let next = started_at + TimeDelta::minutes(15);
    let chunk = chunk(&[
        event("a", TEN, r#"{"v":1,"w":10}"#),
        event("b", TEN + QUARTER_US, r#"{"v":2,"w":20}"#),
    ]);
    let written = |catalog: &Snapshot| {
        let verdicts = judge(&chunk.seen(), &vec![None; chunk.len()]);
        let rows = roll_up(&chunk, verdicts, catalog).usage;
        let in_quarter = |row: &UsageRow| (row.bucket.timestamp_micros() - TEN) / QUARTER_US;
        rows.iter()
            .map(|row| (in_quarter(row), row.generation, row.total.to_string()))
            .collect::<Vec<_>>()
    };
    let texts = |rows: &[(i64, u64, &str)]| {
        rows.iter()
            .map(|(quarter, generation, total)| (*quarter, *generation, (*total).to_owned()))
            .collect::<Vec<_>>()
    };
    // A redefinition, of a metric of which one cell was computed again before.
    let redefined =
        snapshot(vec![row(0, false, "v"), row(7, true, "w")], vec![over(5, Some(next), false)]);
    assert_eq!(written(&redefined), texts(&[(0, 0, "1"), (0, 7, "10"), (1, 5, "2"), (1, 7, "20")]));
    // A cell under way.
    let cell = snapshot(vec![row(3, false, "v")], vec![over(8, Some(next), true)]);
    assert_eq!(written(&cell), texts(&[(0, 3, "1"), (1, 3, "2"), (1, 8, "2")]));
}
