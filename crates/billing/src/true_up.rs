//! Late events and voids: what the usage of a finalized period comes to by now, less what was billed
//! of it.

use crate::{
    BillingError,
    book::UsageBook,
    contract::MetricTerms,
    invoice::{Fee, FeeKind, Period, UsageSlot},
    line::{PricedWindow, Pricing, UsageLine},
    period::local_date,
    plan::PlanVersion,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    sync::Arc,
    vec::Vec,
};
use chrono::TimeDelta;
use chrono_tz::Tz;
use weir_ids::{BillableMetricId, FeeId, SubscriptionId};
use weir_money::{Currency, Money, Quantity};

/// A window of usage on a finalized invoice that has changed since.
#[derive(Debug, Clone)]
pub struct LateWindow {
    pub subscription: SubscriptionId,
    pub started_at: crate::Timestamp,
    pub period: Period,
    /// As of [`Pricing::whole_seconds`].
    pub whole_seconds: u64,
    /// What it was priced with, and is again.
    pub version: Arc<PlanVersion>,
    /// What has changed.
    pub metrics: BTreeSet<BillableMetricId>,
    /// Every line that bills or corrects it.
    pub billed: Vec<Fee>,
    /// As it is now.
    pub usage: UsageBook,
}

/// What a line of a past period should be by now, less what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub slot: UsageSlot,
    pub name: String,
    pub code: String,
    /// The line that billed the period first.
    pub corrects: Option<FeeId>,
    pub units: Quantity,
    pub events: i64,
    /// Never 0.
    pub amount: Money,
}

/// A window whose difference does not fit its invoice: it waits for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PendingTrueUp {
    pub subscription: SubscriptionId,
    pub metric: BillableMetricId,
    pub period: Period,
}

impl LateWindow {
    /// How each of its charges of a changed metric is priced. Errors: a metric that is not there.
    pub fn pricings<'a>(
        &'a self,
        metrics: &'a BTreeMap<BillableMetricId, MetricTerms>,
    ) -> Result<Vec<Pricing<'a>>, BillingError> {
        let changed = self.version.charges.iter();
        let changed = changed.filter(|charge| self.metrics.contains(&charge.metric));
        let priced = PricedWindow {
            subscription: self.subscription,
            started_at: self.started_at,
            period: self.period,
            whole_seconds: self.whole_seconds,
            currency: self.version.amount.currency,
        };
        priced.pricings(changed, metrics)
    }

    /// What is left to bill of it, by charge in plan order. Errors: as when it was billed.
    pub fn differences(
        &self,
        metrics: &BTreeMap<BillableMetricId, MetricTerms>,
    ) -> Result<Vec<Difference>, BillingError> {
        let mut all = Vec::new();
        for pricing in self.pricings(metrics)? {
            let charge = pricing.charge;
            let lines = pricing.lines(&self.usage)?;
            let billed: Vec<&Fee> =
                self.billed.iter().filter(|fee| bills(fee, charge.id)).collect();
            all.extend(differences(&billed, &lines, &charge.code, pricing.currency)?);
        }
        Ok(all)
    }

    pub(crate) fn pending(&self, metric: BillableMetricId) -> PendingTrueUp {
        PendingTrueUp { subscription: self.subscription, metric, period: self.period }
    }
}

fn bills(fee: &Fee, charge: weir_ids::ChargeId) -> bool {
    slot_of(fee).is_some_and(|(slot, _)| slot.charge == charge)
}

fn slot_of(fee: &Fee) -> Option<(&UsageSlot, i64)> {
    match &fee.kind {
        FeeKind::Subscription => None,
        FeeKind::Charge { slot, events } => {
            Some((slot, i64::try_from(*events).unwrap_or(i64::MAX)))
        }
        FeeKind::TrueUp { slot, events, .. } => Some((slot, *events)),
    }
}

/// What of a slot is billed, or should be.
struct Sum {
    name: String,
    corrects: Option<FeeId>,
    units: Quantity,
    events: i64,
    amount: Money,
}

