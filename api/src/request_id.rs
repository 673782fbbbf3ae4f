//! The name of a request in answers, errors and logs.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Instrument;
use weir_runtime::Clock;

/// Taken from the caller when it sends one, and always answered.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest that is taken from a caller.
const LENGTH_MAX: usize = 128;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The id of the request that this task works on.
#[must_use]
pub fn current() -> Option<String> {
    CURRENT.try_with(|id| id.to_str().map(str::to_owned)).ok()?.ok()
}

/// Names the request, for everything that happens in it, and its answer.
pub async fn identify(State(clock): State<Clock>, mut request: Request, next: Next) -> Response {
    let id = sent(request.headers()).unwrap_or_else(|| made(&clock));
    request.headers_mut().insert(HEADER, id.clone());
    let span = tracing::info_span!("api.request", request.id = id.to_str().unwrap_or_default());
    let mut response = CURRENT.scope(id.clone(), next.run(request)).instrument(span).await;
    response.headers_mut().insert(HEADER, id);
    response
}

fn sent(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(HEADER)?;
    let text = id.to_str().ok()?;
    (1..=LENGTH_MAX).contains(&text.len()).then(|| id.clone())
}

fn made(clock: &Clock) -> HeaderValue {
    let id = format!("{:032x}", clock.new_id::<u128>());
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("unnamed"))
}
