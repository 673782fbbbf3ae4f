//! What is left to bill of a period, and what fits on an invoice.

use super::*;
use crate::invoice::GroupValues;
use alloc::{borrow::ToOwned, vec};
use proptest::prelude::*;
use weir_ids::{ChargeFilterId, ChargeId};

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

fn slot(filter: Option<u128>) -> UsageSlot {
    UsageSlot {
        charge: ChargeId::from_u128(1),
        metric: BillableMetricId::from_u128(1),
        filter: filter.map(ChargeFilterId::from_u128),
        group: GroupValues::new(),
    }
}

fn fee(id: u128, kind: FeeKind, units: u64, minor: i64) -> Fee {
    let amount = Money { minor, currency: usd() };
    Fee {
        id: FeeId::from_u128(id),
        subscription: SubscriptionId::from_u128(1),
        kind,
        name: "calls".to_owned(),
        code: "calls".to_owned(),
        period: Period { start: crate::Timestamp::UNIX_EPOCH, end: crate::Timestamp::UNIX_EPOCH },
        units: units.into(),
        precise: amount.amount(),
        amount,
    }
}

fn charged(id: u128, filter: Option<u128>, units: u64, minor: i64) -> Fee {
    fee(id, FeeKind::Charge { slot: slot(filter), events: units }, units, minor)
}

fn correction(id: u128, units: u64, minor: i64) -> Fee {
    let kind = FeeKind::TrueUp { slot: slot(None), events: 0, corrects: None };
    fee(id, kind, units, minor)
}

fn line(filter: Option<u128>, units: u64, minor: i64) -> UsageLine {
    let amount = Money { minor, currency: usd() };
    let name = "calls".to_owned();
    let precise = amount.amount();
    UsageLine { slot: slot(filter), name, events: units, units: units.into(), precise, amount }
}

/// Filter, corrected fee, units, events, cents.
type Row = (Option<u128>, Option<u128>, &'static str, i64, i64);

#[test]
fn the_difference_counts_what_was_billed_and_corrected_before() {
    let cases: [(Vec<Fee>, Vec<UsageLine>, Vec<Row>); 6] = [
        (
            vec![charged(7, None, 300, 300)],
            vec![line(None, 310, 310)],
            vec![(None, Some(7), "10", 10, 10)],
        ),
        (
            vec![charged(7, None, 300, 300), correction(8, 10, 10)],
            vec![line(None, 312, 312)],
            vec![(None, Some(7), "2", 12, 2)],
        ),
        (
            vec![charged(7, None, 300, 300), correction(8, 10, 10)],
            vec![line(None, 310, 310)],
            vec![],
        ),
        (
            vec![charged(7, None, 300, 300)],
            vec![line(None, 250, 250)],
            vec![(None, Some(7), "-50", -50, -50)],
        ),
        (
            vec![charged(7, None, 300, 300)],
            vec![line(Some(5), 20, 80), line(None, 300, 300)],
            vec![(Some(5), None, "20", 20, 80)],
        ),
        (
            vec![charged(6, Some(5), 20, 80), charged(7, None, 300, 300)],
            vec![line(None, 300, 300)],
            vec![(Some(5), Some(6), "-20", -20, -80)],
        ),
    ];
    for (billed, should_be, rows) in cases {
        let billed: Vec<&Fee> = billed.iter().collect();
        let found = differences(&billed, &should_be, "calls", usd()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one| {
                let filter = one.slot.filter.map(ChargeFilterId::as_u128);
                let corrects = one.corrects.map(FeeId::as_u128);
                (filter, corrects, one.units, one.events, one.amount.minor)
            })
            .collect();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(filter, corrects, units, events, minor)| {
                (filter, corrects, units.parse::<Quantity>().unwrap(), events, minor)
            })
            .collect();
        assert_eq!(found, rows, "{billed:?}");
    }
}

#[test]
fn a_change_that_costs_nothing_makes_no_line() {
    let billed = charged(7, None, 300, 300);
    assert_eq!(differences(&[&billed], &[line(None, 301, 300)], "calls", usd()), Ok(vec![]));
}

#[test]
fn an_invoice_never_goes_below_zero_and_the_newest_correction_waits() {
    let fees = vec![charged(1, None, 50, 50), correction(2, 30, -30), correction(3, 40, -40)];
    let (kept, pending) = fit(fees, usd()).unwrap();
    let amounts: Vec<i64> = kept.iter().map(|fee| fee.amount.minor).collect();
    assert_eq!(amounts, [50, -30, -20]);
    assert_eq!(pending.len(), 1);
    let (kept, pending) = fit(vec![correction(2, 30, -30)], usd()).unwrap();
    assert_eq!((kept, pending.len()), (vec![], 1));
    let fees = vec![charged(1, None, 50, 50), correction(2, 30, -50)];
    assert_eq!(fit(fees.clone(), usd()), Ok((fees, vec![])), "to zero is fine");
}

proptest! {
    /// However often a period is corrected and however little an invoice takes, in the end exactly
    /// what the period comes to has been billed.
    #[test]
    fn corrections_add_up_to_what_the_period_comes_to(
        first in 0_i64..1_000,
        comes_to in prop::collection::vec((0_i64..1_000, 0_i64..1_000), 1..8),
    ) {
        let mut billed = vec![charged(1, None, 0, first)];
        let mut last = first;
        let rounds = comes_to.into_iter().chain([(0, 1_000)]);
        for (by_now, other_lines) in rounds {
            let refs: Vec<&Fee> = billed.iter().collect();
            let by_now = if other_lines == 1_000 { last } else { by_now };
            last = by_now;
            let found = differences(&refs, &[line(None, 0, by_now)], "calls", usd()).unwrap();
            let mut fees = vec![fee(2, FeeKind::Subscription, 1, other_lines)];
            fees.extend(found.into_iter().map(|one| correction(3, 0, one.amount.minor)));
            let (kept, _) = fit(fees, usd()).unwrap();
            let total: i64 = kept.iter().map(|fee| fee.amount.minor).sum();
            prop_assert!(total >= 0);
            billed.extend(kept.into_iter().filter(|fee| fee.kind != FeeKind::Subscription));
        }
        let sum: i64 = billed.iter().map(|fee| fee.amount.minor).sum();
        prop_assert_eq!(sum, last);
    }
}
