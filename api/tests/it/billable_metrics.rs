//! Billable metrics.

use crate::world::{World, plan_body, redacted};
use serde_json::{Value as Json, json};
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

/// A metric that sums `n`, with something more of it.
fn sum(code: &str, more: Json) -> Json {
    let mut body =
        json!({ "name": code, "code": code, "aggregationType": "SUM_AGG", "fieldName": "n" });
    let object = body.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    object.retain(|_, value| !value.is_null());
    body
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_metric_keeps_its_filters_expression_rounding_and_interval(pool: PgPool) {
    let world = World::new(pool).await;
    let body = sum(
        "seconds",
        json!({
            "aggregationType": "WEIGHTED_SUM_AGG",
            "recurring": true,
            "fieldName": null,
            "expression": "round(event.properties.ms / 1000, 3)",
            "weightedInterval": "SECONDS",
            "roundingFunction": "CEIL",
            "roundingPrecision": -2,
            "filters": [
                { "key": "region", "values": ["eu", "us"] },
                { "key": "tier", "values": ["gold"] },
            ],
        }),
    );
    let metric = world.post(METRICS, body).await.ok()["billableMetric"].clone();
    let mut shown = metric.clone();
    for filter in shown["filters"].as_array_mut().unwrap() {
        let id = filter["id"].take();
        assert!(id.as_str().unwrap().starts_with(metric["id"].as_str().unwrap()), "{id}");
    }
    insta::assert_snapshot!(redacted(&shown));
    let path = format!("{METRICS}/{}", metric["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.ok()["billableMetric"], metric);

    // What an update does not name stays; without a function there is no precision.
    let change = json!({ "filters": [{ "key": "region", "values": ["us"] }] });
    let changed = world.call("PUT", &path, change).await.ok()["billableMetric"].clone();
    assert_eq!(changed["filters"][0]["values"], json!(["us"]));
    assert_eq!(changed["filters"].as_array().unwrap().len(), 1);
    assert_eq!(changed["roundingPrecision"], -2);
    let change = json!({ "roundingFunction": null });
    let changed = world.call("PUT", &path, change).await.ok()["billableMetric"].clone();
    assert_eq!((changed.get("roundingFunction"), changed.get("roundingPrecision")), (None, None));
    let change = json!({ "aggregationType": "COUNT_AGG", "recurring": false, "expression": null });
    let changed = world.call("PUT", &path, change).await.ok()["billableMetric"].clone();
    assert_eq!(changed["recurring"], false);
    assert_eq!((changed.get("expression"), changed.get("weightedInterval")), (None, None));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_does_not_fit_together_in_a_metric_is_named_by_its_path(pool: PgPool) {
    let world = World::new(pool).await;
    let long = "x".repeat(256);
    let many: Vec<Json> =
        (0..21).map(|n| json!({ "key": n.to_string(), "values": ["x"] })).collect();
    let values: Vec<String> = (0..501).map(|n: u32| n.to_string()).collect();
    let cases = [
        (json!({ "aggregationType": "MAX_AGG", "recurring": true }), "recurring"),
        (json!({ "aggregationType": "LATEST_AGG", "recurring": true }), "recurring"),
        (
            json!({ "aggregationType": "COUNT_AGG", "fieldName": null, "recurring": true }),
            "recurring",
        ),
        (json!({ "aggregationType": "CUSTOM_AGG", "fieldName": null }), "expression"),
        (json!({ "aggregationType": "CUSTOM_AGG", "expression": "1" }), "fieldName"),
        (
            json!({ "aggregationType": "COUNT_AGG", "fieldName": null, "expression": "1" }),
            "expression",
        ),
        (json!({ "fieldName": null, "expression": "1 +" }), "expression"),
        (json!({ "fieldName": null, "expression": "event.nothing" }), "expression"),
        (json!({ "weightedInterval": "SECONDS" }), "weightedInterval"),
        (json!({ "weightedInterval": "HOURS" }), "weightedInterval"),
        (json!({ "roundingPrecision": 2 }), "roundingPrecision"),
        (json!({ "roundingFunction": "ROUND", "roundingPrecision": 13 }), "roundingPrecision"),
        (json!({ "roundingFunction": "ROUND", "roundingPrecision": -13 }), "roundingPrecision"),
        (json!({ "roundingFunction": "BANKERS" }), "roundingFunction"),
        (json!({ "filters": [{ "key": "", "values": ["x"] }] }), "filters[0].key"),
        (json!({ "filters": [{ "key": long, "values": ["x"] }] }), "filters[0].key"),
        (json!({ "filters": [{ "key": "a", "values": [] }] }), "filters[0].values"),
        (json!({ "filters": [{ "key": "a", "values": ["x", "x"] }] }), "filters[0].values[1]"),
        (json!({ "filters": [{ "key": "a", "values": [long] }] }), "filters[0].values[0]"),
        (json!({ "filters": [{ "key": "a", "values": values }] }), "filters[0].values"),
        (
            json!({ "filters": [
                { "key": "a", "values": ["x"] },
                { "key": "a", "values": ["y"] },
            ] }),
            "filters[1].key",
        ),
        (json!({ "filters": many }), "filters"),
    ];
    for (more, field) in cases {
        let answer = world.post(METRICS, sum("x", more.clone())).await;
        assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec![field]), "{more}");
    }
    // An update is judged with what stays.
    let metric = world.metric("calls").await;
    let answer =
        world.call("PUT", &format!("{METRICS}/{metric}"), json!({ "recurring": true })).await;
    assert_eq!(answer.fields(), ["recurring"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_charged_metric_takes_more_filters_and_keeps_those_that_it_has(pool: PgPool) {
    let world = World::new(pool).await;
    let filters = json!({ "filters": [{ "key": "region", "values": ["eu", "us"] }] });
    let metric = world.post(METRICS, sum("calls", filters)).await.ok();
    let metric = metric["billableMetric"]["id"].as_str().unwrap().to_owned();
    world.plan("pro", &metric).await;
    let path = format!("{METRICS}/{metric}");
    let more = json!({ "filters": [
        { "key": "tier", "values": ["gold"] },
        { "key": "region", "values": ["us", "asia", "eu"] },
    ] });
    let changed = world.call("PUT", &path, more).await.ok();
    assert_eq!(changed["billableMetric"]["filters"][1]["values"], json!(["us", "asia", "eu"]));
    for fewer in [
        json!({ "filters": [{ "key": "tier", "values": ["gold"] }] }),
        json!({ "filters": [
            { "key": "tier", "values": ["gold"] }, { "key": "region", "values": ["us", "asia"] },
        ] }),
        json!({ "filters": null }),
        json!({ "recurring": true }),
        json!({ "roundingFunction": "CEIL" }),
        json!({ "fieldName": null, "expression": "event.properties.n * 2" }),
        json!({ "eventCode": "other" }),
    ] {
        world.call("PUT", &path, fewer).await.refused(409, "METRIC_IN_USE");
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_list_holds_recurring_metrics_or_the_others(pool: PgPool) {
    let world = World::new(pool).await;
    world.metric("calls").await;
    world.post(METRICS, sum("seats", json!({ "recurring": true }))).await.ok();
    for (recurring, code) in [("true", "seats"), ("false", "calls")] {
        let list = world.get(&format!("{METRICS}?filter.part.recurring={recurring}")).await.ok();
        assert_eq!((&list["totalCount"], &list["items"][0]["code"]), (&json!("1"), &json!(code)));
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_expression_is_tried_on_a_sample_event(pool: PgPool) {
    let world = World::new(pool).await;
    let path = format!("{METRICS}/evaluate-expression");
    let tried = |expression: &str| {
        let body = json!({
            "expression": expression,
            "event": {
                "code": "calls",
                "timestamp": 1_700_000_000.5,
                "properties": { "n": 9_007_199_254_740_993_i64, "name": "x", "z": 0 },
            },
        });
        world.post(&path, body)
    };
    let cases = [
        ("event.properties.n + 0.1", "9007199254740993.1", true),
        ("round(1 / 3, 4)", "0.3333", true),
        ("event.timestamp", "1700000000.5", true),
        ("concat(event.code, '-', event.properties.name)", "calls-x", false),
    ];
    for (expression, value, is_number) in cases {
        let result = tried(expression).await.ok()["expressionResult"].clone();
        assert_eq!(result, json!({ "value": value, "isNumber": is_number }), "{expression}");
    }
    let refused = [
        ("", "expression"),
        ("1 +", "expression"),
        ("event.properties.missing", "event.properties.missing"),
        ("event.properties.name + 1", "event.properties.name"),
        ("1 / event.properties.z", "event.properties"),
    ];
    for (expression, field) in refused {
        let answer = tried(expression).await;
        answer.refused(400, "FIELD_INVALID");
        assert_eq!(answer.fields(), [field], "{expression}");
    }
    let late = json!({ "expression": "1", "event": { "timestamp": "yesterday" } });
    assert_eq!(world.post(&path, late).await.fields(), ["event.timestamp"]);
    // Nothing of an event is needed where nothing is read.
    let alone = world.post(&path, json!({ "expression": "2 * 3" })).await.ok();
    assert_eq!(alone["expressionResult"]["value"], "6");
}
