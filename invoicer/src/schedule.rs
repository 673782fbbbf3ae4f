//! When the invoicer works: by schedule, or because an operator asks.

use crate::{
    InvoicerDeps, InvoicerError, Report,
    batch::bill_batch,
    cover::{Cover, cover, wait_for},
    drafts::finalize_batch,
    metrics,
};
use futures::future::join_all;
use std::time::Duration;
use weir_billing::Timestamp;
use weir_runtime::Shutdown;
use weir_store::{
    billing::{self, Horizon},
    billing_failures, rolls,
};

/// Bills what is due at or before `as_of` (not later than the present), also what failed before.
/// Waits a while for the pipeline where it has to; what is not covered then is left and counted.
/// Errors: a database that is away. What was committed before stays.
pub async fn invoice_due(deps: &InvoicerDeps, as_of: Timestamp) -> Result<Report, InvoicerError> {
    let mut conn = deps.pool.acquire().await?;
    billing_failures::retry_now(&mut conn).await?;
    let due = billing::count_due(&mut conn, as_of).await?;
    drop(conn);
    let covered = if due == 0 {
        cover(deps, Some(as_of)).await?
    } else {
        wait_for(deps, as_of, Duration::from_millis(deps.config.watermark.wait_ms)).await?
    };
    if !covered.is_whole() && due > 0 {
        let (needed, watermark) = (covered.needed, covered.watermark);
        tracing::warn!(%needed, ?watermark, "the pipeline has not caught up: some of what is due waits");
    }
    bill_covered(deps, covered).await
}

/// Bills by schedule until shutdown. Errors along the way are logged, once each, and tried again.
pub async fn run(deps: InvoicerDeps, shutdown: Shutdown) {
    let mut last = Situation::default();
    while !shutdown.is_cancelled() {
        // A batch that has begun is ended: the shutdown only stops the waiting.
        let ticked = tick(&deps).await;
        metrics::ran(ticked.is_ok());
        let now = match ticked {
            Ok(situation) => situation,
            Err(error) => Situation { error: Some(error.to_string()), waiting: last.waiting },
        };
        now.log_changes_since(&last);
        last = now;
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(deps.config.interval()) => {}
        }
    }
}

/// What is worth a word when it changes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Situation {
    error: Option<String>,
    waiting: bool,
}

impl Situation {
    fn log_changes_since(&self, last: &Self) {
        match (&self.error, &last.error) {
            (Some(error), before) if Some(error) != before.as_ref() => {
                tracing::warn!(error, "cannot bill, trying again");
            }
            (None, Some(_)) => tracing::info!("billing again"),
            _ => {}
        }
        match (self.waiting, last.waiting) {
            (true, false) => {
                tracing::info!("something is due that waits for the aggregator to catch up");
            }
            (false, true) => tracing::info!("the aggregator has caught up"),
            _ => {}
        }
    }
}

async fn tick(deps: &InvoicerDeps) -> Result<Situation, InvoicerError> {
    let covered = cover(deps, None).await?;
    let report = bill_covered(deps, covered).await?;
    if report.created + report.finalized > 0 {
        tracing::info!(created = report.created, finalized = report.finalized, "billed");
    }
    metrics::left_due(report.left);
    Ok(Situation { error: None, waiting: report.left > 0 && !covered.is_whole() })
}

/// Bills everything up to the horizon, some batches beside each other: while ClickHouse adds up the
/// usage of one, Postgres writes another. They share no customer, as if each had an invoicer of its
/// own, and each is a transaction of its own.
pub(crate) async fn bill_covered(
    deps: &InvoicerDeps,
    covered: Cover,
) -> Result<Report, InvoicerError> {
    let mut report = Report::default();
    if let Some(horizon) = covered.horizon {
        // Nothing is due at most looks: one batch finds that out.
        if let Some(first) = bill_batch(deps, horizon).await? {
            report.add(first);
            let lanes = lanes(deps).map(|()| bill_all(deps, horizon));
            report.add(together(join_all(lanes).await)?);
        }
        if let Some(first) = finalize_batch(deps, horizon.as_of).await? {
            report.add(first);
            let lanes = lanes(deps).map(|()| finalize_all(deps, horizon.as_of));
            report.add(together(join_all(lanes).await)?);
        }
    }
    let mut conn = deps.pool.acquire().await?;
    metrics::organizations_waiting(rolls::unsettled(&mut conn).await?.len());
    report.left = billing::count_due(&mut conn, covered.as_of).await?;
    Ok(report)
}

fn lanes(deps: &InvoicerDeps) -> impl Iterator<Item = ()> {
    (0..deps.config.batch.in_flight_max).map(|_| ())
}

/// Batch after batch, until no customer is left that nobody else has locked.
async fn bill_all(deps: &InvoicerDeps, horizon: Horizon) -> Result<Report, InvoicerError> {
    let mut report = Report::default();
    while let Some(batch) = bill_batch(deps, horizon).await? {
        report.add(batch);
    }
    Ok(report)
}

/// The same of drafts.
async fn finalize_all(deps: &InvoicerDeps, as_of: Timestamp) -> Result<Report, InvoicerError> {
    let mut report = Report::default();
    while let Some(batch) = finalize_batch(deps, as_of).await? {
        report.add(batch);
    }
    Ok(report)
}

/// What all of them did. One that fails has not stopped the others. Errors: the first one's.
fn together(reports: Vec<Result<Report, InvoicerError>>) -> Result<Report, InvoicerError> {
    let mut all = Report::default();
    for report in reports {
        all.add(report?);
    }
    Ok(all)
}
