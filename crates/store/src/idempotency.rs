//! A create that is sent twice with one key is done once.

use crate::StoreError;
use crate::error::touched;
use sqlx::PgConnection;
use sqlx::types::Uuid;
use weir_ids::OrganizationId;

/// What a key means to the request that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody used it in the last 24 hours: go on, and [`record`] what was made.
    New,
    /// The same request was done: this is what it made.
    Done { resource: Uuid },
    /// Another request used it.
    Mismatch,
}

/// A request that wants to be done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// As the client sent it, 1..=255 characters.
    pub key: &'a str,
    /// The full name of the called method.
    pub rpc: &'a str,
    /// Of the request's content.
    pub hash: [u8; 32],
}

/// Takes a key, first thing in the transaction of a create. Waits for a transaction that holds the
/// same key, and sees its outcome. Keys expire after 24 hours of real time.
pub async fn claim(
    conn: &mut PgConnection,
    organization: OrganizationId,
    request: &Request<'_>,
) -> Result<Claim, StoreError> {
    let taken = sqlx::query!(
        "INSERT INTO idempotency_keys AS old (organization_id, key, rpc, request_hash)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (organization_id, key) DO UPDATE
         SET rpc = excluded.rpc,
             request_hash = excluded.request_hash,
             resource = NULL,
             claimed_at = excluded.claimed_at
         WHERE old.claimed_at < excluded.claimed_at - interval '24 hours'",
        organization as _,
        request.key,
        request.rpc,
        &request.hash[..],
    )
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 1 {
        delete_some_expired(conn, organization).await?;
        return Ok(Claim::New);
    }
    let old = sqlx::query!(
        "SELECT rpc, request_hash, resource
         FROM idempotency_keys
         WHERE organization_id = $1 AND key = $2",
        organization as _,
        request.key,
    )
    .fetch_one(conn)
    .await?;
    if old.rpc != request.rpc || old.request_hash != request.hash {
        return Ok(Claim::Mismatch);
    }
    // A commit without `record` is a bug of the caller: never do the work a second time for it.
    old.resource.map(|resource| Claim::Done { resource }).ok_or(StoreError::Corrupt {
        column: "idempotency_keys.resource",
        value: "nothing".to_owned(),
    })
}

/// Says what the request that claimed the key has made, before the commit.
/// Errors: `NotFound` without a claim.
pub async fn record(
    conn: &mut PgConnection,
    organization: OrganizationId,
    key: &str,
    resource: u128,
) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE idempotency_keys SET resource = $3 WHERE organization_id = $1 AND key = $2",
        organization as _,
        key,
        Uuid::from_u128(resource),
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// Expired keys go a few at a time, with the claims that follow them: no job is needed.
async fn delete_some_expired(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM idempotency_keys
         WHERE organization_id = $1 AND key IN (
             SELECT key
             FROM idempotency_keys
             WHERE organization_id = $1 AND claimed_at < now() - interval '24 hours'
             ORDER BY claimed_at
             LIMIT 16
             FOR UPDATE SKIP LOCKED
         )",
        organization as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
