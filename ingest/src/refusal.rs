//! Requests that are refused whole, and the one table that says how: `google.rpc.Status` in JSON.
//!
//! A 4xx is never worth sending again as it is, but for 408 and 429; a 503 is, and says when. In all
//! cases nothing of the request was acknowledged. `docs/api.md` lists the reasons.

use crate::status::Status;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

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
    #[error(
        "the organization may send {events_per_second_max} events a second and has sent more: \
         send it again in {retry_after_s} s"
    )]
    TooFast { events_per_second_max: u32, retry_after_s: u64 },
    #[error("too many requests at once: send it again")]
    Overloaded { retry_after_s: u64 },
    #[error("the catalog does not answer, so what is not known can't be judged: send it again")]
    CatalogUnavailable { retry_after_s: u64 },
    #[error("nothing could be made durable: send it again")]
    LogUnavailable { retry_after_s: u64 },
    #[error("the index of known events does not answer: send it again")]
    IndexUnavailable { retry_after_s: u64 },
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
    /// Those that are worth sending again after a while, with no time to wait.
    pub const RETRYABLE: [Self; 6] = [
        Self::TooFast { events_per_second_max: 0, retry_after_s: 0 },
        Self::Overloaded { retry_after_s: 0 },
        Self::CatalogUnavailable { retry_after_s: 0 },
        Self::LogUnavailable { retry_after_s: 0 },
        Self::IndexUnavailable { retry_after_s: 0 },
        Self::OutcomeUnknown { retry_after_s: 0 },
    ];

    /// The stable, documented reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.row().reason
    }

    fn row(&self) -> Row {
        let never = |http, grpc, reason| Row { http, grpc, reason, retry_after_s: None };
        let later = |http, grpc, reason, after: &u64| Row {
            http,
            grpc,
            reason,
            retry_after_s: Some(*after),
        };
        let retry = |reason, after| later(StatusCode::SERVICE_UNAVAILABLE, 14, reason, after);
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
            Self::TooFast { retry_after_s, .. } => {
                later(StatusCode::TOO_MANY_REQUESTS, 8, "RATE_LIMITED", retry_after_s)
            }
            Self::Overloaded { retry_after_s } => retry("OVERLOADED", retry_after_s),
            Self::CatalogUnavailable { retry_after_s } => {
                retry("CATALOG_UNAVAILABLE", retry_after_s)
            }
            Self::LogUnavailable { retry_after_s } => retry("LOG_UNAVAILABLE", retry_after_s),
            Self::IndexUnavailable { retry_after_s } => retry("INDEX_UNAVAILABLE", retry_after_s),
            Self::OutcomeUnknown { retry_after_s } => retry("OUTCOME_UNKNOWN", retry_after_s),
        }
    }

    fn body(&self, row: &Row, request_id: &str) -> Vec<u8> {
        let rate = match self {
            Self::TooFast { events_per_second_max, .. } => events_per_second_max.to_string(),
            _ => String::new(),
        };
        let metadata = match self {
            Self::ScopeMissing { scope } => Some(("scope", *scope)),
            Self::TooFast { .. } => Some(("eventsPerSecondMax", rate.as_str())),
            _ => None,
        };
        let mut out = Vec::with_capacity(384);
        out.push(b'{');
        Status {
            code: row.grpc,
            message: &self.to_string(),
            reason: row.reason,
            metadata,
            field: None,
            retry_after_s: row.retry_after_s,
            request_id,
        }
        .push(&mut out);
        out.push(b'}');
        out
    }

    /// The answer to the request of this name.
    #[must_use]
    pub fn answer(&self, request_id: &str) -> Response {
        let row = self.row();
        let body = self.body(&row, request_id);
        let json = [(header::CONTENT_TYPE, "application/json")];
        let mut response = (row.http, json, body).into_response();
        let mut add = |name: HeaderName, value: HeaderValue| {
            response.headers_mut().insert(name, value);
        };
        if let Some(seconds) = row.retry_after_s {
            add(header::RETRY_AFTER, seconds.into());
        }
        if row.http == StatusCode::UNAUTHORIZED {
            add(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if row.http == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            add(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use weir_events::Reason;

    const MANUAL: &str = include_str!("../../docs/api.md");

    fn all() -> Vec<Refusal> {
        let (name, value) = (String::new(), String::new());
        let mut all = vec![
            Refusal::KeyMissing,
            Refusal::KeyUnknown,
            Refusal::ScopeMissing { scope: "events.write" },
            Refusal::NotJson { detail: String::new() },
            Refusal::BadCompression { encoding: "gzip" },
            Refusal::BodyBroken,
            Refusal::BadQuery { name, value },
            Refusal::TooManyBytes { max: 1 },
            Refusal::TooManyEvents { max: 1 },
            Refusal::UnknownEncoding { encoding: String::new() },
            Refusal::TooSlow { timeout_ms: 1 },
        ];
        all.extend(Refusal::RETRYABLE);
        all
    }

    /// The rows of the table under a heading, as their cells.
    fn table(heading: &str) -> Vec<Vec<&'static str>> {
        let section = MANUAL.split(&format!("\n## {heading}\n")).nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
        rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    #[test]
    fn the_manual_lists_each_refusal_with_its_codes_and_no_other() {
        let told: BTreeSet<(String, String, String)> = table("Events: refused requests")
            .into_iter()
            .map(|row| (row[0].to_owned(), row[1].to_owned(), row[2].to_owned()))
            .collect();
        let code = |grpc: u8| match grpc {
            3 => "INVALID_ARGUMENT 3",
            4 => "DEADLINE_EXCEEDED 4",
            7 => "PERMISSION_DENIED 7",
            8 => "RESOURCE_EXHAUSTED 8",
            14 => "UNAVAILABLE 14",
            16 => "UNAUTHENTICATED 16",
            other => panic!("{other}"),
        };
        let made: BTreeSet<_> = all()
            .iter()
            .map(Refusal::row)
            .map(|row| {
                let http = row.http.as_str().to_owned();
                (http, code(row.grpc).to_owned(), format!("`{}`", row.reason))
            })
            .collect();
        assert_eq!(told, made);
    }

    #[test]
    fn the_manual_lists_each_reason_of_a_rejected_event_and_no_other() {
        let told: BTreeSet<String> =
            table("Events: rejected events").into_iter().map(|row| row[0].to_owned()).collect();
        let made: BTreeSet<String> =
            Reason::ALL.iter().map(|reason| format!("`{reason}`")).collect();
        assert_eq!(told, made);
    }

    #[test]
    fn what_is_worth_sending_again_says_when_and_nothing_else_does() {
        for refusal in all() {
            let answer = refusal.answer("r-1");
            let retryable = [429, 503].contains(&answer.status().as_u16());
            assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), retryable, "{refusal}");
        }
    }
}
