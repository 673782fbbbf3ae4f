//! `weir invoice`

use super::{Target, output::print};
use chrono::{DateTime, Utc};
use weir_invoicer::{InvoicerDeps, Report};
use weir_runtime::Clock;

/// Bill what is due.
#[derive(Debug, clap::Args)]
pub struct InvoiceArgs {
    /// Bill what is due at this time instead of now; not later than now.
    #[arg(long)]
    as_of: Option<DateTime<Utc>>,
    #[command(flatten)]
    target: Target,
}

impl InvoiceArgs {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        let deps = invoicer(&self.target).await?;
        let as_of = self.as_of.unwrap_or_else(|| deps.clock.now());
        let report = weir_invoicer::invoice_due(&deps, as_of).await?;
        print_report(&report)
    }
}

/// What the invoicer works with, against the deployment that is meant.
pub async fn invoicer(target: &Target) -> anyhow::Result<InvoicerDeps> {
    let pool = target.pool().await?;
    let clock = match weir_store::clock::test_clock(&mut *pool.acquire().await?).await? {
        Some(test) => Clock::test(test.now),
        None => Clock::real(),
    };
    let config = weir_invoicer::Config::load()?;
    Ok(InvoicerDeps { pool, usage: target.usage()?, clock, config })
}

/// One line of what was done, and one for each thing that could not be.
pub fn print_report(report: &Report) -> anyhow::Result<()> {
    print(format!(
        "{} invoices made, {} finalized, {} left for later",
        report.created, report.finalized, report.left
    ))?;
    for failure in &report.failures {
        print(format!("not billed: {failure:?}"))?;
    }
    Ok(())
}
