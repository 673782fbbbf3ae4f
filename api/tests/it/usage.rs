//! Current usage, from a real engine.

use crate::{
    engine::{Used, database, write},
    world::{World, redacted},
};
use serde_json::{Value as Json, json};
use sqlx::PgPool;

const CUSTOMERS: &str = "/api/billing/v2/customers";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn usage_of_the_current_period_is_priced_charge_by_charge(pool: PgPool) {
    let usage = database().await;
    let world = World::with(pool, usage.clone(), None).await;
    let calls = world.metric("calls").await;
    let tokens = json!({
        "name": "Tokens", "code": "tokens", "aggregationType": "SUM_AGG", "fieldName": "n",
    });
    let tokens = world.post("/api/billing/v2/billable-metrics", tokens).await.ok();
    let tokens = tokens["billableMetric"]["id"].as_str().unwrap().to_owned();
    let plan = world.post("/api/billing/v2/plans", json!({
        "name": "Pro", "code": "pro", "amountCents": 5000, "amountCurrency": "SAR",
        "interval": "MONTHLY",
        "charges": [
            { "billableMetricId": calls, "chargeModel": "STANDARD", "properties": { "amount": "0.5" } },
            { "billableMetricId": tokens, "chargeModel": "PACKAGE",
              "properties": { "amount": "1.01", "packageSize": 1000 } },
        ],
    }));
    let plan = plan.await.ok()["plan"]["id"].as_str().unwrap().to_owned();
    let customer = world.customer("acme").await;
    let subscription = world.subscription(&customer, &plan, "acme-pro").await;
    let event = |transaction_id, metric, time, value| Used {
        transaction_id,
        external_id: "acme-pro",
        subscription: &subscription,
        metric,
        code: "x",
        time,
        value,
        properties: "{}",
        group: "",
    };
    let events = [
        event("1", &calls, "2026-03-10T12:00:00Z", "1"),
        event("2", &calls, "2026-03-31T23:59:59Z", "1"),
        event("3", &calls, "2026-04-01T00:00:00Z", "1"),
        event("4", &tokens, "2026-03-11T00:00:00Z", "1000.000000000001"),
    ];
    write(&world, &usage, &events).await;

    let path = format!("{CUSTOMERS}/{customer}/subscriptions/{subscription}/usage");
    let answer = world.get(&path).await.ok();
    insta::assert_snapshot!(redacted(&answer));
    let alias = format!("{CUSTOMERS}/acme/usage?subscriptionId=external:acme-pro");
    assert_eq!(world.get(&alias).await.ok(), answer);

    let other = world.customer("other").await;
    let foreign = format!("{CUSTOMERS}/{other}/subscriptions/{subscription}/usage");
    world.get(&foreign).await.refused(404, "NOT_FOUND");
    let missing = world.get(&format!("{CUSTOMERS}/acme/usage")).await;
    assert_eq!(missing.fields(), ["subscriptionId"]);
    let ended = format!("/api/billing/v2/subscriptions/{subscription}/terminate");
    world.post(&ended, json!({})).await.ok();
    world.get(&path).await.refused(409, "SUBSCRIPTION_NOT_ACTIVE");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn without_usage_the_caller_is_told_to_try_again(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    world.subscription(&customer, &plan, "acme-pro").await;
    let alias = format!("{CUSTOMERS}/acme/usage?subscriptionId=external:acme-pro");
    let answer = world.get(&alias).await;
    answer.refused(503, "UNAVAILABLE");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.detail("RetryInfo")["retryDelay"], "1s");
}

