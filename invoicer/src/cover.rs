//! Up to which instant totals can't move any more but by late events.

use crate::{InvoicerDeps, InvoicerError};
use std::time::Duration;
use tokio::time::Instant;
use weir_billing::Timestamp;
use weir_store::{clock, partitions};

/// How far may be billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cover {
    /// What was asked for, but not later than the present: a period that still runs has no total.
    pub as_of: Timestamp,
    /// What is due at or before this may be billed. None: nothing.
    pub horizon: Option<Timestamp>,
    /// The watermark at which all of `as_of` may be.
    pub needed: Timestamp,
    pub watermark: Option<Timestamp>,
}

impl Cover {
    pub fn is_whole(&self) -> bool {
        self.horizon >= Some(self.as_of)
    }
}

/// Asks the database, whose clock the watermarks go by. Without `as_of` it is the present.
///
/// On the real clock an instant is covered when the watermark has passed it. A test clock stands
/// still while events come, so there everything up to its time is covered when the watermark has
/// passed the real instant at which it was last moved.
pub(crate) async fn cover(
    deps: &InvoicerDeps,
    as_of: Option<Timestamp>,
) -> Result<Cover, InvoicerError> {
    let mut conn = deps.pool.acquire().await?;
    let test = clock::test_clock(&mut conn).await?;
    let watermark = partitions::min_watermark(&mut conn).await?;
    if let Some(test) = test {
        deps.clock.set(test.now);
        let as_of = as_of.map_or(test.now, |as_of| as_of.min(test.now));
        let horizon = (watermark >= Some(test.moved_at)).then_some(as_of);
        return Ok(Cover { as_of, horizon, needed: test.moved_at, watermark });
    }
    let now = clock::database_now(&mut conn).await?;
    let as_of = as_of.map_or(now, |as_of| as_of.min(now));
    let horizon = watermark.map(|watermark| watermark.min(as_of));
    Ok(Cover { as_of, horizon, needed: as_of, watermark })
}

/// Waits until all of `as_of` is covered, at most `patience`; returns how far it is then.
pub(crate) async fn wait_for(
    deps: &InvoicerDeps,
    as_of: Timestamp,
    patience: Duration,
) -> Result<Cover, InvoicerError> {
    let deadline = Instant::now() + patience;
    loop {
        let cover = cover(deps, Some(as_of)).await?;
        if cover.is_whole() || Instant::now() >= deadline {
            return Ok(cover);
        }
        tokio::time::sleep(deps.config.poll()).await;
    }
}
