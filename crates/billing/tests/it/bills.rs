//! Failures, late usage and the edges that scenario files cannot say.

use chrono_tz::Tz;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_billing::{
    BillingError, Timestamp,
    bill::bill,
    book::{Span, UsageBook},
    charge::{Charge, ChargeModel},
    contract::{Agreement, Billed, Contract, EffectiveVersion, MetricTerms},
    customer::{Customer, CustomerDetails},
    invoice::{Fee, FeeKind, Invoice, InvoiceStatus, Period, UsageSlot},
    metric::Aggregation,
    plan::{Interval, PlanVersion},
    refresh::{RefreshFacts, refresh},
    subscription::Subscription,
    true_up::{LateWindow, PendingTrueUp},
    usage::UsageTotal,
};

use weir_ids::{
    BillableMetricId, ChargeId, CustomerId, OrganizationId, PlanId, PlanVersionId, SubscriptionId,
};
use weir_money::{Currency, Money, MoneyError, Quantity, Rate};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn metric() -> BillableMetricId {
    BillableMetricId::from_u128(1)
}

pub fn version(base_minor: i64, price: &str, in_advance: bool) -> PlanVersion {
    PlanVersion {
        id: PlanVersionId::from_u128(1),
        plan: PlanId::from_u128(1),
        number: 1,
        interval: Interval::Monthly,
        amount: Money { minor: base_minor, currency: Currency::parse("USD").unwrap() },
        pay_in_advance: in_advance,
        charges: vec![Charge {
            id: ChargeId::from_u128(1),
            code: "tokens".into(),
            metric: metric(),
            invoice_display_name: Some("Tokens".into()),
            model: ChargeModel::Standard { amount: Rate::parse(price).unwrap() },
            filters: Vec::new(),
            pricing_group_keys: Vec::new(),
        }],
        created_at: at("2026-01-01T00:00:00Z"),
    }
}

/// A contract of subscriptions 1, 2 … since 1 April, due on 1 May 2026.
pub fn contract(versions: Vec<PlanVersion>) -> Contract {
    let start = at("2026-04-01T00:00:00Z");
    let agreement = |(number, version): (usize, PlanVersion)| Agreement {
        subscription: Subscription {
            id: SubscriptionId::from_u128(number as u128 + 1),
            organization: OrganizationId::from_u128(1),
            customer: CustomerId::from_u128(1),
            plan: version.plan,
            external_id: format!("s{}", number + 1),
            name: None,
            started_at: start,
            ending_at: None,
            terminated_at: None,
            skip_final_invoice: false,
            created_at: start,
            updated_at: start,
        },
        plan_name: "Plan".into(),
        plan_code: "plan".into(),
        versions: vec![EffectiveVersion { from: start, version: Arc::new(version) }],
        billed: Billed::default(),
        planned_due_at: None,
    };
    let terms = MetricTerms {
        name: "tokens".into(),
        aggregation: Aggregation::Sum,
        recurring: false,
        rounding: None,
        filters: Vec::new(),
    };
    Contract {
        customer: Customer {
            id: CustomerId::from_u128(1),
            organization: OrganizationId::from_u128(1),
            external_id: "c".into(),
            sequential_id: 1,
            details: CustomerDetails::default(),
            created_at: start,
            updated_at: start,
            deleted_at: None,
        },
        due_at: at("2026-05-01T00:00:00Z"),
        agreements: versions.into_iter().enumerate().map(agreement).collect(),
        metrics: Arc::new(BTreeMap::from([(metric(), terms)])),
    }
}

/// Totals of subscriptions 1, 2 …; `None` overflows.
pub fn usage(totals: &[Option<&str>]) -> UsageBook {
    let mut book = UsageBook::new();
    for (number, total) in totals.iter().enumerate() {
        let id = SubscriptionId::from_u128(number as u128 + 1);
        let Some(total) = total.map(|text| text.parse().unwrap()) else {
            book.overflow(id, metric());
            continue;
        };
        let total = UsageTotal { events: 1, total, greatest: Some(total), ..UsageTotal::default() };
        book.insert((id, Span::Window), metric(), String::new(), total);
    }
    book
}

