//! Rows that most tests need, with ids that tell what they are.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgPool;
use std::collections::BTreeMap;
use weir_billing::charge::{Charge, ChargeFilter, ChargeModel, Tier};
use weir_billing::customer::{Customer, CustomerDetails};
use weir_billing::invoice::{
    Fee, FeeKind, Invoice, InvoiceStatus, InvoiceSubscription, Period, UsageSlot,
};
use weir_billing::metric::{Aggregation, BillableMetric};
use weir_billing::plan::{Interval, Plan, PlanVersion};
use weir_billing::subscription::Subscription;
use weir_ids::{
    ApiKeyId, BillableMetricId, ChargeFilterId, ChargeId, CustomerId, FeeId, InvoiceId,
    OrganizationId, PlanId, PlanVersionId, SubscriptionId,
};
use weir_money::{Amount, Currency, Money, Quantity, Rate};
use weir_store::api_keys::ApiKey;
use weir_store::organizations::Organization;
use weir_store::{
    PgConnection, StoreError, api_keys, billable_metrics, customers, invoices, organizations,
    plans, subscriptions,
};

pub type Time = DateTime<Utc>;

pub const ACME: OrganizationId = OrganizationId::from_u128(0xAC);
pub const OTHER: OrganizationId = OrganizationId::from_u128(0x07);

/// What is added to the ids of an organization: ids are unique in a deployment.
pub const fn base(organization: OrganizationId) -> u128 {
    if organization.as_u128() == ACME.as_u128() { 0 } else { 0x7_0000 }
}

/// An instant: `at("2026-03-01T00:00:00Z")`.
pub fn at(text: &str) -> Time {
    text.parse().unwrap()
}

/// The first of a month of 2026.
pub fn month(number: u32) -> Time {
    NaiveDate::from_ymd_opt(2026, number, 1).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc()
}

pub fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::parse("USD").unwrap()).unwrap()
}

pub async fn organization(pool: &PgPool, id: OrganizationId, name: &str) {
    let mut conn = pool.acquire().await.unwrap();
    organizations::insert(&mut conn, &Organization::new(id, name, month(1))).await.unwrap();
}

pub fn api_key(organization: OrganizationId, id: u128, scopes: &[&str]) -> ApiKey {
    ApiKey {
        id: ApiKeyId::from_u128(base(organization) + id),
        organization,
        name: format!("key {id}"),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        created_at: month(1),
        revoked_at: None,
    }
}

pub fn metric(organization: OrganizationId, id: u128, code: &str) -> BillableMetric {
    BillableMetric {
        id: BillableMetricId::from_u128(base(organization) + id),
        organization,
        name: format!("Metric {code}"),
        code: code.to_owned(),
        event_code: code.to_owned(),
        description: None,
        aggregation: Aggregation::Sum,
        field_name: Some("value".to_owned()),
        expression: None,
        recurring: false,
        rounding: None,
        filters: Vec::new(),
        group_keys: Vec::new(),
        created_at: month(1),
        updated_at: month(1),
        deleted_at: None,
    }
}

pub fn plan(organization: OrganizationId, id: u128, code: &str, metric: u128) -> Plan {
    Plan {
        id: PlanId::from_u128(base(organization) + id),
        organization,
        code: code.to_owned(),
        name: format!("Plan {code}"),
        description: None,
        invoice_display_name: None,
        version: version(base(organization) + id, 1, base(organization) + metric),
        created_at: month(1),
        updated_at: month(1),
        deleted_at: None,
    }
}

/// Version `number` of the plan, with one charge of each model.
pub fn version(plan: u128, number: u32, metric: u128) -> PlanVersion {
    let rate = |text| Rate::parse(text).unwrap();
    let tiers = || {
        let tier = |from: i64, to: Option<i64>| Tier {
            from: from.into(),
            to: to.map(Into::into),
            per_unit: rate("0.50"),
            flat: rate("2"),
        };
        vec![tier(0, Some(10)), tier(11, None)]
    };
    let models = [
        ChargeModel::Standard { amount: rate("0.0000025") },
        ChargeModel::Graduated { tiers: tiers() },
        ChargeModel::Package { amount: rate("5.00"), size: 100, free_units: u64::MAX },
        ChargeModel::Volume { tiers: tiers() },
    ];
    let charges = models.into_iter().zip(0_u32..).map(|(model, place)| Charge {
        id: ChargeId::from_u128(plan * 100 + u128::from(place)),
        code: format!("charge-{place}"),
        metric: BillableMetricId::from_u128(metric),
        invoice_display_name: (place == 1).then(|| "Tokens".to_owned()),
        model,
        filters: if place == 0 { vec![filter(plan, rate("0.50"))] } else { Vec::new() },
        pricing_group_keys: if place == 0 { vec!["user".to_owned()] } else { Vec::new() },
    });
    PlanVersion {
        id: PlanVersionId::from_u128(plan * 1_000 + u128::from(number)),
        plan: PlanId::from_u128(plan),
        number,
        interval: Interval::Monthly,
        amount: usd(2_000),
        pay_in_advance: false,
        charges: charges.collect(),
        created_at: month(number),
    }
}

