//! Events that came by gRPC or to take others' place, sent to the ingest role as the HTTP call that
//! it knows.

use crate::error::{OpError, Violation, details};
use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value as Json, json};
use std::time::Duration;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::ServiceExt;
use weir_proto::v2;

/// The longest batch by gRPC: what the ingest role takes as JSON.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// A verdict has at most about 600 bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;
const FORWARDED: [&str; 3] = ["authorization", "traceparent", "x-request-id"];

/// No ingest role can be reached from here.
pub fn unavailable() -> OpError {
    OpError::Unavailable { message: "no ingest role takes events here: try again".to_owned() }
}

/// One call to the ingest role, under the caller's own key.
pub struct Call {
    events: Router,
    headers: HeaderMap,
}

impl Call {
    /// Errors: `Unavailable` without an ingest role.
    pub fn of<T>(request: &Request<T>, events: Option<Router>) -> Result<Self, OpError> {
        let events = events.ok_or_else(unavailable)?;
        let sent = request.metadata().clone().into_headers();
        let mut headers = HeaderMap::new();
        for name in FORWARDED {
            if let Some(value) = sent.get(name) {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
        }
        let json = http::HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        Ok(Self { events, headers })
    }

    /// Sends one event. Errors: the verdicts `conflict` and `rejected`, and refused calls. `path` is
    /// what stands before the event's fields in the request: nothing, or `event.`.
    pub async fn one(
        self,
        event: &v2::IngestEventRequest,
        path: &str,
    ) -> Result<v2::EventVerdict, Status> {
        let body = event_json(event, path).map_err(|fault| OpError::Invalid(vec![fault]))?;
        let (http, answer) = self.send("/api/billing/v2/events", body.to_string()).await?;
        if http.is_success() {
            return Ok(verdict(&answer));
        }
        Err(failure(http, &answer, path))
    }

    /// Sends a batch. Errors: refused calls; bad events are told by their verdicts.
    pub async fn batch(
        self,
        batch: &v2::IngestEventBatchRequest,
    ) -> Result<v2::IngestEventBatchResponse, Status> {
        let events = batch.events.iter().enumerate();
        let events = events.map(|(place, event)| event_json(event, &place_of(place)));
        let events: Result<Vec<Json>, _> = events.collect();
        let events = events.map_err(|fault| OpError::Invalid(vec![fault]))?;
        let path = match batch.verdicts.as_deref() {
            None | Some("" | "all") => "/api/billing/v2/events/batch",
            Some("failed") => "/api/billing/v2/events/batch?verdicts=failed",
            Some(_) => return Err(OpError::invalid("verdicts", "must be all or failed").into()),
        };
        let (http, answer) = self.send(path, json!({ "events": events }).to_string()).await?;
        if !http.is_success() {
            return Err(failure(http, &answer, ""));
        }
        let count = |name: &str| {
            answer.get(name).and_then(Json::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
        };
        let verdicts = answer.get("verdicts").and_then(Json::as_array);
        Ok(v2::IngestEventBatchResponse {
            accepted: count("accepted"),
            duplicates: count("duplicates"),
            conflicts: count("conflicts"),
            rejected: count("rejected"),
            verdicts: verdicts.into_iter().flatten().map(verdict).collect(),
        })
    }

    async fn send(self, path: &str, body: String) -> Result<(StatusCode, Json), OpError> {
        let mut request = http::Request::post(path)
            .body(Body::from(Bytes::from(body)))
            .map_err(OpError::internal)?;
        *request.headers_mut() = self.headers;
        let response = self.events.oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(OpError::internal)?.to_bytes();
        let json = serde_json::from_slice(&body).map_err(OpError::internal)?;
        Ok((status, json))
    }
}

/// What stands before the fields of an event of a list in the request.
pub fn place_of(place: usize) -> String {
    format!("events[{place}].")
}

/// The event as the ingest role takes it; its properties keep every digit. `path` as in [`Call::one`].
pub fn event_json(event: &v2::IngestEventRequest, path: &str) -> Result<Json, Violation> {
    let mut object = Map::new();
    object.insert("transactionId".to_owned(), json!(event.transaction_id));
    object.insert("externalSubscriptionId".to_owned(), json!(event.external_subscription_id));
    object.insert("code".to_owned(), json!(event.code));
    if let Some(timestamp) = &event.timestamp {
        object.insert("timestamp".to_owned(), json!(timestamp));
    }
    if let Some(properties) = &event.properties {
        let read: Result<Json, _> = serde_json::from_str(&properties.json);
        let read =
            read.map_err(|error| Violation::new(format!("{path}properties"), error.to_string()))?;
        object.insert("properties".to_owned(), read);
    }
    Ok(Json::Object(object))
}

fn text(json: &Json, name: &str) -> String {
    json.get(name).and_then(Json::as_str).unwrap_or_default().to_owned()
}

fn verdict(json: &Json) -> v2::EventVerdict {
    v2::EventVerdict {
        transaction_id: text(json, "transactionId"),
        status: text(json, "status"),
        error: json.get("error").map(|error| v2::EventError {
            field: text(error, "field"),
            reason: text(error, "reason"),
            message: text(error, "message"),
        }),
    }
}

/// A rejection of an event, or of its `field`, as a fault of the request.
pub fn rejected(path: &str, field: &str, reason: &str, message: &str) -> Violation {
    let field = format!("{path}{field}");
    Violation::new(field.trim_end_matches('.'), format!("{message} ({reason})"))
}

/// What the ingest role answered instead of taking the call: a verdict, or `google.rpc.Status`.
fn failure(http: StatusCode, answer: &Json, path: &str) -> Status {
    let told = verdict(answer);
    match (told.status.as_str(), told.error) {
        ("conflict", _) => Status::with_error_details(
            Code::AlreadyExists,
            "an event with this transaction id and other content was accepted before",
            details("EVENT_CONFLICT"),
        ),
        (_, Some(error)) => {
            let reason = error.reason.as_str();
            OpError::Invalid(vec![rejected(path, &error.field, reason, &error.message)]).into()
        }
        _ => refused(http, answer),
    }
}

/// What `RetryInfo` says, in whole seconds: `"7s"`.
fn retry_delay(answer: &Json) -> Option<Duration> {
    let infos = answer.get("details")?.as_array()?;
    let delay = infos.iter().find_map(|info| info.get("retryDelay"))?.as_str()?;
    delay.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

fn refused(http: StatusCode, answer: &Json) -> Status {
    let code = match http {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::CONFLICT => Code::AlreadyExists,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
        http if http.is_client_error() => Code::InvalidArgument,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::Internal,
    };
    let infos = answer.get("details").and_then(Json::as_array);
    let reason = infos.into_iter().flatten().map(|info| text(info, "reason"));
    let reason = reason.into_iter().find(|reason| !reason.is_empty());
    let mut details = details(&reason.unwrap_or_else(|| "UNAVAILABLE".to_owned()));
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        let delay = retry_delay(answer).unwrap_or(crate::error::RETRY_AFTER);
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code, text(answer, "message"), details)
}