fn usage_of(subscription: SubscriptionId, total: &str) -> UsageBook {
    let mut book = UsageBook::new();
    let total = UsageTotal { events: 1, total: total.parse().unwrap(), ..UsageTotal::default() };
    book.insert((subscription, Span::Window), metric(), String::new(), total);
    book
}

pub fn billed(contract: &Contract, usage: &UsageBook) -> weir_billing::bill::Billing {
    billed_with(contract, usage, &[])
}

pub fn billed_with(
    contract: &Contract,
    usage: &UsageBook,
    late: &[LateWindow],
) -> weir_billing::bill::Billing {
    let mut id = 0;
    bill(contract, usage, late, at("2026-05-01T00:00:01Z"), &mut || {
        id += 1;
        id
    })
}

#[test]
fn an_overflowing_subscription_fails_alone() {
    let plan = || version(1000, "0.01", false);
    let contract = contract(vec![plan(), plan(), plan()]);
    let billing = billed(&contract, &usage(&[Some("100"), None, Some("300")]));
    let second = SubscriptionId::from_u128(2);
    assert_eq!(
        billing.failures,
        [(second, BillingError::UsageOverflow { subscription: second, metric: metric() })]
    );
    let [invoice] = &billing.invoices[..] else { panic!("one invoice for the other two") };
    assert_eq!(invoice.total.minor, 1000 + 100 + 1000 + 300);
    assert!(invoice.subscriptions.iter().all(|one| one.subscription != second));
}

#[test]
fn a_line_beyond_two_to_the_53_cents_is_a_failure_and_not_a_number() {
    let contract = contract(vec![version(0, "1", false)]);
    let billing = billed(&contract, &usage(&[Some("90071992547409.93")]));
    assert!(billing.invoices.is_empty());
    assert!(matches!(
        &billing.failures[..],
        [(_, BillingError::Amount { line, source: MoneyError::OutOfRange(_), .. })] if line == "Tokens"
    ));
}

#[test]
fn a_total_beyond_two_to_the_53_cents_fails_all_that_share_the_invoice() {
    let most = || version(Money::MINOR_MAX, "1", false);
    let billing = billed(&contract(vec![most(), most()]), &usage(&[]));
    assert_eq!(billing.failures.len(), 2);
    assert!(matches!(billing.failures[0].1, BillingError::Total(MoneyError::OutOfRange(_))));
}

#[test]
fn an_unknown_metric_is_named() {
    let mut contract = contract(vec![version(0, "1", false)]);
    contract.metrics = Arc::default();
    assert!(matches!(
        billed(&contract, &usage(&[])).failures[0].1,
        BillingError::UnknownMetric { .. }
    ));
}

#[test]
fn two_currencies_make_two_invoices() {
    let euros = Currency::parse("EUR").unwrap();
    let mut second = version(700, "1", false);
    second.amount.currency = euros;
    let billing = billed(&contract(vec![version(500, "1", false), second]), &usage(&[]));
    let totals: Vec<String> =
        billing.invoices.iter().map(|invoice| invoice.total.to_string()).collect();
    assert_eq!(totals, ["7.00 EUR", "5.00 USD"]);
}

#[test]
fn a_plan_in_advance_without_charges_ends_without_an_invoice() {
    let mut plan = version(1000, "1", true);
    plan.charges.clear();
    let mut contract = contract(vec![plan]);
    contract.agreements[0].subscription.terminated_at = Some(contract.due_at);
    let billing = billed(&contract, &usage(&[]));
    assert!(billing.invoices.is_empty() && billing.failures.is_empty());
    assert_eq!(billing.nothing_due, [SubscriptionId::from_u128(1)]);
}

fn draft(contract: &Contract, total: &str) -> Invoice {
    billed(contract, &usage(&[Some(total)])).invoices.remove(0)
}

#[test]
fn a_grace_period_counts_local_days_and_keeps_the_issuing_date() {
    let mut contract = contract(vec![version(1000, "0.01", false)]);
    contract.customer.details.invoice_grace_period_days = Some(3);
    contract.customer.details.net_payment_term_days = Some(30);
    let invoice = draft(&contract, "1");
    assert_eq!(invoice.status, InvoiceStatus::Draft { finalize_at: at("2026-05-04T00:00:00Z") });
    assert_eq!(invoice.issuing_date.to_string(), "2026-05-01");
    assert_eq!(invoice.payment_due_date.to_string(), "2026-05-31");
}

