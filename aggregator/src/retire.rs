//! Deletes usage that a roll has replaced, a while after readers have turned to the new one.

use crate::{AggregatorError, Shared, metrics, trouble::Trouble};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use weir_runtime::Shutdown;
use weir_store::{
    StoreError,
    rolls::{self, RollKind},
};
use weir_usage::{Superseded, SupersededScope};

/// The partition whose owner deletes: a deletion is much work, and once is enough.
const DELETES: usize = 0;

/// Deletes until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let interval = Duration::from_secs(shared.config.roll.retire_interval_seconds);
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let lease = shared.leases.get(DELETES).and_then(|lease| *lease.borrow());
        if lease.is_none_or(|lease| lease.until <= Instant::now()) {
            continue;
        }
        // A deletion that is cut off is repeated.
        let deleted = tokio::select! {
            () = shutdown.cancelled() => return,
            deleted = round(&shared) => deleted,
        };
        match deleted {
            Ok(()) => trouble.worked("retire"),
            Err(error) => {
                metrics::failed("retire");
                if trouble.failed("retire") {
                    tracing::warn!(%error, "replaced usage not deleted, will be tried again");
                }
            }
        }
    }
}

async fn round(shared: &Shared) -> Result<(), AggregatorError> {
    let mut connection = shared.pool.acquire().await.map_err(StoreError::from)?;
    let all = rolls::superseded(&mut connection).await?;
    drop(connection);
    for one in all {
        let generation = one.generation();
        match one {
            rolls::Superseded::Replaced { generation, organization, kind } => {
                let replaced = replaced(generation, &kind);
                shared.usage.delete_superseded(organization, &replaced).await?;
            }
            rolls::Superseded::Abandoned { generation, organization } => {
                shared.usage.delete_generation(organization, generation).await?;
            }
        }
        // Only now: a deletion that failed is repeated.
        let mut connection = shared.pool.acquire().await.map_err(StoreError::from)?;
        rolls::mark_deleted(&mut connection, generation).await?;
        tracing::info!(generation, "what the roll replaced is deleted");
    }
    Ok(())
}

fn replaced(generation: u64, kind: &RollKind) -> Vec<Superseded> {
    let scopes: Vec<SupersededScope> = match kind {
        RollKind::Metric { metric } => vec![SupersededScope::Metric(*metric)],
        RollKind::Subscriptions { subscriptions } => {
            subscriptions.iter().map(|one| SupersededScope::Subscription(one.id)).collect()
        }
        RollKind::Cells { cells } => {
            cells.iter().map(|(one, bucket)| SupersededScope::Cell(*one, *bucket)).collect()
        }
    };
    scopes.into_iter().map(|scope| Superseded { scope, below: generation }).collect()
}
