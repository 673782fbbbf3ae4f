//! Shows that this aggregator lives, and decides with [`crate::balance`] which partitions it wants.

use crate::{
    Shared,
    balance::{Keeper, Situation},
    error::AggregatorError,
    metrics,
    trouble::Trouble,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, timeout};
use weir_runtime::Shutdown;
use weir_store::{StoreError, aggregators, clock, partitions};

/// At the end nobody waits for Postgres: what is not said is noticed after a while.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Balances until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let interval = Duration::from_millis(shared.config.balance.interval_ms);
    let mut keeper = Keeper::new(shared.wanted.len(), shared.config.patience());
    let mut trouble = Trouble::default();
    loop {
        let balanced = tokio::select! {
            () = shutdown.cancelled() => break,
            balanced = round(&shared, &mut keeper) => balanced,
        };
        match balanced {
            Ok(()) => trouble.worked("balance"),
            // What was wanted stays so: without Postgres nobody else can claim it either.
            Err(error) => {
                metrics::failed("balance");
                if trouble.failed("balance") {
                    tracing::warn!(%error, "partitions not balanced, will be tried again");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(interval) => {}
        }
    }
    let leave = async {
        let mut connection = shared.pool.acquire().await?;
        aggregators::leave(&mut connection, &shared.owner).await
    };
    if !matches!(timeout(LEAVE_TIMEOUT, leave).await, Ok(Ok(()))) {
        tracing::debug!("the end was not announced");
    }
}

async fn round(shared: &Shared, keeper: &mut Keeper) -> Result<(), AggregatorError> {
    let mut connection = shared.pool.acquire().await.map_err(StoreError::from)?;
    let me = shared.owner.as_str();
    let silent_after = shared.config.silent_after();
    let owners = aggregators::heartbeat(&mut connection, me, silent_after).await?;
    let all = partitions::list(&mut connection).await?;
    let now = clock::database_now(&mut connection).await?;
    drop(connection);
    let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
    let held: Vec<Option<&str>> = all
        .iter()
        .map(|partition| {
            let lasts = partition.lease_until.is_some_and(|until| until >= now);
            let owner = partition.owner.as_deref();
            // After a restart one's own are one's own, whatever became of the lease.
            owner.filter(|owner| lasts || *owner == me)
        })
        .collect();
    let situation = Situation { owners: &owners, me, held: &held };
    let wanted = keeper.wanted(situation, settling(shared), Instant::now());
    metrics::balance(owners.len(), wanted.iter().filter(|wanted| **wanted).count());
    for (slot, wanted) in shared.wanted.iter().zip(wanted) {
        slot.send_if_modified(|old| std::mem::replace(old, wanted) != wanted);
    }
    Ok(())
}

/// Partitions that are wanted and not yet worked on.
fn settling(shared: &Shared) -> usize {
    let partitions = (0..).zip(&shared.wanted);
    let wanted = partitions.filter(|(_, wanted)| *wanted.borrow());
    wanted.filter(|(partition, _)| !is_settled(shared, *partition)).count()
}

fn is_settled(shared: &Shared, partition: u32) -> bool {
    let owned = |at: &crate::Progress| at.owned.load(Ordering::Relaxed);
    shared.progress.get(partition as usize).is_some_and(owned) && shared.known.holds(partition)
}
