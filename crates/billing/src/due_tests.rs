//! Tables and properties of due instants.

use super::*;
use crate::plan::Interval;
use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use proptest::prelude::*;
use weir_ids::{CustomerId, OrganizationId, PlanId, PlanVersionId, SubscriptionId};
use weir_money::{Currency, Money};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn subscription(start: &str) -> Subscription {
    Subscription {
        id: SubscriptionId::from_u128(1),
        organization: OrganizationId::from_u128(1),
        customer: CustomerId::from_u128(1),
        plan: PlanId::from_u128(1),
        external_id: "s".into(),
        name: None,
        started_at: at(start),
        ending_at: None,
        terminated_at: None,
        skip_final_invoice: false,
        created_at: at(start),
        updated_at: at(start),
    }
}

fn version(pay_in_advance: bool) -> PlanVersion {
    PlanVersion {
        id: PlanVersionId::from_u128(1),
        plan: PlanId::from_u128(1),
        number: 1,
        interval: Interval::Monthly,
        amount: Money::zero(Currency::parse("USD").unwrap()),
        pay_in_advance,
        charges: Vec::new(),
        created_at: at("2020-01-01T00:00:00Z"),
    }
}

fn all_due(subscription: &Subscription, in_advance: bool, tz: Tz) -> Vec<String> {
    let mut due = Vec::new();
    let mut billed = None;
    while let Some(next) = next_due_at(subscription, &version(in_advance), tz, billed).unwrap() {
        due.push(next.format("%FT%R").to_string());
        billed = Some(next);
        if due.len() == 3 {
            break;
        }
    }
    due
}

#[test]
fn arrears_are_due_at_each_month_s_end_and_advances_at_the_start_too() {
    let plain = subscription("2026-02-08T10:00:00Z");
    assert_eq!(
        all_due(&plain, false, Tz::UTC),
        ["2026-03-01T00:00", "2026-04-01T00:00", "2026-05-01T00:00"]
    );
    assert_eq!(
        all_due(&plain, true, Tz::UTC),
        ["2026-02-08T10:00", "2026-03-01T00:00", "2026-04-01T00:00"]
    );
    assert_eq!(
        all_due(&plain, false, Tz::Asia__Kathmandu),
        ["2026-02-28T18:15", "2026-03-31T18:15", "2026-04-30T18:15"]
    );
    let last_day = subscription("2026-02-28T23:59:59Z");
    assert_eq!(
        all_due(&last_day, true, Tz::UTC),
        ["2026-02-28T23:59", "2026-03-01T00:00", "2026-04-01T00:00"]
    );
    let at_midnight = subscription("2026-03-01T00:00:00Z");
    assert_eq!(
        all_due(&at_midnight, true, Tz::UTC),
        ["2026-03-01T00:00", "2026-04-01T00:00", "2026-05-01T00:00"]
    );
    assert_eq!(all_due(&at_midnight, false, Tz::UTC).first().unwrap(), "2026-04-01T00:00");
}

#[test]
fn an_end_is_due_once_and_nothing_after_it() {
    let mut ended = subscription("2026-02-08T10:00:00Z");
    ended.terminated_at = Some(at("2026-03-10T15:00:00Z"));
    assert_eq!(all_due(&ended, false, Tz::UTC), ["2026-03-01T00:00", "2026-03-10T15:00"]);
    ended.ending_at = Some(at("2026-02-20T00:00:00Z"));
    assert_eq!(all_due(&ended, false, Tz::UTC), ["2026-02-20T00:00"], "the earlier end counts");
    ended.ending_at = Some(at("2026-03-01T00:00:00Z"));
    assert_eq!(all_due(&ended, false, Tz::UTC), ["2026-03-01T00:00"], "on a boundary once");
}

#[test]
fn a_skipped_final_invoice_is_not_due() {
    let mut ended = subscription("2026-02-08T10:00:00Z");
    ended.skip_final_invoice = true;
    ended.terminated_at = Some(at("2026-03-10T15:00:00Z"));
    assert_eq!(all_due(&ended, false, Tz::UTC), ["2026-03-01T00:00"]);
    ended.terminated_at = Some(at("2026-03-01T00:00:00Z"));
    assert_eq!(all_due(&ended, false, Tz::UTC), Vec::<String>::new());
}

#[test]
fn what_never_lived_is_never_due() {
    let mut called_off = subscription("2026-02-08T10:00:00Z");
    for end in ["2026-02-08T10:00:00Z", "2026-01-01T00:00:00Z"] {
        called_off.terminated_at = Some(at(end));
        assert_eq!(all_due(&called_off, true, Tz::UTC), Vec::<String>::new());
        assert_eq!(called_off.cap_due(at("2026-03-01T00:00:00Z")), None);
    }
}

#[test]
fn a_change_of_zone_moves_the_next_month_s_end_and_makes_no_sliver() {
    let moved = subscription("2026-02-08T10:00:00Z");
    let next =
        |tz| next_due_at(&moved, &version(false), tz, Some(at("2026-12-01T00:00:00Z"))).unwrap();
    assert_eq!(next(Tz::UTC), Some(at("2027-01-01T00:00:00Z")));
    assert_eq!(next(Tz::Asia__Kathmandu), Some(at("2026-12-31T18:15:00Z")));
    assert_eq!(next(Tz::America__Los_Angeles), Some(at("2027-01-01T08:00:00Z")));
    assert_eq!(next(Tz::Pacific__Kiritimati), Some(at("2026-12-31T10:00:00Z")));
}

#[test]
fn the_current_period_runs_from_the_start_or_the_month_to_the_month_s_end_or_the_end() {
    let mut plain = subscription("2026-02-08T10:00:00Z");
    let period = |plain: &Subscription, now| {
        let period = plain.usage_period(&version(false), Tz::UTC, None, at(now)).unwrap();
        period.map(|period| (period.start, period.end))
    };
    let (start, march, april) =
        (plain.started_at, at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
    assert_eq!(period(&plain, "2026-02-08T09:59:59Z"), None);
    assert_eq!(period(&plain, "2026-02-08T10:00:00Z"), Some((start, march)));
    assert_eq!(period(&plain, "2026-03-01T00:00:00Z"), Some((march, april)));
    plain.ending_at = Some(at("2026-02-20T00:00:00Z"));
    assert_eq!(period(&plain, "2026-02-10T00:00:00Z"), Some((start, at("2026-02-20T00:00:00Z"))));
    assert_eq!(period(&plain, "2026-02-20T00:00:00Z"), None);
}

proptest! {
    #[test]
    fn due_instants_rise_and_never_pass_the_end(
        start in 0_i64..3_000_000_000, length in 1_i64..20_000_000, in_advance: bool,
        zone in 0..chrono_tz::TZ_VARIANTS.len(),
    ) {
        let tz = chrono_tz::TZ_VARIANTS.get(zone).copied().unwrap_or(Tz::UTC);
        let mut lived = subscription("2020-01-01T00:00:00Z");
        lived.started_at = chrono::DateTime::from_timestamp(start, 0).unwrap();
        lived.terminated_at = Some(lived.started_at + TimeDelta::seconds(length));
        let (mut billed, mut count) = (None, 0);
        while let Some(next) = next_due_at(&lived, &version(in_advance), tz, billed).unwrap() {
            prop_assert!(billed.is_none_or(|before| before < next));
            prop_assert!(Some(next) <= lived.end());
            billed = Some(next);
            count += 1;
        }
        prop_assert_eq!(billed, lived.end(), "the last one is the end");
        prop_assert!(count <= 2 + length / 2_400_000 + 1);
    }
}
