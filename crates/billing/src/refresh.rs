//! A draft's lines, computed again from the usage as it is now.

use crate::{
    BillingError, Timestamp,
    book::UsageBook,
    contract::MetricTerms,
    invoice::{Fee, FeeKind, Invoice, InvoiceSubscription, Period},
    line::{PricedWindow, Pricing, UsageLine},
    plan::PlanVersion,
    true_up::{PendingTrueUp, fit},
};
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use weir_ids::{BillableMetricId, PlanVersionId, SubscriptionId};
use weir_money::Money;

/// The facts a draft is computed again from.
#[derive(Debug, Clone, Copy)]
pub struct RefreshFacts<'a> {
    /// At least the versions that the invoice's subscriptions name.
    pub versions: &'a BTreeMap<PlanVersionId, Arc<PlanVersion>>,
    /// At least the metrics that their charges count.
    pub metrics: &'a BTreeMap<BillableMetricId, MetricTerms>,
    /// When its subscriptions began.
    pub started_at: &'a BTreeMap<SubscriptionId, Timestamp>,
}

impl<'a> RefreshFacts<'a> {
    /// How each charge of a settled window is priced again, in plan order. Without usage: not at all.
    /// Errors: facts that are missing.
    pub fn pricings(
        &self,
        settled: &InvoiceSubscription,
    ) -> Result<Vec<Pricing<'a>>, BillingError> {
        let Some(period) = settled.usage else { return Ok(Vec::new()) };
        let version = self.versions.get(&settled.plan_version);
        let version = version.ok_or(BillingError::UnknownPlanVersion(settled.plan_version))?;
        let started_at = self.started_at.get(&settled.subscription);
        let priced = PricedWindow {
            subscription: settled.subscription,
            started_at: started_at.copied().unwrap_or(period.start),
            period,
            whole_seconds: settled.whole_seconds.unwrap_or_else(|| seconds(period)),
            currency: version.amount.currency,
        };
        priced.pricings(&version.charges, self.metrics)
    }

    /// How each charge of a draft is priced again: what to read for it. Errors are kept for
    /// [`refresh`], which meets them again.
    #[must_use]
    pub fn usage_pricings(&self, invoice: &Invoice) -> Vec<Pricing<'a>> {
        let pricings = invoice.subscriptions.iter().filter_map(|one| self.pricings(one).ok());
        pricings.flatten().collect()
    }
}

/// The seconds of a window, for want of its whole period's.
#[must_use]
pub fn seconds(period: Period) -> u64 {
    u64::try_from((period.end - period.start).num_seconds()).unwrap_or(0)
}

/// The same invoice with its usage lines priced again: late events count while it is a draft.
/// Windows, versions, base fees, true-ups and the ids of lines that stay are kept; true-ups only as
/// far as the total is not negative, the rest of them waits.
/// Errors: as when it was made; then the draft stays as it is.
pub fn refresh(
    invoice: &Invoice,
    facts: RefreshFacts<'_>,
    usage: &UsageBook,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<(Invoice, Vec<PendingTrueUp>), BillingError> {
    let mut fees = Vec::with_capacity(invoice.fees.len());
    for settled in &invoice.subscriptions {
        let own = || invoice.fees.iter().filter(|fee| fee.subscription == settled.subscription);
        fees.extend(own().filter(|fee| fee.kind == FeeKind::Subscription).cloned());
        let mut corrections: Vec<&Fee> =
            own().filter(|fee| matches!(fee.kind, FeeKind::TrueUp { .. })).collect();
        for pricing in facts.pricings(settled)? {
            for line in pricing.lines(usage)?.into_iter().filter(UsageLine::is_billed) {
                fees.push(as_before(line, &pricing, own(), new_id));
            }
            let charge = pricing.charge.id;
            let (of_charge, rest) = corrections.into_iter().partition(
                |fee| matches!(&fee.kind, FeeKind::TrueUp { slot, .. } if slot.charge == charge),
            );
            let of_charge: Vec<&Fee> = of_charge;
            fees.extend(of_charge.into_iter().cloned());
            corrections = rest;
        }
        fees.extend(corrections.into_iter().cloned());
    }
    let currency = invoice.total.currency;
    let (fees, pending) = fit(fees, currency)?;
    let total = Money::sum(currency, fees.iter().map(|fee| fee.amount));
    let total = total.map_err(BillingError::Total)?;
    Ok((Invoice { fees, total, updated_at: now, ..invoice.clone() }, pending))
}

/// A line that the draft has already keeps its id and name.
fn as_before<'a>(
    line: UsageLine,
    pricing: &Pricing<'_>,
    mut fees: impl Iterator<Item = &'a Fee>,
    new_id: &mut dyn FnMut() -> u128,
) -> Fee {
    let before =
        fees.find(|fee| matches!(&fee.kind, FeeKind::Charge { slot, .. } if *slot == line.slot));
    let fresh = line.fee(pricing.charge.code.clone(), pricing.subscription, pricing.period, new_id);
    match before {
        Some(fee) => Fee { id: fee.id, name: fee.name.clone(), code: fee.code.clone(), ..fresh },
        None => fresh,
    }
}
