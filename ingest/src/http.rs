//! The routes: from a request to a body in memory, and from verdicts to an answer.

use crate::auth::{self, Sender};
use crate::outlive::Outliving;
use crate::rate::TooFast;
use crate::refusal::Refusal;
use crate::verdict::{
    Counts, Listed, RetryCause, Verdict, batch_json, failed_single_json, single_json,
};
use crate::{Edge, body, format, request_id};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;
use tokio::time::Instant;
use weir_events::{BodyError, Format, Rejection, WireEvent, parse_batch, parse_single};

/// The edge's routes.
pub fn router(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/api/billing/v2/events", post(single))
        .route("/api/billing/v2/events/batch", post(batch))
        .route("/api/billing/v2/events:batchCreate", post(batch))
        .with_state(edge)
}

async fn single(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    answer(edge, request, Route::Single).await
}

async fn batch(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    answer(edge, request, Route::Batch).await
}

#[derive(Clone, Copy)]
enum Route {
    Single,
    Batch,
}

/// What a body holds, and so what is answered.
#[derive(Clone, Copy)]
enum Shape {
    Single,
    Batch(Format, Listed),
}

/// A body in memory and what is known of it.
struct Received {
    sender: Sender,
    shape: Shape,
    body: Bytes,
    name: HeaderValue,
}

async fn answer(edge: Arc<Edge>, request: Request, route: Route) -> Response {
    let name = request_id::of(request.headers(), &edge.clock);
    let mut response = serve(&edge, request, route, name.clone()).await.unwrap_or_else(|refusal| {
        tracing::debug!(reason = refusal.reason(), "request refused");
        edge.metrics.refused(refusal.reason());
        refusal.answer(request_id::text(&name))
    });
    response.headers_mut().insert(request_id::HEADER, name);
    edge.metrics.answered(response.status());
    response
}

async fn serve(
    edge: &Arc<Edge>,
    request: Request,
    route: Route,
    name: HeaderValue,
) -> Result<Response, Refusal> {
    let config = &edge.config;
    let retry_after_s = config.load.retry_after_s;
    let mut place = edge.limits.enter().map_err(|_| Refusal::Overloaded { retry_after_s })?;
    let (head, body) = request.into_parts();
    let sender = auth::sender(&head.headers, &edge.catalog, &edge.refresher, retry_after_s).await?;
    // Before the body: who has to wait need not be read.
    if let Some(rate) = edge.rate_of(sender) {
        let checked = edge.rates.check(sender.organization, Instant::now());
        checked.map_err(|wait| too_fast(rate, wait))?;
    }
    let listed = listed(head.uri.query())?;
    let encoding = body::Encoding::of(&head.headers)?;
    let body = body::read(body, encoding, &mut place, config).await?;
    edge.metrics.bytes.increment(body.len() as u64);
    let shape = match route {
        Route::Single => Shape::Single,
        Route::Batch => Shape::Batch(format::of(&head.headers, &body), listed),
    };
    let received = Received { sender, shape, body, name };
    let worker = edge.clone();
    let work = async move {
        let answer = decide(&worker, received).await;
        drop(place);
        answer
    };
    // What has been handed to the log is settled also when the sender is gone.
    let work = Outliving::new(work, &edge.tasks);
    tokio::time::timeout(config.request_timeout(), work)
        .await
        .unwrap_or(Err(Refusal::OutcomeUnknown { retry_after_s }))
}

fn listed(query: Option<&str>) -> Result<Listed, Refusal> {
    let mut listed = Listed::All;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        listed = match pair {
            "verdicts=all" => Listed::All,
            "verdicts=failed" => Listed::Failed,
            other => {
                let (name, value) = other.split_once('=').unwrap_or((other, ""));
                return Err(Refusal::BadQuery { name: name.to_owned(), value: value.to_owned() });
            }
        };
    }
    Ok(listed)
}