#[test]
fn a_refreshed_draft_has_the_late_usage_and_the_same_lines() {
    let contract = contract(vec![version(1000, "0.01", false)]);
    let before = draft(&contract, "100");
    let version = Arc::clone(&contract.agreements[0].versions[0].version);
    let now = at("2026-05-02T00:00:00Z");
    let again = |total: Option<&str>| {
        let facts = RefreshFacts {
            versions: &BTreeMap::from([(version.id, Arc::clone(&version))]),
            metrics: &contract.metrics,
            started_at: &BTreeMap::new(),
        };
        refresh(&before, facts, &usage(&[total]), now, &mut || 1_000).map(|(fresh, _)| fresh)
    };
    let after = again(Some("250.5")).unwrap();
    assert_eq!((before.total.minor, after.total.minor), (1100, 1251));
    assert!(after.adds_up() && after.updated_at == now && after.created_at == before.created_at);
    let ids = |invoice: &Invoice| invoice.fees.iter().map(|fee| fee.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(again(Some("100")).unwrap(), Invoice { updated_at: now, ..before.clone() });
    assert!(matches!(again(None), Err(BillingError::UsageOverflow { .. })));
}

/// March of subscription 1, of which 1.00 was billed, with this usage by now.
fn late_march(contract: &Contract, by_now: &str) -> LateWindow {
    let version = Arc::clone(&contract.agreements[0].versions[0].version);
    let period = Period { start: at("2026-03-01T00:00:00Z"), end: at("2026-04-01T00:00:00Z") };
    let slot = UsageSlot {
        charge: ChargeId::from_u128(1),
        metric: metric(),
        filter: None,
        group: BTreeMap::new(),
    };
    let amount = Money { minor: 100, currency: version.amount.currency };
    let billed = Fee {
        id: weir_ids::FeeId::from_u128(77),
        subscription: SubscriptionId::from_u128(1),
        kind: FeeKind::Charge { slot, events: 1 },
        name: "Tokens".into(),
        code: "tokens".into(),
        period,
        units: Quantity::from(100),
        precise: amount.amount(),
        amount,
    };
    LateWindow {
        subscription: SubscriptionId::from_u128(1),
        started_at: period.start,
        period,
        whole_seconds: 31 * 86_400,
        version,
        metrics: BTreeSet::from([metric()]),
        billed: vec![billed],
        usage: usage(&[Some(by_now)]),
    }
}

#[test]
fn a_late_event_is_a_line_that_names_its_period_after_the_line_of_its_charge() {
    let contract = contract(vec![version(1000, "0.01", false), version(700, "0.01", false)]);
    let late = late_march(&contract, "150");
    let billing = billed_with(&contract, &usage(&[Some("3"), Some("4")]), &[late]);
    let [invoice] = &billing.invoices[..] else { panic!("one invoice") };
    let lines: Vec<String> = invoice
        .fees
        .iter()
        .map(|fee| format!("{} {} {}", fee.name, fee.units, fee.amount))
        .collect();
    assert_eq!(
        lines,
        [
            "Plan 1 10.00 USD",
            "Tokens 3 0.03 USD",
            "Tokens, correction of 2026-03-01 to 2026-03-31 50 0.50 USD",
            "Plan 1 7.00 USD",
            "Tokens 4 0.04 USD",
        ]
    );
    assert_eq!(invoice.fees[2].period.end, at("2026-04-01T00:00:00Z"));
    assert!(invoice.adds_up() && billing.pending.is_empty());
}

#[test]
fn what_voids_take_off_is_at_most_what_the_invoice_has_and_the_rest_waits() {
    let contract = contract(vec![version(30, "0.01", false)]);
    let late = late_march(&contract, "0");
    let period = late.period;
    let billing = billed_with(&contract, &usage(&[None; 0]), &[late]);
    let [invoice] = &billing.invoices[..] else { panic!("one invoice") };
    assert_eq!((invoice.total.minor, invoice.fees[2].amount.minor), (0, -30));
    let subscription = SubscriptionId::from_u128(1);
    assert_eq!(billing.pending, [PendingTrueUp { subscription, metric: metric(), period }]);
}

#[test]
fn what_comes_late_for_an_ended_subscription_is_on_its_customer_s_invoice() {
    let contract = contract(vec![version(30, "0.01", false)]);
    let ended = SubscriptionId::from_u128(9);
    let mut late = late_march(&contract, "0");
    late.subscription = ended;
    late.billed[0].subscription = ended;
    let changed = usage_of(ended, "150");
    let late = LateWindow { usage: changed, ..late };
    let billing = billed_with(&contract, &usage(&[Some("3")]), std::slice::from_ref(&late));
    let [invoice] = &billing.invoices[..] else { panic!("one invoice") };
    assert_eq!((invoice.total.minor, invoice.fees[2].subscription), (30 + 3 + 50, ended));
    assert!(invoice.subscriptions.iter().any(|one| one.subscription == ended));
    // Nothing changed: it is not on the invoice at all.
    let same = LateWindow { usage: usage_of(ended, "100"), ..late };
    let billing = billed_with(&contract, &usage(&[Some("3")]), &[same]);
    assert_eq!(billing.invoices[0].subscriptions.len(), 1);
}

#[test]
fn a_draft_whose_usage_shrinks_keeps_only_the_corrections_that_fit() {
    let contract = contract(vec![version(0, "0.01", false)]);
    let late = late_march(&contract, "0");
    let before = billed_with(&contract, &usage(&[Some("250")]), &[late]).invoices.remove(0);
    assert_eq!(before.total.minor, 150);
    let version = Arc::clone(&contract.agreements[0].versions[0].version);
    let facts = RefreshFacts {
        versions: &BTreeMap::from([(version.id, Arc::clone(&version))]),
        metrics: &contract.metrics,
        started_at: &BTreeMap::new(),
    };
    let now = at("2026-05-02T00:00:00Z");
    let (after, pending) =
        refresh(&before, facts, &usage(&[Some("40")]), now, &mut || 1_000).unwrap();
    assert_eq!((after.total.minor, pending.len()), (0, 1));
    assert_eq!(after.fees.last().unwrap().amount.minor, -40);
    assert!(after.adds_up());
}

#[test]
fn a_customer_who_is_gone_gets_no_draft() {
    let mut contract = contract(vec![version(1000, "1", false)]);
    contract.customer.details.invoice_grace_period_days = Some(3);
    contract.customer.deleted_at = Some(at("2026-05-01T00:00:00Z"));
    let invoice = billed(&contract, &UsageBook::new()).invoices.remove(0);
    assert_eq!(invoice.status, InvoiceStatus::Draft { finalize_at: contract.due_at });
}

#[test]
fn the_window_that_runs_is_what_the_next_invoice_settles() {
    let mut agreement = contract(vec![version(1000, "1", false)]).agreements.remove(0);
    let window = |agreement: &Agreement, tz: Tz, now| {
        let window = agreement.usage_window(tz, at(now)).unwrap();
        window.map(|window| (window.start, window.end))
    };
    let (april, may, june) =
        (at("2026-04-01T00:00:00Z"), at("2026-05-01T00:00:00Z"), at("2026-06-01T00:00:00Z"));
    assert_eq!(window(&agreement, Tz::UTC, "2026-03-31T23:59:59Z"), None);
    assert_eq!(window(&agreement, Tz::UTC, "2026-04-01T00:00:00Z"), Some((april, may)));
    // April is not billed yet; it is not the current window all the same.
    assert_eq!(window(&agreement, Tz::UTC, "2026-05-01T00:00:00Z"), Some((may, june)));
    agreement.planned_due_at = Some(may);
    let zone = Tz::America__New_York;
    let later = at("2026-05-01T04:00:00Z");
    assert_eq!(window(&agreement, zone, "2026-04-20T00:00:00Z"), Some((april, later)));
    agreement.billed = Billed { due_at: Some(may), usage_to: Some(may), base_to: Some(may) };
    let end = at("2026-06-01T04:00:00Z");
    assert_eq!(window(&agreement, zone, "2026-05-20T00:00:00Z"), Some((may, end)));
    agreement.subscription.ending_at = Some(at("2026-05-21T00:00:00Z"));
    let end = at("2026-05-21T00:00:00Z");
    assert_eq!(window(&agreement, zone, "2026-05-20T00:00:00Z"), Some((may, end)));
    assert_eq!(window(&agreement, zone, "2026-05-21T00:00:00Z"), None);
}
