//! REST's own rules: JSON in and out, routes, bounds, masks.

use crate::world::{World, plan_body, request};
use serde_json::{Value as Json, json};
use sqlx::PgPool;

const PLANS: &str = "/api/billing/v2/plans";
const METRICS: &str = "/api/billing/v2/billable-metrics";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_unknown_route_and_a_wrong_verb_are_told_apart(pool: PgPool) {
    let world = World::new(pool).await;
    let answer = world.get("/api/billing/v2/coupons").await;
    answer.refused(404, "ROUTE_UNKNOWN");
    assert_eq!(answer.json["code"], 12);
    let answer = world.call("PATCH", PLANS, json!({})).await;
    answer.refused(405, "METHOD_NOT_ALLOWED");
    let allowed = answer.headers["allow"].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_answer_names_its_request(pool: PgPool) {
    let world = World::new(pool).await;
    let mut sent = request(Some(&world.secret), "GET", "/api/billing/v2/plans/nope", "");
    sent.headers_mut().insert("x-request-id", "req-42".parse().unwrap());
    let answer = world.send(sent).await;
    answer.refused(404, "NOT_FOUND");
    assert_eq!(answer.headers["x-request-id"], "req-42");
    assert_eq!(answer.detail("RequestInfo")["requestId"], "req-42");
    let made = world.get(PLANS).await;
    assert_eq!(made.headers["x-request-id"].len(), 32);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn unknown_fields_are_refused_with_their_paths_all_at_once(pool: PgPool) {
    let world = World::new(pool).await;
    let mut body = plan_body("pro", "bm_01J00000000000000000000000");
    body["colour"] = json!("red");
    body["charges"][0]["properties"]["amonut"] = json!("1");
    body["amountCents"] = json!("many");
    let answer = world.post(PLANS, body).await;
    answer.refused(400, "FIELD_INVALID");
    assert_eq!(answer.json["code"], 3);
    assert_eq!(answer.fields(), ["amountCents", "charges[0].properties.amonut", "colour"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn bodies_that_are_no_json_object_or_too_long_or_too_deep_are_refused(pool: PgPool) {
    let world = World::new(pool).await;
    let send = |body: String| world.send(request(Some(&world.secret), "POST", PLANS, body));
    for body in ["{", "[]", "3", "{\"name\": NaN}"] {
        send(body.to_owned()).await.refused(400, "BODY_INVALID");
    }
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(1 << 20));
    send(long).await.refused(413, "BODY_TOO_LARGE");
    let deep = format!("{{\"metadata\":{}{}}}", "[".repeat(200), "]".repeat(200));
    send(deep).await.refused(400, "BODY_INVALID");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn decimals_are_taken_in_every_form_and_kept_to_the_digit(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let forms = [
        (json!("0.50"), "0.50"),
        (json!("0.000000000000000000000001"), "0.000000000000000000000001"),
        (serde_json::from_str("9007199254740993.1").unwrap(), "9007199254740993.1"),
        (serde_json::from_str("0.1").unwrap(), "0.1"),
        (json!({ "units": "12", "nanos": 500_000_000 }), "12.5"),
        (json!({ "nanos": 1 }), "0.000000001"),
    ];
    for (index, (form, text)) in forms.into_iter().enumerate() {
        let mut body = plan_body(&format!("plan-{index}"), &metric);
        body["charges"][0]["properties"]["amount"] = form.clone();
        let plan = world.post(PLANS, body).await.ok();
        let amount = &plan["plan"]["charges"][0]["properties"]["amount"];
        assert_eq!(amount, text, "{form}");
    }
    let wrong =
        [json!("1e"), json!(true), json!("-1"), json!({ "units": 1, "nanos": -1 }), json!("")];
    for (index, form) in wrong.into_iter().enumerate() {
        let mut body = plan_body(&format!("wrong-{index}"), &metric);
        body["charges"][0]["properties"]["amount"] = form;
        let answer = world.post(PLANS, body).await;
        answer.refused(400, "FIELD_INVALID");
        assert_eq!(answer.fields(), ["charges[0].properties.amount"]);
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn cents_are_taken_as_number_or_string_and_written_as_string(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    for (code, cents) in [("number", json!(9_007_199_254_740_992_i64)), ("string", json!("123"))] {
        let mut body = plan_body(code, &metric);
        body["amountCents"] = cents.clone();
        let plan = world.post(PLANS, body).await.ok();
        let text = cents.as_str().map_or_else(|| cents.to_string(), str::to_owned);
        assert_eq!(plan["plan"]["amountCents"], json!(text));
    }
    let mut body = plan_body("beyond", &metric);
    body["amountCents"] = json!(9_007_199_254_740_993_i64);
    assert_eq!(world.post(PLANS, body).await.fields(), ["amountCents"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn enums_are_taken_by_full_and_short_name_and_written_in_full(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let mut body = plan_body("short", &metric);
    body["amountCurrency"] = json!("KWD");
    body["interval"] = json!("MONTHLY");
    body["charges"][0]["chargeModel"] = json!("STANDARD");
    let plan = world.post(PLANS, body).await.ok();
    assert_eq!(plan["plan"]["amountCurrency"], "CURRENCY_ENUM_KWD");
    assert_eq!(plan["plan"]["interval"], "PLAN_INTERVAL_MONTHLY");
    assert_eq!(plan["plan"]["charges"][0]["chargeModel"], "CHARGE_MODEL_STANDARD");
    let mut body = plan_body("wrong", &metric);
    body["interval"] = json!("monthly");
    assert_eq!(world.post(PLANS, body).await.fields(), ["interval"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_update_keeps_what_its_body_does_not_name_and_clears_what_is_null(pool: PgPool) {
    let world = World::new(pool).await;
    let body = json!({
        "name": "Calls", "code": "calls", "description": "all of them",
        "aggregationType": "SUM_AGG", "fieldName": "n",
    });
    let made = world.post(METRICS, body).await.ok()["billableMetric"].clone();
    let path = format!("{METRICS}/{}", made["id"].as_str().unwrap());
    let renamed = world.call("PUT", &path, json!({ "name": "API calls" })).await.ok();
    let renamed = &renamed["billableMetric"];
    assert_eq!(
        (&renamed["name"], &renamed["description"]),
        (&json!("API calls"), &made["description"])
    );
    let cleared = world.call("PUT", &path, json!({ "description": null })).await.ok();
    assert_eq!(cleared["billableMetric"].get("description"), None);
    assert_eq!(cleared["billableMetric"]["name"], "API calls");

    let masked = json!({ "name": "Masked", "description": "kept out", "mask": "name" });
    let masked = world.call("PUT", &path, masked).await.ok();
    assert_eq!(masked["billableMetric"]["name"], "Masked");
    assert_eq!(masked["billableMetric"].get("description"), None);
    let wrong = world.call("PUT", &path, json!({ "mask": "colour" })).await;
    assert_eq!(wrong.fields(), ["mask"]);
    let required = world.call("PUT", &path, json!({ "name": null })).await;
    assert_eq!(required.fields(), ["name"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn lists_are_paged_by_cursor_in_a_stable_order_in_both_forms(pool: PgPool) {
    let world = World::new(pool).await;
    for code in ["a", "b", "c", "d", "e"] {
        world.metric(code).await;
    }
    let codes = |page: &Json| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["code"].as_str().unwrap().to_owned()).collect()
    };
    let mut seen = Vec::new();
    let mut path = format!("{METRICS}?pagination.limit=2");
    loop {
        let page = world.get(&path).await.ok();
        assert_eq!(page["totalCount"], "5");
        seen.extend(codes(&page));
        let Some(cursor) = page.get("nextPageCursor") else { break };
        let cursor = cursor.as_str().unwrap();
        path = format!("{METRICS}?pagination.limit=2&pagination.cursor={cursor}");
    }
    assert_eq!(seen, ["e", "d", "c", "b", "a"]);

    let body = json!({
        "sort": { "rules": [{ "createdAt": "SORT_DIRECTION_ASCENDING" }] },
        "pagination": { "limit": "2", "skip": 1 },
    });
    let page = world.post(&format!("{METRICS}/list"), body).await.ok();
    assert_eq!(codes(&page), ["b", "c"]);

    let wrong = world.get(&format!("{METRICS}?pagination.cursor=nonsense")).await;
    wrong.refused(400, "CURSOR_INVALID");
    assert_eq!(wrong.json["code"], 11);
    for query in ["bogus=1", "pagination.limit=1001", "pagination.limit=-1", "filter.part.x=1"] {
        world.get(&format!("{METRICS}?{query}")).await.refused(400, "FIELD_INVALID");
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_create_with_an_idempotency_key_happens_once(pool: PgPool) {
    let world = World::new(pool).await;
    let send = |body: Json, key: &str| {
        let mut sent = request(Some(&world.secret), "POST", METRICS, body.to_string());
        sent.headers_mut().insert("idempotency-key", key.parse().unwrap());
        world.send(sent)
    };
    let body = json!({ "name": "Calls", "code": "calls", "aggregationType": "COUNT_AGG" });
    let first = send(body.clone(), "key-1").await.ok();
    let mut reordered = json!({ "aggregationType": "AGGREGATION_TYPE_COUNT_AGG" });
    reordered["code"] = json!("calls");
    reordered["name"] = json!("Calls");
    assert_eq!(send(reordered, "key-1").await.ok(), first);
    let other = json!({ "name": "Other", "code": "other", "aggregationType": "COUNT_AGG" });
    send(other.clone(), "key-1").await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    send(other, "key-2").await.ok();
    send(body, "key-3").await.refused(409, "ALREADY_EXISTS");
    assert_eq!(world.get(METRICS).await.ok()["totalCount"], "2");
    send(json!({}), &"k".repeat(256)).await.refused(400, "FIELD_INVALID");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn two_creates_at_once_with_one_key_make_one(pool: PgPool) {
    let world = World::new(pool).await;
    let body = json!({ "name": "Calls", "code": "calls", "aggregationType": "COUNT_AGG" });
    let send = || {
        let mut sent = request(Some(&world.secret), "POST", METRICS, body.to_string());
        sent.headers_mut().insert("idempotency-key", "one".parse().unwrap());
        world.send(sent)
    };
    let (one, two) = tokio::join!(send(), send());
    assert_eq!(one.ok(), two.ok());
    assert_eq!(world.get(METRICS).await.ok()["totalCount"], "1");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_is_not_supported_yet_is_refused_by_name_and_idle_values_are_taken(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let mut body = plan_body("pro", &metric);
    body["trialPeriod"] = json!(14);
    body["taxCodes"] = json!(["vat"]);
    body["charges"][0]["prorated"] = json!(true);
    body["charges"][0]["properties"]["rate"] = json!("1.2");
    let answer = world.post(PLANS, body).await;
    answer.refused(400, "NOT_SUPPORTED_YET");
    let fields = ["charges[0].properties.rate", "charges[0].prorated", "taxCodes", "trialPeriod"];
    assert_eq!(answer.fields(), fields);
    assert!(answer.json["message"].as_str().unwrap().contains("not supported yet"));

    let mut body = plan_body("pro", &metric);
    body["trialPeriod"] = json!(0);
    body["taxCodes"] = json!([]);
    body["metadata"] = Json::Null;
    body["minimumCommitment"] = json!({});
    body["charges"][0]["minAmountCents"] = json!("0");
    body["charges"][0]["payInAdvance"] = json!(false);
    body["charges"][0]["properties"]["fixedAmount"] = json!("");
    body["charges"][0]["properties"]["pricingGroupKeys"] = json!([]);
    world.post(PLANS, body).await.ok();
}
