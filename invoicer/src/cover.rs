//! Up to which instant totals can't move any more but by late events.

use crate::{InvoicerDeps, InvoicerError};
use std::time::Duration;
use tokio::time::Instant;
use weir_billing::Timestamp;
use weir_store::{
    billing::Horizon,
    clock::{self, TestClock},
    partitions,
};

/// How far may be billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cover {
    /// What was asked for, but not later than the present: a period that still runs has no total.
    pub as_of: Timestamp,
    /// What is due within this may be billed. None: nothing.
    pub horizon: Option<Horizon>,
    /// The watermark at which all of `as_of` may be.
    pub needed: Timestamp,
    pub watermark: Option<Timestamp>,
    pub on_test_clock: bool,
}

impl Cover {
    pub fn is_whole(&self) -> bool {
        let covered = self.horizon.is_some_and(|horizon| horizon.as_of >= self.as_of);
        covered && self.watermark >= Some(self.needed)
    }
}

/// Asks the database, whose clock the watermarks go by. Without `as_of` it is the present.
///
/// On the real clock an instant is covered when the watermark has passed it. A test clock stands
/// still while events come, so there everything up to its time is covered when the watermark has
/// passed the real instant at which it was last moved; and what became due while it stood there, by
/// a termination, when the watermark has passed the real instant of that.
pub(crate) async fn cover(
    deps: &InvoicerDeps,
    as_of: Option<Timestamp>,
) -> Result<Cover, InvoicerError> {
    let mut conn = deps.pool.acquire().await?;
    let test = clock::test_clock(&mut conn).await?;
    let watermark = partitions::min_watermark(&mut conn).await?;
    if let Some(TestClock { now, moved_at }) = test {
        deps.clock.set(now);
        let as_of = as_of.map_or(now, |as_of| as_of.min(now));
        let horizon = watermark
            .filter(|watermark| *watermark >= moved_at)
            .map(|watermark| Horizon { as_of, known_before: Some(watermark) });
        return Ok(Cover { as_of, horizon, needed: moved_at, watermark, on_test_clock: true });
    }
    let now = clock::database_now(&mut conn).await?;
    let as_of = as_of.map_or(now, |as_of| as_of.min(now));
    let horizon = watermark.map(|watermark| Horizon::from(watermark.min(as_of)));
    Ok(Cover { as_of, horizon, needed: as_of, watermark, on_test_clock: false })
}

/// Waits until all of `as_of` is covered, on a test clock with everything that is due by now; at
/// most `patience`. Returns how far it is then.
pub(crate) async fn wait_for(
    deps: &InvoicerDeps,
    as_of: Timestamp,
    patience: Duration,
) -> Result<Cover, InvoicerError> {
    let deadline = Instant::now() + patience;
    let mut conn = deps.pool.acquire().await?;
    let asked_at = clock::database_now(&mut conn).await?;
    drop(conn);
    loop {
        let mut cover = cover(deps, Some(as_of)).await?;
        if cover.on_test_clock {
            cover.needed = asked_at;
        }
        if cover.is_whole() || Instant::now() >= deadline {
            return Ok(cover);
        }
        tokio::time::sleep(deps.config.poll()).await;
    }
}
