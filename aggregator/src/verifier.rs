//! Compares, in the background, what ClickHouse holds of each chunk with what its intent recorded.

use crate::{Shared, error::AggregatorError, metrics};
use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering, time::Duration};
use weir_events::Position;
use weir_runtime::Shutdown;
use weir_store::{Timestamp, intents, intents::DoneChunk};

/// What was verified last of each partition.
type Verified = HashMap<u32, Timestamp>;

/// Verifies until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: Shutdown) {
    let interval = Duration::from_millis(shared.config.verify.interval_ms);
    let mut verified = Verified::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Err(error) = round(&shared, &mut verified).await {
            metrics::failed("verify");
            tracing::warn!(%error, "chunks not verified, will be tried again");
        }
    }
}

async fn round(shared: &Shared, verified: &mut Verified) -> Result<(), AggregatorError> {
    let mut connection = shared.pool.acquire().await.map_err(weir_store::StoreError::from)?;
    let chunks_max = shared.config.verify.chunks_max;
    let mut chunks = intents::recent_done(&mut connection, chunks_max).await?;
    drop(connection);
    // Newest first: turned round, what is done when one fails stays done.
    chunks.reverse();
    for chunk in chunks {
        let partition = chunk.intent.partition;
        let owned = shared
            .progress
            .get(partition as usize)
            .is_some_and(|progress| progress.owned.load(Ordering::Relaxed));
        let last = verified.get(&partition);
        if owned && last.is_none_or(|last| *last < chunk.done_at) {
            let differs = differs(shared, &chunk).await?;
            metrics::verified(1, u64::from(differs));
            verified.insert(partition, chunk.done_at);
        }
    }
    Ok(())
}

async fn differs(shared: &Shared, chunk: &DoneChunk) -> Result<bool, AggregatorError> {
    let (from, to) = (chunk.intent.from, chunk.intent.to);
    let (from, to) = (Position::from_u64(from), Position::from_u64(to));
    let partition = chunk.intent.partition;
    let stored = shared.usage.chunk_count(partition, from, to).await?;
    let recorded = chunk.counts.events;
    if stored != recorded {
        tracing::error!(partition, %from, %to, stored, recorded, "a chunk's rows differ from its intent");
    }
    Ok(stored != recorded)
}
