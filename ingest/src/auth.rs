//! Who sends: the API key of a request, checked before its body is read.

use crate::refresh::{Refresher, Stale};
use crate::refusal::Refusal;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use weir_catalog::{ApiKey, Catalog, OrganizationSettings, Snapshot};
use weir_ids::OrganizationId;

/// What a key must be allowed to do here.
pub const SCOPE: &str = "events.write";

/// Whose events a request brings.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub organization: OrganizationId,
    pub settings: OrganizationSettings,
}

/// The organization that the request's key belongs to.
///
/// A key that is not known may have been made a moment ago, so it is looked for once more in a
/// fresh snapshot. Errors: no key, unknown key, no scope, catalog down.
pub async fn sender(
    headers: &HeaderMap,
    catalog: &Catalog,
    refresher: &Refresher,
    retry_after_s: u64,
) -> Result<Sender, Refusal> {
    let asked = tokio::time::Instant::now();
    let hash = key_hash(headers)?;
    let snapshot = catalog.snapshot();
    if let Some(key) = snapshot.key(&hash) {
        return allowed(&snapshot, key);
    }
    let fresh = refresher
        .after(asked)
        .await
        .map_err(|Stale| Refusal::CatalogUnavailable { retry_after_s })?;
    fresh.key(&hash).ok_or(Refusal::KeyUnknown).and_then(|key| allowed(&fresh, key))
}

fn allowed(snapshot: &Snapshot, key: &ApiKey) -> Result<Sender, Refusal> {
    if !key.allows(SCOPE) {
        return Err(Refusal::ScopeMissing { scope: SCOPE });
    }
    let organization = key.organization;
    Ok(Sender { organization, settings: snapshot.organization(organization) })
}

fn key_hash(headers: &HeaderMap) -> Result<[u8; 32], Refusal> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Refusal::KeyMissing)?;
    let value = value.to_str().map_err(|_| Refusal::KeyUnknown)?;
    let (scheme, secret) = value.split_once(' ').ok_or(Refusal::KeyMissing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::KeyMissing);
    }
    Ok(Sha256::digest(secret.trim().as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_a_bearer_key_is_read() {
        let hash = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            key_hash(&headers)
        };
        assert_eq!(hash(None), Err(Refusal::KeyMissing));
        assert_eq!(hash(Some("Basic eDp5")), Err(Refusal::KeyMissing));
        assert_eq!(hash(Some("weir_secret")), Err(Refusal::KeyMissing));
        let expected: [u8; 32] = Sha256::digest(b"weir_secret").into();
        assert_eq!(hash(Some("Bearer weir_secret")), Ok(expected));
        assert_eq!(hash(Some("bearer  weir_secret ")), Ok(expected));
    }
}
