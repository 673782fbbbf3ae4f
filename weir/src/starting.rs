//! What the port of a `weir up` says before all of it is there: `/healthz` that it lives, `/readyz` what
//! it waits for, and to everybody else to come again.

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use weir_events::KnownIds;
use weir_runtime::health::{self, Check};

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: u8 = 14;
const RETRY_AFTER_S: &str = "1";

/// While Postgres and the ClickHouse engine are being started.
pub fn parts() -> Router {
    let check = Check::new("start", || async {
        Err("Postgres and the ClickHouse engine are being started".to_owned())
    });
    router(vec![check])
}

/// While the edge waits for the aggregator's indexes of seen ids, and reads what the log has behind them.
pub fn roles(known: Arc<dyn KnownIds>, partitions: u32, databases: &[Check]) -> Router {
    let index = Check::new("index", move || {
        let waits_for = waits_for(known.as_ref(), partitions);
        async move { Err(waits_for) }
    });
    router(databases.iter().cloned().chain([index]).collect())
}

fn waits_for(known: &dyn KnownIds, partitions: u32) -> String {
    let missing = (0..partitions).find_map(|partition| known.find(partition, &[]).err());
    missing.map_or_else(|| "the log's tail is being read".to_owned(), |error| error.to_string())
}

fn router(checks: Vec<Check>) -> Router {
    health::router(checks).fallback(|| async { come_again() })
}

fn come_again() -> Response {
    let body = serde_json::json!({
        "code": UNAVAILABLE, "message": "weir is being started, try again", "details": [],
    });
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, RETRY_AFTER_S)], Json(body))
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use std::sync::Mutex;
    use tower::ServiceExt;
    use weir_events::{EventId, FirstCopy, KnownIdsError, Position};

    /// The partitions whose indexes are there.
    struct Held(Mutex<Vec<u32>>);

    impl KnownIds for Held {
        fn find(
            &self,
            partition: u32,
            ids: &[EventId],
        ) -> Result<Vec<Option<FirstCopy>>, KnownIdsError> {
            let held = self.0.lock().unwrap().contains(&partition);
            if held { Ok(vec![None; ids.len()]) } else { Err(KnownIdsError::NotHeld { partition }) }
        }

        fn covered_to(&self, _: u32) -> Position {
            Position::ZERO
        }
    }

    async fn ask(app: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = app.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn who_is_being_started_lives_says_why_it_is_not_ready_and_tells_senders_to_come_again() {
        for app in [parts(), roles(Arc::new(Held(Mutex::default())), 2, &[])] {
            assert_eq!(ask(&app, "/healthz").await.0, 200);
            assert_eq!(ask(&app, "/readyz").await.0, 503);
            assert_eq!(ask(&app, "/api/billing/v2/events").await.0, 503);
        }
    }

    #[tokio::test]
    async fn the_index_that_is_waited_for_is_named() {
        let known = Arc::new(Held(Mutex::new(vec![0])));
        let app = roles(known.clone(), 2, &[]);
        let (status, why) = ask(&app, "/readyz").await;
        let named = KnownIdsError::NotHeld { partition: 1 }.to_string();
        assert!(status == 503 && why.contains(&named), "{why}");
        known.0.lock().unwrap().push(1);
        let (status, why) = ask(&app, "/readyz").await;
        assert!(status == 503 && why.contains("tail"), "the edge is not there yet: {why}");
    }
}
