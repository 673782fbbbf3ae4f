//! The same service by gRPC.

use crate::{
    engine::{Used, database, write},
    world::{World, no_usage},
};
use axum::{Json as Body, Router, routing::post};
use http::StatusCode;
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Request};
use tonic_reflection::pb::v1::{
    self, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;
use weir_proto::v2::{
    self, billable_metric_service_client::BillableMetricServiceClient,
    event_service_client::EventServiceClient, plan_service_client::PlanServiceClient,
};
use weir_runtime::{Shutdown, server};

fn signed<T>(world: &World, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {}", world.secret.expose());
    request.metadata_mut().insert("authorization", bearer.parse().unwrap());
    request
}

fn metric() -> v2::CreateBillableMetricRequest {
    v2::CreateBillableMetricRequest {
        name: "Calls".to_owned(),
        code: "calls".to_owned(),
        aggregation_type: v2::AggregationType::CountAgg.into(),
        ..Default::default()
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_call_answers_its_message_and_errors_carry_their_details(pool: PgPool) {
    let world = World::new(pool).await;
    let mut metrics = BillableMetricServiceClient::new(world.app.clone());
    let made = metrics.create(signed(&world, metric())).await.unwrap().into_inner();
    let made = made.billable_metric.unwrap();
    assert_eq!(made.event_code, "calls");

    let taken = metrics.create(signed(&world, metric())).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
    assert_eq!(taken.get_details_error_info().unwrap().reason, "ALREADY_EXISTS");
    assert!(taken.get_details_request_info().is_some());

    let unsigned = metrics.create(metric()).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::Unauthenticated);
    assert_eq!(unsigned.get_details_error_info().unwrap().reason, "API_KEY_MISSING");

    let asked = v2::GetBillableMetricRequest {
        id: made.id,
        read_mask: Some(v2::Unsupported { json: "\"id\"".to_owned() }),
        ..Default::default()
    };
    let refused = metrics.get(signed(&world, asked)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "readMask");
    assert_eq!(violations[0].description, "not supported yet");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_update_without_a_mask_changes_the_fields_that_are_set(pool: PgPool) {
    let world = World::new(pool).await;
    let id = world.metric("calls").await;
    let plan = world.plan("pro", &id).await;
    let mut plans = PlanServiceClient::new(world.app.clone());
    let update = v2::UpdatePlanRequest { id: plan, name: "Pro".to_owned(), ..Default::default() };
    let changed = plans.update(signed(&world, update)).await.unwrap().into_inner().plan.unwrap();
    assert_eq!((changed.name.as_str(), changed.amount_cents), ("Pro", 5000));
    assert_eq!(changed.charges.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_unknown_rpc_is_unimplemented(pool: PgPool) {
    let world = World::new(pool).await;
    let mut sent = crate::world::request(None, "POST", "/weir.billing.v2.PlanService/Nope", "");
    sent.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let answer = world.send(sent).await;
    assert!(matches!(answer.headers["grpc-status"].to_str(), Ok("12" | "16")), "{answer:?}");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn grpc_reflection_and_rest_share_one_port(pool: PgPool) {
    let world = World::new(pool).await;
    world.metric("calls").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let _end = shutdown.clone().drop_guard();
    tokio::spawn(server::serve(listener, world.app.clone(), shutdown));

    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut metrics = BillableMetricServiceClient::new(channel.clone());
    let listed = metrics.list(signed(&world, v2::ListBillableMetricsRequest::default())).await;
    assert_eq!(listed.unwrap().into_inner().total_count, 1);

    let ask = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("no list of services: {answer:?}");
    };
    assert!(services.service.iter().any(|one| one.name == "weir.billing.v2.PlanService"));

    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let rest = format!(
        "GET /api/billing/v2/billable-metrics HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\
         authorization: Bearer {}\r\n\r\n",
        world.secret.expose()
    );
    socket.write_all(rest.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.contains("\"totalCount\":\"1\""), "{text}");
}

/// Answers as the ingest role does.
async fn ingest(Body(event): Body<Json>) -> (StatusCode, Body<Json>) {
    let id = event["transactionId"].as_str().unwrap_or_default();
    let verdict = |status: &str| json!({ "transactionId": id, "status": status });
    match id {
        "new" => (StatusCode::ACCEPTED, Body(verdict("accepted"))),
        "old" => (StatusCode::CONFLICT, Body(verdict("conflict"))),
        "bad" => {
            let mut verdict = verdict("rejected");
            let message = format!("{} is no number", event["properties"]["n"]);
            verdict["error"] =
                json!({ "field": "properties.n", "reason": "NOT_A_NUMBER", "message": message });
            (StatusCode::BAD_REQUEST, Body(verdict))
        }
        _ => {
            let info = json!({ "@type": "x/google.rpc.ErrorInfo", "reason": "LOG_UNAVAILABLE" });
            let status = json!({ "code": 14, "message": "send it again", "details": [info] });
            (StatusCode::SERVICE_UNAVAILABLE, Body(status))
        }
    }
}

async fn ingest_batch(Body(batch): Body<Json>) -> Body<Json> {
    let events = batch["events"].as_array().unwrap();
    let verdict = json!({ "transactionId": "new", "status": "accepted" });
    Body(json!({
        "accepted": events.len(), "duplicates": 0, "conflicts": 0, "rejected": 0,
        "verdicts": vec![verdict; events.len()],
    }))
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn events_by_grpc_get_the_answers_of_the_ingest_role(pool: PgPool) {
    let router = Router::new()
        .route("/api/billing/v2/events", post(ingest))
        .route("/api/billing/v2/events/batch", post(ingest_batch));
    let world = World::with(pool, no_usage(), Some(router)).await;
    let mut events = EventServiceClient::new(world.app.clone());
    let event = |id: &str| v2::IngestEventRequest {
        transaction_id: id.to_owned(),
        external_subscription_id: "acme".to_owned(),
        code: "calls".to_owned(),
        properties: Some(v2::JsonObject { json: r#"{"n":1.50}"#.to_owned() }),
        ..Default::default()
    };
    let taken = events.ingest(signed(&world, event("new"))).await.unwrap().into_inner();
    assert_eq!(taken.status, "accepted");
    let conflict = events.ingest(signed(&world, event("old"))).await.unwrap_err();
    assert_eq!(conflict.code(), Code::AlreadyExists);
    assert_eq!(conflict.get_details_error_info().unwrap().reason, "EVENT_CONFLICT");
    let rejected = events.ingest(signed(&world, event("bad"))).await.unwrap_err();
    let violation = &rejected.get_details_bad_request().unwrap().field_violations[0];
    assert_eq!(violation.field, "properties.n");
    assert_eq!(violation.description, "1.50 is no number (NOT_A_NUMBER)");
    let retry = events.ingest(signed(&world, event("later"))).await.unwrap_err();
    assert_eq!(retry.code(), Code::Unavailable);
    assert_eq!(retry.get_details_error_info().unwrap().reason, "LOG_UNAVAILABLE");

    let batch =
        v2::IngestEventBatchRequest { events: vec![event("a"), event("b")], ..Default::default() };
    let answer = events.ingest_batch(signed(&world, batch)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.verdicts.len()), (2, 2));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn properties_that_are_no_json_are_named_by_where_their_event_stands(pool: PgPool) {
    let usage = database().await;
    let router = Router::new().route("/api/billing/v2/events", post(ingest));
    let world = World::with(pool, usage.clone(), Some(router)).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    let stored = Used {
        transaction_id: "old",
        external_id: "acme",
        subscription: &world.subscription(&customer, &plan, "acme").await,
        metric: &metric,
        code: "calls",
        time: "2026-03-10T12:00:00Z",
        value: "1",
        properties: "{}",
        group: "",
    };
    write(&world, &usage, &[stored]).await;
    let broken = v2::IngestEventRequest {
        transaction_id: "new".to_owned(),
        properties: Some(v2::JsonObject { json: "{".to_owned() }),
        ..Default::default()
    };
    let whole = v2::IngestEventRequest::default();
    let batch = vec![whole, broken.clone()];
    let batch = v2::IngestEventBatchRequest { events: batch, ..Default::default() };
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let backfill = v2::BackfillEventsRequest {
        external_subscription_id: "acme".to_owned(),
        from: at(0),
        to: at(1),
        events: vec![broken.clone()],
        ..Default::default()
    };
    let amend = v2::AmendEventRequest {
        transaction_id: "old".to_owned(),
        event: Some(broken.clone()),
        reason: None,
    };
    let mut events = EventServiceClient::new(world.app.clone());
    let refused = [
        events.ingest(signed(&world, broken)).await.unwrap_err(),
        events.ingest_batch(signed(&world, batch)).await.unwrap_err(),
        events.backfill(signed(&world, backfill)).await.unwrap_err(),
        events.amend(signed(&world, amend)).await.unwrap_err(),
    ];
    let fields = refused.map(|status| {
        let violations = status.get_details_bad_request().unwrap().field_violations;
        violations.into_iter().map(|one| one.field).collect::<Vec<_>>().join(", ")
    });
    assert_eq!(
        fields,
        ["properties", "events[1].properties", "events[0].properties", "event.properties"]
    );
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn events_by_grpc_are_unavailable_without_an_ingest_role(pool: PgPool) {
    let world = World::new(pool).await;
    let mut events = EventServiceClient::new(world.app.clone());
    let event = v2::IngestEventRequest::default();
    let refused = events.ingest(signed(&world, event)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.get_details_retry_info().is_some());
}
