//! Current usage, from a real engine.

use crate::{
    engine::{Used, database, write},
    world::{World, redacted},
};
use serde_json::json;
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
