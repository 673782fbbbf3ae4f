//! A chunk's rows, by hand.

use std::collections::HashMap;
use weir_aggregator::{
    chunk::{Decoded, Limits},
    dedup::judge,
    rollup::{CatalogView, Decision, conflict_rows, event_rows, roll_up},
};
use weir_catalog::{Aggregation, Metric};
use weir_events::{Position, Quantity, RecordEvent, RecordHeader, encode_record};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};

const ORGANIZATION: OrganizationId = OrganizationId::from_u128(1);
const SUBSCRIPTION: SubscriptionId = SubscriptionId::from_u128(2);
/// 2026-03-01T10:00:00Z, a quarter's start.
const TEN: i64 = 1_772_359_200_000_000;
const QUARTER_US: i64 = 900_000_000;

struct Catalog(HashMap<&'static str, Vec<Metric>>);

impl Catalog {
    /// Metric 1 counts events `e` by this aggregation of `v`.
    fn of(aggregation: Aggregation) -> Self {
        let field = (aggregation != Aggregation::Count).then(|| "v".to_owned());
        let metric = Metric { id: BillableMetricId::from_u128(1), aggregation, field };
        Self(HashMap::from([("e", vec![metric])]))
    }
}

impl CatalogView for Catalog {
    fn metrics(&self, _: OrganizationId, event_code: &str) -> &[Metric] {
        self.0.get(event_code).map_or(&[], Vec::as_slice)
    }

    /// `acme` holds from ten o'clock on.
    fn subscription_at(
        &self,
        _: OrganizationId,
        external_id: &str,
        at_us: i64,
    ) -> Option<SubscriptionId> {
        (external_id == "acme" && at_us >= TEN).then_some(SUBSCRIPTION)
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
        assert_eq!(event_rows(&chunk, &decision, 0).len(), 1);
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
    assert_eq!(event_rows(&chunk, &decision, 0)[2].timestamp.timestamp_micros(), beyond);
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
