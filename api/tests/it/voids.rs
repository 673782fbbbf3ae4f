//! Events that are taken out of usage, alone or for others.

use crate::{
    engine::{Used, database, write},
    world::World,
};
use axum::{Json as Body, Router, extract::Request, routing::post};
use http::StatusCode;
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

const EVENTS: &str = "/api/billing/v2/events";

/// An edge that remembers ids with their codes: the same again is a duplicate.
fn edge() -> Router {
    let taken: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let ingest = move |request: Request| async move {
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let event: Json = serde_json::from_slice(&body).unwrap();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        let (id, code) = (text("transactionId"), text("code"));
        let error = json!({ "field": "code", "reason": "UNKNOWN", "message": "no metric" });
        let (status, verdict) = if code == "unknown" {
            (400, json!({ "transactionId": id, "status": "rejected", "error": error }))
        } else {
            match taken.lock().unwrap().insert(id.clone(), code.clone()) {
                None => (202, json!({ "transactionId": id, "status": "accepted" })),
                Some(before) if before == code => {
                    (200, json!({ "transactionId": id, "status": "duplicate" }))
                }
                Some(_) => (409, json!({ "transactionId": id, "status": "conflict" })),
            }
        };
        (StatusCode::from_u16(status).unwrap(), Body(verdict))
    };
    Router::new().route(EVENTS, post(ingest))
}

/// A world with a subscription `acme-pro`, and stored events with these ids.
async fn world(pool: PgPool, ids: &[&str]) -> (World, weir_usage::ClickHouse, String, String) {
    let usage = database().await;
    let world = World::with(pool, usage.clone(), Some(edge())).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    let subscription = world.subscription(&customer, &plan, "acme-pro").await;
    store(&world, &usage, &subscription, &metric, ids).await;
    (world, usage, subscription, metric)
}

async fn store(
    world: &World,
    usage: &weir_usage::ClickHouse,
    subscription: &str,
    metric: &str,
    ids: &[&str],
) {
    let event = |transaction_id| Used {
        transaction_id,
        external_id: "acme-pro",
        subscription,
        metric,
        code: "calls",
        time: "2026-03-10T12:00:00Z",
        value: "1",
        properties: "{}",
        group: "",
    };
    let events: Vec<Used<'_>> = ids.iter().copied().map(event).collect();
    write(world, usage, &events).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_voided_event_stays_readable_with_who_voided_it_when_and_why(pool: PgPool) {
    let (world, ..) = world(pool, &["t/1", "t-2"]).await;
    let before = world.get(&format!("{EVENTS}/t%2F1")).await.ok()["event"].clone();
    assert_eq!((&before["matched"], before.get("voidedAt")), (&json!(true), None));

    let voider = world.key(&["events.write"]).await;
    let path = format!("{EVENTS}/t%2F1/void");
    let reason = json!({ "reason": " sent by mistake " });
    let voided = world.call_as(Some(&voider), "POST", &path, reason).await.ok();
    let event = voided["event"].clone();
    assert_eq!(event["voidedAt"], "2026-03-10T12:00:00Z");
    assert_eq!(event["voidReason"], "sent by mistake");
    assert!(event["voidedBy"].as_str().unwrap().starts_with("key_"), "{event}");
    assert_eq!(event["matched"], true);
    assert_eq!(event["payload"], before["payload"]);

    // Again, by another and later: it stays as it was.
    world.clock.set(world.clock.now() + chrono::Duration::days(1));
    assert_eq!(world.post(&path, json!({})).await.ok()["event"], event);
    assert_eq!(world.get(&format!("{EVENTS}/t%2F1")).await.ok()["event"], event);
    let list = world.get(EVENTS).await.ok();
    let items = list["items"].as_array().unwrap();
    let voided = items.iter().filter(|item| item.get("voidedAt").is_some()).count();
    assert_eq!((items.len(), voided), (2, 1));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_event_that_is_not_there_and_a_bad_reason_are_refused(pool: PgPool) {
    let (world, ..) = world(pool, &["t-1"]).await;
    world.post(&format!("{EVENTS}/t-9/void"), json!({})).await.refused(404, "NOT_FOUND");
    let long = json!({ "reason": "x".repeat(1001) });
    let answer = world.post(&format!("{EVENTS}/t-1/void"), long).await;
    assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec!["reason"]));
    let stranger = world.stranger().await;
    let path = format!("{EVENTS}/t-1/void");
    world.call_as(Some(&stranger), "POST", &path, json!({})).await.refused(404, "NOT_FOUND");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_amended_event_is_voided_once_its_replacement_is_taken(pool: PgPool) {
    let (world, usage, subscription, metric) = world(pool, &["t-1"]).await;
    let path = format!("{EVENTS}/t-1/amend");
    let replacement = |id: &str, code: &str| {
        json!({ "reason": "wrong size", "event": {
            "transactionId": id, "externalSubscriptionId": "acme-pro", "code": code,
            "timestamp": 1_773_144_000.25, "properties": { "n": 1.10 },
        } })
    };
    let is_voided = async || {
        let event = world.get(&format!("{EVENTS}/t-1")).await.ok();
        event["event"].get("voidedAt").is_some()
    };
    // A replacement that is not taken voids nothing.
    let answer = world.post(&path, replacement("t-2", "unknown")).await;
    assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec!["event.code"]));
    let answer = world.post(&path, replacement("t-1", "calls")).await;
    assert_eq!(answer.fields(), ["event.transactionId"]);
    assert_eq!(world.post(&path, json!({})).await.fields(), ["event"]);
    let missing = format!("{EVENTS}/t-9/amend");
    world.post(&missing, replacement("t-2", "calls")).await.refused(404, "NOT_FOUND");
    assert!(!is_voided().await);

    let amended = world.post(&path, replacement("t-2", "calls")).await.ok();
    assert_eq!(amended["replacement"]["status"], "accepted");
    assert_eq!(amended["event"]["voidReason"], "wrong size");
    assert!(is_voided().await);

    // The answer was lost: the same again finds the event voided and the replacement taken.
    store(&world, &usage, &subscription, &metric, &["t-2"]).await;
    let again = world.post(&path, replacement("t-2", "calls")).await.ok();
    assert_eq!(again["replacement"]["status"], "duplicate");
    assert_eq!(again["event"], amended["event"]);
    // Another replacement would come on top of the first.
    world.post(&path, replacement("t-3", "calls")).await.refused(409, "EVENT_VOIDED");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn events_that_count_for_nothing_are_listed(pool: PgPool) {
    let (world, usage, subscription, metric) = world(pool, &["t-1"]).await;
    let other = Used {
        transaction_id: "t-2",
        external_id: "acme-pro",
        subscription: &subscription,
        metric: &metric,
        code: "nobody-counts-this",
        time: "2026-03-10T12:00:00Z",
        value: "1",
        properties: "{}",
        group: "",
    };
    write(&world, &usage, &[other]).await;
    let list = world.get(&format!("{EVENTS}?filter.part.unmatched=true")).await.ok();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{list}");
    assert_eq!((&items[0]["transactionId"], &items[0]["matched"]), (&json!("t-2"), &json!(false)));
    // It is adopted by a metric of its code.
    world.metric("nobody-counts-this").await;
    let list = world.get(&format!("{EVENTS}?filter.part.unmatched=true")).await.ok();
    assert_eq!(list["items"], json!([]));
}
