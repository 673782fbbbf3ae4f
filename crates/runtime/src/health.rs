//! `/healthz`: the process is alive. `/readyz`: everything it needs answers.

use axum::{Json, Router, http::StatusCode, routing::get};
use futures::future::{BoxFuture, join_all};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long one check may take before it counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// One thing that must answer: its name and how to ask.
#[derive(Clone)]
pub struct Check {
    name: &'static str,
    ask: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl Check {
    /// A check called `name`; an `Err` text is shown to whoever asks `/readyz`.
    pub fn new<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, ask: Arc::new(move || Box::pin(ask())) }
    }
}

/// An error with its causes, as a check tells it.
#[must_use]
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some errors repeat their cause.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
    checks: BTreeMap<&'static str, String>,
}

/// The two health routes.
pub fn router(checks: Vec<Check>) -> Router {
    let checks: Arc<[Check]> = checks.into();
    Router::new()
        .route("/healthz", get(|| async { Json(Answer { status: "ok", checks: BTreeMap::new() }) }))
        .route("/readyz", get(move || ready(checks.clone())))
}

async fn ready(checks: Arc<[Check]>) -> (StatusCode, Json<Answer>) {
    let asked = checks.iter().map(|check| async move {
        let outcome = match tokio::time::timeout(CHECK_TIMEOUT, (check.ask)()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
        };
        (check.name, outcome)
    });
    let outcomes = join_all(asked).await;
    let all_ok = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
    let checks = outcomes
        .into_iter()
        .map(|(name, outcome)| (name, outcome.err().unwrap_or_else(|| "ok".to_owned())))
        .collect();
    let (code, status) =
        if all_ok { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unready") };
    (code, Json(Answer { status, checks }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    #[tokio::test]
    async fn ready_only_when_every_check_passes() {
        let good = Check::new("postgres", || async { Ok(()) });
        let bad = Check::new("log", || async { Err("broker is down".to_owned()) });
        for (checks, code) in [(vec![good.clone()], 200), (vec![good, bad], 503)] {
            let request = Request::get("/readyz").body(Body::empty()).unwrap();
            let answer = router(checks).oneshot(request).await.unwrap();
            assert_eq!(answer.status(), code);
        }
    }
}
