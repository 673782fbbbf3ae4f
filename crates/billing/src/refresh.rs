//! A draft's lines, computed again from the usage as it is now.

use crate::{
    BillingError, Timestamp,
    bill::{UsageBook, price_usage},
    contract::MetricTerms,
    invoice::{Fee, FeeKind, Invoice},
    plan::PlanVersion,
    usage::UsageTotal,
};
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use weir_ids::{BillableMetricId, PlanVersionId};
use weir_money::Money;

/// The facts a draft is computed again from.
#[derive(Debug, Clone, Copy)]
pub struct RefreshFacts<'a> {
    /// At least the versions that the invoice's subscriptions name.
    pub versions: &'a BTreeMap<PlanVersionId, Arc<PlanVersion>>,
    /// At least the metrics that its fees name.
    pub metrics: &'a BTreeMap<BillableMetricId, MetricTerms>,
    /// The totals of the usage windows the invoice names, as they are now.
    pub usage: &'a UsageBook,
}

/// The same invoice with its usage lines priced again: late events count while it is a draft.
/// Windows, versions, base fees and the ids of the lines stay.
/// Errors: as when it was made; then the draft stays as it is.
pub fn refresh(
    invoice: &Invoice,
    facts: RefreshFacts<'_>,
    now: Timestamp,
) -> Result<Invoice, BillingError> {
    let fees: Vec<Fee> = invoice
        .fees
        .iter()
        .map(|fee| refresh_fee(invoice, fee, facts))
        .collect::<Result<_, _>>()?;
    let currency = invoice.total.currency;
    let total = Money::sum(currency, fees.iter().map(|fee| fee.amount));
    let total = total.map_err(BillingError::Total)?;
    Ok(Invoice { fees, total, updated_at: now, ..invoice.clone() })
}

fn refresh_fee(invoice: &Invoice, fee: &Fee, facts: RefreshFacts<'_>) -> Result<Fee, BillingError> {
    let FeeKind::Charge { charge: charge_id, metric, events: _ } = fee.kind else {
        return Ok(fee.clone());
    };
    let unknown_metric = BillingError::UnknownMetric { charge: charge_id, metric };
    let settled = invoice.subscriptions.iter().find(|one| one.subscription == fee.subscription);
    let settled = settled.ok_or(BillingError::NoPlanVersion(fee.subscription))?;
    let version = facts.versions.get(&settled.plan_version);
    let version = version.ok_or(BillingError::UnknownPlanVersion(settled.plan_version))?;
    let charge = version.charges.iter().find(|charge| charge.id == charge_id);
    let charge = charge.ok_or_else(|| unknown_metric.clone())?;
    let terms = facts.metrics.get(&metric).ok_or(unknown_metric)?;
    let none = UsageTotal::none(fee.subscription, metric);
    let total = facts.usage.get(&(fee.subscription, metric)).unwrap_or(&none);
    let priced = price_usage(charge, terms, total, invoice.total.currency)?;
    Ok(Fee {
        kind: FeeKind::Charge { charge: charge_id, metric, events: priced.events },
        units: priced.units,
        precise: priced.precise,
        amount: priced.amount,
        ..fee.clone()
    })
}
