//! Failures, late usage and the edges that scenario files cannot say.

use chrono_tz::Tz;
use std::{collections::BTreeMap, sync::Arc};
use weir_billing::{
    BillingError, Timestamp,
    bill::{UsageBook, bill},
    charge::{Charge, ChargeModel},
    contract::{Agreement, Billed, Contract, EffectiveVersion, MetricTerms},
    customer::{Customer, CustomerDetails},
    invoice::{Invoice, InvoiceStatus},
    metric::Aggregation,
    plan::{Interval, PlanVersion},
    refresh::{RefreshFacts, refresh},
    subscription::Subscription,
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
    let terms = MetricTerms { name: "tokens".into(), aggregation: Aggregation::Sum };
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
    let total = |(number, total): (usize, &Option<&str>)| {
        let id = SubscriptionId::from_u128(number as u128 + 1);
        let total: Option<Quantity> = total.map(|text| text.parse().unwrap());
        let none = UsageTotal::none(id, metric());
        ((id, metric()), UsageTotal { events: 1, total, greatest: total, latest: total, ..none })
    };
    totals.iter().enumerate().map(total).collect()
}

pub fn billed(contract: &Contract, usage: &UsageBook) -> weir_billing::bill::Billing {
    let mut id = 0;
    bill(contract, usage, at("2026-05-01T00:00:01Z"), &mut || {
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
            usage: &usage(&[total]),
        };
        refresh(&before, facts, now)
    };
    let after = again(Some("250.5")).unwrap();
    assert_eq!((before.total.minor, after.total.minor), (1100, 1251));
    assert!(after.adds_up() && after.updated_at == now && after.created_at == before.created_at);
    let ids = |invoice: &Invoice| invoice.fees.iter().map(|fee| fee.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(again(Some("100")).unwrap(), Invoice { updated_at: now, ..before.clone() });
    assert!(matches!(again(None), Err(BillingError::UsageOverflow { .. })));
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
