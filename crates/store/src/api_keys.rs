//! API keys: who may act for an organization, and do what. Only hashes of secrets are stored.

use crate::{StoreError, Timestamp, columns::id, error::touched};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use std::fmt;
use weir_ids::{ApiKeyId, OrganizationId};

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub organization: OrganizationId,
    /// 1..=255 characters.
    pub name: String,
    /// What it may do: 1..=100 of them; `*` is everything.
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// What a client sends as its bearer token: `weir_` and 43 characters. Shown once, never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new secret from 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(format!("weir_{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text that the client keeps.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a secret's text. A secret has 256 random bits, so no salt and no slow hash is needed.
#[must_use]
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Writes a new key with the hash of its secret. Errors: `Violation` (no such organization, no
/// scopes).
pub async fn insert(
    conn: &mut PgConnection,
    key: &ApiKey,
    hash: &[u8; 32],
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO api_keys (organization_id, id, name, key_hash, scopes, created_at, revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        key.organization as _,
        key.id as _,
        key.name,
        &hash[..],
        &key.scopes,
        key.created_at,
        key.revoked_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// All keys of an organization, also revoked ones, oldest first.
pub async fn list(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Vec<ApiKey>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, organization_id, name, scopes, created_at, revoked_at
         FROM api_keys
         WHERE organization_id = $1
         ORDER BY created_at, id",
        organization as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(ApiKey::from).collect())
}

/// Takes a key out of use from `at` on. Errors: `NotFound`, also when it is revoked already.
pub async fn revoke(
    conn: &mut PgConnection,
    organization: OrganizationId,
    key: ApiKeyId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE api_keys
         SET revoked_at = $3
         WHERE organization_id = $1 AND id = $2 AND revoked_at IS NULL",
        organization as _,
        key as _,
        at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// The key whose secret has this hash, unless revoked. Looks in all organizations: it is how a
/// request finds its own, so it runs on the pool's role.
pub async fn find_by_hash(
    conn: &mut PgConnection,
    hash: &[u8; 32],
) -> Result<Option<ApiKey>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, organization_id, name, scopes, created_at, revoked_at
         FROM api_keys
         WHERE key_hash = $1 AND revoked_at IS NULL",
        &hash[..]
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(ApiKey::from))
}

struct Row {
    id: Uuid,
    organization_id: Uuid,
    name: String,
    scopes: Vec<String>,
    created_at: Timestamp,
    revoked_at: Option<Timestamp>,
}

impl From<Row> for ApiKey {
    fn from(row: Row) -> Self {
        Self {
            id: id(row.id),
            organization: id(row.organization_id),
            name: row.name,
            scopes: row.scopes,
            created_at: row.created_at,
            revoked_at: row.revoked_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_prefix_and_43_characters_and_never_printed() {
        let secret = Secret::generate();
        assert!(secret.expose().starts_with("weir_"));
        assert_eq!(secret.expose().len(), 48);
        assert_ne!(secret, Secret::generate());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
