//! Waiting until everything that was accepted is stored, or counted: what an invoice leaves out when
//! it becomes final is lost to it.

use crate::{config, context::Context, error::OpError};
use std::time::Duration;
use tokio::time::Instant;
use weir_store::{
    PgConnection, StoreError, clock,
    invoices::{Provenance, provenance_now},
    partitions, rolls,
};

/// How often and how long a call looks whether what it waits for has come.
pub struct Patience {
    deadline: Instant,
    poll: Duration,
}

impl Patience {
    /// From now on, as the configuration says.
    pub fn of(ctx: &Context) -> Self {
        let config::Usage { settle_ms, poll_ms } = ctx.usage_wait;
        let deadline = Instant::now() + Duration::from_millis(settle_ms);
        Self { deadline, poll: Duration::from_millis(poll_ms) }
    }

    /// Waits until it is time to look again. Errors: `Unavailable` when it is over.
    pub async fn again(&self) -> Result<(), OpError> {
        if Instant::now() >= self.deadline {
            let message = "accepted events are still being counted: try again".to_owned();
            return Err(OpError::Unavailable { message });
        }
        tokio::time::sleep(self.poll).await;
        Ok(())
    }
}

/// Waits until every event accepted before this call is in ClickHouse. Call it outside a transaction:
/// it takes a connection of its own. Errors: `Unavailable` when the aggregator is too far behind.
pub async fn stored(ctx: &Context) -> Result<(), OpError> {
    let patience = Patience::of(ctx);
    let mut connection = ctx.pool.acquire().await.map_err(StoreError::from)?;
    wait_until_stored(&mut connection, &patience).await
}

/// Waits for the same, and until nothing of the organization is being counted again; answers what
/// usage read from now on is computed from. As [`stored`].
pub async fn settled(ctx: &Context) -> Result<Provenance, OpError> {
    let patience = Patience::of(ctx);
    let mut connection = ctx.pool.acquire().await.map_err(StoreError::from)?;
    wait_until_stored(&mut connection, &patience).await?;
    while rolls::unsettled(&mut connection).await?.contains(&ctx.organization) {
        patience.again().await?;
    }
    Ok(provenance_now(&mut connection).await?)
}

async fn wait_until_stored(
    connection: &mut PgConnection,
    patience: &Patience,
) -> Result<(), OpError> {
    let asked_at = clock::database_now(connection).await?;
    while !partitions::covers(connection, asked_at).await? {
        patience.again().await?;
    }
    Ok(())
}

/// What usage read from now on is computed from, however far the aggregator is.
pub async fn as_it_is(ctx: &Context) -> Result<Provenance, OpError> {
    let mut connection = ctx.pool.acquire().await.map_err(StoreError::from)?;
    Ok(provenance_now(&mut connection).await?)
}
