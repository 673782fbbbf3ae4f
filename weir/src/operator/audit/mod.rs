//! `weir audit`

mod compare;
mod progress;
mod recount;
mod report;

use super::{Target, keys::resolve, output::print};
use anyhow::Context;
use progress::Progress;
use recount::{Source, recount};
use std::collections::BTreeSet;
use weir_billing::{invoice::Invoice, line::Pricing};
use weir_catalog::Snapshot;
use weir_ids::{InvoiceId, OrganizationId};
use weir_store::{
    PgConnection, catalog,
    invoices::{self, AuditLine, Provenance},
};

/// Compute every usage line of an invoice again from the events themselves, and compare. Ends with 0
/// when all are equal, with 1 when one differs, with 2 when that can't be told.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// The invoice's id or number.
    invoice: String,
    /// Name or id of the organization; needed when there are several.
    #[arg(long)]
    organization: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// An audit that was made, and found differences.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{differing} of {lines} usage lines differ")]
struct Differs {
    differing: usize,
    lines: usize,
}

/// An audit that was not made: nothing is known of the invoice.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("not audited")]
pub struct NotAudited;

impl AuditArgs {
    /// Runs it. Errors: an invoice that differs; `NotAudited` for any other.
    pub async fn run(self) -> anyhow::Result<()> {
        let audited = self.audit().await;
        audited
            .map_err(|error| if error.is::<Differs>() { error } else { error.context(NotAudited) })
    }

    async fn audit(self) -> anyhow::Result<()> {
        let pool = self.target.pool().await?;
        let usage = self.target.usage()?;
        let mut connection = pool.acquire().await?;
        let organization = resolve(&mut connection, self.organization.as_deref()).await?.id;
        let invoice = find(&mut connection, organization, &self.invoice).await?;
        let lines = invoices::audit_lines(&mut connection, organization, invoice.id).await?;
        let provenance = provenance(&mut connection, &invoice).await?;
        let version = provenance.catalog_version;
        let rows = catalog::load(&mut connection, version).await?;
        let snapshot = Snapshot::new(version, rows);
        drop(connection);

        let source = Source {
            pool: &pool,
            usage: &usage,
            organization,
            snapshot: &snapshot,
            // Watermarks are of real time; on a test clock receipts are dated by that one.
            counted_to: provenance.watermark.map(|at| at.min(invoice.updated_at)),
        };
        let progress = Progress::start()?;
        let pricings: Vec<Pricing<'_>> = lines.iter().map(AuditLine::pricing).collect();
        let names: BTreeSet<String> =
            lines.iter().map(|line| line.external_subscription_id.clone()).collect();
        let counted = recount(&source, &pricings, names, &progress).await?;
        progress.end();

        let compared = compare::compare(&lines, &counted);
        match self.json {
            true => print(report::json(&invoice, provenance, counted.events, &compared))?,
            false => print(report::table(&invoice, counted.events, &compared))?,
        }
        match compared.iter().filter(|line| !line.is_equal()).count() {
            0 => Ok(()),
            differing => Err(Differs { differing, lines: compared.len() }.into()),
        }
    }
}

async fn find(
    connection: &mut PgConnection,
    organization: OrganizationId,
    wanted: &str,
) -> anyhow::Result<Invoice> {
    let found = match InvoiceId::parse(wanted) {
        Ok(id) => invoices::find(connection, organization, id).await?,
        Err(_) => invoices::find_by_number(connection, organization, wanted).await?,
    };
    found.with_context(|| format!("no invoice {wanted:?} in this organization"))
}

/// What the invoice's usage was read with. One made before that was kept is counted with the catalog
/// as it is.
async fn provenance(
    connection: &mut PgConnection,
    invoice: &Invoice,
) -> anyhow::Result<Provenance> {
    let kept = invoices::provenance(connection, invoice.organization, invoice.id).await?;
    if let Some(kept) = kept {
        return Ok(kept);
    }
    eprintln!("weir: the invoice does not say what it was computed with: taking today's catalog");
    Ok(Provenance { catalog_version: catalog::version(connection).await?, watermark: None })
}
