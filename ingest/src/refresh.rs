//! One more look at Postgres before something is refused as unknown.
//!
//! The snapshot may be a moment old, and what was created a moment ago must be known. Who is about
//! to refuse asks for a snapshot newer than its own question; all that ask at once share one look,
//! and looks keep a distance, so garbage costs Postgres a bounded number of them.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use weir_catalog::{Catalog, Snapshot};

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
}

impl Refresher {
    /// Looks at most once in `interval`, and waits for an answer at most `timeout`.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, interval: Duration, timeout: Duration) -> Self {
        Self { catalog, interval, timeout, last: Mutex::new(None) }
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
