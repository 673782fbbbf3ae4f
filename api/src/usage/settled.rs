//! Waiting until everything that was accepted is counted: what an invoice leaves out when it becomes
//! final is lost to it.

use crate::{context::Context, error::OpError};
use std::time::Duration;
use tokio::time::Instant;
use weir_store::{
    PgConnection, StoreError, Timestamp, clock,
    invoices::{Provenance, provenance_now},
    partitions, rolls,
};

/// Waits until every event accepted before this call is in ClickHouse, and nothing of the
/// organization is being counted again; answers what usage read from
/// now on is computed from. Call it outside a transaction: it takes a connection of its own.
/// Errors: `Unavailable` when the aggregator is too far behind.
pub async fn settled(ctx: &Context) -> Result<Provenance, OpError> {
    let deadline = Instant::now() + Duration::from_millis(ctx.usage_wait.settle_ms);
    let mut connection = ctx.pool.acquire().await.map_err(StoreError::from)?;
    let asked_at = clock::database_now(&mut connection).await?;
    while !is_settled(ctx, &mut connection, asked_at).await? {
        if Instant::now() >= deadline {
            let message = "accepted events are still being counted: try again".to_owned();
            return Err(OpError::Unavailable { message });
        }
        tokio::time::sleep(Duration::from_millis(ctx.usage_wait.poll_ms)).await;
    }
    Ok(provenance_now(&mut connection).await?)
}

async fn is_settled(
    ctx: &Context,
    connection: &mut PgConnection,
    at: Timestamp,
) -> Result<bool, StoreError> {
    Ok(partitions::covers(connection, at).await?
        && !rolls::unsettled(connection).await?.contains(&ctx.organization))
}

/// What usage read from now on is computed from, however far the aggregator is.
pub async fn as_it_is(ctx: &Context) -> Result<Provenance, OpError> {
    let mut connection = ctx.pool.acquire().await.map_err(StoreError::from)?;
    Ok(provenance_now(&mut connection).await?)
}
