//! What a method works with: who calls, what time it is, the databases.

use crate::{
    config::{self, Config},
    error::OpError,
    layers::Principal,
    text, unsupported,
};
use axum::Router;
use prost::{Message, Name};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::sync::Arc;
use tonic::Request;
use weir_billing::Timestamp;
use weir_ids::{ApiKeyId, OrganizationId};
use weir_runtime::Clock;
use weir_store::{Tx, idempotency};
use weir_usage::ClickHouse;

/// What the role needs from outside.
#[derive(Clone)]
pub struct ApiDeps {
    pub pool: PgPool,
    pub usage: ClickHouse,
    pub clock: Clock,
    /// Where events are sent: the ingest role's router in this process, or one that forwards to it.
    /// None: `Ingest` and `IngestBatch` answer UNAVAILABLE.
    pub events: Option<Router>,
    pub config: Config,
}

/// Implements every service.
#[derive(Clone)]
pub struct Api {
    pub(crate) deps: Arc<ApiDeps>,
}

/// One call.
#[derive(Clone)]
pub struct Context {
    pub organization: OrganizationId,
    pub key: ApiKeyId,
    /// The present, the same for everything the call does.
    pub now: Timestamp,
    pub pool: PgPool,
    pub usage: ClickHouse,
    pub clock: Clock,
    pub(crate) usage_wait: config::Usage,
    once: Option<Once>,
}

/// The caller's wish that a create happens once.
#[derive(Debug, Clone)]
struct Once {
    key: String,
    rpc: String,
    hash: [u8; 32],
}

/// The longest idempotency key, in characters.
const KEY_MAX: usize = 255;

impl Api {
    #[must_use]
    pub fn new(deps: ApiDeps) -> Self {
        Self { deps: Arc::new(deps) }
    }

    /// Opens a call. Errors: a field that asks for something we don't have, or that can't be kept; a
    /// bad idempotency key.
    pub fn context<T: Message + Name>(&self, request: &Request<T>) -> Result<Context, OpError> {
        let principal = request.extensions().get::<Principal>();
        let principal = principal.ok_or_else(|| OpError::internal("no principal"))?;
        for faults in [unsupported::fields(request.get_ref()), text::faults(request.get_ref())] {
            if !faults.is_empty() {
                return Err(OpError::Invalid(faults));
            }
        }
        Ok(Context {
            organization: principal.organization,
            key: principal.key,
            now: self.deps.clock.now(),
            pool: self.deps.pool.clone(),
            usage: self.deps.usage.clone(),
            clock: self.deps.clock.clone(),
            usage_wait: self.deps.config.usage,
            once: once(request)?,
        })
    }
}

/// The hash is of the message, not of the body's bytes: spaces and the order of keys don't matter.
fn once<T: Message + Name>(request: &Request<T>) -> Result<Option<Once>, OpError> {
    let Some(sent) = request.metadata().get("idempotency-key") else { return Ok(None) };
    let key = sent.to_str().ok().filter(|key| (1..=KEY_MAX).contains(&key.len()));
    let key = key.ok_or_else(|| {
        OpError::invalid("idempotency-key", format!("must be 1 to {KEY_MAX} ASCII characters"))
    })?;
    Ok(Some(Once {
        key: key.to_owned(),
        rpc: T::full_name(),
        hash: Sha256::digest(request.get_ref().encode_to_vec()).into(),
    }))
}

impl Context {
    /// A transaction that sees only the caller's organization.
    pub async fn begin(&self) -> Result<Tx, OpError> {
        Ok(Tx::begin(&self.pool, self.organization).await?)
    }

    /// What an earlier call with the same idempotency key and request has made, if there was one.
    /// First thing in the transaction of a create. Errors: the key stands for another request.
    pub async fn made_before<I: From<u128>>(&self, tx: &mut Tx) -> Result<Option<I>, OpError> {
        let Some(Once { key, rpc, hash }) = &self.once else { return Ok(None) };
        let request = idempotency::Request { key, rpc, hash: *hash };
        match idempotency::claim(tx, self.organization, &request).await? {
            idempotency::Claim::New => Ok(None),
            idempotency::Claim::Done { resource } => Ok(Some(I::from(resource.as_u128()))),
            idempotency::Claim::Mismatch => Err(OpError::conflict(
                "IDEMPOTENCY_KEY_REUSED",
                "the idempotency key was used for another request: take a new one",
            )),
        }
    }

    /// Says what a create has made, and commits.
    pub async fn commit_made(&self, mut tx: Tx, resource: u128) -> Result<(), OpError> {
        if let Some(once) = &self.once {
            idempotency::record(&mut tx, self.organization, &once.key, resource).await?;
        }
        Ok(tx.commit().await?)
    }
}
