//! Subscriptions.

use crate::world::{World, at, redacted};
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use weir_billing::Timestamp;

const SUBSCRIPTIONS: &str = "/api/billing/v2/subscriptions";

async fn catalog(world: &World) -> (String, String) {
    let metric = world.metric("calls").await;
    (world.customer("acme").await, world.plan("pro", &metric).await)
}

async fn next_due(world: &World, subscription: &str) -> Option<Timestamp> {
    let id: weir_ids::SubscriptionId = subscription.parse().unwrap();
    let id = sqlx::types::Uuid::from_u128(id.as_u128());
    let query =
        sqlx::query_scalar("SELECT next_due_at FROM subscription_dues WHERE subscription_id = $1");
    query.bind(id).fetch_one(&world.pool).await.unwrap()
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_subscription_is_made_read_and_terminated(pool: PgPool) {
    let world = World::new(pool).await;
    let (customer, plan) = catalog(&world).await;
    let body = json!({
        "customerId": "acme",
        "planId": plan,
        "billingTime": "BILLING_TIME_CALENDAR",
        "externalId": "acme-pro",
        "name": "Main",
    });
    let made = world.post(SUBSCRIPTIONS, body).await.ok()["subscription"].clone();
    insta::assert_snapshot!(redacted(&made));
    assert_eq!(made["customerId"], json!(customer));
    let id = made["id"].as_str().unwrap();
    assert_eq!(next_due(&world, id).await, Some(at("2026-04-01T00:00:00Z")));
    for name in [id, "external:acme-pro"] {
        assert_eq!(world.get(&format!("{SUBSCRIPTIONS}/{name}")).await.ok()["subscription"], made);
    }
    let basic = world.get(&format!("{SUBSCRIPTIONS}/{id}?view=BASIC")).await.ok();
    assert_eq!(basic["subscription"].get("plan"), None);

    world.clock.set(at("2026-03-20T15:00:00Z"));
    let path = format!("{SUBSCRIPTIONS}/external:acme-pro/terminate");
    let ended = world.post(&path, json!({})).await.ok()["subscription"].clone();
    assert_eq!(ended["status"], "STATUS_TYPE_TERMINATED");
    assert_eq!(ended["terminatedAt"], "2026-03-20T15:00:00Z");
    assert_eq!(next_due(&world, id).await, Some(at("2026-03-20T15:00:00Z")));
    let again = world.post(&format!("{SUBSCRIPTIONS}/{id}/terminate"), json!({})).await;
    again.refused(409, "ALREADY_TERMINATED");
    // Its external id is free again.
    world.subscription(&customer, &plan, "acme-pro").await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_termination_can_skip_the_invoice_but_not_credit_anything_yet(pool: PgPool) {
    let world = World::new(pool).await;
    let (customer, plan) = catalog(&world).await;
    let id = world.subscription(&customer, &plan, "acme-pro").await;
    world.clock.set(at("2026-03-20T15:00:00Z"));
    let path = format!("{SUBSCRIPTIONS}/{id}/terminate");
    let credit = json!({ "onTerminationCreditNote": "REFUND" });
    let answer = world.post(&path, credit).await;
    answer.refused(400, "NOT_SUPPORTED_YET");
    assert_eq!(answer.fields(), ["onTerminationCreditNote"]);
    let skip = json!({ "onTerminationCreditNote": "SKIP", "onTerminationInvoice": "SKIP" });
    let ended = world.post(&path, skip).await.ok();
    assert_eq!(ended["subscription"]["onTerminationInvoice"], "ON_TERMINATION_INVOICE_SKIP");
    assert_eq!(next_due(&world, &id).await, None);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_pending_subscription_that_is_called_off_is_never_billed(pool: PgPool) {
    let world = World::new(pool).await;
    let (customer, plan) = catalog(&world).await;
    let body = json!({
        "customerId": customer, "planId": plan, "subscriptionAt": "2026-05-01T00:00:00Z",
    });
    let made = world.post(SUBSCRIPTIONS, body).await.ok()["subscription"].clone();
    assert_eq!(made["status"], "STATUS_TYPE_PENDING");
    assert_eq!(made["externalId"], made["id"]);
    assert_eq!(made.get("startedAt"), None);
    let id = made["id"].as_str().unwrap();
    assert_eq!(next_due(&world, id).await, Some(at("2026-06-01T00:00:00Z")));
    world.post(&format!("{SUBSCRIPTIONS}/{id}/terminate"), json!({})).await.ok();
    assert_eq!(next_due(&world, id).await, None);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_can_not_be_subscribed_is_refused_with_its_reason(pool: PgPool) {
    let world = World::new(pool).await;
    let (customer, plan) = catalog(&world).await;
    world.subscription(&customer, &plan, "acme-pro").await;
    let body = |extra: Json| {
        let mut body = json!({ "customerId": customer, "planId": plan });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let cases = [
        (json!({ "externalId": "acme-pro" }), 409, "EXTERNAL_ID_IN_USE"),
        (json!({ "billingTime": "ANNIVERSARY" }), 400, "NOT_SUPPORTED_YET"),
        (json!({ "planOverrides": { "amountCents": 1 } }), 400, "NOT_SUPPORTED_YET"),
        (json!({ "endingAt": "2026-03-10T12:00:00Z" }), 400, "FIELD_INVALID"),
        (json!({ "subscriptionAt": "1999-12-31T00:00:00Z" }), 400, "FIELD_INVALID"),
        (json!({ "subscriptionAt": "yesterday" }), 400, "FIELD_INVALID"),
        (json!({ "customerId": "nobody" }), 404, "NOT_FOUND"),
        (json!({ "planId": "plan_01J00000000000000000000000" }), 404, "NOT_FOUND"),
        (json!({ "customerId": "", "planId": "" }), 400, "FIELD_INVALID"),
    ];
    for (extra, status, reason) in cases {
        world.post(SUBSCRIPTIONS, body(extra)).await.refused(status, reason);
    }
    world.call("DELETE", &format!("/api/billing/v2/plans/{plan}"), json!(null)).await.ok();
    world.post(SUBSCRIPTIONS, body(json!({}))).await.refused(409, "PLAN_ARCHIVED");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_plan_in_advance_is_due_at_the_start_and_months_follow_the_customers_zone(pool: PgPool) {
    let world = World::new(pool).await;
    let (customer, plan) = catalog(&world).await;
    let later = json!({
        "customerId": customer, "planId": plan, "externalId": "later",
        "subscriptionAt": "2026-05-10T00:00:00Z",
    });
    let later = world.post(SUBSCRIPTIONS, later).await.ok()["subscription"]["id"].clone();
    let now = world.subscription(&customer, &plan, "now").await;
    let zone = json!({ "timezone": "Asia/Riyadh" });
    world.call("PUT", &format!("/api/billing/v2/customers/{customer}"), zone).await.ok();
    assert_eq!(next_due(&world, &now).await, Some(at("2026-03-31T21:00:00Z")));
    let period = world.get(&format!("{SUBSCRIPTIONS}/{now}")).await.ok();
    assert_eq!(period["subscription"]["currentBillingPeriodEndingAt"], "2026-03-31T21:00:00Z");

    let later = later.as_str().unwrap();
    assert_eq!(next_due(&world, later).await, Some(at("2026-05-31T21:00:00Z")));
    let in_advance = json!({ "payInAdvance": true, "cascadeUpdates": true });
    world.call("PUT", &format!("/api/billing/v2/plans/{plan}"), in_advance).await.ok();
    assert_eq!(next_due(&world, later).await, Some(at("2026-05-10T00:00:00Z")));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn subscriptions_are_listed_by_customer_plan_and_status(pool: PgPool) {
    let world = World::new(pool).await;
    let (customer, plan) = catalog(&world).await;
    let first = world.subscription(&customer, &plan, "one").await;
    world.subscription(&customer, &plan, "two").await;
    let other = world.customer("other").await;
    world.subscription(&other, &plan, "three").await;
    world.post(&format!("{SUBSCRIPTIONS}/{first}/terminate"), json!({})).await.ok();
    let count = |part: Json| {
        let body = json!({ "filter": { "part": part }, "view": "VIEW_FULL" });
        async {
            world.post(&format!("{SUBSCRIPTIONS}/list"), body).await.ok()["totalCount"].clone()
        }
    };
    assert_eq!(count(json!({})).await, "3");
    assert_eq!(count(json!({ "externalCustomerId": "acme" })).await, "2");
    assert_eq!(count(json!({ "planCode": "pro" })).await, "3");
    let active = json!({ "externalCustomerId": "acme", "status": { "inValues": ["ACTIVE"] } });
    assert_eq!(count(active).await, "1");
    let query = format!("{SUBSCRIPTIONS}?filter.part.status.inValues=TERMINATED&view=VIEW_FULL");
    let page = world.get(&query).await.ok();
    assert_eq!(page["items"][0]["plan"]["code"], "pro");
}
