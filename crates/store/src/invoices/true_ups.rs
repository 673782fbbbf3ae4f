//! What late events and voids have changed of periods that are on finalized invoices.

use super::fee_row::FeeRow;
use crate::columns::{id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use weir_billing::invoice::{Fee, Period};
use weir_billing::true_up::PendingTrueUp;
use weir_ids::{
    BillableMetricId, CustomerId, InvoiceId, OrganizationId, PlanVersionId, SubscriptionId,
};

/// Up to when a subscription's past periods are corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrueUpSince {
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    /// The last instant an invoice of it was due at.
    pub due_at: Timestamp,
    /// The end of its last window of usage.
    pub usage_to: Timestamp,
    /// Changes from before this are on its invoices. None: nobody knows, so all are looked at.
    pub corrected_to: Option<Timestamp>,
}

/// A window of usage on a finalized invoice of which a metric has changed, or waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastWindow {
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    pub invoice: InvoiceId,
    pub period: Period,
    /// None on invoices made before this was kept.
    pub whole_seconds: Option<u64>,
    pub plan_version: PlanVersionId,
    pub started_at: Timestamp,
}

/// Of these subscriptions, those that have billed usage and whose organization bills late events.
pub async fn true_up_since(
    conn: &mut PgConnection,
    subscriptions: &[(OrganizationId, SubscriptionId)],
) -> Result<Vec<TrueUpSince>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        subscriptions.iter().copied().unzip();
    // Where the deployment's clock stands still, receipts are dated by it, and so is `created_at`.
    let rows = sqlx::query!(
        r#"SELECT l.organization_id, l.subscription_id, l.due_at AS "due_at!",
               l.usage_to AS "usage_to!",
               least(i.true_up_watermark, i.created_at) AS corrected_to,
               i.true_up_watermark IS NULL AS "unknown!"
           FROM (
               SELECT organization_id, subscription_id, max(usage_end) AS usage_to,
                   max(due_at) AS due_at
               FROM invoice_subscriptions
               WHERE (organization_id, subscription_id)
                   IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
               GROUP BY organization_id, subscription_id
           ) l
           JOIN organizations o ON o.id = l.organization_id AND o.late_events = 'true_up'
           JOIN invoice_subscriptions s ON s.organization_id = l.organization_id
               AND s.subscription_id = l.subscription_id AND s.due_at = l.due_at
           JOIN invoices i ON i.organization_id = s.organization_id AND i.id = s.invoice_id
           WHERE l.usage_to IS NOT NULL"#,
        &organizations as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?;
    let since = rows.into_iter().map(|row| TrueUpSince {
        organization: id(row.organization_id),
        subscription: id(row.subscription_id),
        due_at: row.due_at,
        usage_to: row.usage_to,
        corrected_to: row.corrected_to.filter(|_| !row.unknown),
    });
    Ok(since.collect())
}

