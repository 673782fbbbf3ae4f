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