/// What the lines of a charge should be, less the sum of what was billed of each slot. A slot that
/// was never billed is billed whole, one that has no usage any more is taken back.
///
/// Billed 3.00 for 300 calls; 310 by now, 3.10: a line of 10 units and 0.10.
/// Errors: a sum out of range.
pub fn differences(
    billed: &[&Fee],
    should_be: &[UsageLine],
    code: &str,
    currency: Currency,
) -> Result<Vec<Difference>, BillingError> {
    let billed = sums(billed, currency)?;
    let nothing = Sum {
        name: String::new(),
        corrects: None,
        units: Quantity::ZERO,
        events: 0,
        amount: Money::zero(currency),
    };
    let mut all = Vec::new();
    let mut differ = |slot: &UsageSlot, line: Option<&UsageLine>| {
        let was = billed.get(slot).unwrap_or(&nothing);
        let amount = line.map_or(Money::zero(currency), |line| line.amount);
        let amount = amount.checked_sub(was.amount).map_err(BillingError::Total)?;
        if amount.minor == 0 {
            return Ok(());
        }
        let units = line.map_or(Quantity::ZERO, |line| line.units);
        let events = line.map_or(0, |line| i64::try_from(line.events).unwrap_or(i64::MAX));
        all.push(Difference {
            slot: slot.clone(),
            name: line.map_or(&was.name, |line| &line.name).clone(),
            code: String::from(code),
            corrects: was.corrects,
            units: units.checked_sub(was.units).ok_or(BillingError::Total(TOO_MANY))?,
            events: events.saturating_sub(was.events),
            amount,
        });
        Ok::<(), BillingError>(())
    };
    for line in should_be {
        differ(&line.slot, Some(line))?;
    }
    for slot in billed.keys().filter(|slot| !should_be.iter().any(|line| line.slot == **slot)) {
        differ(slot, None)?;
    }
    Ok(all)
}

const TOO_MANY: weir_money::MoneyError = weir_money::MoneyError::TooManyDigits;

fn sums(billed: &[&Fee], currency: Currency) -> Result<BTreeMap<UsageSlot, Sum>, BillingError> {
    let mut sums: BTreeMap<UsageSlot, Sum> = BTreeMap::new();
    for fee in billed {
        let Some((slot, events)) = slot_of(fee) else { continue };
        let sum = sums.entry(slot.clone()).or_insert_with(|| Sum {
            name: fee.name.clone(),
            corrects: None,
            units: Quantity::ZERO,
            events: 0,
            amount: Money::zero(currency),
        });
        if matches!(fee.kind, FeeKind::Charge { .. }) {
            (sum.corrects, sum.name) = (Some(fee.id), fee.name.clone());
        }
        sum.units = sum.units.checked_add(fee.units).ok_or(BillingError::Total(TOO_MANY))?;
        sum.events = sum.events.saturating_add(events);
        sum.amount = sum.amount.checked_add(fee.amount).map_err(BillingError::Total)?;
    }
    Ok(sums)
}

impl Difference {
    /// The line that bills it: named after the days it corrects, as the customer's clocks show them.
    pub(crate) fn fee(self, window: &LateWindow, tz: Tz, id: FeeId) -> Fee {
        let Difference { slot, name, code, corrects, units, events, amount } = self;
        let first = local_date(tz, window.period.start);
        let last = local_date(tz, window.period.end - TimeDelta::microseconds(1));
        Fee {
            id,
            subscription: window.subscription,
            kind: FeeKind::TrueUp { slot, events, corrects },
            name: format!("{name}, correction of {first} to {last}"),
            code,
            period: window.period,
            units,
            // What is owed is the difference of rounded lines, so it is exact in minor units.
            precise: amount.amount(),
            amount,
        }
    }
}

/// Takes off lines of an invoice what would make its total negative: negative true-ups, newest
/// first. What is left of one keeps its units. Returns what waits for the next invoice.
/// Errors: a total out of range.
pub(crate) fn fit(
    fees: Vec<Fee>,
    currency: Currency,
) -> Result<(Vec<Fee>, Vec<PendingTrueUp>), BillingError> {
    let total = Money::sum(currency, fees.iter().map(|fee| fee.amount));
    let mut missing = total.map_err(BillingError::Total)?.minor.min(0).saturating_neg();
    let mut pending = Vec::new();
    let mut kept = Vec::with_capacity(fees.len());
    for mut fee in fees.into_iter().rev() {
        if let FeeKind::TrueUp { slot, .. } = &fee.kind
            && missing > 0
            && fee.amount.minor < 0
        {
            pending.push(PendingTrueUp {
                subscription: fee.subscription,
                metric: slot.metric,
                period: fee.period,
            });
            let cut = missing.min(fee.amount.minor.saturating_neg());
            missing -= cut;
            fee.amount.minor += cut;
            fee.precise = fee.amount.amount();
            if fee.amount.minor == 0 {
                continue;
            }
        }
        kept.push(fee);
    }
    kept.reverse();
    pending.sort();
    pending.dedup();
    Ok((kept, pending))
}

#[cfg(test)]
#[path = "true_up_tests.rs"]
mod tests;
