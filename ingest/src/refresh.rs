//! One more look at Postgres before something is refused as unknown.
//!
//! The snapshot may be a moment old, and what was created a moment ago must be known. Who is about
//! to refuse asks for a snapshot newer than its own question; all that ask at once share one look,
//! and looks keep a distance, so garbage costs Postgres a bounded number of them.

use hashbrown::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use weir_catalog::{Catalog, CatalogError, Snapshot};
use weir_ids::OrganizationId;

/// The codes of an organization's metrics that exist and wait to be counted: no snapshot holds them.
pub type AwaitedCodes = HashSet<String>;

/// Postgres could not be asked: what is unknown may well exist.
#[derive(Debug, PartialEq, Eq)]
pub struct Stale;

/// Shares the looks of all requests.
pub struct Refresher {
    catalog: Arc<Catalog>,
    interval: Duration,
    timeout: Duration,
    /// When the last successful look began.
    last: Mutex<Option<Instant>>,
    /// As of which version of the catalog.
    awaited: parking_lot::Mutex<HashMap<OrganizationId, (u64, Arc<AwaitedCodes>)>>,
}

/// Organizations whose awaited codes are remembered.
const AWAITED_MAX: usize = 1_024;

impl Refresher {
    /// Looks at most once in `interval`, and waits for an answer at most `timeout`.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, interval: Duration, timeout: Duration) -> Self {
        let awaited = parking_lot::Mutex::default();
        Self { catalog, interval, timeout, last: Mutex::new(None), awaited }
    }

    /// What Postgres held of an organization at `asked` or later: a snapshot, and the codes that are
    /// not in it and still are no mistakes.
    pub async fn all_after(
        &self,
        organization: OrganizationId,
        asked: Instant,
    ) -> Result<(Arc<Snapshot>, Arc<AwaitedCodes>), Stale> {
        let snapshot = self.after(asked).await?;
        let known = self.awaited.lock().get(&organization).cloned();
        if let Some((_, codes)) = known.filter(|(version, _)| *version == snapshot.version) {
            return Ok((snapshot, codes));
        }
        let look = async {
            let (version, codes) = self.catalog.awaited_codes(organization).await?;
            // What was awaited a moment ago may be in the catalog now: look there after it.
            let snapshot = self.catalog.at_least(version).await?;
            Ok::<_, CatalogError>((snapshot, version, codes))
        };
        let found = timeout(self.timeout, look).await.map_err(|_| Stale)?;
        let (snapshot, version, codes) = found.map_err(|error| {
            tracing::warn!(%error, "the catalog does not answer");
            Stale
        })?;
        let codes: Arc<AwaitedCodes> = Arc::new(codes.into_iter().collect());
        let mut awaited = self.awaited.lock();
        if awaited.len() >= AWAITED_MAX {
            awaited.clear();
        }
        awaited.insert(organization, (version, Arc::clone(&codes)));
        Ok((snapshot, codes))
    }

    /// A snapshot of what Postgres held at `asked` or later.
    pub async fn after(&self, asked: Instant) -> Result<Arc<Snapshot>, Stale> {
        let deadline = asked + self.timeout;
        let look = async {
            let mut last = self.last.lock().await;
            if let Some(last) = *last {
                if last >= asked {
                    return Ok(self.catalog.snapshot());
                }
                sleep_until(last + self.interval).await;
            }
            let began = Instant::now();
            let snapshot = self.catalog.refresh().await.map_err(|error| {
                tracing::warn!(%error, "the catalog does not answer");
                Stale
            })?;
            *last = Some(began);
            Ok(snapshot)
        };
        timeout(deadline.saturating_duration_since(Instant::now()), look)
            .await
            .unwrap_or(Err(Stale))
    }
}
