//! What is billed: one metric of each kind on the same events, and a customer for each subscription.

use super::story::{EVENT_CODE, external_id};
use crate::api::Api;
use anyhow::Context;
use serde_json::{Value, json};

pub const API: &str = "/api/billing/v2";
/// Metric codes: events, Σ n, greatest n, distinct values of who.
pub const CALLS: &str = "calls";
pub const UNITS: &str = "units";
pub const PEAK: &str = "peak";
pub const PEOPLE: &str = "people";

/// Makes it through the API; subscriptions run from `start`.
pub fn create(api: &mut Api, subscriptions: u64, start: &str) -> anyhow::Result<()> {
    let metrics = [
        (CALLS, "COUNT_AGG", None),
        (UNITS, "SUM_AGG", Some("n")),
        (PEAK, "MAX_AGG", Some("n")),
        (PEOPLE, "UNIQUE_COUNT_AGG", Some("who")),
    ];
    let mut charges = Vec::new();
    for (code, aggregation, field) in metrics {
        let metric = json!({
            "code": code, "name": code, "eventCode": EVENT_CODE, "fieldName": field,
            "aggregationType": aggregation,
        });
        let id = make(api, "billable-metrics", "billableMetric", &metric)?;
        charges.push(json!({
            "billableMetricId": id, "chargeModel": "STANDARD", "properties": { "amount": "0.01" },
        }));
    }
    let plan = json!({
        "code": "chaos", "name": "Chaos", "interval": "MONTHLY", "amountCents": 0,
        "amountCurrency": "USD", "payInAdvance": false, "charges": charges,
    });
    let plan = make(api, "plans", "plan", &plan)?;
    for subscription in 0..subscriptions {
        let name = external_id(subscription);
        let customer = json!({ "externalId": name, "currency": "USD" });
        let customer = make(api, "customers", "customer", &customer)?;
        let body = json!({
            "customerId": customer, "planId": plan, "externalId": name,
            "billingTime": "CALENDAR", "subscriptionAt": start,
        });
        make(api, "subscriptions", "subscription", &body)?;
    }
    Ok(())
}

fn make(api: &mut Api, path: &str, wrapper: &str, body: &Value) -> anyhow::Result<String> {
    let answer = api.post(&format!("{API}/{path}"), body)?;
    let id = answer[wrapper]["id"].as_str();
    Ok(id.with_context(|| format!("no {wrapper}.id in {answer}"))?.to_owned())
}
