//! Events: read from a real engine, sent on to whoever takes them.

use crate::{
    engine::{Used, database, write},
    world::{World, no_usage, request},
};
use axum::{Json as Body, Router, extract::Request, routing::post};
use http::StatusCode;
use serde_json::{Value as Json, json};
use sqlx::PgPool;

const EVENTS: &str = "/api/billing/v2/events";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn accepted_events_are_found_and_paged_with_every_digit(pool: PgPool) {
    let usage = database().await;
    let world = World::with(pool, usage.clone(), None).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    let subscription = world.subscription(&customer, &plan, "acme-pro").await;
    let event = |transaction_id, code, time| Used {
        transaction_id,
        external_id: "acme-pro",
        subscription: &subscription,
        metric: &metric,
        code,
        time,
        value: "1",
        properties: r#"{"n":9007199254740993.10,"region":"eu"}"#,
        group: "",
    };
    let events = [
        event("t/1", "calls", "2026-03-10T12:00:00.000001Z"),
        event("t-2", "calls", "2026-03-10T13:00:00Z"),
        event("t-3", "other", "2026-03-10T14:00:00Z"),
    ];
    write(&world, &usage, &events).await;

    let found =
        world.send(request(Some(&world.secret), "GET", &format!("{EVENTS}/t%2F1"), "")).await;
    let found = found.ok()["event"].clone();
    assert_eq!(found["timestamp"], "2026-03-10T12:00:00.000001Z");
    assert_eq!(found["subscriptionId"], json!(subscription));
    assert_eq!(found["payload"].to_string(), r#"{"n":9007199254740993.10,"region":"eu"}"#);
    world.get(&format!("{EVENTS}/t-9")).await.refused(404, "NOT_FOUND");
    let stranger = world.stranger().await;
    let foreign = world.call_as(Some(&stranger), "GET", &format!("{EVENTS}/t-2"), Json::Null).await;
    foreign.refused(404, "NOT_FOUND");

    let ids = |page: &Json| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["transactionId"].as_str().unwrap().to_owned()).collect()
    };
    let page = world.get(&format!("{EVENTS}?pagination.limit=2")).await.ok();
    assert_eq!(ids(&page), ["t-3", "t-2"]);
    let cursor = page["nextPageCursor"].as_str().unwrap();
    let rest =
        world.get(&format!("{EVENTS}?pagination.limit=2&pagination.cursor={cursor}")).await.ok();
    assert_eq!(ids(&rest), ["t/1"]);
    assert_eq!(rest.get("nextPageCursor"), None);
    let filtered = "filter.part.code=calls&filter.part.externalSubscriptionId=acme-pro\
        &filter.part.timestamp.fromInclusive=2026-03-10T13:00:00Z";
    assert_eq!(ids(&world.get(&format!("{EVENTS}?{filtered}")).await.ok()), ["t-2"]);
    world.get(&format!("{EVENTS}?pagination.cursor=x")).await.refused(400, "CURSOR_INVALID");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn events_by_rest_go_to_the_ingest_role_as_they_are(pool: PgPool) {
    let ingest = |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let auth = parts.headers["authorization"].to_str().unwrap().to_owned();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (
            StatusCode::ACCEPTED,
            Body(json!({ "query": parts.uri.query(), "body": body, "auth": auth })),
        )
    };
    let paths = ["/events", "/events/batch", "/events:batchCreate"];
    let router = paths.iter().fold(Router::new(), |router, path| {
        router.route(&format!("/api/billing/v2{path}"), post(ingest))
    });
    let world = World::with(pool, no_usage(), Some(router)).await;
    for path in paths {
        let path = format!("/api/billing/v2{path}?verdicts=failed");
        let answer = world.send(request(Some(&world.secret), "POST", &path, "[1,\n2]")).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert_eq!(
            (&answer.json["body"], &answer.json["query"]),
            (&json!("[1,\n2]"), &json!("verdicts=failed"))
        );
        assert_eq!(answer.json["auth"], format!("Bearer {}", world.secret.expose()));
    }
    world.get(&format!("{EVENTS}?pagination.limit=1")).await.refused(503, "UNAVAILABLE");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn without_an_ingest_role_events_are_to_be_sent_again(pool: PgPool) {
    let world = World::new(pool).await;
    let answer = world.post(EVENTS, json!({})).await;
    answer.refused(503, "UNAVAILABLE");
    assert!(answer.headers.contains_key("retry-after"));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_role_at_another_address_takes_events_and_nothing_else(pool: PgPool) {
    let nobody = weir_api::events::ingest::proxy(http::Uri::from_static("http://127.0.0.1:9"));
    let world = World::with(pool, no_usage(), Some(nobody)).await;
    world.post(EVENTS, json!({})).await.refused(503, "UNAVAILABLE");
    world.get("/api/billing/v2/nothing").await.refused(404, "ROUTE_UNKNOWN");
    world.call("PATCH", EVENTS, Json::Null).await.refused(405, "METHOD_NOT_ALLOWED");
}
