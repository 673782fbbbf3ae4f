//! Events that take the place of all others in a range of time.

use crate::{
    engine::database,
    world::{World, at},
};
use axum::{Json as Body, Router, extract::Request, routing::post};
use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use weir_api::Config;
use weir_events::{Position, content_hash, event_id, parse_one};
use weir_ids::OrganizationId;
use weir_store::{
    clock, partitions,
    voids::{self, Void},
};
use weir_usage::{Chunk, ClickHouse, EventBlock, EventRow, NewEvent};

const EVENTS: &str = "/api/billing/v2/events";
const BACKFILL: &str = "/api/billing/v2/events/backfill";
const BATCH: &str = "/api/billing/v2/events/batch";

/// An edge with the aggregator behind it: what it accepts is stored at once.
#[derive(Clone)]
struct Edge {
    usage: ClickHouse,
    organization: Arc<OnceLock<OrganizationId>>,
    taken: Arc<Mutex<BTreeMap<String, u64>>>,
    /// What another call does while a batch is taken: it voids these.
    meanwhile: Arc<Mutex<Option<(PgPool, String)>>>,
}

impl Edge {
    fn router(&self) -> Router {
        let edge = self.clone();
        let batch = move |request: Request| {
            let edge = edge.clone();
            async move {
                let body = axum::body::to_bytes(request.into_body(), 8 << 20).await.unwrap();
                let body: Json = serde_json::from_slice(&body).unwrap();
                Body(edge.take(body["events"].as_array().unwrap()).await)
            }
        };
        Router::new().route(BATCH, post(batch))
    }

    async fn take(&self, events: &[Json]) -> Json {
        let mut verdicts = Vec::new();
        let mut new = Vec::new();
        for event in events {
            let id = event["transactionId"].as_str().unwrap().to_owned();
            let verdict = self.judge(event, &id, &mut new);
            verdicts.push(match verdict {
                "rejected" => {
                    let error = json!({ "field": "code", "reason": "UNKNOWN_CODE", "message": "no metric" });
                    json!({ "transactionId": id, "status": verdict, "error": error })
                }
                verdict => json!({ "transactionId": id, "status": verdict }),
            });
        }
        self.store(&new).await;
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some((pool, id)) = meanwhile {
            self.void(&pool, &id).await;
        }
        let count = |status| verdicts.iter().filter(|one| one["status"] == status).count();
        json!({
            "accepted": count("accepted"), "duplicates": count("duplicate"),
            "conflicts": count("conflict"), "rejected": count("rejected"), "verdicts": verdicts,
        })
    }

    fn judge(&self, event: &Json, id: &str, new: &mut Vec<Json>) -> &'static str {
        if event["code"] == "unknown" {
            return "rejected";
        }
        match self.taken.lock().unwrap().insert(id.to_owned(), hash(event)) {
            None => {
                new.push(event.clone());
                "accepted"
            }
            Some(before) if before == hash(event) => "duplicate",
            Some(_) => "conflict",
        }
    }

    async fn store(&self, events: &[Json]) {
        static POSITIONS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        if events.is_empty() {
            return;
        }
        let count = events.len() as u64;
        let first = POSITIONS.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        let organization = *self.organization.get().unwrap();
        let row = |(position, event): (u64, &Json)| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            EventRow {
                organization,
                subscription: None,
                event_id: event_id(organization, &text("transactionId")),
                external_subscription_id: Cow::Owned(text("externalSubscriptionId")),
                code: Cow::Owned(text("code")),
                transaction_id: Cow::Owned(text("transactionId")),
                timestamp: at(&text("timestamp")),
                received_at: at(&text("timestamp")),
                partition: 0,
                position: Position::from_u64(position),
                content_hash: hash(event),
                properties: Cow::Borrowed("{}"),
            }
        };
        let rows: Vec<EventRow<'_>> = (first..).zip(events).map(row).collect();
        let rows: Vec<_> = rows.iter().map(NewEvent::from).collect();
        let events = EventBlock::of(&rows).unwrap();
        let chunk = Chunk { events, ..Chunk::default() };
        self.usage.insert_chunk(&chunk, &format!("backfill-{first}")).await.unwrap();
    }

    async fn void(&self, pool: &PgPool, id: &str) {
        let void = Void {
            organization: *self.organization.get().unwrap(),
            transaction_id: id.to_owned(),
            external_subscription_id: "acme-pro".to_owned(),
            code: "calls".to_owned(),
            timestamp: at("2026-03-10T10:00:00Z"),
            voided_at: at("2026-03-10T12:00:00Z"),
            voided_by: "another".to_owned(),
            reason: None,
            generation: None,
        };
        voids::insert(&mut pool.acquire().await.unwrap(), &void).await.unwrap();
    }
}

