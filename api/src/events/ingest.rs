//! The ingest role at another address, as the router that it is in one process.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, Uri, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::time::Duration;

/// The edge gives up earlier by itself, with an answer that says whether to send again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Edge {
    client: Client<HttpConnector, Body>,
    address: Uri,
}

/// Hands posted events to the role at `address`, body and answer as they are.
pub fn proxy(address: Uri) -> Router {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    crate::ingested(forward).with_state(Edge { client, address })
}

async fn forward(State(edge): State<Edge>, mut request: Request) -> Response {
    let mut parts = edge.address.into_parts();
    let path = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    match Uri::from_parts(parts) {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
    *request.version_mut() = http::Version::HTTP_11;
    match tokio::time::timeout(ANSWER_TIMEOUT, edge.client.request(request)).await {
        Ok(Ok(answer)) => answer.map(Body::new),
        outcome => {
            let error = outcome.map_or_else(
                |late| late.to_string(),
                |answered| answered.map_or_else(|error| error.to_string(), |_| String::new()),
            );
            tracing::warn!(error, "the ingest role does not answer");
            crate::layers::answer(super::unavailable(), false)
        }
    }
}
