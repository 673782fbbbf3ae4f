//! An error as HTTP: `google.rpc.Status` in JSON, with its details.

use crate::error::{DOMAIN, details, http_status};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value as Json, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// An error and the HTTP status it is told with.
#[derive(Debug)]
pub struct Refusal {
    http: StatusCode,
    status: Box<Status>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { http: http_status(status.code()), status: Box::new(status) }
    }
}

impl Refusal {
    fn new(http: StatusCode, code: Code, reason: &str, message: String) -> Self {
        let status = Status::with_error_details(code, message, details(reason));
        Self { http, status: Box::new(status) }
    }

    /// No rpc has this path.
    pub fn route_unknown(path: &str) -> Self {
        let message = format!("no route {path}; docs/openapi.json lists them");
        Self::new(StatusCode::NOT_FOUND, Code::Unimplemented, "ROUTE_UNKNOWN", message)
    }

    /// Another verb has this path.
    pub fn method_not_allowed(method: &http::Method) -> Self {
        let message = format!("this route has no {method}; the header allow lists its methods");
        let http = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(http, Code::Unimplemented, "METHOD_NOT_ALLOWED", message)
    }

    /// The body is longer than `bytes_max`.
    pub fn body_too_large(bytes_max: usize) -> Self {
        let message = format!("the body is longer than {bytes_max} bytes");
        let http = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(http, Code::InvalidArgument, "BODY_TOO_LARGE", message)
    }

    /// The body can't be read as a JSON object.
    pub fn not_json(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, "BODY_INVALID", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = axum::Json(body(&self.status));
        let mut response = (self.http, body).into_response();
        let headers = response.headers_mut();
        if self.http == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"weir\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(retry) = self.status.get_details_retry_info()
            && let Some(delay) = retry.retry_delay
        {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
        }
        response
    }
}

/// `google.rpc.Status` as proto3 JSON.
fn body(status: &Status) -> Json {
    let known = status.get_error_details();
    let mut details = Vec::new();
    let mut push = |name: &str, mut detail: Json| {
        detail["@type"] = json!(format!("type.googleapis.com/google.rpc.{name}"));
        details.push(detail);
    };
    match known.error_info() {
        Some(info) => {
            let (reason, domain) = (&info.reason, &info.domain);
            push(
                "ErrorInfo",
                json!({ "reason": reason, "domain": domain, "metadata": info.metadata }),
            );
        }
        // Made by the gRPC framework: a broken frame, an unknown compression.
        None => push("ErrorInfo", json!({ "reason": "TRANSPORT", "domain": DOMAIN })),
    }
    if let Some(bad) = known.bad_request() {
        let one = |violation: &tonic_types::FieldViolation| json!({ "field": violation.field, "description": violation.description });
        let violations: Vec<Json> = bad.field_violations.iter().map(one).collect();
        push("BadRequest", json!({ "fieldViolations": violations }));
    }
    if let Some(retry) = known.retry_info() {
        let delay = retry.retry_delay.unwrap_or_default();
        push("RetryInfo", json!({ "retryDelay": format!("{}s", delay.as_secs_f32()) }));
    }
    if let Some(request) = known.request_info() {
        push("RequestInfo", json!({ "requestId": request.request_id }));
    }
    json!({ "code": i32::from(status.code()), "message": status.message(), "details": details })
}