/// A plan of 1.00 a token, 2.00 in the us and 3.00 in the eu, by model; answers metric and plan.
async fn filtered_plan(world: &World) -> (String, String) {
    let tokens = json!({
        "name": "Tokens", "code": "tokens", "aggregationType": "SUM_AGG", "fieldName": "n",
        "filters": [{ "key": "region", "values": ["eu", "us"] }],
    });
    let tokens = world.post("/api/billing/v2/billable-metrics", tokens).await.ok();
    let tokens = tokens["billableMetric"]["id"].as_str().unwrap().to_owned();
    let plan = json!({
        "name": "Pro", "code": "pro", "amountCents": 0, "amountCurrency": "SAR",
        "interval": "MONTHLY",
        "charges": [{
            "billableMetricId": tokens, "chargeModel": "STANDARD",
            "properties": { "amount": "1", "pricingGroupKeys": ["model"] },
            "filters": [
                { "values": { "region": "us" }, "properties": { "amount": "2" } },
                { "values": { "region": ["eu"] }, "properties": { "amount": "3" },
                  "invoiceDisplayName": "Europe" },
            ],
        }],
    });
    let plan = world.post("/api/billing/v2/plans", plan).await.ok();
    (tokens, plan["plan"]["id"].as_str().unwrap().to_owned())
}

/// Whether a row of `filters` has an id, and what it holds.
fn filter_row(row: &Json) -> Json {
    json!([row.get("id").is_some(), row["values"], row["units"], row["amountCents"]])
}

fn filter_rows(rows: &Json) -> Vec<Json> {
    rows.as_array().unwrap().iter().map(filter_row).collect()
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn usage_of_a_charge_is_told_by_filter_and_by_group(pool: PgPool) {
    let usage = database().await;
    let world = World::with(pool, usage.clone(), None).await;
    let (tokens, plan) = filtered_plan(&world).await;
    let customer = world.customer("acme").await;
    let subscription = world.subscription(&customer, &plan, "acme-pro").await;
    let groups = [
        ("1", r#"{"model":"a","region":"eu"}"#, "10"),
        ("2", r#"{"model":"b","region":"eu"}"#, "20"),
        ("3", r#"{"region":"eu"}"#, "5"),
        ("4", r#"{"model":"a"}"#, "7"),
        ("5", r#"{"model":"a","region":"eu"}"#, "0.5"),
    ];
    let events: Vec<Used<'_>> = groups
        .iter()
        .map(|(transaction_id, group, value)| Used {
            transaction_id,
            external_id: "acme-pro",
            subscription: &subscription,
            metric: &tokens,
            code: "tokens",
            time: "2026-03-11T00:00:00Z",
            value,
            properties: "{}",
            group,
        })
        .collect();
    write(&world, &usage, &events).await;

    let path = format!("{CUSTOMERS}/{customer}/subscriptions/{subscription}/usage");
    let answer = world.get(&path).await.ok()["customerUsage"].clone();
    // 35.5 × 3.00 + 7 × 1.00
    assert_eq!(answer["amountCents"], "11350");
    let charge = &answer["chargesUsage"][0];
    assert_eq!((&charge["units"], &charge["eventsCount"]), (&json!("42.5"), &json!(5)));
    let expected = [
        json!([true, { "region": ["us"] }, "0", "0"]),
        json!([true, { "region": ["eu"] }, "35.5", "10650"]),
        json!([false, {}, "7", "700"]),
    ];
    assert_eq!(filter_rows(&charge["filters"]), expected);
    assert_eq!(charge["filters"][1]["invoiceDisplayName"], "Europe");
    let group = |group: &Json| {
        let inside = filter_rows(&group["filters"]);
        json!([group["groupedBy"], group["units"], group["amountCents"], inside])
    };
    let groups: Vec<Json> = charge["groupedUsage"].as_array().unwrap().iter().map(group).collect();
    let europe = |units: &str, cents: &str| json!([true, { "region": ["eu"] }, units, cents]);
    let default = json!([false, {}, "7", "700"]);
    let expected = [
        json!([{ "model": null }, "5", "1500", [europe("5", "1500")]]),
        json!([{ "model": "a" }, "17.5", "3850", [europe("10.5", "3150"), default]]),
        json!([{ "model": "b" }, "20", "6000", [europe("20", "6000")]]),
    ];
    assert_eq!(groups, expected);
}
