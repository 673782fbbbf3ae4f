//! Units and lines of charges: what carries over, what is weighted, who has a line.

use super::*;
use crate::{
    Timestamp,
    charge::{ChargeModel, Tier},
    usage::UsageTotal,
};
use alloc::{borrow::ToOwned, collections::BTreeMap, format, string::ToString};
use proptest::prelude::*;
use weir_ids::{ChargeFilterId, ChargeId};
use weir_money::Rate;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn standard(amount: &str) -> ChargeModel {
    ChargeModel::Standard { amount: Rate::parse(amount).unwrap() }
}

fn charge() -> Charge {
    Charge {
        id: ChargeId::from_u128(1),
        code: "tokens".to_owned(),
        metric: BillableMetricId::from_u128(1),
        invoice_display_name: None,
        model: standard("1"),
        filters: Vec::new(),
        pricing_group_keys: Vec::new(),
    }
}

fn region(id: u128, value: &str, model: ChargeModel) -> ChargeFilter {
    ChargeFilter {
        id: ChargeFilterId::from_u128(id),
        values: BTreeMap::from([("region".to_owned(), Vec::from([value.to_owned()]))]),
        invoice_display_name: None,
        model,
        pricing_group_keys: Vec::new(),
    }
}

fn terms(aggregation: Aggregation) -> MetricTerms {
    MetricTerms {
        name: "Tokens".to_owned(),
        aggregation,
        recurring: false,
        rounding: None,
        filters: Vec::new(),
    }
}

/// March 2026.
fn pricing<'a>(charge: &'a Charge, terms: &'a MetricTerms) -> Pricing<'a> {
    Pricing {
        subscription: SubscriptionId::from_u128(1),
        started_at: at("2026-02-10T00:00:00Z"),
        period: Period { start: at("2026-03-01T00:00:00Z"), end: at("2026-04-01T00:00:00Z") },
        whole_seconds: 31 * 86_400,
        charge,
        terms,
        currency: Currency::parse("USD").unwrap(),
    }
}

fn total(events: u64, total: &str) -> UsageTotal {
    UsageTotal { events, total: total.parse().unwrap(), ..UsageTotal::default() }
}

fn book(totals: &[(Span, &str, UsageTotal)]) -> UsageBook {
    let mut book = UsageBook::new();
    for (span, group, total) in totals {
        let key = (SubscriptionId::from_u128(1), *span);
        book.insert(key, BillableMetricId::from_u128(1), (*group).to_owned(), *total);
    }
    book
}

fn described(lines: &[UsageLine]) -> Vec<String> {
    lines.iter().map(|line| format!("{} {} {}", line.name, line.units, line.amount)).collect()
}

#[test]
fn a_weighted_sum_is_the_mean_of_the_running_total_over_the_whole_period() {
    let (charge, mut terms) = (charge(), terms(Aggregation::WeightedSum));
    // 2500 on 5 March: 27 days of 31.
    let value_seconds: Amount = (2500_u64 * 27 * 86_400).into();
    let march = UsageTotal { value_seconds, ..total(1, "2500") };
    let window = book(&[(Span::Window, "", march)]);
    let units = |book: &UsageBook, terms: &MetricTerms| {
        pricing(&charge, terms).lines(book).unwrap().first().unwrap().units.to_string()
    };
    assert_eq!(units(&window, &terms), "2177.41935483871");
    // 310 more that had been there before: 310 × 31 ÷ 31.
    terms.recurring = true;
    let since = book(&[(Span::Window, "", march), (Span::SinceStart, "", total(2, "2810"))]);
    assert_eq!(units(&since, &terms), "2487.41935483871");
    terms.recurring = false;
    let gone = UsageTotal { value_seconds: Amount::from_scaled(-1, 0), ..total(1, "-1") };
    assert_eq!(units(&book(&[(Span::Window, "", gone)]), &terms), "0");
}

