//! What every call passes: bounds, the key, the permission, the measurement.
//!
//! The key is checked before any body is read, in front of REST and gRPC; permission and
//! measurement wrap the gRPC router, which REST enters too.

use crate::{
    descriptors::{self, Rpc},
    error::OpError,
    metrics,
    refusal::Refusal,
};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use weir_ids::{ApiKeyId, OrganizationId};

/// Who calls: what the key stands for.
#[derive(Debug, Clone)]
pub struct Principal {
    pub organization: OrganizationId,
    pub key: ApiKeyId,
    /// `["*"]` holds every scope.
    pub scopes: Arc<[String]>,
}

impl Principal {
    /// Whether the key holds `scope`.
    #[must_use]
    pub fn allows(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| held == "*" || held == scope)
    }
}

/// How many calls may be under way, and how long one may take.
#[derive(Debug, Clone)]
pub struct Bounds {
    places: Arc<Semaphore>,
    wait: Duration,
    call: Duration,
}

impl Bounds {
    /// At most `calls_max` at once; one more waits up to `wait` for a place.
    #[must_use]
    pub fn new(calls_max: usize, wait: Duration, call: Duration) -> Self {
        let places = Arc::new(Semaphore::new(calls_max.min(Semaphore::MAX_PERMITS)));
        Self { places, wait, call }
    }
}

/// Bounds the calls under way and the time of each.
pub async fn bound(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let grpc = is_grpc(request.headers());
    let Ok(Ok(_place)) = tokio::time::timeout(bounds.wait, bounds.places.acquire()).await else {
        metrics::refused("overloaded");
        let message = "too many calls at once: try again";
        return answer(OpError::Limited { message }, grpc);
    };
    match tokio::time::timeout(bounds.call, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            metrics::refused("too_slow");
            answer(OpError::TooSlow, grpc)
        }
    }
}

/// Finds out who calls, before the body is read.
pub async fn authenticate(
    State(pool): State<PgPool>,
    mut request: Request,
    next: Next,
) -> Response {
    match principal(&pool, request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(error) => {
            let refused = matches!(error, OpError::Unauthenticated { .. });
            metrics::refused(if refused { "unauthenticated" } else { "unavailable" });
            answer(error, is_grpc(request.headers()))
        }
    }
}

async fn principal(pool: &PgPool, headers: &HeaderMap) -> Result<Principal, OpError> {
    let refused = |reason, message| OpError::Unauthenticated { reason, message };
    let missing = refused("API_KEY_MISSING", "send an API key: authorization: Bearer weir_…");
    let unknown = refused("API_KEY_UNKNOWN", "the API key is unknown or revoked");
    let Some(sent) = headers.get(header::AUTHORIZATION) else { return Err(missing) };
    let Some((scheme, secret)) = sent.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Err(missing);
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing);
    }
    let hash = weir_store::api_keys::hash(secret.trim());
    let mut connection = pool.acquire().await.map_err(weir_store::StoreError::from)?;
    let key = weir_store::api_keys::find_by_hash(&mut connection, &hash).await?.ok_or(unknown)?;
    Ok(Principal { organization: key.organization, key: key.id, scopes: key.scopes.into() })
}

/// Lets a call through when its key holds the rpc's scope, and measures it.
pub async fn permit(request: Request, next: Next) -> Response {
    static RPCS: LazyLock<HashMap<&'static str, &'static Rpc>> = LazyLock::new(|| {
        descriptors::rpcs().iter().map(|rpc| (rpc.grpc_path.as_str(), rpc)).collect()
    });
    let Some(rpc) = RPCS.get(request.uri().path()) else {
        return Status::unimplemented("no such rpc").into_http();
    };
    let begun = Instant::now();
    let response = match permitted(rpc, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => Status::from(error).into_http(),
    };
    // A unary error is told in the headers; success comes in the trailers.
    let status = Status::from_header_map(response.headers());
    metrics::called(&rpc.label, status.map_or(Code::Ok, |status| status.code()), begun.elapsed());
    response
}

fn permitted(rpc: &Rpc, request: &Request) -> Result<(), OpError> {
    let principal = request.extensions().get::<Principal>();
    let principal =
        principal.ok_or_else(|| OpError::internal("a call passed no authentication"))?;
    match &rpc.permission {
        Some(scope) if principal.allows(scope) => Ok(()),
        scope => Err(OpError::Denied { scope: scope.clone().unwrap_or_default() }),
    }
}

/// An error in the form that the caller understands.
pub fn answer(error: OpError, grpc: bool) -> Response {
    let status = Status::from(error);
    if grpc { status.into_http() } else { Refusal::from(status).into_response() }
}

/// Whether a call is gRPC's own rather than REST.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}
