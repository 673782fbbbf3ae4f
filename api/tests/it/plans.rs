//! Plans, their charges and versions.

use crate::world::{World, plan_body, redacted};
use serde_json::{Value as Json, json};
use sqlx::PgPool;

const PLANS: &str = "/api/billing/v2/plans";

fn charges(metric: &str) -> Json {
    json!([
        {
            "code": "standard", "billableMetricId": metric, "chargeModel": "STANDARD",
            "properties": { "amount": "0.50" },
        },
        {
            "billableMetricId": metric, "chargeModel": "GRADUATED", "invoiceDisplayName": "Tiers",
            "properties": { "graduatedRanges": [
                { "fromValue": "0", "toValue": "10", "perUnitAmount": "1.00", "flatAmount": "0.50" },
                { "fromValue": "11", "perUnitAmount": "0.50", "flatAmount": "2.00" },
            ] },
        },
        {
            "billableMetricId": metric, "chargeModel": "PACKAGE",
            "properties": { "amount": "5", "packageSize": "100", "freeUnits": 50 },
        },
        {
            "billableMetricId": metric, "chargeModel": "VOLUME",
            "properties": { "volumeRanges": [
                { "fromValue": 0, "toValue": "100", "perUnitAmount": "1" },
                { "fromValue": 101, "perUnitAmount": "0.5", "flatAmount": 3 },
            ] },
        },
    ])
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_plan_with_every_model_is_made_read_and_archived(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let mut body = plan_body("pro", &metric);
    body["payInAdvance"] = json!(true);
    body["charges"] = charges(&metric);
    let plan = world.post(PLANS, body).await.ok()["plan"].clone();
    insta::assert_snapshot!(redacted(&plan));
    let path = format!("{PLANS}/{}", plan["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.ok()["plan"], plan);

    world.post(&format!("{PLANS}/delete"), json!({ "id": plan["id"] })).await.ok();
    assert_eq!(world.get(PLANS).await.ok()["totalCount"], "0");
    let all = format!("{PLANS}?filter.part.withDeleted=true");
    assert_eq!(world.get(&all).await.ok()["totalCount"], "1");
    world.call("DELETE", &path, json!(null)).await.refused(404, "NOT_FOUND");
    world.plan("pro", &metric).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_fault_of_a_plan_is_named(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let answer = world.post(PLANS, json!({ "charges": [{}] })).await;
    answer.refused(400, "FIELD_INVALID");
    let fields = [
        "name",
        "code",
        "interval",
        "amountCurrency",
        "charges[0].billableMetricId",
        "charges[0].chargeModel",
    ];
    assert_eq!(answer.fields(), fields);

    let charge = |model: &str, properties: Json| {
        let mut body = plan_body("pro", &metric);
        body["charges"][0]["chargeModel"] = json!(model);
        body["charges"][0]["properties"] = properties;
        body
    };
    let tier = |from: &str, to: Option<&str>| json!({ "fromValue": from, "toValue": to, "perUnitAmount": "1", "flatAmount": "0" });
    let mut yearly = plan_body("pro", &metric);
    yearly["interval"] = json!("YEARLY");
    let mut negative = plan_body("pro", &metric);
    negative["amountCents"] = json!(-1);
    let mut unknown = plan_body("pro", &metric);
    unknown["charges"][0]["billableMetricId"] = json!("bm_01J00000000000000000000000");
    let cases = [
        (charge("STANDARD", json!({})), "charges[0].properties.amount"),
        (charge("PACKAGE", json!({ "amount": "1" })), "charges[0].properties.packageSize"),
        (
            charge("PACKAGE", json!({ "amount": "1", "packageSize": 0 })),
            "charges[0].properties.packageSize",
        ),
        (
            charge("STANDARD", json!({ "amount": "1", "packageSize": 1 })),
            "charges[0].properties.packageSize",
        ),
        (
            charge(
                "GRADUATED",
                json!({ "graduatedRanges": [tier("0", Some("10")), tier("12", None)] }),
            ),
            "charges[0].properties.graduatedRanges[1].fromValue",
        ),
        (charge("VOLUME", json!({})), "charges[0].properties.volumeRanges"),
        (charge("PERCENTAGE", json!({})), "charges[0].chargeModel"),
        (yearly, "interval"),
        (negative, "amountCents"),
        (unknown, "charges[0].billableMetricId"),
    ];
    for (body, field) in cases {
        let answer = world.post(PLANS, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.fields()),
            (400, vec![field]),
            "{}",
            answer.json
        );
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_update_matches_charges_by_id_adds_new_ones_and_drops_missing_ones(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let mut body = plan_body("pro", &metric);
    body["charges"] = charges(&metric);
    let plan = world.post(PLANS, body).await.ok()["plan"].clone();
    let codes = |plan: &Json| -> Vec<String> {
        let charges = plan["charges"].as_array().unwrap().iter();
        charges.map(|charge| charge["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(codes(&plan), ["standard", "calls", "calls_2", "calls_3"]);

    let path = format!("{PLANS}/{}", plan["id"].as_str().unwrap());
    let package = &plan["charges"][2]["id"];
    let update = json!({ "charges": [
        { "billableMetricId": metric, "chargeModel": "STANDARD", "properties": { "amount": 2 } },
        {
            // It keeps its code.
            "id": package, "billableMetricId": metric, "chargeModel": "STANDARD",
            "properties": { "amount": "0.9" },
        },
    ] });
    let changed = world.call("PUT", &path, update).await.ok()["plan"].clone();
    assert_eq!(codes(&changed), ["calls", "calls_2"]);
    assert_eq!(&changed["charges"][1]["id"], package);
    assert_eq!(changed["charges"][1]["properties"]["amount"], "0.9");
    assert_ne!(changed["charges"][0]["id"], plan["charges"][1]["id"]);
    assert_eq!(changed["name"], plan["name"]);

    let stolen = json!({ "charges": [{
        "id": "chg_01J00000000000000000000000", "billableMetricId": metric,
        "chargeModel": "STANDARD", "properties": { "amount": 1 },
    }] });
    assert_eq!(world.call("PUT", &path, stolen).await.fields(), ["charges[0].id"]);
    let renamed = world.call("PUT", &path, json!({ "name": "Pro" })).await.ok();
    assert_eq!(renamed["plan"]["charges"], changed["charges"]);
    let none = world.call("PUT", &path, json!({ "charges": [] })).await.ok();
    assert_eq!(none["plan"]["charges"], json!([]));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_cascaded_edit_reaches_subscriptions_and_another_does_not(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    world.subscription(&customer, &plan, "acme-pro").await;
    let path = format!("{PLANS}/{plan}");
    let effective = || async {
        let versions: Vec<i32> = sqlx::query_scalar(
            "SELECT v.number FROM subscription_plan_versions s
             JOIN plan_versions v ON v.id = s.plan_version_id ORDER BY s.effective_from, v.number",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        versions
    };
    world.clock.set(world.clock.now() + chrono::Duration::days(1));
    world.call("PUT", &path, json!({ "amountCents": 6000 })).await.ok();
    assert_eq!(effective().await, [1]);
    world.clock.set(world.clock.now() + chrono::Duration::days(1));
    world.call("PUT", &path, json!({ "amountCents": 7000, "cascadeUpdates": true })).await.ok();
    assert_eq!(effective().await, [1, 3]);
    // The subscription's customer is billed in the currency it has.
    let currency = json!({ "amountCurrency": "USD" });
    world.call("PUT", &path, currency).await.refused(409, "PLAN_IN_USE");
}

/// A metric with filters; answers its id.
async fn filtered(world: &World) -> String {
    let body = json!({
        "name": "Calls", "code": "calls", "aggregationType": "COUNT_AGG",
        "filters": [
            { "key": "region", "values": ["eu", "us"] }, { "key": "tier", "values": ["gold"] },
        ],
    });
    let made = world.post("/api/billing/v2/billable-metrics", body).await.ok();
    made["billableMetric"]["id"].as_str().unwrap().to_owned()
}

fn with_filters(metric: &str, filters: Json) -> Json {
    let mut body = plan_body("pro", metric);
    body["charges"][0]["filters"] = filters;
    body
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_charge_keeps_its_filters_and_group_keys_and_its_metric_tells_them_apart(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = filtered(&world).await;
    let mut body = with_filters(
        &metric,
        json!([
            { "values": { "tier": "gold", "region": ["us", "eu", "us"] },
              "properties": { "amount": "0.10" }, "invoiceDisplayName": "Gold" },
            { "values": { "region": ["eu"] },
              "properties": { "amount": "0.20", "pricingGroupKeys": ["model"] } },
        ]),
    );
    body["charges"][0]["properties"]["pricingGroupKeys"] = json!(["user", "team"]);
    let plan = world.post(PLANS, body).await.ok()["plan"].clone();
    let charge = &plan["charges"][0];
    assert_eq!(charge["properties"]["pricingGroupKeys"], json!(["user", "team"]));
    assert_eq!(charge["filters"][0]["values"], json!({ "region": ["eu", "us"], "tier": ["gold"] }));
    assert_eq!(charge["filters"][0]["invoiceDisplayName"], "Gold");
    assert_eq!(charge["filters"][0]["chargeCode"], "calls");
    assert_eq!(charge["filters"][1]["properties"]["amount"], "0.20");
    assert_eq!(charge["filters"][1]["properties"]["pricingGroupKeys"], json!(["model"]));
    let path = format!("{PLANS}/{}", plan["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.ok()["plan"], plan);
    let keys = || async {
        let keys: Vec<Vec<String>> = sqlx::query_scalar("SELECT group_keys FROM billable_metrics")
            .fetch_all(&world.pool)
            .await
            .unwrap();
        keys.concat()
    };
    assert_eq!(keys().await, ["model", "team", "user"]);

    // The filter with the same values stays the one that it was, and usage is told apart for ever.
    let update = json!({ "charges": [{
        "id": charge["id"], "billableMetricId": metric, "chargeModel": "STANDARD",
        "properties": { "amount": "1" },
        "filters": [
            { "values": { "region": ["us"] }, "properties": { "amount": "3" } },
            { "values": { "region": ["eu"] }, "properties": { "amount": "2" } },
        ],
    }] });
    let changed = world.call("PUT", &path, update).await.ok()["plan"].clone();
    let filters = changed["charges"][0]["filters"].as_array().unwrap();
    assert_eq!(filters[1]["id"], charge["filters"][1]["id"]);
    assert!(charge["filters"].as_array().unwrap().iter().all(|old| old["id"] != filters[0]["id"]));
    assert_eq!(filters[1]["properties"]["amount"], "2");
    assert_eq!(keys().await, ["model", "team", "user"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_fault_of_a_charge_filter_is_named_by_its_path(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = filtered(&world).await;
    let price = json!({ "amount": "1" });
    let one = |values: Json| json!([{ "values": values, "properties": price }]);
    let many: Vec<Json> =
        (0..101).map(|_| json!({ "values": { "tier": "gold" }, "properties": price })).collect();
    let eleven: Vec<String> = (0..11).map(|n: u32| n.to_string()).collect();
    let keyed = |keys: Json| {
        let mut body = with_filters(&metric, json!([]));
        body["charges"][0]["properties"]["pricingGroupKeys"] = keys;
        body
    };
    let filters = |filters: Json| with_filters(&metric, filters);
    let cases = [
        (filters(one(json!({ "color": ["red"] }))), "filters[0].values.color"),
        (filters(one(json!({ "region": ["eu", "mars"] }))), "filters[0].values.region"),
        (filters(one(json!({ "region": [] }))), "filters[0].values.region"),
        (filters(one(json!({ "region": 1 }))), "filters[0].values.region"),
        (filters(one(json!({ "region": null }))), "filters[0].values.region"),
        (filters(one(json!({}))), "filters[0].values"),
        (filters(one(json!(["eu"]))), "filters[0].values"),
        (filters(json!([{ "properties": price }])), "filters[0].values"),
        (
            filters(json!([{ "values": { "tier": "gold" }, "properties": {} }])),
            "filters[0].properties.amount",
        ),
        (
            filters(json!([
                { "values": { "region": ["us", "eu"] }, "properties": price },
                { "values": { "region": ["eu", "us"] }, "properties": price },
            ])),
            "filters[1].values",
        ),
        (filters(json!(many)), "filters"),
        (keyed(json!(["a", "a"])), "properties.pricingGroupKeys[1]"),
        (keyed(json!([""])), "properties.pricingGroupKeys[0]"),
        (keyed(json!(eleven)), "properties.pricingGroupKeys"),
    ];
    for (body, field) in cases {
        let answer = world.post(PLANS, body).await;
        let expected = (400, vec![format!("charges[0].{field}")]);
        let found = answer.fields().into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!((answer.status.as_u16(), found), expected, "{}", answer.json);
    }
    // Tiers of a filter are checked like those of the charge.
    let mut tiers = plan_body("pro", &metric);
    let range = json!({ "graduatedRanges": [{ "fromValue": "0", "perUnitAmount": "1" }] });
    let gap = json!({ "graduatedRanges": [{ "fromValue": "5", "perUnitAmount": "1" }] });
    tiers["charges"][0]["chargeModel"] = json!("GRADUATED");
    tiers["charges"][0]["properties"] = range;
    tiers["charges"][0]["filters"] = json!([{ "values": { "tier": "gold" }, "properties": gap }]);
    let answer = world.post(PLANS, tiers).await;
    assert_eq!(answer.fields(), ["charges[0].filters[0].properties.graduatedRanges[0].fromValue"]);
}