#[test]
fn a_recurring_sum_counts_from_the_subscription_s_start() {
    let (charge, mut terms) = (charge(), terms(Aggregation::Sum));
    let book = book(&[(Span::Window, "", total(1, "-3")), (Span::SinceStart, "", total(4, "10"))]);
    let lines = pricing(&charge, &terms).lines(&book).unwrap();
    assert_eq!(described(&lines), ["Tokens 0 0.00 USD"], "negative bills as 0");
    terms.recurring = true;
    let pricing = pricing(&charge, &terms);
    let lines = pricing.lines(&book).unwrap();
    assert_eq!(described(&lines), ["Tokens 10 10.00 USD"]);
    assert_eq!(lines.first().unwrap().events, 1, "events are those of the window");
    let windows: Vec<_> = pricing.windows().map(|window| window.period.start).collect();
    assert_eq!(windows, [at("2026-03-01T00:00:00Z"), at("2026-02-10T00:00:00Z")]);
    let asked = |one: UsageQuestion| (one.window, one.metric, one.aggregation);
    let of_metric = |window| (window, charge.metric, Aggregation::Sum);
    assert!(pricing.questions().map(asked).eq(pricing.windows().map(of_metric)));
}

#[test]
fn units_are_rounded_for_each_line_before_they_are_priced() {
    let mut charge = charge();
    charge.pricing_group_keys.push("user".to_owned());
    let mut terms = terms(Aggregation::Sum);
    let book = book(&[
        (Span::Window, r#"{"user":"a"}"#, total(1, "1.2")),
        (Span::Window, r#"{"user":"b"}"#, total(1, "1.4")),
    ]);
    for (function, precision, units) in [
        (RoundingFunction::Ceil, 0, ["2", "2"]),
        (RoundingFunction::Round, 0, ["1", "1"]),
        (RoundingFunction::Floor, 1, ["1.2", "1.4"]),
        (RoundingFunction::Ceil, -2, ["100", "100"]),
    ] {
        terms.rounding = Some(UnitRounding { function, precision });
        let lines = pricing(&charge, &terms).lines(&book).unwrap();
        let found: Vec<String> = lines.iter().map(|line| line.units.to_string()).collect();
        assert_eq!(found, units, "{function:?} {precision}");
    }
}

#[test]
fn distinct_values_of_several_groups_are_asked_for_together() {
    let (charge, terms) = (charge(), terms(Aggregation::UniqueCount));
    let (one, two) = (r#"{"region":"eu"}"#, r#"{"region":"us"}"#);
    let distinct = |distinct| UsageTotal { distinct, ..total(9, "0") };
    let single = book(&[(Span::Window, one, distinct(3))]);
    let pricing = pricing(&charge, &terms);
    assert_eq!(pricing.unions(&single), Ok(Vec::new()));
    assert_eq!(described(&pricing.lines(&single).unwrap()), ["Tokens 3 3.00 USD"]);
    let mut both = book(&[(Span::Window, one, distinct(3)), (Span::Window, two, distinct(2))]);
    let unions = pricing.unions(&both).unwrap();
    assert_eq!(unions.len(), 1);
    assert!(matches!(pricing.lines(&both), Err(BillingError::NotCounted { .. })));
    both.insert_union(unions.into_iter().next().unwrap(), 4);
    assert_eq!(described(&pricing.lines(&both).unwrap()), ["Tokens 4 4.00 USD"]);
}

#[test]
fn the_default_always_has_a_line_and_a_filter_is_billed_when_it_was_used_or_has_a_flat() {
    let flat = ChargeModel::Graduated {
        tiers: Vec::from([Tier {
            from: 0.into(),
            to: None,
            per_unit: Rate::ZERO,
            flat: Rate::parse("2").unwrap(),
        }]),
    };
    let mut charge = charge();
    charge.filters = Vec::from([
        region(1, "eu", standard("3")),
        region(2, "us", standard("4")),
        region(3, "asia", flat),
    ]);
    let terms = terms(Aggregation::Sum);
    let lines = pricing(&charge, &terms).lines(&book(&[(
        Span::Window,
        r#"{"region":"us"}"#,
        total(1, "5"),
    )]));
    let lines = lines.unwrap();
    let all = [
        "Tokens (eu) 0 0.00 USD",
        "Tokens (us) 5 20.00 USD",
        "Tokens (asia) 0 2.00 USD",
        "Tokens 0 0.00 USD",
    ];
    assert_eq!(described(&lines), all);
    let billed: Vec<UsageLine> = lines.into_iter().filter(UsageLine::is_billed).collect();
    assert_eq!(described(&billed), all[1..]);
}

#[test]
fn groups_have_a_line_when_they_were_used_and_say_their_values() {
    let mut charge = charge();
    charge.pricing_group_keys = Vec::from(["model".to_owned(), "user".to_owned()]);
    charge.filters = Vec::from([region(1, "eu", standard("3"))]);
    let terms = terms(Aggregation::Sum);
    let pricing = pricing(&charge, &terms);
    let none = pricing.lines(&UsageBook::new()).unwrap();
    assert_eq!(described(&none), ["Tokens (eu) 0 0.00 USD", "Tokens 0 0.00 USD"]);
    let book = book(&[
        (Span::Window, r#"{"model":"big","region":"eu"}"#, total(1, "1")),
        (Span::Window, r#"{"model":"big","region":"us","user":"7"}"#, total(1, "2")),
        (Span::Window, r#"{"model":"big","region":"asia","user":"7"}"#, total(1, "3")),
        (Span::Window, r#"{"model":"old"}"#, total(0, "0")),
    ]);
    let lines = pricing.lines(&book).unwrap();
    assert_eq!(described(&lines), ["Tokens (eu; big) 1 3.00 USD", "Tokens (big; 7) 5 5.00 USD"]);
    let group = &lines.first().unwrap().slot.group;
    assert_eq!(group.get("user"), Some(&None), "a property that the events lack");
}

#[test]
fn an_overflow_stops_the_charge() {
    let (charge, terms) = (charge(), terms(Aggregation::Sum));
    let mut book = book(&[(Span::Window, "", total(1, "5"))]);
    book.overflow(SubscriptionId::from_u128(1), BillableMetricId::from_u128(1));
    let lines = pricing(&charge, &terms).lines(&book);
    assert!(matches!(lines, Err(BillingError::UsageOverflow { .. })), "{lines:?}");
}

proptest! {
    /// Of a price that is the same for every unit, no split of the usage changes the sum.
    #[test]
    fn usage_in_groups_costs_together_what_it_costs_at_once(
        parts in prop::collection::btree_map("[a-e]", 0_u64..1_000_000, 1..6),
        cents in 0_u32..1_000,
    ) {
        let mut charge = charge();
        charge.model = standard(&format!("0.{cents:03}"));
        let terms = terms(Aggregation::Sum);
        let whole: u64 = parts.values().sum();
        let whole = book(&[(Span::Window, "", total(1, &whole.to_string()))]);
        let totals: Vec<(String, UsageTotal)> = parts
            .iter()
            .map(|(user, units)| (format!("{{\"user\":\"{user}\"}}"), total(1, &units.to_string())))
            .collect();
        let totals: Vec<_> =
            totals.iter().map(|(group, total)| (Span::Window, group.as_str(), *total)).collect();
        let split = book(&totals);
        let precise = |charge: &Charge, book: &UsageBook| {
            let lines = pricing(charge, &terms).lines(book).unwrap();
            lines.iter().fold(Amount::ZERO, |sum, line| sum.checked_add(line.precise).unwrap())
        };
        let at_once = precise(&charge, &whole);
        prop_assert_eq!(precise(&charge, &split), at_once, "groups that no key tells apart");
        charge.pricing_group_keys.push("user".to_owned());
        prop_assert_eq!(precise(&charge, &split), at_once, "a line for each group");
    }
}