fn filter(plan: u128, amount: Rate) -> ChargeFilter {
    ChargeFilter {
        id: ChargeFilterId::from_u128(plan),
        values: BTreeMap::from([("region".to_owned(), vec!["eu".to_owned(), "us".to_owned()])]),
        invoice_display_name: Some("Europe".to_owned()),
        model: ChargeModel::Standard { amount },
        pricing_group_keys: vec!["model".to_owned()],
    }
}

pub fn customer(organization: OrganizationId, id: u128) -> Customer {
    Customer {
        id: CustomerId::from_u128(base(organization) + id),
        organization,
        external_id: format!("customer-{id}"),
        sequential_id: 0,
        details: CustomerDetails::default(),
        created_at: month(1),
        updated_at: month(1),
        deleted_at: None,
    }
}

pub fn subscription(
    organization: OrganizationId,
    id: u128,
    customer: u128,
    plan: u128,
) -> Subscription {
    Subscription {
        id: SubscriptionId::from_u128(base(organization) + id),
        organization,
        customer: CustomerId::from_u128(base(organization) + customer),
        plan: PlanId::from_u128(base(organization) + plan),
        external_id: format!("sub-{id}"),
        name: None,
        started_at: month(2),
        ending_at: None,
        terminated_at: None,
        skip_final_invoice: false,
        created_at: month(2),
        updated_at: month(2),
    }
}

/// An organization with metric 1, plan 1, customer 1 and its subscription 1, due on 1 March.
pub async fn deployment(pool: &PgPool, id: OrganizationId, name: &str) {
    organization(pool, id, name).await;
    let mut conn = pool.acquire().await.unwrap();
    billable_metrics::insert(&mut conn, &metric(id, 1, "tokens")).await.unwrap();
    plans::insert(&mut conn, &plan(id, 1, "team", 1)).await.unwrap();
    customers::insert(&mut conn, customer(id, 1)).await.unwrap();
    subscriptions::insert(&mut conn, &subscription(id, 1, 1, 1), Some(month(3))).await.unwrap();
    let key = api_key(id, 1, &["*"]);
    api_keys::insert(&mut conn, &key, &api_keys::hash(name)).await.unwrap();
}

/// Writes a draft of unknown provenance.
pub async fn insert(conn: &mut PgConnection, draft: &Invoice) -> Result<(), StoreError> {
    invoices::insert_many(conn, std::slice::from_ref(draft), None).await
}

/// A draft of customer 1 that bills `subscription` for the month that ends at `due_at`.
pub fn draft(organization: OrganizationId, id: u128, subscription: u128, due: u32) -> Invoice {
    let period = Period { start: month(due - 1), end: month(due) };
    let precise: Amount = "0.4949999999999999999999999999999999999999".parse().unwrap();
    let slot = UsageSlot {
        charge: ChargeId::from_u128(100),
        metric: BillableMetricId::from_u128(base(organization) + 1),
        filter: Some(ChargeFilterId::from_u128(1)),
        group: BTreeMap::from([
            ("model".to_owned(), Some("gpt \"4\"".to_owned())),
            ("user".to_owned(), None),
        ]),
    };
    let corrects = Some(FeeId::from_u128(7));
    let correction = FeeKind::TrueUp { slot: slot.clone(), events: -2, corrects };
    let charge = FeeKind::Charge { slot, events: 3 };
    let fee = |place: u128, kind, units: &str, precise: Amount, amount| Fee {
        id: FeeId::from_u128(id * 100 + place),
        subscription: SubscriptionId::from_u128(base(organization) + subscription),
        kind,
        name: "line".to_owned(),
        code: "team".to_owned(),
        period,
        units: units.parse::<Quantity>().unwrap(),
        precise,
        amount,
    };
    Invoice {
        id: InvoiceId::from_u128(id),
        organization,
        customer: CustomerId::from_u128(base(organization) + 1),
        status: InvoiceStatus::Draft { finalize_at: month(due) },
        due_at: month(due),
        issuing_date: month(due).date_naive(),
        payment_due_date: month(due).date_naive(),
        total: usd(2_040),
        subscriptions: vec![InvoiceSubscription {
            subscription: SubscriptionId::from_u128(base(organization) + subscription),
            base: Some(period),
            usage: Some(period),
            whole_seconds: Some(2_678_400),
            plan_version: version(base(organization) + 1, 1, 1).id,
        }],
        fees: vec![
            fee(0, FeeKind::Subscription, "1", usd(2_000).amount(), usd(2_000)),
            fee(1, charge, "99999999999999999999999999.999999999999", precise, usd(49)),
            fee(2, correction, "-1.5", usd(-9).amount(), usd(-9)),
        ],
        created_at: month(due),
        updated_at: month(due),
    }
}
