//! The catalog of the benchmarks, made through the API: that of the demo, with more subscriptions.

use super::deployment::Deployment;
use crate::api::Api;
use anyhow::{Context, ensure};
use chrono::{DateTime, Datelike, Utc};
use serde_json::{Value, json};

/// Subscriptions that the usual load is spread over.
pub const SUBSCRIPTIONS: u64 = 1_000;
/// Their external ids: this and six digits.
pub const PREFIX: &str = "sub-";
/// The number of one more, with one event at a time, to see when it is counted.
pub const PROBE: u64 = SUBSCRIPTIONS;
/// Three metrics count by it: calls, input tokens, output tokens.
pub const EVENT_CODE: &str = "llm_request";
/// Subscriptions of one customer.
const SUBSCRIPTIONS_OF_CUSTOMER: u64 = 10;

pub const API: &str = "/api/billing/v2";

/// Makes metrics, a plan, customers and subscriptions that have run since the month began.
pub fn create(deployment: &mut Deployment) -> anyhow::Result<()> {
    let metrics = [
        ("calls", None, "0.001"),
        ("input_tokens", Some("input_tokens"), "0.0000025"),
        ("output_tokens", Some("output_tokens"), "0.00001"),
    ];
    let mut charges = Vec::new();
    for (code, field, amount) in metrics {
        let metric = json!({
            "code": code, "name": code, "eventCode": EVENT_CODE, "fieldName": field,
            "aggregationType": if field.is_some() { "SUM_AGG" } else { "COUNT_AGG" },
        });
        let id = make(&mut deployment.api, "billable-metrics", "billableMetric", &metric)?;
        let properties = json!({ "amount": amount });
        charges.push(json!({
            "billableMetricId": id, "chargeModel": "STANDARD", "properties": properties,
        }));
    }
    let plan = json!({
        "code": "llm", "name": "LLM API", "interval": "MONTHLY", "amountCents": 2_000,
        "amountCurrency": "USD", "payInAdvance": false, "charges": charges,
    });
    let plan = make(&mut deployment.api, "plans", "plan", &plan)?;
    let start = DateTime::from_timestamp_micros(month_start_us(crate::load::now_us()));
    let start = start.unwrap_or_default().to_rfc3339();
    let mut customer = String::new();
    for n in 0..=PROBE {
        if n % SUBSCRIPTIONS_OF_CUSTOMER == 0 {
            let body = json!({ "externalId": format!("customer-{n}"), "currency": "USD" });
            customer = make(&mut deployment.api, "customers", "customer", &body)?;
        }
        let body = json!({
            "customerId": customer, "planId": plan, "externalId": external_id(n),
            "billingTime": "CALENDAR", "subscriptionAt": start,
        });
        make(&mut deployment.api, "subscriptions", "subscription", &body)?;
    }
    Ok(())
}

/// Makes one through the API and answers its id.
pub fn make(api: &mut Api, path: &str, wrapper: &str, body: &Value) -> anyhow::Result<String> {
    let answer = api.post(&format!("{API}/{path}"), body)?;
    let id = answer[wrapper]["id"].as_str();
    Ok(id.with_context(|| format!("no {wrapper}.id in {answer}"))?.to_owned())
}

/// The external id of the subscription with this number.
pub fn external_id(number: u64) -> String {
    format!("{PREFIX}{number:06}")
}

/// The path of its current usage.
pub fn usage_path(number: u64) -> String {
    let (customer, external_id) =
        (number - number % SUBSCRIPTIONS_OF_CUSTOMER, external_id(number));
    format!("{API}/customers/customer-{customer}/subscriptions/external:{external_id}/usage")
}

/// The events that an answer of current usage counts: as many for each of the metrics.
pub fn events_of(answer: &str) -> anyhow::Result<u64> {
    let answer: Value = serde_json::from_str(answer)?;
    let charges = answer["customerUsage"]["chargesUsage"].as_array();
    let charges = charges.with_context(|| format!("no charges in {answer}"))?;
    let counts: Vec<u64> =
        charges.iter().map(|charge| charge["eventsCount"].as_u64().unwrap_or(0)).collect();
    let first = counts.first().copied().unwrap_or(0);
    ensure!(counts.iter().all(|count| *count == first), "the metrics' counts differ: {answer}");
    Ok(first)
}

/// Checks that the current usage of all usual subscriptions counts so many events together.
pub fn check_counts(deployment: &mut Deployment, events: u64) -> anyhow::Result<()> {
    let mut counted = 0;
    for number in 0..SUBSCRIPTIONS {
        counted += events_of(&deployment.api.get(&usage_path(number))?)?;
    }
    ensure!(counted == events, "{events} events were accepted, {counted} are in usage");
    Ok(())
}

/// The start of the month of an instant, in Unix microseconds.
pub fn month_start_us(at_us: i64) -> i64 {
    let at: DateTime<Utc> = DateTime::from_timestamp_micros(at_us).unwrap_or_default();
    let start = at.date_naive().with_day(1).and_then(|day| day.and_hms_opt(0, 0, 0));
    start.map_or(at_us, |start| start.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_starts_on_its_first_day() {
        assert_eq!(month_start_us(1_795_237_421_123_456), 1_793_491_200_000_000);
        assert_eq!(month_start_us(1_793_491_200_000_000), 1_793_491_200_000_000);
    }

    #[test]
    fn usage_is_read_and_must_agree() {
        let usage = |a: u64, b: u64| {
            json!({ "customerUsage": { "chargesUsage": [{ "eventsCount": a }, { "eventsCount": b }] } })
                .to_string()
        };
        assert_eq!(events_of(&usage(3, 3)).unwrap(), 3);
        assert!(events_of(&usage(3, 2)).is_err());
        assert!(events_of("{}").is_err());
        assert!(usage_path(19).contains("/customer-10/subscriptions/external:sub-000019/"));
    }
}
