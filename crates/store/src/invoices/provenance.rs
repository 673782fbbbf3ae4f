//! From what an invoice's usage lines were computed: what an audit computes them from again, with
//! each line's own metric, charge, window, events and units.

use crate::columns::{bigint, unsigned};
use crate::{StoreError, Timestamp, catalog, partitions};
use sqlx::PgConnection;
use weir_ids::{InvoiceId, OrganizationId};

/// What was known when usage was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    /// The catalog that said which events are whose, and of which metric.
    pub catalog_version: u64,
    /// Real time: every event accepted before was counted. None without a pipeline.
    pub watermark: Option<Timestamp>,
}

/// What is known now: ask before the usage is read, since what is asked later may promise too much.
/// Not in a tenant's transaction, which sees neither.
pub async fn provenance_now(conn: &mut PgConnection) -> Result<Provenance, StoreError> {
    Ok(Provenance {
        watermark: partitions::min_watermark(conn).await?,
        catalog_version: catalog::version(conn).await?,
    })
}

/// Writes from what the lines of these drafts were computed. Those that are final keep theirs.
pub async fn set_provenance(
    conn: &mut PgConnection,
    invoices: &[(OrganizationId, InvoiceId)],
    provenance: Provenance,
) -> Result<(), StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<InvoiceId>) =
        invoices.iter().copied().unzip();
    sqlx::query!(
        "UPDATE invoices
         SET usage_catalog_version = $3, usage_watermark = $4,
             true_up_watermark = coalesce(true_up_watermark, $4)
         WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
           AND status = 'draft'",
        &organizations as _,
        &ids as _,
        bigint("invoices.usage_catalog_version", provenance.catalog_version)?,
        provenance.watermark,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// From what an invoice's usage lines were computed. None: no such invoice, or made before this was
/// kept.
pub async fn provenance(
    conn: &mut PgConnection,
    organization: OrganizationId,
    invoice: InvoiceId,
) -> Result<Option<Provenance>, StoreError> {
    let row = sqlx::query!(
        "SELECT usage_catalog_version, usage_watermark
         FROM invoices
         WHERE organization_id = $1 AND id = $2",
        organization as _,
        invoice as _,
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let version = row.usage_catalog_version;
    let version = version.map(|version| unsigned("invoices.usage_catalog_version", version));
    Ok(version
        .transpose()?
        .map(|catalog_version| Provenance { catalog_version, watermark: row.usage_watermark }))
}
