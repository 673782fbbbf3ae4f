//! Requests that are refused whole, and the one table that says how: `google.rpc.Status` in JSON.
//!
//! A 4xx is never worth sending again as it is; a 503 is, and says when. In both cases nothing of
//! the request was acknowledged.

use crate::verdict::push_json_string;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, StatusCode, header};

/// Why nothing of a request was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("send an API key: Authorization: Bearer weir_…")]
    KeyMissing,
    #[error("the API key is unknown or revoked")]
    KeyUnknown,
    #[error("the API key lacks the scope {scope}")]
    ScopeMissing { scope: &'static str },
    #[error("{detail}")]
    NotJson { detail: String },
    #[error("the body does not decompress as {encoding}")]
    BadCompression { encoding: &'static str },
    #[error("the body broke off")]
    BodyBroken,
    #[error("query parameter {name}: {value:?} is not known; verdicts takes all or failed")]
    BadQuery { name: String, value: String },
    #[error("the body has more than {max} bytes after decompression: send smaller batches")]
    TooManyBytes { max: usize },
    #[error("a batch has at most {max} events: send smaller batches")]
    TooManyEvents { max: usize },
    #[error("content encoding {encoding:?} is not supported: use gzip, zstd or none")]
    UnknownEncoding { encoding: String },
    #[error("the body did not arrive within {timeout_ms} ms")]
    TooSlow { timeout_ms: u64 },
    #[error("too many requests at once: send it again")]
    Overloaded { retry_after_s: u64 },
    #[error("the catalog does not answer, so the key can't be checked: send it again")]
    CatalogUnavailable { retry_after_s: u64 },
    #[error("nothing could be made durable: send it again")]
    LogUnavailable { retry_after_s: u64 },
    #[error("the aggregator is too far behind to tell repeats apart: send it again")]
    AggregatorBehind { retry_after_s: u64 },
    #[error("the outcome is not known yet: send it again, what was taken answers duplicate")]
    OutcomeUnknown { retry_after_s: u64 },
}

struct Row {
    http: StatusCode,
    grpc: u8,
    reason: &'static str,
    retry_after_s: Option<u64>,
}

impl Refusal {
    /// Those that are worth sending again, with no time to wait.
    pub const RETRYABLE: [Self; 5] = [
        Self::Overloaded { retry_after_s: 0 },
        Self::CatalogUnavailable { retry_after_s: 0 },
        Self::LogUnavailable { retry_after_s: 0 },
        Self::AggregatorBehind { retry_after_s: 0 },
        Self::OutcomeUnknown { retry_after_s: 0 },
    ];

    /// The stable, documented reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.row().reason
    }

    fn row(&self) -> Row {
        let never = |http, grpc, reason| Row { http, grpc, reason, retry_after_s: None };
        let retry = |reason, after: &u64| Row {
            http: StatusCode::SERVICE_UNAVAILABLE,
            grpc: 14,
            reason,
            retry_after_s: Some(*after),
        };
        match self {
            Self::KeyMissing => never(StatusCode::UNAUTHORIZED, 16, "API_KEY_MISSING"),
            Self::KeyUnknown => never(StatusCode::UNAUTHORIZED, 16, "API_KEY_UNKNOWN"),
            Self::ScopeMissing { .. } => never(StatusCode::FORBIDDEN, 7, "SCOPE_MISSING"),
            Self::NotJson { .. } => never(StatusCode::BAD_REQUEST, 3, "BODY_INVALID"),
            Self::BadCompression { .. } => never(StatusCode::BAD_REQUEST, 3, "BODY_UNDECODABLE"),
            Self::BodyBroken => never(StatusCode::BAD_REQUEST, 3, "BODY_INCOMPLETE"),
            Self::BadQuery { .. } => never(StatusCode::BAD_REQUEST, 3, "QUERY_INVALID"),
            Self::TooManyBytes { .. } => never(StatusCode::PAYLOAD_TOO_LARGE, 3, "BODY_TOO_LARGE"),
            Self::TooManyEvents { .. } => {
                never(StatusCode::PAYLOAD_TOO_LARGE, 3, "TOO_MANY_EVENTS")
            }
            Self::UnknownEncoding { .. } => {
                never(StatusCode::UNSUPPORTED_MEDIA_TYPE, 3, "ENCODING_UNSUPPORTED")
            }
            Self::TooSlow { .. } => never(StatusCode::REQUEST_TIMEOUT, 4, "BODY_TOO_SLOW"),
            Self::Overloaded { retry_after_s } => retry("OVERLOADED", retry_after_s),
            Self::CatalogUnavailable { retry_after_s } => {
                retry("CATALOG_UNAVAILABLE", retry_after_s)
            }
            Self::LogUnavailable { retry_after_s } => retry("LOG_UNAVAILABLE", retry_after_s),
            Self::AggregatorBehind { retry_after_s } => retry("AGGREGATOR_BEHIND", retry_after_s),
            Self::OutcomeUnknown { retry_after_s } => retry("OUTCOME_UNKNOWN", retry_after_s),
        }
    }

    fn body(&self, row: &Row) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(format!("{{\"code\":{},\"message\":", row.grpc).as_bytes());
        push_json_string(&mut out, &self.to_string());
        out.extend_from_slice(
            b",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":\"",
        );
        out.extend_from_slice(row.reason.as_bytes());
        out.extend_from_slice(b"\",\"domain\":\"weir\",\"metadata\":{}}");
        if let Some(seconds) = row.retry_after_s {
            let retry = format!(
                ",{{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",\"retryDelay\":\"{seconds}s\"}}"
            );
            out.extend_from_slice(retry.as_bytes());
        }
        out.extend_from_slice(b"]}");
        out
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let row = self.row();
        let mut response =
            (row.http, [(header::CONTENT_TYPE, "application/json")], self.body(&row))
                .into_response();
        let mut add = |name: HeaderName, value: http::HeaderValue| {
            response.headers_mut().insert(name, value);
        };
        if let Some(seconds) = row.retry_after_s {
            add(header::RETRY_AFTER, seconds.into());
        }
        if row.http == StatusCode::UNAUTHORIZED {
            add(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
        }
        if row.http == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            add(header::ACCEPT_ENCODING, http::HeaderValue::from_static("gzip, zstd"));
        }
        response
    }
}