/// Subscriptions of these customers that have ended and had their last invoice, with their customers:
/// what comes late for them is on their customers' next invoices.
pub async fn ended_subscriptions(
    conn: &mut PgConnection,
    customers: &[(OrganizationId, CustomerId)],
) -> Result<Vec<(OrganizationId, SubscriptionId, CustomerId)>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<CustomerId>) =
        customers.iter().copied().unzip();
    let rows = sqlx::query!(
        "SELECT s.organization_id, s.id, s.customer_id
         FROM subscriptions s
         JOIN subscription_dues d
             ON d.organization_id = s.organization_id AND d.subscription_id = s.id
         WHERE (s.organization_id, s.customer_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
           AND s.ended_at IS NOT NULL AND d.next_due_at IS NULL",
        &organizations as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?;
    let ended = rows.into_iter();
    Ok(ended.map(|row| (id(row.organization_id), id(row.id), id(row.customer_id))).collect())
}

/// The windows of finalized invoices that hold one of these buckets of 15 minutes, by metric, and
/// those of the `asked` subscriptions that wait since an earlier invoice. What carries over is in
/// all later windows too.
pub async fn past_windows(
    conn: &mut PgConnection,
    asked: &[(OrganizationId, SubscriptionId)],
    changed: &[(OrganizationId, SubscriptionId, BillableMetricId, Timestamp)],
) -> Result<Vec<PastWindow>, StoreError> {
    let organizations: Vec<_> = changed.iter().map(|one| one.0).collect();
    let subscriptions: Vec<_> = changed.iter().map(|one| one.1).collect();
    let metrics: Vec<_> = changed.iter().map(|one| one.2).collect();
    let buckets: Vec<Timestamp> = changed.iter().map(|one| one.3).collect();
    let (asked_in, asked): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        asked.iter().copied().unzip();
    let rows = sqlx::query_file!(
        "src/sql/past_windows.sql",
        &organizations as _,
        &subscriptions as _,
        &metrics as _,
        &buckets,
        &asked_in as _,
        &asked as _,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let whole_seconds = row
                .whole_seconds
                .map(|seconds| unsigned("invoice_subscriptions.whole_seconds", seconds))
                .transpose()?;
            Ok(PastWindow {
                organization: id(row.organization_id),
                subscription: id(row.subscription_id),
                metric: id(row.metric_id),
                invoice: id(row.invoice_id),
                period: Period { start: row.usage_start, end: row.usage_end },
                whole_seconds,
                plan_version: id(row.plan_version_id),
                started_at: row.started_at,
            })
        })
        .collect()
}

/// Every line that bills or corrects one of these windows, also on drafts.
pub async fn billed_lines(
    conn: &mut PgConnection,
    windows: &[PastWindow],
) -> Result<Vec<Fee>, StoreError> {
    let organizations: Vec<_> = windows.iter().map(|window| window.organization).collect();
    let invoices: Vec<_> = windows.iter().map(|window| window.invoice).collect();
    let subscriptions: Vec<_> = windows.iter().map(|window| window.subscription).collect();
    let starts: Vec<Timestamp> = windows.iter().map(|window| window.period.start).collect();
    let rows = sqlx::query_file_as!(
        FeeRow,
        "src/sql/billed_lines.sql",
        &organizations as _,
        &invoices as _,
        &subscriptions as _,
        &starts,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(FeeRow::read).collect()
}

/// Writes what waits of these subscriptions, in the place of what waited before.
pub async fn replace_pending(
    conn: &mut PgConnection,
    subscriptions: &[(OrganizationId, SubscriptionId)],
    pending: &[(OrganizationId, PendingTrueUp)],
) -> Result<(), StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        subscriptions.iter().copied().unzip();
    sqlx::query!(
        "DELETE FROM pending_true_ups
         WHERE (organization_id, subscription_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &ids as _,
    )
    .execute(&mut *conn)
    .await?;
    note_pending(conn, pending).await
}

/// Writes what waits for the next invoices, besides what does already.
pub async fn note_pending(
    conn: &mut PgConnection,
    pending: &[(OrganizationId, PendingTrueUp)],
) -> Result<(), StoreError> {
    if pending.is_empty() {
        return Ok(());
    }
    let organizations: Vec<_> = pending.iter().map(|(of, _)| *of).collect();
    let subscriptions: Vec<_> = pending.iter().map(|(_, one)| one.subscription).collect();
    let metrics: Vec<_> = pending.iter().map(|(_, one)| one.metric).collect();
    let starts: Vec<Timestamp> = pending.iter().map(|(_, one)| one.period.start).collect();
    let ends: Vec<Timestamp> = pending.iter().map(|(_, one)| one.period.end).collect();
    sqlx::query!(
        "INSERT INTO pending_true_ups
             (organization_id, subscription_id, metric_id, period_start, period_end)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[],
             $5::timestamptz[])
         ON CONFLICT DO NOTHING",
        &organizations as _,
        &subscriptions as _,
        &metrics as _,
        &starts,
        &ends,
    )
    .execute(conn)
    .await?;
    Ok(())
}
