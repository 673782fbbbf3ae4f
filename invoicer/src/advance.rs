//! Moving a test clock: everything that falls due on the way is done, in order of time.

use crate::{
    InvoicerDeps, InvoicerError, Report,
    cover::{cover, wait_for},
    schedule::bill_covered,
};
use std::time::Duration;
use tokio::time::Instant;
use weir_billing::Timestamp;
use weir_store::{StoreError, billing, clock};

/// A stop on the way: something was due there, or it is the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where the clock stands.
    pub at: Timestamp,
    pub report: Report,
}

/// Moves the deployment's test clock to `to`, stopping at each instant at which something is due:
/// there it waits until everything accepted before is counted, bills it, and goes on. Returns what
/// was done in all. `to` may be where the clock stands: then what is due now is done.
/// `on_step` is told of each stop.
/// Errors: `Store` with `RealClock` or `ClockBackwards`; `NotCovered` when the aggregator does not
/// catch up in `watermark.settle_ms`; `Held` when another invoicer doesn't end. The clock then
/// stands where it got to, and the same call goes on from there.
pub async fn advance_clock(
    deps: &InvoicerDeps,
    to: Timestamp,
    on_step: &mut (dyn FnMut(&Step) + Send),
) -> Result<Report, InvoicerError> {
    let mut conn = deps.pool.acquire().await?;
    let test = clock::test_clock(&mut conn).await?.ok_or(StoreError::RealClock)?;
    if to < test.now {
        return Err(StoreError::ClockBackwards { now: test.now, to }.into());
    }
    drop(conn);
    let mut all = Report::default();
    let mut at = test.now;
    // What is due already comes first, at the present.
    let mut overdue = due(deps, at).await? > 0;
    loop {
        if !overdue {
            let mut conn = deps.pool.acquire().await?;
            let next = billing::next_due(&mut conn, at).await?;
            at = next.map_or(to, |next| next.min(to));
        }
        let step = Step { at, report: stop(deps, at).await? };
        on_step(&step);
        all.add(step.report);
        if at >= to {
            return Ok(all);
        }
        overdue = false;
    }
}

/// Moves the clock to `at`, settles, and bills until nothing is left there.
async fn stop(deps: &InvoicerDeps, at: Timestamp) -> Result<Report, InvoicerError> {
    let mut conn = deps.pool.acquire().await?;
    clock::advance(&mut conn, at).await?;
    drop(conn);
    let patience = Duration::from_millis(deps.config.watermark.settle_ms);
    let deadline = Instant::now() + patience;
    let mut covered = wait_for(deps, at, patience).await?;
    if !covered.is_whole() {
        let (needed, watermark) = (covered.needed, covered.watermark);
        return Err(InvoicerError::NotCovered { needed, watermark });
    }
    let mut report = Report::default();
    loop {
        report.add(bill_covered(deps, covered).await?);
        if report.left == 0 {
            return Ok(report);
        }
        // The scheduled invoicer is at it and has the customers locked, or something became due just
        // now, before the watermark.
        if Instant::now() >= deadline {
            return Err(InvoicerError::Held { at, left: report.left });
        }
        tokio::time::sleep(deps.config.poll()).await;
        covered = cover(deps, Some(at)).await?;
    }
}

async fn due(deps: &InvoicerDeps, at: Timestamp) -> Result<u64, InvoicerError> {
    let mut conn = deps.pool.acquire().await?;
    Ok(billing::count_due(&mut conn, at).await?)
}
