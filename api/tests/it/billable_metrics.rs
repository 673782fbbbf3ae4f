//! Billable metrics.

use crate::world::{World, plan_body, redacted};
use serde_json::json;
use sqlx::PgPool;

const METRICS: &str = "/api/billing/v2/billable-metrics";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_metric_is_made_read_changed_and_deleted(pool: PgPool) {
    let world = World::new(pool).await;
    let body = json!({
        "name": "Tokens",
        "code": "tokens",
        "eventCode": "inference",
        "description": "prompt and answer",
        "aggregationType": "AGGREGATION_TYPE_SUM_AGG",
        "fieldName": "tokens",
    });
    let metric = world.post(METRICS, body).await.ok()["billableMetric"].clone();
    insta::assert_snapshot!(redacted(&metric));
    let path = format!("{METRICS}/{}", metric["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.ok()["billableMetric"], metric);

    let change = json!({ "aggregationType": "MAX_AGG", "eventCode": null });
    let changed = world.call("PUT", &path, change).await.ok()["billableMetric"].clone();
    assert_eq!(changed["aggregationType"], "AGGREGATION_TYPE_MAX_AGG");
    assert_eq!(changed["eventCode"], "tokens", "without one of its own it counts its own code");

    assert_eq!(world.call("DELETE", &path, json!(null)).await.ok(), json!({}));
    assert_eq!(world.get(METRICS).await.ok()["totalCount"], "0");
    let deleted = world.get(&path).await.ok();
    assert!(deleted["billableMetric"]["deletedAt"].is_string());
    world.call("DELETE", &path, json!(null)).await.refused(404, "NOT_FOUND");
    world.call("PUT", &path, json!({ "name": "x" })).await.refused(404, "NOT_FOUND");
    world.metric("tokens").await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_fault_of_a_metric_is_named(pool: PgPool) {
    let world = World::new(pool).await;
    let answer = world.post(METRICS, json!({})).await;
    answer.refused(400, "FIELD_INVALID");
    assert_eq!(answer.fields(), ["name", "code", "aggregationType"]);
    let cases = [
        (json!({ "aggregationType": "SUM_AGG" }), vec!["fieldName"], "FIELD_INVALID"),
        (
            json!({ "aggregationType": "COUNT_AGG", "fieldName": "n" }),
            vec!["fieldName"],
            "FIELD_INVALID",
        ),
        (
            json!({ "aggregationType": "WEIGHTED_SUM_AGG", "fieldName": "n" }),
            vec!["aggregationType"],
            "NOT_SUPPORTED_YET",
        ),
        (
            json!({ "aggregationType": "SUM_AGG", "fieldName": "n", "recurring": true }),
            vec!["recurring"],
            "NOT_SUPPORTED_YET",
        ),
    ];
    for (mut body, fields, reason) in cases {
        body["name"] = json!("x".repeat(255));
        body["code"] = json!("x");
        let answer = world.post(METRICS, body).await;
        answer.refused(400, reason);
        assert_eq!(answer.fields(), fields);
    }
    let long = json!({ "name": "x".repeat(256), "code": "x", "aggregationType": "COUNT_AGG" });
    assert_eq!(world.post(METRICS, long).await.fields(), ["name"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_code_is_taken_once(pool: PgPool) {
    let world = World::new(pool).await;
    world.metric("calls").await;
    let other = world.metric("other").await;
    let body = json!({ "name": "x", "code": "calls", "aggregationType": "COUNT_AGG" });
    let answer = world.post(METRICS, body).await;
    answer.refused(409, "ALREADY_EXISTS");
    assert_eq!(answer.fields(), ["code"]);
    let path = format!("{METRICS}/{other}");
    let answer = world.call("PUT", &path, json!({ "code": "calls" })).await;
    answer.refused(409, "ALREADY_EXISTS");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_metric_that_a_plan_charges_by_keeps_how_it_counts(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let plan = world.post("/api/billing/v2/plans", plan_body("pro", &metric)).await.ok();
    let path = format!("{METRICS}/{metric}");
    world.call("PUT", &path, json!({ "name": "Calls" })).await.ok();
    let recount = json!({ "aggregationType": "SUM_AGG", "fieldName": "n" });
    world.call("PUT", &path, recount).await.refused(409, "METRIC_IN_USE");
    world.call("DELETE", &path, json!(null)).await.refused(409, "METRIC_IN_USE");

    let plan = format!("/api/billing/v2/plans/{}", plan["plan"]["id"].as_str().unwrap());
    world.call("DELETE", &plan, json!(null)).await.ok();
    world.call("DELETE", &path, json!(null)).await.ok();
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_list_is_filtered_by_type_plan_and_text_together(pool: PgPool) {
    let world = World::new(pool).await;
    let calls = world.metric("calls").await;
    world.metric("callbacks").await;
    let sum = json!({
        "name": "Call time", "code": "time", "aggregationType": "SUM_AGG", "fieldName": "s",
    });
    world.post(METRICS, sum).await.ok();
    let plan = world.plan("pro", &calls).await;
    let cases = [
        (json!({}), 3),
        (json!({ "textSearch": "CALL" }), 3),
        (json!({ "textSearch": "back" }), 1),
        (json!({ "part": { "aggregationTypes": { "inValues": ["COUNT_AGG"] } } }), 2),
        (json!({ "part": { "planId": plan } }), 1),
        (
            json!({
                "part": { "planId": plan, "aggregationTypes": { "inValues": ["SUM_AGG"] } },
            }),
            0,
        ),
    ];
    for (filter, count) in cases {
        let body = json!({ "filter": filter });
        let page = world.post(&format!("{METRICS}/list"), body).await.ok();
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{filter}");
    }
    let query = format!(
        "{METRICS}?filter.part.aggregationTypes.inValues=COUNT_AGG&filter.part.planId={plan}"
    );
    assert_eq!(world.get(&query).await.ok()["totalCount"], "1");
}
