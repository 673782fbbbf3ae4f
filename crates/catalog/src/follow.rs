//! Follows Postgres: by its notifications at once, and by asking twice a second where one is lost.

use crate::Snapshot;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use weir_ids::OrganizationId;
use weir_runtime::{Clock, Shutdown};
use weir_store::{CATALOG_CHANNEL, PgConnection, StoreError, catalog, clock};

/// A metric made while events flow counts within a second: half of it is for asking.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Why there is no snapshot of the wanted version.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The version does not exist yet; whoever named it saw another database.
    #[error("the catalog is at version {newest}, before {wanted}")]
    NotYet { wanted: u64, newest: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The newest catalog this process has seen, and any older one on demand.
#[derive(Debug)]
pub struct Catalog {
    pool: PgPool,
    clock: Clock,
    current: ArcSwap<Snapshot>,
    /// One refresh at a time, so that versions only rise.
    refreshing: tokio::sync::Mutex<()>,
    /// The last older version asked for: after a crash all partitions ask for the same few.
    older: Mutex<Option<Arc<Snapshot>>>,
}

impl Catalog {
    /// Loads the catalog and follows it until `shutdown`; where the deployment runs on a test
    /// clock, `clock` follows that too. Errors: the store's.
    pub async fn start(
        pool: PgPool,
        clock: Clock,
        shutdown: Shutdown,
    ) -> Result<Arc<Self>, CatalogError> {
        let catalog = Self::standing(pool, clock, Arc::default());
        catalog.refresh().await?;
        let changed = Arc::new(Notify::new());
        tokio::spawn(listen(catalog.pool.clone(), Arc::clone(&changed), shutdown.clone()));
        tokio::spawn(follow(Arc::clone(&catalog), changed, shutdown));
        Ok(catalog)
    }

    /// Stands at `snapshot` and follows nobody: for tests that play the database themselves.
    #[doc(hidden)]
    #[must_use]
    pub fn standing(pool: PgPool, clock: Clock, snapshot: Arc<Snapshot>) -> Arc<Self> {
        Arc::new(Self {
            pool,
            clock,
            current: ArcSwap::new(snapshot),
            refreshing: tokio::sync::Mutex::new(()),
            older: Mutex::new(None),
        })
    }

    /// Goes on to `snapshot`, where [`Catalog::standing`] made it.
    #[doc(hidden)]
    pub fn show(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
    }

    /// The newest version seen so far. Costs nothing.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// What Postgres holds now, or a moment later. Errors: the store's.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, CatalogError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let mut conn = self.pool.acquire().await.map_err(StoreError::from)?;
        self.follow_clock(&mut conn).await?;
        let newest = catalog::version(&mut conn).await?;
        let current = self.snapshot();
        if newest == current.version {
            return Ok(current);
        }
        let next = if newest > current.version {
            let changes = catalog::changes(&mut conn, current.version, newest).await?;
            current.after(newest, changes)
        } else {
            // Another database under the same address: nothing of ours holds.
            tracing::warn!(current.version, newest, "the catalog went back: loading it anew");
            Snapshot::new(newest, catalog::load(&mut conn, newest).await?)
        };
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        Ok(next)
    }

    /// A snapshot of `version` or a newer one. Errors: `NotYet`; the store's.
    pub async fn at_least(&self, version: u64) -> Result<Arc<Snapshot>, CatalogError> {
        let current = self.snapshot();
        if current.version >= version {
            return Ok(current);
        }
        let newest = self.refresh().await?;
        if newest.version < version {
            return Err(CatalogError::NotYet { wanted: version, newest: newest.version });
        }
        Ok(newest)
    }

    /// The event codes of the organization's metrics that no snapshot holds yet, and the version in
    /// which that is so: they are counted from raw events once it is their turn.
    /// Errors: the store's.
    pub async fn awaited_codes(
        &self,
        organization: OrganizationId,
    ) -> Result<(u64, Vec<String>), CatalogError> {
        let mut conn = self.pool.acquire().await.map_err(StoreError::from)?;
        Ok(catalog::awaited_codes(&mut conn, organization).await?)
    }

    /// The snapshot of exactly `version`, however old. Errors: `NotYet`; the store's.
    pub async fn as_of(&self, version: u64) -> Result<Arc<Snapshot>, CatalogError> {
        let current = self.at_least(version).await?;
        if current.version == version {
            return Ok(current);
        }
        if let Some(older) = self.older.lock().as_ref().filter(|older| older.version == version) {
            return Ok(Arc::clone(older));
        }
        let mut conn = self.pool.acquire().await.map_err(StoreError::from)?;
        let mut changes = catalog::changes(&mut conn, version, current.version).await?;
        // From the newer to the older: what was opened closes again.
        mem::swap(&mut changes.opened, &mut changes.closed);
        let snapshot = Arc::new(current.after(version, changes));
        *self.older.lock() = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Only ever forward: whoever moves the test clock has already moved ours.
    async fn follow_clock(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if let Some(test) = clock::test_clock(conn).await?
            && (!self.clock.is_test() || test.now > self.clock.now())
        {
            self.clock.set(test.now);
        }
        Ok(())
    }
}

async fn follow(catalog: Arc<Catalog>, changed: Arc<Notify>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed.notified() => {}
            () = sleep(POLL_EVERY) => {}
        }
        let refreshed = tokio::select! {
            () = shutdown.cancelled() => return,
            refreshed = catalog.refresh() => refreshed,
        };
        if let Err(error) = refreshed {
            // The snapshot stays usable; what it does not hold yet is asked for where it matters.
            tracing::warn!(%error, "the catalog can't be refreshed");
        }
    }
}

async fn listen(pool: PgPool, changed: Arc<Notify>, shutdown: Shutdown) {
    let listening = async {
        loop {
            if let Err(error) = notify_until_lost(&pool, &changed).await {
                tracing::debug!(%error, "not listening to the catalog: polling goes on");
            }
            sleep(POLL_EVERY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = listening => {}
    }
}

async fn notify_until_lost(pool: &PgPool, changed: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CATALOG_CHANNEL).await?;
    while listener.try_recv().await?.is_some() {
        while listener.next_buffered().is_some() {}
        changed.notify_one();
    }
    Ok(())
}
