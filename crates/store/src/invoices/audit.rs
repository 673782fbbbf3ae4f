//! The lines of an invoice that bill usage, with all that their amounts follow from but the events.

use super::fee_row::FeeRow;
use super::find;
use crate::columns::{id, unsigned};
use crate::{StoreError, Timestamp, billing, plans};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use weir_billing::charge::Charge;
use weir_billing::contract::MetricTerms;
use weir_billing::invoice::{Fee, FeeKind, UsageSlot};
use weir_billing::line::Pricing;
use weir_billing::refresh::seconds;
use weir_ids::{InvoiceId, OrganizationId, PlanVersionId, SubscriptionId};

/// A line of usage. What it should be are the lines of [`AuditLine::pricing`] for its slot, less
/// what was billed `before`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// With its subscription, slot, period, units, events and amounts.
    pub fee: Fee,
    pub slot: UsageSlot,
    pub external_subscription_id: String,
    /// The subscription's.
    pub started_at: Timestamp,
    /// As of the plan version that priced the period.
    pub charge: Charge,
    pub terms: MetricTerms,
    pub whole_seconds: u64,
    /// The lines of the same slot and period on invoices made earlier: none unless it is a true-up.
    pub before: Vec<Fee>,
}

impl AuditLine {
    /// How its charge is priced in its period.
    #[must_use]
    pub fn pricing(&self) -> Pricing<'_> {
        Pricing {
            subscription: self.fee.subscription,
            started_at: self.started_at,
            period: self.fee.period,
            whole_seconds: self.whole_seconds,
            charge: &self.charge,
            terms: &self.terms,
            currency: self.fee.amount.currency,
        }
    }
}

/// The usage lines of an invoice, in its order. Errors: `NotFound`; `Corrupt` when what a line was
/// priced with is not there.
pub async fn audit_lines(
    conn: &mut PgConnection,
    organization: OrganizationId,
    invoice: InvoiceId,
) -> Result<Vec<AuditLine>, StoreError> {
    let found = find(conn, organization, invoice).await?.ok_or(StoreError::NotFound)?;
    let fees: Vec<(Fee, UsageSlot)> = found
        .fees
        .into_iter()
        .filter_map(|fee| slot_of(&fee).cloned().map(|slot| (fee, slot)))
        .collect();
    let windows = windows(conn, organization, &fees).await?;
    let ids: BTreeSet<_> =
        windows.values().map(|window| (organization, window.plan_version)).collect();
    let versions = plans::find_versions(conn, &ids.into_iter().collect::<Vec<_>>()).await?;
    let metrics: BTreeSet<_> = fees.iter().map(|(_, slot)| (organization, slot.metric)).collect();
    let terms = billing::metric_terms(conn, &metrics.into_iter().collect::<Vec<_>>()).await?;
    let earlier = earlier(conn, organization, invoice, &fees).await?;
    fees.into_iter()
        .map(|(fee, slot)| {
            let missing = || StoreError::Corrupt { column: "fees.id", value: fee.id.to_string() };
            let window = windows.get(&(fee.subscription, fee.period.start)).ok_or_else(missing)?;
            let version = versions.get(&window.plan_version).ok_or_else(missing)?;
            let charge = version.charges.iter().find(|charge| charge.id == slot.charge);
            let before = earlier.iter().filter(|one| {
                one.subscription == fee.subscription
                    && one.period == fee.period
                    && slot_of(one) == Some(&slot)
            });
            Ok(AuditLine {
                external_subscription_id: window.external_id.clone(),
                started_at: window.started_at,
                charge: charge.cloned().ok_or_else(missing)?,
                terms: terms.get(&slot.metric).cloned().ok_or_else(missing)?,
                whole_seconds: window.whole_seconds.unwrap_or_else(|| seconds(fee.period)),
                before: before.cloned().collect(),
                fee,
                slot,
            })
        })
        .collect()
}

fn slot_of(fee: &Fee) -> Option<&UsageSlot> {
    match &fee.kind {
        FeeKind::Subscription => None,
        FeeKind::Charge { slot, .. } | FeeKind::TrueUp { slot, .. } => Some(slot),
    }
}

struct Window {
    external_id: String,
    started_at: Timestamp,
    whole_seconds: Option<u64>,
    plan_version: PlanVersionId,
}

/// By subscription and start.
async fn windows(
    conn: &mut PgConnection,
    organization: OrganizationId,
    fees: &[(Fee, UsageSlot)],
) -> Result<BTreeMap<(SubscriptionId, Timestamp), Window>, StoreError> {
    let subscriptions: Vec<_> = fees.iter().map(|(fee, _)| fee.subscription).collect();
    let starts: Vec<Timestamp> = fees.iter().map(|(fee, _)| fee.period.start).collect();
    let rows = sqlx::query!(
        r#"SELECT s.subscription_id, s.usage_start AS "usage_start!", s.whole_seconds,
               s.plan_version_id, u.external_id, u.started_at
           FROM invoice_subscriptions s
           JOIN subscriptions u ON u.organization_id = s.organization_id AND u.id = s.subscription_id
           WHERE s.organization_id = $1
             AND (s.subscription_id, s.usage_start)
                 IN (SELECT * FROM unnest($2::uuid[], $3::timestamptz[]))"#,
        organization as _,
        &subscriptions as _,
        &starts,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let whole_seconds = row
                .whole_seconds
                .map(|seconds| unsigned("invoice_subscriptions.whole_seconds", seconds))
                .transpose()?;
            let window = Window {
                external_id: row.external_id,
                started_at: row.started_at,
                whole_seconds,
                plan_version: id(row.plan_version_id),
            };
            Ok(((id(row.subscription_id), row.usage_start), window))
        })
        .collect()
}

/// The lines that bill or correct the periods of this invoice's true-ups, on invoices made earlier.
async fn earlier(
    conn: &mut PgConnection,
    organization: OrganizationId,
    invoice: InvoiceId,
    fees: &[(Fee, UsageSlot)],
) -> Result<Vec<Fee>, StoreError> {
    let corrections =
        || fees.iter().map(|(fee, _)| fee).filter(|fee| matches!(fee.kind, FeeKind::TrueUp { .. }));
    let subscriptions: Vec<_> = corrections().map(|fee| fee.subscription).collect();
    let starts: Vec<Timestamp> = corrections().map(|fee| fee.period.start).collect();
    if starts.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        FeeRow,
        r#"SELECT f.id, f.invoice_id, f.subscription_id, f.kind, f.charge_id, f.metric_id,
               f.filter_id, f.group_values, f.events, f.corrects_fee_id, f.name, f.code,
               f.period_start, f.period_end, f.units::text AS "units!",
               f.precise_amount::text AS "precise_amount!", f.amount_minor, f.currency
           FROM fees f
           JOIN invoices i ON i.organization_id = f.organization_id AND i.id = f.invoice_id
           JOIN invoices t ON t.organization_id = f.organization_id AND t.id = $2
           WHERE f.organization_id = $1 AND f.kind <> 'subscription'
             AND (i.created_at, i.id) < (t.created_at, t.id)
             AND f.invoice_id IN (
                 SELECT s.invoice_id
                 FROM invoice_subscriptions s
                 WHERE s.organization_id = $1 AND s.subscription_id = ANY($3::uuid[])
             )
             AND (f.subscription_id, f.period_start)
                 IN (SELECT * FROM unnest($3::uuid[], $4::timestamptz[]))
           ORDER BY i.created_at, i.id, f.position"#,
        organization as _,
        invoice as _,
        &subscriptions as _,
        &starts,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(FeeRow::read).collect()
}