async fn decide(edge: &Edge, received: Received) -> Result<Response, Refusal> {
    let Received { sender, shape, body, name } = received;
    let max = edge.config.body.events_max;
    let parsed = match shape {
        Shape::Single => parse_single(&body),
        Shape::Batch(format, _) => parse_batch(&body, format),
    };
    let parsed = parsed.map_err(|error| match error {
        BodyError::TooManyEvents { .. } => Refusal::TooManyEvents { max },
        other => Refusal::NotJson { detail: other.to_string() },
    })?;
    let events = &parsed.events;
    if events.len() > max {
        return Err(Refusal::TooManyEvents { max });
    }
    if let Some(rate) = edge.rate_of(sender) {
        let taken = edge.rates.take(sender.organization, rate, events.len(), Instant::now());
        taken.map_err(|wait| too_fast(rate, wait))?;
    }
    let verdicts = edge.accept(sender.organization, &parsed).await;
    let counts = Counts::of(&verdicts);
    count(edge, &counts, &verdicts);
    if let Some(cause) = counts.unavailable(&verdicts) {
        return Err(unavailable(cause, edge.config.load.retry_after_s));
    }
    Ok(match (shape, verdicts.first(), events.first()) {
        (Shape::Single, Some(verdict), Some(event)) => {
            single_answer((transaction_id(event), verdict), &name)
        }
        (Shape::Batch(_, listed), ..) => {
            let lines = events.iter().map(transaction_id).zip(&verdicts);
            json(StatusCode::OK, batch_json(&counts, listed, lines))
        }
        (Shape::Single, ..) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    })
}

impl Edge {
    /// How many events a second the sender's organization may send.
    fn rate_of(&self, sender: Sender) -> Option<u32> {
        sender.settings.events_per_second_max.or(self.config.load.events_per_second_max)
    }
}

fn too_fast(events_per_second_max: u32, wait: TooFast) -> Refusal {
    Refusal::TooFast { events_per_second_max, retry_after_s: wait.wait_s() }
}

fn unavailable(cause: RetryCause, retry_after_s: u64) -> Refusal {
    match cause {
        RetryCause::Log => Refusal::LogUnavailable { retry_after_s },
        RetryCause::Catalog => Refusal::CatalogUnavailable { retry_after_s },
        RetryCause::Index => Refusal::IndexUnavailable { retry_after_s },
    }
}

fn transaction_id<'e>(event: &'e Result<WireEvent<'_>, Rejection>) -> Option<&'e str> {
    match event {
        Ok(event) => Some(&event.transaction_id),
        Err(rejection) => rejection.transaction_id.as_deref(),
    }
}

fn single_answer(line: (Option<&str>, &Verdict), name: &HeaderValue) -> Response {
    let status = match line.1 {
        Verdict::Accepted => StatusCode::ACCEPTED,
        Verdict::Duplicate => StatusCode::OK,
        Verdict::Conflict => StatusCode::CONFLICT,
        Verdict::Rejected(_) => StatusCode::BAD_REQUEST,
        Verdict::Retry(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    if status.is_success() {
        return json(status, single_json(line));
    }
    json(status, failed_single_json(line, request_id::text(name)))
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn count(edge: &Edge, counts: &Counts, verdicts: &[Verdict]) {
    let metrics = &edge.metrics;
    metrics.accepted.increment(counts.accepted);
    metrics.duplicates.increment(counts.duplicates);
    metrics.conflicts.increment(counts.conflicts);
    metrics.retries.increment(counts.retry);
    metrics.recent_ids.set(edge.recent.len() as f64);
    if counts.rejected == 0 {
        return;
    }
    let mut reasons = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Rejected(rejection) => Some(rejection.reason.as_str()),
            _ => None,
        })
        .collect::<Vec<_>>();
    reasons.sort_unstable();
    for same in reasons.chunk_by(|a, b| a == b) {
        metrics.rejected(same[0], same.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_query_parameters_are_taken() {
        assert_eq!(listed(None), Ok(Listed::All));
        assert_eq!(listed(Some("verdicts=failed")), Ok(Listed::Failed));
        assert_eq!(listed(Some("verdicts=all&")), Ok(Listed::All));
        let refused = |name: &str, value: &str| {
            Err(Refusal::BadQuery { name: name.to_owned(), value: value.to_owned() })
        };
        assert_eq!(listed(Some("verdicts=none")), refused("verdicts", "none"));
        assert_eq!(listed(Some("verdict")), refused("verdict", ""));
    }
}
