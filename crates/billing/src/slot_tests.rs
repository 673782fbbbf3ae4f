//! Which filter takes an event, and that each group is in one slot.

use super::*;
use crate::charge::ChargeModel;
use alloc::{borrow::ToOwned, format, string::ToString};
use proptest::prelude::*;
use weir_ids::{BillableMetricId, ChargeFilterId, ChargeId};
use weir_money::Rate;

type Values<'a> = &'a [(&'a str, &'a [&'a str])];

fn filter(id: u128, values: Values<'_>) -> ChargeFilter {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    ChargeFilter {
        id: ChargeFilterId::from_u128(id),
        values: values.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect(),
        invoice_display_name: None,
        model: ChargeModel::Standard { amount: Rate::ZERO },
        pricing_group_keys: Vec::new(),
    }
}

fn charge(filters: Vec<ChargeFilter>, keys: &[&str]) -> Charge {
    Charge {
        id: ChargeId::from_u128(1),
        code: "tokens".to_owned(),
        metric: BillableMetricId::from_u128(1),
        invoice_display_name: None,
        model: ChargeModel::Standard { amount: Rate::ZERO },
        filters,
        pricing_group_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn taken_by(filters: &[(u128, Values<'_>)], group: &str) -> Option<u128> {
    let filters = filters.iter().map(|(id, values)| filter(*id, values)).collect();
    let charge = charge(filters, &[]);
    let slots = slots(&charge, [group]).unwrap();
    assert_eq!(slots.len(), 1, "one event is never billed under two filters");
    slots.first().unwrap().filter.map(|filter| filter.id.as_u128())
}

#[test]
fn all_keys_must_match() {
    let filters: &[(u128, Values<'_>)] = &[(1, &[("region", &["eu"]), ("model", &["big"])])];
    for (group, taken) in [
        (r#"{"model":"big","region":"eu"}"#, Some(1)),
        (r#"{"model":"big","region":"us"}"#, None),
        (r#"{"region":"eu"}"#, None),
        ("", None),
    ] {
        assert_eq!(taken_by(filters, group), taken, "{group}");
    }
}

#[test]
fn of_several_the_one_with_most_keys_wins_then_the_narrower_then_the_oldest() {
    let group = r#"{"model":"big","region":"eu"}"#;
    let region: Values<'_> = &[("region", &["eu"])];
    let regions: Values<'_> = &[("region", &["eu", "us"])];
    let others: Values<'_> = &[("region", &["asia", "eu"])];
    let model: Values<'_> = &[("model", &["big"])];
    let both: Values<'_> = &[("model", &["big", "small"]), ("region", &["eu", "us"])];
    for (filters, taken) in [
        (&[(1, region), (2, both)][..], 2),
        (&[(1, regions), (2, region)], 2),
        (&[(1, region), (2, regions)], 1),
        (&[(1, regions), (2, others)], 1),
        (&[(2, others), (1, regions)], 1),
        (&[(1, region), (2, model)], 1),
        (&[(1, regions), (2, model), (3, region)], 2),
    ] {
        assert_eq!(taken_by(filters, group), Some(taken), "{filters:?}");
    }
}

#[test]
fn groups_come_by_the_values_of_the_charge_s_keys_and_filters_may_have_their_own() {
    let mut own = filter(7, &[("region", &["eu"])]);
    own.pricing_group_keys = Vec::from(["user".to_owned()]);
    let charge = charge(Vec::from([own]), &["model"]);
    let groups = [
        r#"{"model":"big","region":"us","user":"1"}"#,
        r#"{"model":"big","region":"us","user":"2"}"#,
        r#"{"model":"big","region":"eu","user":"2"}"#,
        r#"{"region":"eu","user":"1"}"#,
        r#"{"region":"us"}"#,
    ];
    let found: Vec<String> = slots(&charge, groups)
        .unwrap()
        .iter()
        .map(|slot| {
            let filter = slot.filter.map(|filter| filter.id.as_u128());
            format!("{filter:?} {:?} {}", slot.group, slot.groups.len())
        })
        .collect();
    assert_eq!(
        found,
        [
            r#"Some(7) {"user": Some("1")} 1"#,
            r#"Some(7) {"user": Some("2")} 1"#,
            r#"None {"model": None} 1"#,
            r#"None {"model": Some("big")} 2"#,
        ]
    );
}

#[test]
fn a_text_that_is_no_group_is_an_error() {
    assert_eq!(slots(&charge(Vec::new(), &[]), ["x"]), Err(UnreadableGroup("x".to_string())));
}

proptest! {
    #[test]
    fn every_group_is_in_exactly_one_slot_in_any_order(
        filters in prop::collection::vec(
            prop::collection::btree_map("[ab]", prop::collection::btree_set("[xyz]", 1..3), 1..3),
            0..5,
        ),
        values in prop::collection::btree_set((prop::option::of("[xyz]"), prop::option::of("[xyz]")), 0..9),
        keys in prop::sample::subsequence(Vec::from(["a", "b", "c"]), 0..3),
    ) {
        let filters = filters.into_iter().zip(1..).map(|(values, id)| ChargeFilter {
            values: values.into_iter().map(|(key, values)| (key, values.into_iter().collect())).collect(),
            ..filter(id, &[])
        });
        let mut charge = charge(filters.collect(), &keys);
        let groups: Vec<String> = values
            .iter()
            .map(|(a, b)| {
                let pairs: Vec<String> = [("a", a), ("b", b)]
                    .iter()
                    .filter_map(|(key, value)| value.as_ref().map(|value| format!("\"{key}\":\"{value}\"")))
                    .collect();
                if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
            })
            .collect();
        let made = slots(&charge, groups.iter().map(String::as_str)).unwrap();
        let placed: Vec<&str> = made.iter().flat_map(|slot| slot.groups.iter().copied()).collect();
        prop_assert_eq!(placed.len(), groups.len());
        let distinct: BTreeSet<&str> = placed.into_iter().collect();
        prop_assert_eq!(distinct.len(), groups.len());
        let backwards = charge.clone();
        let again = slots(&backwards, groups.iter().rev().map(String::as_str)).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{made:?}"));
        let made: Vec<UsageSlot> = made.iter().map(|slot| slot.key(&charge)).collect();
        charge.filters.reverse();
        let again = slots(&charge, groups.iter().map(String::as_str)).unwrap();
        let again: Vec<UsageSlot> = again.iter().map(|slot| slot.key(&charge)).collect();
        prop_assert_eq!(again, made, "filters stand by their age");
    }
}
