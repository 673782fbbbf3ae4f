//! Invoices: read, listed and made final with the usage there is.

use crate::{
    engine::{Used, database, write},
    world::{World, at, redacted},
};
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use weir_billing::{bill, book::UsageBook, invoice::Invoice};
use weir_ids::SubscriptionId;
use weir_store::{billing, invoices};
use weir_usage::ClickHouse;

const INVOICES: &str = "/api/billing/v2/invoices";

/// A customer with 3 days of grace, whose March is on a draft without usage.
struct March {
    world: World,
    usage: ClickHouse,
    customer: String,
    metric: String,
    subscription: String,
    invoice: String,
}

impl March {
    async fn new(pool: PgPool) -> Self {
        let usage = database().await;
        let world = World::with(pool, usage.clone(), None).await;
        let metric = world.metric("calls").await;
        let plan = world.plan("pro", &metric).await;
        let body = json!({ "externalId": "acme", "invoiceGracePeriod": 3, "netPaymentTerm": 30 });
        let customer = world.post("/api/billing/v2/customers", body).await.ok();
        let customer = customer["customer"]["id"].as_str().unwrap().to_owned();
        let subscription = world.subscription(&customer, &plan, "acme-pro").await;
        world.clock.set(at("2026-04-01T00:00:00Z"));
        let invoice = draft(&world, &subscription).await.id.to_string();
        Self { world, usage, customer, metric, subscription, invoice }
    }

    async fn use_calls(&self, ids: &[&str]) {
        let events: Vec<Used<'_>> = ids
            .iter()
            .map(|transaction_id| Used {
                transaction_id,
                external_id: "acme-pro",
                subscription: &self.subscription,
                metric: &self.metric,
                code: "calls",
                time: "2026-03-20T00:00:00Z",
                value: "1",
                properties: "{}",
                group: "",
            })
            .collect();
        write(&self.world, &self.usage, &events).await;
    }
}

/// What the invoicer does at the end of March, before any event has come.
async fn draft(world: &World, subscription: &str) -> Invoice {
    let id: SubscriptionId = subscription.parse().unwrap();
    let mut tx = world.pool.begin().await.unwrap();
    let due = billing::due_customers(&mut tx, world.clock.now(), 10).await.unwrap();
    let contracts = billing::contracts(&mut tx, &due, world.clock.now()).await.unwrap();
    assert_eq!(contracts[0].agreements[0].subscription.id, id);
    let book = UsageBook::new();
    let mut new_id = || world.clock.new_id::<u128>();
    let made = bill::bill(&contracts[0], &book, &[], world.clock.now(), &mut new_id);
    assert!(made.failures.is_empty(), "{:?}", made.failures);
    let invoice = made.invoices.into_iter().next().unwrap();
    invoices::insert_many(&mut tx, std::slice::from_ref(&invoice), None).await.unwrap();
    tx.commit().await.unwrap();
    invoice
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn finalizing_a_draft_bills_the_usage_there_is_and_numbers_it(pool: PgPool) {
    let march = March::new(pool).await;
    let world = &march.world;
    let path = format!("{INVOICES}/{}", march.invoice);
    let before = world.get(&path).await.ok();
    assert_eq!(before["invoice"]["status"], "INVOICE_STATUS_TYPE_DRAFT");
    assert_eq!(before["invoice"]["number"], "");

    march.use_calls(&["a", "b", "c"]).await;
    let finalized = world.post(&format!("{path}/finalize"), json!({})).await.ok();
    insta::assert_snapshot!(redacted(&finalized));
    assert_eq!(world.get(&path).await.ok(), finalized);
    let again = world.post(&format!("{path}/finalize"), json!({})).await;
    again.refused(409, "INVOICE_NOT_DRAFT");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn invoices_are_listed_by_customer_subscription_and_status(pool: PgPool) {
    let march = March::new(pool).await;
    let world = &march.world;
    let other = world.customer("other").await;
    let count = |part: Json| {
        let body = json!({ "filter": { "part": part } });
        async { world.post(&format!("{INVOICES}/list"), body).await.ok()["totalCount"].clone() }
    };
    assert_eq!(count(json!({})).await, "1");
    assert_eq!(count(json!({ "customerId": march.customer })).await, "1");
    assert_eq!(count(json!({ "customerId": "other" })).await, "0");
    assert_eq!(count(json!({ "subscriptionId": march.subscription })).await, "1");
    assert_eq!(count(json!({ "subscriptionId": "external:acme-pro" })).await, "1");
    assert_eq!(count(json!({ "externalSubscriptionId": "other" })).await, "0");
    assert_eq!(count(json!({ "status": { "inValues": ["DRAFT"] } })).await, "1");
    assert_eq!(count(json!({ "status": { "inValues": ["FINALIZED"] } })).await, "0");

    let own = json!({ "customerId": "acme", "view": "VIEW_FULL" });
    let own = world.post(&format!("{INVOICES}/customer-invoices"), own).await.ok();
    assert_eq!(own["items"][0]["customer"]["externalId"], "acme");
    assert_eq!(own["items"][0]["subscriptions"][0]["externalId"], "acme-pro");
    let none = world.get(&format!("/api/billing/v2/customers/{other}/invoices")).await.ok();
    assert_eq!(none["totalCount"], "0");
    let basic = world.get(INVOICES).await.ok();
    assert_eq!(basic["items"][0].get("customer"), None);
    assert_eq!(basic["items"][0]["fees"], json!([]));
    let stranger = world.stranger().await;
    let path = format!("{INVOICES}/{}", march.invoice);
    world.call_as(Some(&stranger), "GET", &path, Json::Null).await.refused(404, "NOT_FOUND");
    let finalize = format!("{path}/finalize");
    world.call_as(Some(&stranger), "POST", &finalize, json!({})).await.refused(404, "NOT_FOUND");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn deleting_a_customer_makes_its_drafts_final(pool: PgPool) {
    let march = March::new(pool).await;
    march.use_calls(&["a"]).await;
    let path = format!("/api/billing/v2/customers/{}", march.customer);
    march.world.call("DELETE", &path, Json::Null).await.ok();
    let invoice = march.world.get(&format!("{INVOICES}/{}", march.invoice)).await.ok();
    assert_eq!(invoice["invoice"]["status"], "INVOICE_STATUS_TYPE_FINALIZED");
    assert_eq!(invoice["invoice"]["chargeAmountCents"], "50");
}
