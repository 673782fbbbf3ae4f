//! Customers.

use crate::world::{World, redacted};
use serde_json::json;
use sqlx::PgPool;

const CUSTOMERS: &str = "/api/billing/v2/customers";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_customer_is_made_found_by_both_ids_changed_and_deleted(pool: PgPool) {
    let world = World::new(pool).await;
    let body = json!({
        "externalId": "acme/1",
        "firstname": "Ada",
        "lastname": "Lovelace",
        "email": "ada@example.com",
        "addressLine1": "1 Main St",
        "country": "COUNTRY_CODE_SA",
        "currency": "SAR",
        "timezone": "TZ_ASIA_RIYADH",
        "invoiceGracePeriod": 3,
        "netPaymentTerm": 30,
    });
    let customer = world.post(CUSTOMERS, body).await.ok()["customer"].clone();
    insta::assert_snapshot!(redacted(&customer));
    let path = format!("{CUSTOMERS}/{}", customer["id"].as_str().unwrap());
    for path in [&path, &format!("{CUSTOMERS}/acme%2F1")] {
        assert_eq!(world.get(path).await.ok()["customer"], customer);
    }
    let change = json!({ "name": "Analytical Engines", "country": null, "email": "" });
    let changed = world.call("PUT", &path, change).await.ok()["customer"].clone();
    assert_eq!(changed["displayName"], "Analytical Engines");
    assert_eq!((changed.get("country"), changed.get("email")), (None, None));
    assert_eq!(changed["timezone"], "Asia/Riyadh");

    world.post(&format!("{CUSTOMERS}/delete"), json!({ "id": customer["id"] })).await.ok();
    world.get(&format!("{CUSTOMERS}/acme%2F1")).await.refused(404, "NOT_FOUND");
    assert!(world.get(&path).await.ok()["customer"]["deletedAt"].is_string());
    let again = world.customer("acme/1").await;
    assert_ne!(json!(again), customer["id"]);
    let second = world.get(&format!("{CUSTOMERS}/{again}")).await.ok();
    assert_eq!(second["customer"]["sequentialId"], "2");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_fault_of_a_customer_is_named(pool: PgPool) {
    let world = World::new(pool).await;
    let answer = world.post(CUSTOMERS, json!({ "timezone": "Mars", "netPaymentTerm": 366 })).await;
    answer.refused(400, "FIELD_INVALID");
    assert_eq!(answer.fields(), ["externalId", "timezone", "netPaymentTerm"]);
    let disguised = json!({ "externalId": "cus_01J00000000000000000000000" });
    assert_eq!(world.post(CUSTOMERS, disguised).await.fields(), ["externalId"]);
    let unsupported = json!({ "externalId": "x", "metadata": [{ "key": "a" }], "taxCodes": ["v"] });
    let answer = world.post(CUSTOMERS, unsupported).await;
    answer.refused(400, "NOT_SUPPORTED_YET");
    assert_eq!(answer.fields(), ["metadata", "taxCodes"]);
    world.customer("acme").await;
    let answer = world.post(CUSTOMERS, json!({ "externalId": "acme" })).await;
    answer.refused(409, "ALREADY_EXISTS");
    assert_eq!(answer.fields(), ["externalId"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn deleting_a_customer_ends_its_subscriptions(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    let subscription = world.subscription(&customer, &plan, "acme-pro").await;
    world.clock.set(world.clock.now() + chrono::Duration::hours(1));
    world.call("DELETE", &format!("{CUSTOMERS}/{customer}"), json!(null)).await.ok();
    let ended = world.get(&format!("/api/billing/v2/subscriptions/{subscription}")).await.ok();
    assert_eq!(ended["subscription"]["status"], "STATUS_TYPE_TERMINATED");
    assert_eq!(ended["subscription"]["terminatedAt"], "2026-03-10T13:00:00Z");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_currency_is_fixed_by_the_first_subscription(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    let path = format!("{CUSTOMERS}/{customer}");
    world.call("PUT", &path, json!({ "currency": "EUR" })).await.ok();
    let body = json!({ "customerId": "acme", "planId": plan });
    let mismatch = world.post("/api/billing/v2/subscriptions", body).await;
    mismatch.refused(409, "CURRENCY_MISMATCH");
    world.call("PUT", &path, json!({ "currency": null })).await.ok();
    world.subscription(&customer, &plan, "acme-pro").await;
    let taken = world.get(&path).await.ok();
    assert_eq!(taken["customer"]["currency"], "CURRENCY_ENUM_SAR");
    let change = world.call("PUT", &path, json!({ "currency": "EUR" })).await;
    change.refused(409, "CURRENCY_FIXED");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn customers_are_listed_by_country_currency_and_text(pool: PgPool) {
    let world = World::new(pool).await;
    for (id, country, currency) in [("a", "SA", "SAR"), ("b", "SA", "USD"), ("c", "DE", "EUR")] {
        let body = json!({
            "externalId": id, "country": country, "currency": currency, "email": "x@example.com",
        });
        world.post(CUSTOMERS, body).await.ok();
    }
    let count = |filter: serde_json::Value| {
        let body = json!({ "filter": filter });
        async { world.post(&format!("{CUSTOMERS}/list"), body).await.ok()["totalCount"].clone() }
    };
    assert_eq!(count(json!({})).await, "3");
    assert_eq!(count(json!({ "part": { "countries": { "inValues": ["SA"] } } })).await, "2");
    let both = json!({ "part": {
        "countries": { "inValues": ["SA", "DE"] }, "currencies": { "inValues": ["USD", "EUR"] },
    } });
    assert_eq!(count(both).await, "2");
    assert_eq!(count(json!({ "textSearch": "EXAMPLE" })).await, "3");
}
