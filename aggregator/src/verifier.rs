//! Compares, in the background, what ClickHouse holds of each chunk with what its intent recorded.
//!
//! Every done chunk is looked at once: how far it is stands in Postgres, so a start or another
//! owner goes on there, and chunks that were not looked at are kept.

use crate::{Shared, error::AggregatorError, metrics, trouble::Trouble};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use weir_events::Position;
use weir_runtime::Shutdown;
use weir_store::{StoreError, intents, intents::DoneChunk};
use weir_usage::ChunkRange;

/// Verifies until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let interval = Duration::from_millis(shared.config.verify.interval_ms);
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let verified = tokio::select! {
            () = shutdown.cancelled() => return,
            verified = verify_all(&shared) => verified,
        };
        match verified {
            Ok(()) => trouble.worked("verify"),
            Err(error) => {
                metrics::failed("verify");
                if trouble.failed("verify") {
                    tracing::warn!(%error, "chunks not verified, will be tried again");
                }
            }
        }
    }
}

/// Rounds until nothing is left that was there at the beginning.
async fn verify_all(shared: &Shared) -> Result<(), AggregatorError> {
    let mut left = count(shared).await?;
    loop {
        metrics::verifier_behind(left);
        let looked_at = round(shared).await?;
        left = left.saturating_sub(looked_at);
        if looked_at == 0 || left == 0 {
            metrics::verifier_behind(left);
            return Ok(());
        }
    }
}

async fn count(shared: &Shared) -> Result<u64, AggregatorError> {
    let mut connection = shared.pool.acquire().await.map_err(StoreError::from)?;
    Ok(intents::count_unverified(&mut connection, &shared.owner).await?)
}

/// Verifies the oldest chunks; how many.
async fn round(shared: &Shared) -> Result<u64, AggregatorError> {
    let chunks_max = shared.config.verify.chunks_max;
    let mut connection = shared.pool.acquire().await.map_err(StoreError::from)?;
    let chunks = intents::unverified(&mut connection, &shared.owner, chunks_max).await?;
    drop(connection);
    if chunks.is_empty() {
        return Ok(0);
    }
    let ranges: Vec<ChunkRange> = chunks.iter().map(range).collect();
    let stored = shared.usage.chunk_counts(&ranges).await?;
    let differing = chunks.iter().zip(stored).filter(|(chunk, stored)| differs(chunk, *stored));
    metrics::verified(chunks.len() as u64, differing.count() as u64);
    let mut verified: BTreeMap<u32, u64> = BTreeMap::new();
    for chunk in &chunks {
        let to = verified.entry(chunk.intent.partition).or_default();
        *to = chunk.intent.to.max(*to);
    }
    let verified: Vec<(u32, u64)> = verified.into_iter().collect();
    let mut connection = shared.pool.acquire().await.map_err(StoreError::from)?;
    intents::set_verified(&mut connection, &verified).await?;
    Ok(chunks.len() as u64)
}

fn range(chunk: &DoneChunk) -> ChunkRange {
    ChunkRange {
        partition: chunk.intent.partition,
        from: Position::from_u64(chunk.intent.from),
        to: Position::from_u64(chunk.intent.to),
    }
}

fn differs(chunk: &DoneChunk, stored: u64) -> bool {
    let (ChunkRange { partition, from, to }, recorded) = (range(chunk), chunk.counts.events);
    if stored != recorded {
        tracing::error!(partition, %from, %to, stored, recorded, "a chunk's rows differ from its intent");
    }
    stored != recorded
}