fn hash(event: &Json) -> u64 {
    content_hash(&parse_one(event.to_string().as_bytes()).unwrap().unwrap())
}

struct Range {
    world: World,
    edge: Edge,
}

impl Range {
    async fn new(pool: PgPool) -> Self {
        let usage = database().await;
        let edge = Edge {
            usage: usage.clone(),
            organization: Arc::default(),
            taken: Arc::default(),
            meanwhile: Arc::default(),
        };
        let mut config = Config::load().unwrap();
        config.usage.settle_ms = 1;
        config.usage.poll_ms = 1;
        let world = World::configured(pool, usage, Some(edge.router()), config).await;
        edge.organization.set(world.organization).unwrap();
        Self { world, edge }
    }

    async fn send(&self, events: &[Json]) {
        let sent = self.world.post(BATCH, json!({ "events": events })).await.ok();
        assert_eq!(sent["accepted"], events.len(), "{sent}");
    }

    /// The ids of the events that count, in order.
    async fn counting(&self) -> Vec<String> {
        let list = self.world.get(&format!("{EVENTS}?pagination.limit=1000")).await.ok();
        let items = list["items"].as_array().unwrap().iter();
        let counting = items.filter(|item| item.get("voidedAt").is_none());
        let mut ids: Vec<String> =
            counting.map(|item| item["transactionId"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }
}

fn event(id: &str, code: &str, time: &str) -> Json {
    json!({
        "transactionId": id, "externalSubscriptionId": "acme-pro", "code": code,
        "timestamp": format!("2026-03-10T{time}Z"), "properties": { "n": 1 },
    })
}

/// From 10:00 to 11:00 of the day.
fn backfill(events: &[Json]) -> Json {
    json!({
        "externalSubscriptionId": "acme-pro", "from": "2026-03-10T10:00:00Z",
        "to": "2026-03-10T11:00:00Z", "events": events, "reason": " a broken meter ",
    })
}

fn with(mut body: Json, name: &str, value: Json) -> Json {
    body[name] = value;
    body
}

fn counts(accepted: u32, duplicates: u32, voided: u32) -> Json {
    json!({ "accepted": accepted, "duplicates": duplicates, "voided": voided })
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn the_events_given_take_the_place_of_all_others_from_its_start_to_before_its_end(
    pool: PgPool,
) {
    let range = Range::new(pool).await;
    range
        .send(&[
            event("before", "calls", "09:59:59.999999"),
            event("first", "calls", "10:00:00"),
            event("other-code", "mails", "10:30:00"),
            event("last", "calls", "10:59:59.999999"),
            event("after", "calls", "11:00:00"),
            with(event("another's", "calls", "10:30:00"), "externalSubscriptionId", json!("beta")),
        ])
        .await;
    let body = backfill(&[event("n-1", "calls", "10:15:00"), event("n-2", "mails", "10:59:00")]);
    assert_eq!(range.world.post(BACKFILL, body.clone()).await.ok(), counts(2, 0, 3));
    assert_eq!(range.counting().await, ["after", "another's", "before", "n-1", "n-2"]);
    let first = range.world.get(&format!("{EVENTS}/first")).await.ok()["event"].clone();
    assert_eq!(
        (&first["voidReason"], &first["voidedAt"]),
        (&json!("a broken meter"), &json!("2026-03-10T12:00:00Z"))
    );
    assert!(first["voidedBy"].as_str().unwrap().starts_with("key_"), "{first}");

    // Again, as often as one likes.
    for _ in 0..2 {
        assert_eq!(range.world.post(BACKFILL, body.clone()).await.ok(), counts(0, 2, 0));
    }
    assert_eq!(range.world.get(&format!("{EVENTS}/first")).await.ok()["event"], first);
    // What has come into the range since is replaced too.
    range.send(&[event("since", "calls", "10:00:00")]).await;
    assert_eq!(range.world.post(BACKFILL, body).await.ok(), counts(0, 2, 1));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn only_events_of_the_code_are_replaced_where_one_is_given(pool: PgPool) {
    let range = Range::new(pool).await;
    range.send(&[event("a", "calls", "10:00:00"), event("b", "mails", "10:00:00")]).await;
    let body = with(backfill(&[event("n-1", "calls", "10:15:00")]), "code", json!("calls"));
    assert_eq!(range.world.post(BACKFILL, body).await.ok(), counts(1, 0, 1));
    assert_eq!(range.counting().await, ["b", "n-1"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn no_events_empty_the_range(pool: PgPool) {
    let range = Range::new(pool).await;
    range.send(&[event("a", "calls", "10:00:00"), event("b", "calls", "11:00:00")]).await;
    assert_eq!(range.world.post(BACKFILL, backfill(&[])).await.ok(), counts(0, 0, 1));
    assert_eq!(range.world.post(BACKFILL, backfill(&[])).await.ok(), counts(0, 0, 0));
    assert_eq!(range.counting().await, ["b"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_range_and_replacements_that_do_not_fit_are_refused_by_their_fields(pool: PgPool) {
    let range = Range::new(pool).await;
    range.send(&[event("a", "calls", "10:00:00")]).await;
    let fits = event("n-1", "calls", "10:15:00");
    let body = || backfill(std::slice::from_ref(&fits));
    let replaced = |name: &str, value: Json| {
        backfill(&[event("n-0", "calls", "10:00:00"), with(fits.clone(), name, value)])
    };
    let many: Vec<Json> =
        (0..1_001).map(|n| event(&format!("n-{n}"), "calls", "10:00:00")).collect();
    let cases = [
        (with(body(), "externalSubscriptionId", json!("")), "externalSubscriptionId"),
        (with(body(), "from", Json::Null), "from"),
        (with(body(), "to", Json::Null), "to"),
        (with(body(), "to", json!("2026-03-10T10:00:00Z")), "to"),
        (with(body(), "to", json!("2026-03-10T12:00:00.000001Z")), "to"),
        (with(body(), "reason", json!("x".repeat(1_001))), "reason"),
        (backfill(&many), "events"),
        (replaced("timestamp", json!("2026-03-10T09:59:59.999999Z")), "events[1].timestamp"),
        (replaced("timestamp", json!(1_773_140_400)), "events[1].timestamp"),
        (replaced("timestamp", json!("noon")), "events[1].timestamp"),
        (replaced("timestamp", Json::Null), "events[1].timestamp"),
        (replaced("externalSubscriptionId", json!("beta")), "events[1].externalSubscriptionId"),
        (with(replaced("code", json!("mails")), "code", json!("calls")), "events[1].code"),
        (replaced("transactionId", json!("")), "events[1].transactionId"),
        (replaced("properties", json!({ "a": { "b": 1 }, "c": "x".repeat(70_000) })), "events[1]"),
    ];
    for (body, field) in cases {
        let answer = range.world.post(BACKFILL, body).await;
        assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec![field]), "{answer:?}");
    }
    // Not at the end of the present either: all of that was told before anything was taken.
    assert_eq!(range.counting().await, ["a"]);
    let until_now = with(body(), "to", json!("2026-03-10T12:00:00Z"));
    assert_eq!(range.world.post(BACKFILL, until_now).await.ok(), counts(1, 0, 1));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_replacement_that_is_not_taken_voids_nothing_and_is_named(pool: PgPool) {
    let range = Range::new(pool).await;
    range.send(&[event("a", "calls", "10:00:00"), event("far", "calls", "08:00:00")]).await;
    let events = [
        event("n-1", "calls", "10:15:00"),
        event("n-2", "unknown", "10:15:00"),
        event("far", "calls", "10:15:00"),
    ];
    let answer = range.world.post(BACKFILL, backfill(&events)).await;
    answer.refused(400, "FIELD_INVALID");
    assert_eq!(answer.fields(), ["events[1].code", "events[2].transactionId"]);
    assert_eq!(range.counting().await, ["a", "far", "n-1"], "the one that was taken counts");
    // Mended, the same call replaces the rest.
    assert_eq!(range.world.post(BACKFILL, backfill(&events[..1])).await.ok(), counts(0, 1, 1));
    assert_eq!(range.counting().await, ["far", "n-1"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn the_id_of_a_voided_event_replaces_nothing(pool: PgPool) {
    let range = Range::new(pool).await;
    let (a, b) = (event("a", "calls", "10:00:00"), event("b", "calls", "10:00:00"));
    range.send(&[a.clone(), b.clone()]).await;
    // An event that is there and counts may stay: that is no repeat's business.
    let body = backfill(&[event("n-1", "calls", "10:00:00"), b.clone()]);
    assert_eq!(range.world.post(BACKFILL, body).await.ok(), counts(1, 1, 1));
    let answer =
        range.world.post(BACKFILL, backfill(&[event("n-2", "calls", "10:00:00"), a])).await;
    assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec!["events[1].transactionId"]));
    assert_eq!(range.counting().await, ["b", "n-1"], "nothing of that call was taken");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_id_that_stands_for_another_event_replaces_nothing_whatever_the_edge_knows(
    pool: PgPool,
) {
    let range = Range::new(pool).await;
    range.send(&[event("a", "calls", "10:00:00"), event("far", "calls", "08:00:00")]).await;
    // An edge apart forgets in time, and accepts a second copy that never counts.
    range.edge.taken.lock().unwrap().clear();
    range
        .edge
        .taken
        .lock()
        .unwrap()
        .insert("far".to_owned(), hash(&event("far", "calls", "10:15:00")));
    let answer = range.world.post(BACKFILL, backfill(&[event("far", "calls", "10:15:00")])).await;
    assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec!["events[0].transactionId"]));
    assert_eq!(range.counting().await, ["a", "far"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_call_that_dies_in_between_is_ended_by_the_same_call(pool: PgPool) {
    let range = Range::new(pool.clone()).await;
    range.send(&[event("a", "calls", "10:00:00")]).await;
    // The aggregator is behind: the replacements are durable, and the call gives up.
    let mut conn = pool.acquire().await.unwrap();
    partitions::ensure(&mut conn, 1).await.unwrap();
    let body = backfill(&[event("n-1", "calls", "10:15:00")]);
    range.world.post(BACKFILL, body.clone()).await.refused(503, "UNAVAILABLE");
    assert_eq!(range.counting().await, ["a", "n-1"], "both count, and none is lost");
    let lease = Duration::from_secs(60);
    partitions::claim(&mut conn, 0, "one", lease).await.unwrap().unwrap();
    let caught_up = clock::database_now(&mut conn).await.unwrap() + TimeDelta::hours(1);
    partitions::set_watermark(&mut conn, 0, 1, caught_up).await.unwrap();
    assert_eq!(range.world.post(BACKFILL, body).await.ok(), counts(0, 1, 1));
    assert_eq!(range.counting().await, ["n-1"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn of_two_calls_at_once_one_gives_way_and_none_leaves_the_range_empty(pool: PgPool) {
    let range = Range::new(pool.clone()).await;
    range.send(&[event("a", "calls", "10:00:00")]).await;
    *range.edge.meanwhile.lock().unwrap() = Some((pool, "n-1".to_owned()));
    let events = [event("n-0", "calls", "10:15:00"), event("n-1", "calls", "10:15:00")];
    let answer = range.world.post(BACKFILL, backfill(&events)).await;
    assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec!["events[1].transactionId"]));
    assert_eq!(range.counting().await, ["a", "n-0"]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn more_than_ten_thousand_events_are_replaced_in_parts(pool: PgPool) {
    let range = Range::new(pool).await;
    let event_at =
        |n: u32| event(&format!("a-{n}"), "calls", &format!("10:{:02}:{:02}", n % 60, n / 60 % 60));
    let events: Vec<Json> = (0..10_001).map(event_at).collect();
    range.send(&events).await;
    let replacement = event("n-1", "calls", "10:00:00");
    let body = backfill(std::slice::from_ref(&replacement));
    let answer = range.world.post(BACKFILL, body.clone()).await;
    assert_eq!((answer.status.as_u16(), answer.fields()), (400, vec!["from", "to"]));
    assert!(!range.edge.taken.lock().unwrap().contains_key("n-1"), "nothing was taken");
    let half = with(body, "to", json!("2026-03-10T10:30:00Z"));
    let voided = events
        .iter()
        .filter(|event| event["timestamp"].as_str() < Some("2026-03-10T10:30"))
        .count();
    let voided = u32::try_from(voided).unwrap();
    assert_eq!(range.world.post(BACKFILL, half).await.ok(), counts(1, 0, voided));
    let rest = with(backfill(&[]), "from", json!("2026-03-10T10:30:00Z"));
    assert_eq!(range.world.post(BACKFILL, rest).await.ok(), counts(0, 0, 10_001 - voided));
    let kept = range.world.get(&format!("{EVENTS}/n-1")).await.ok();
    assert_eq!(kept["event"].get("voidedAt"), None);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_event_that_no_void_can_name_is_told_before_anything_is_taken(pool: PgPool) {
    let range = Range::new(pool).await;
    range.send(&[event("a\0", "calls", "10:00:00"), event("b", "calls", "10:30:00")]).await;
    let body = backfill(&[event("n-1", "calls", "10:30:00")]);
    range.world.post(BACKFILL, body.clone()).await.refused(409, "EVENT_UNVOIDABLE");
    assert_eq!(range.counting().await, ["a\0", "b"]);
    let around = with(body, "from", json!("2026-03-10T10:15:00Z"));
    assert_eq!(range.world.post(BACKFILL, around).await.ok(), counts(1, 0, 1));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn another_organization_s_events_are_never_touched(pool: PgPool) {
    let range = Range::new(pool).await;
    range.send(&[event("a", "calls", "10:00:00")]).await;
    let stranger = range.world.stranger().await;
    let answer = range.world.call_as(Some(&stranger), "POST", BACKFILL, backfill(&[])).await;
    assert_eq!(answer.ok(), counts(0, 0, 0));
    assert_eq!(range.counting().await, ["a"]);
}
