//! Whatever changes, a snapshot that was changed answers as one that was loaded.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use std::collections::BTreeMap;
use weir_catalog::{Aggregation, ApiKey, Metric, OrganizationSettings, Snapshot, Span};
use weir_ids::{ApiKeyId, BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::catalog::{
    CatalogChanges, CatalogRows, DimensionRow, KeyRow, MetricRow, OrganizationRow, OverrideRow,
    SubscriptionRow,
};

const CODES: [&str; 2] = ["calls", "tokens"];
const EXTERNAL_IDS: [&str; 2] = ["acme", "other"];
/// Of organizations, metrics, subscriptions, keys, generations and buckets.
const FEW: u8 = 3;

fn organization(number: u8) -> OrganizationId {
    OrganizationId::from_u128(u128::from(number))
}

fn subscription(number: u8) -> SubscriptionId {
    SubscriptionId::from_u128(u128::from(number))
}

fn bucket(number: u8) -> DateTime<Utc> {
    DateTime::from_timestamp(i64::from(number) * 900, 0).unwrap()
}

/// Numbers that make one row of each kind.
type Numbers = (u8, u8, u8, u8, bool);

fn numbers() -> impl Strategy<Value = Vec<Numbers>> {
    prop::collection::vec((0..FEW, 0..FEW, 0..FEW, 0..FEW, any::<bool>()), 0..12)
}

/// The last row of each key, as the tables' unique indexes would have it.
fn distinct<K: Ord, R>(rows: impl Iterator<Item = (K, R)>) -> Vec<R> {
    rows.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn keys(of: &[Numbers]) -> Vec<KeyRow> {
    distinct(of.iter().map(|&(hash, owner, scopes, _, _)| {
        let row = KeyRow {
            id: ApiKeyId::from_u128(u128::from(hash)),
            organization: organization(owner),
            hash: [hash; 32],
            scopes: vec!["*".to_owned(); usize::from(scopes)],
        };
        (hash, row)
    }))
}

fn metrics(of: &[Numbers]) -> Vec<MetricRow> {
    distinct(of.iter().map(|&(id, generation, code, other, rolling)| {
        let dimension = DimensionRow {
            key: "region".to_owned(),
            values: rolling.then(|| vec!["eu".to_owned(); usize::from(other)]),
        };
        let row = MetricRow {
            id: BillableMetricId::from_u128(u128::from(id)),
            organization: organization(id % 2),
            event_code: CODES[usize::from(code % 2)].to_owned(),
            aggregation: if other == 0 { Aggregation::Max } else { Aggregation::Sum },
            field: Some(format!("field {other}")),
            expression: (other == 2).then(|| "event.timestamp / 2".to_owned()),
            dimensions: if other == 1 { vec![dimension] } else { Vec::new() },
            generation: u64::from(generation),
            rolling,
        };
        ((id, generation), row)
    }))
}

/// Without overlaps: subscription `n` holds only in the days from 10 `n`.
fn subscriptions(of: &[Numbers]) -> Vec<SubscriptionRow> {
    distinct(of.iter().map(|&(id, from, external_id, length, ends)| {
        let day = |number: u8| DateTime::from_timestamp(i64::from(number) * 86_400, 0).unwrap();
        let started = id * 10 + from;
        let row = SubscriptionRow {
            id: subscription(id),
            organization: organization(0),
            external_id: EXTERNAL_IDS[usize::from(external_id % 2)].to_owned(),
            started_at: day(started),
            ended_at: (ends || id + 1 < FEW).then(|| day(started + 1 + length)),
        };
        (id, row)
    }))
}

fn organizations(of: &[Numbers]) -> Vec<OrganizationRow> {
    distinct(of.iter().map(|&(id, max, _, _, lenient)| {
        let events_per_second_max = (max > 0).then_some(u32::from(max));
        (id, OrganizationRow { id: organization(id), lenient, events_per_second_max })
    }))
}

fn overrides(of: &[Numbers]) -> Vec<OverrideRow> {
    distinct(of.iter().map(|&(generation, owner, id, cell, rolling)| {
        let row = OverrideRow {
            generation: u64::from(generation),
            organization: organization(owner),
            subscription: subscription(id),
            bucket: (cell > 0).then(|| bucket(cell)),
            rolling,
        };
        ((generation, owner, id, cell), row)
    }))
}

fn rows() -> impl Strategy<Value = CatalogRows> {
    [numbers(), numbers(), numbers(), numbers(), numbers()].prop_map(|[a, b, c, d, e]| {
        CatalogRows {
            keys: keys(&a),
            metrics: metrics(&b),
            subscriptions: subscriptions(&c),
            organizations: organizations(&d),
            overrides: overrides(&e),
        }
    })
}

/// What is in `of` and not in `without`.
fn difference<R: Clone + PartialEq>(of: &[R], without: &[R]) -> Vec<R> {
    of.iter().filter(|row| !without.contains(row)).cloned().collect()
}

fn without(of: &CatalogRows, other: &CatalogRows) -> CatalogRows {
    CatalogRows {
        keys: difference(&of.keys, &other.keys),
        metrics: difference(&of.metrics, &other.metrics),
        subscriptions: difference(&of.subscriptions, &other.subscriptions),
        organizations: difference(&of.organizations, &other.organizations),
        overrides: difference(&of.overrides, &other.overrides),
    }
}

/// All that a snapshot answers in this small world.
#[derive(Debug, PartialEq)]
struct Answers {
    keys: Vec<Option<ApiKey>>,
    metrics: Vec<Vec<Metric>>,
    newest: Vec<Vec<Metric>>,
    spans: Vec<Option<Vec<Span>>>,
    settings: Vec<OrganizationSettings>,
    targets: Vec<Vec<u64>>,
}

fn answers(snapshot: &Snapshot) -> Answers {
    let all = || (0..FEW).flat_map(|number| (0..2_usize).map(move |word| (number, word)));
    let metrics = |(number, word): (u8, usize)| snapshot.metrics(organization(number), CODES[word]);
    let targets = |(number, word): (u8, usize)| {
        let mut found = Vec::new();
        for metric in metrics((number, word)) {
            for (id, cell) in (0..FEW).flat_map(|id| (0..FEW).map(move |cell| (id, cell))) {
                let (owner, id) = (organization(number), subscription(id));
                found.push(snapshot.targets(owner, metric, id, bucket(cell)).iter().collect());
            }
        }
        found
    };
    Answers {
        keys: (0..FEW).map(|hash| snapshot.key(&[hash; 32]).cloned()).collect(),
        metrics: all().map(|one| metrics(one).to_vec()).collect(),
        newest: all().map(|one| Metric::newest(metrics(one)).cloned().collect()).collect(),
        spans: all()
            .map(|(number, word)| {
                let owner = organization(number);
                snapshot.subscription(owner, EXTERNAL_IDS[word]).map(<[_]>::to_vec)
            })
            .collect(),
        settings: (0..FEW).map(|number| snapshot.organization(organization(number))).collect(),
        targets: all().flat_map(targets).collect(),
    }
}

proptest! {
    #[test]
    fn a_changed_snapshot_is_a_loaded_one_and_goes_back(first in rows(), second in rows()) {
        let (closed, opened) = (without(&first, &second), without(&second, &first));
        let start = Snapshot::new(1, first);
        let expected = answers(&Snapshot::new(2, second));
        let there = start.after(2, CatalogChanges { closed: closed.clone(), opened: opened.clone() });
        prop_assert_eq!(answers(&there), expected);
        prop_assert_eq!(there.version, 2);
        let back = there.after(1, CatalogChanges { closed: opened, opened: closed });
        prop_assert_eq!(answers(&back), answers(&start));
    }
}

#[test]
fn of_a_metric_that_is_rolled_the_newest_entry_judges() {
    let row = |id, generation, rolling| MetricRow {
        id: BillableMetricId::from_u128(id),
        organization: organization(0),
        event_code: "calls".to_owned(),
        aggregation: Aggregation::Count,
        field: None,
        expression: None,
        dimensions: Vec::new(),
        generation,
        rolling,
    };
    let metrics = vec![row(2, 7, true), row(1, 0, false), row(2, 3, false), row(3, 9, true)];
    let snapshot = Snapshot::new(1, CatalogRows { metrics, ..CatalogRows::default() });
    let found = snapshot.metrics(organization(0), "calls");
    assert_eq!(found.len(), 4);
    let newest: Vec<_> = Metric::newest(found).map(|metric| metric.generation).collect();
    assert_eq!(newest, [0, 7, 9]);
    assert_eq!(Metric::newest(&[]).count(), 0);
    let targets = |metric| {
        snapshot.targets(organization(0), metric, subscription(1), bucket(1)).iter().collect()
    };
    let written: Vec<Vec<u64>> = found.iter().map(targets).collect();
    assert_eq!(written, [[0], [3], [7], [9]]);
}
