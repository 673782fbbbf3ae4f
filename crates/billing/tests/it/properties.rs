//! What holds for all invoices.

use crate::bills::{at, billed, contract, usage, version};
use chrono::TimeDelta;
use proptest::prelude::*;
use std::sync::Arc;
use weir_billing::{contract::Billed, invoice::Period, plan::Interval, settle::settle};

proptest! {
    #[test]
    fn lines_add_up_to_the_total_in_any_order_of_the_facts(
        bases in prop::collection::vec(0_i64..100_000_000, 1..6),
        totals in prop::collection::vec(0_u64..1_000_000_000, 6),
        mills in 0_u32..10_000,
    ) {
        let price = format!("{}.{:05}", mills / 1000, mills % 1000);
        let plans = bases.iter().map(|base| version(*base, &price, false)).collect();
        let texts: Vec<String> = totals.iter().map(u64::to_string).collect();
        let usage = usage(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
        let mut facts = contract(plans);
        let invoice = billed(&facts, &usage).invoices.remove(0);
        prop_assert!(invoice.adds_up());
        prop_assert_eq!(invoice.fees.len(), 2 * bases.len());
        facts.agreements.reverse();
        prop_assert_eq!(billed(&facts, &usage).invoices.remove(0), invoice, "order of loading changes nothing");
    }

    /// Parts of a month cut at local midnights bill as many days as the month has.
    #[test]
    fn cutting_a_month_at_midnights_anywhere_changes_no_flat_total(
        cuts in prop::collection::btree_set(1_u16..30, 0..6),
        zone in 0..chrono_tz::TZ_VARIANTS.len(),
        month in 0_i64..1_200,
    ) {
        let tz = chrono_tz::TZ_VARIANTS[zone];
        let instant = chrono::DateTime::from_timestamp(month * 2_629_800, 0).unwrap();
        let whole = Period::holding(Interval::Monthly, tz, instant).unwrap();
        let first = weir_billing::period::local_date(tz, whole.start);
        let mut starts: Vec<_> = cuts
            .iter()
            .map(|day| first + chrono::Days::new(u64::from(*day)))
            .map(|date| weir_billing::period::day_start(tz, date).unwrap())
            .filter(|start| whole.contains(*start))
            .collect();
        starts.insert(0, whole.start);
        starts.sort();
        // Where a zone left out a day or went back over midnight, two cuts may touch one day.
        let plain = (0..31_u64)
            .map(|day| weir_billing::period::day_start(tz, first + chrono::Days::new(day)).unwrap())
            .zip(1..)
            .all(|(start, day)| {
                let date = weir_billing::period::local_date(tz, start - TimeDelta::microseconds(1));
                date + chrono::Days::new(1) == first + chrono::Days::new(day - 1)
            });
        prop_assume!(plain);
        let ends = starts.iter().skip(1).copied().chain([whole.end]);
        let days: u64 = starts
            .iter()
            .zip(ends)
            .map(|(start, end)| Period { start: *start, end }.local_days(tz))
            .sum();
        prop_assert_eq!(days, whole.local_days(tz));
    }

    /// Windows of one subscription follow each other without gap or overlap, whatever its life.
    #[test]
    fn usage_windows_cover_a_life_exactly_once(
        start in 0_i64..3_000_000_000, length in 1_i64..20_000_000, in_advance: bool,
        zone in 0..chrono_tz::TZ_VARIANTS.len(),
        moved_to in 0..chrono_tz::TZ_VARIANTS.len(), moves_after in 0..3,
    ) {
        let mut facts = contract(vec![version(1000, "1", in_advance)]);
        let agreement = &mut facts.agreements[0];
        agreement.subscription.started_at = chrono::DateTime::from_timestamp(start, 0).unwrap();
        let end = agreement.subscription.started_at + TimeDelta::seconds(length);
        agreement.subscription.terminated_at = Some(end);
        let mut covered = agreement.subscription.started_at;
        let mut base_to = None;
        let mut rounds = 0;
        agreement.planned_due_at = agreement.next_due_at(chrono_tz::TZ_VARIANTS[zone]).unwrap();
        loop {
            let tz = chrono_tz::TZ_VARIANTS[if rounds < moves_after { zone } else { moved_to }];
            let Some(due_at) = agreement.next_due_at(tz).unwrap() else { break };
            let settled = settle(agreement, tz, due_at).unwrap();
            if let Some(usage) = &settled.usage {
                prop_assert_eq!(usage.period.start, covered);
                covered = usage.period.end;
            }
            for base in &settled.bases {
                prop_assert!(base.share.part <= base.share.whole);
                prop_assert!(base_to.is_none_or(|to| to <= base.period.start));
                base_to = Some(base.period.end);
            }
            agreement.billed = Billed { due_at: Some(due_at), usage_to: Some(covered), base_to };
            agreement.planned_due_at = agreement.next_due_at(tz).unwrap();
            rounds += 1;
        }
        prop_assert_eq!(covered, end);
        prop_assert!(base_to.is_none_or(|to| to <= end));
    }

    #[test]
    fn more_usage_never_makes_a_smaller_invoice(less in 0_u64..10_000_000, more in 0_u64..10_000_000) {
        let facts = contract(vec![version(1000, "0.0037", false)]);
        let total = |units: u64| {
            billed(&facts, &usage(&[Some(&units.to_string())])).invoices.remove(0).total.minor
        };
        prop_assert!(total(less.min(more)) <= total(less.max(more)));
    }
}

#[test]
fn a_second_run_over_what_is_billed_finds_nothing_due() {
    let mut facts = contract(vec![version(1000, "1", false)]);
    let agreement = &mut facts.agreements[0];
    let version = Arc::clone(&agreement.versions[0].version);
    assert_eq!(version.charges.len(), 1);
    agreement.subscription.terminated_at = Some(facts.due_at);
    agreement.billed.due_at = Some(facts.due_at);
    assert_eq!(agreement.next_due_at(chrono_tz::Tz::UTC).unwrap(), None);
    assert_eq!(facts.due_at, at("2026-05-01T00:00:00Z"));
}
