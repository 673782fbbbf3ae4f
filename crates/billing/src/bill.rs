//! The invoices of a customer's subscriptions that are due at one instant.

use crate::{
    BillingError, Timestamp,
    book::UsageBook,
    contract::{Agreement, Contract},
    invoice::{Fee, FeeKind, Invoice, InvoiceStatus, InvoiceSubscription, Period},
    line::{PricedWindow, Pricing, UsageLine},
    period::{add_local_days, local_date},
    settle::{Base, Settlement, Usage, settle},
    true_up::{LateWindow, PendingTrueUp, fit},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use chrono::Days;
use weir_ids::{FeeId, InvoiceId, SubscriptionId};
use weir_money::{Currency, Money, Quantity};

/// What came of a contract.
#[derive(Debug, Clone, Default)]
pub struct Billing {
    /// Drafts, one for each currency; those without a grace period are to be finalized at once.
    pub invoices: Vec<Invoice>,
    /// Subscriptions that ended with nothing to bill: no invoice, and no failure.
    pub nothing_due: Vec<SubscriptionId>,
    /// Subscriptions that get no invoice, and why. They stay due.
    pub failures: Vec<(SubscriptionId, BillingError)>,
    /// Past windows that are not corrected in full, of subscriptions on the invoices.
    pub pending: Vec<PendingTrueUp>,
}

/// How each charge of the usage that the contract's invoices settle is priced: what to read for them.
/// Errors are kept for [`bill`], which meets them again.
#[must_use]
pub fn usage_pricings(contract: &Contract) -> Vec<Pricing<'_>> {
    let of_agreement = |agreement| {
        let settled = settle(agreement, contract.tz(), contract.due_at).ok()?;
        pricings(contract, agreement, settled.usage.as_ref()?).ok()
    };
    contract.agreements.iter().filter_map(of_agreement).flatten().collect()
}

/// How each charge of a window is priced, in plan order.
fn pricings<'a>(
    contract: &'a Contract,
    agreement: &'a Agreement,
    window: &Usage,
) -> Result<Vec<Pricing<'a>>, BillingError> {
    // The window's own version, borrowed from where it was taken.
    let version = agreement.version_at(window.period.start)?;
    let priced = PricedWindow {
        subscription: agreement.subscription.id,
        started_at: agreement.subscription.started_at,
        period: window.period,
        whole_seconds: window.whole_seconds,
        currency: version.amount.currency,
    };
    priced.pricings(&version.charges, &contract.metrics)
}

/// The invoices of a contract. Fees stand by subscription, oldest first; of each the base fee, then
/// the lines of its charges in plan order, each followed by its true-ups. Each line is rounded once.
/// `usage` holds what [`usage_pricings`] ask for; what is absent had no events. `late` are the past
/// windows of its subscriptions that have changed. Ids are drawn from `new_id`. A subscription that
/// fails leaves the others' invoices as they would be without it.
pub fn bill(
    contract: &Contract,
    usage: &UsageBook,
    late: &[LateWindow],
    now: Timestamp,
    new_id: &mut dyn FnMut() -> u128,
) -> Billing {
    let mut billing = Billing::default();
    let mut by_currency: BTreeMap<Currency, Vec<Lines>> = BTreeMap::new();
    let mut agreements: Vec<&Agreement> = contract.agreements.iter().collect();
    agreements.sort_by_key(|agreement| {
        let subscription = &agreement.subscription;
        (subscription.started_at, subscription.created_at, subscription.id)
    });
    for agreement in agreements {
        let id = agreement.subscription.id;
        match lines(contract, agreement, usage, late, new_id) {
            Ok(Some(lines)) => by_currency.entry(lines.currency).or_default().push(lines),
            Ok(None) => billing.nothing_due.push(id),
            Err(error) => billing.failures.push((id, error)),
        }
    }
    add_corrections_of_ended(contract, late, &mut by_currency, &mut billing, new_id);
    for (currency, lines) in by_currency {
        let subscriptions: Vec<SubscriptionId> =
            lines.iter().map(|lines| lines.settled.subscription).collect();
        match invoice(contract, currency, lines, now, new_id) {
            Ok((invoice, pending)) => {
                billing.invoices.push(invoice);
                billing.pending.extend(pending);
            }
            Err(error) => {
                billing.failures.extend(subscriptions.into_iter().map(|id| (id, error.clone())));
            }
        }
    }
    billing
}

/// A subscription that has ended has no invoice of its own any more: what comes late for it is on
/// its customer's invoice in the same currency.
fn add_corrections_of_ended(
    contract: &Contract,
    late: &[LateWindow],
    by_currency: &mut BTreeMap<Currency, Vec<Lines>>,
    billing: &mut Billing,
    new_id: &mut dyn FnMut() -> u128,
) {
    let due: BTreeSet<SubscriptionId> =
        contract.agreements.iter().map(|one| one.subscription.id).collect();
    let mut ended: BTreeMap<(SubscriptionId, Currency), Vec<&LateWindow>> = BTreeMap::new();
    for window in late.iter().filter(|window| !due.contains(&window.subscription)) {
        let currency = window.version.amount.currency;
        ended.entry((window.subscription, currency)).or_default().push(window);
    }
    for ((subscription, currency), windows) in ended {
        let (Some(lines), Some(last)) = (by_currency.get_mut(&currency), windows.last()) else {
            continue;
        };
        let settled = InvoiceSubscription {
            subscription,
            base: None,
            usage: None,
            whole_seconds: None,
            plan_version: last.version.id,
        };
        match with_true_ups(contract, Vec::new(), windows.into_iter(), currency, new_id) {
            Ok((fees, _)) if fees.is_empty() => {}
            Ok((fees, pending)) => lines.push(Lines { currency, settled, fees, pending }),
            Err(error) => billing.failures.push((subscription, error)),
        }
    }
}

/// The lines of one subscription.
struct Lines {
    currency: Currency,
    settled: InvoiceSubscription,
    fees: Vec<Fee>,
    pending: Vec<PendingTrueUp>,
}

fn lines(
    contract: &Contract,
    agreement: &Agreement,
    usage: &UsageBook,
    late: &[LateWindow],
    new_id: &mut dyn FnMut() -> u128,
) -> Result<Option<Lines>, BillingError> {
    let Settlement { bases, usage: window } = settle(agreement, contract.tz(), contract.due_at)?;
    let mut fees = Vec::new();
    for base in &bases {
        fees.push(base_fee(agreement, base, new_id)?);
    }
    if let Some(window) = &window {
        for pricing in pricings(contract, agreement, window)? {
            let lines = pricing.lines(usage)?;
            let billed = lines.into_iter().filter(UsageLine::is_billed);
            fees.extend(billed.map(|line| {
                line.fee(pricing.charge.code.clone(), pricing.subscription, window.period, new_id)
            }));
        }
    }
    // Between two periods an invoice is due even without lines: it is where the next one begins.
    if fees.is_empty() && agreement.subscription.end().is_some_and(|end| end <= contract.due_at) {
        return Ok(None);
    }
    let version = match (&window, bases.first()) {
        (Some(window), _) => &window.version,
        (None, Some(base)) => &base.version,
        (None, None) => agreement.version_at(contract.due_at)?,
    };
    let currency = version.amount.currency;
    let late = late.iter().filter(|late| late.subscription == agreement.subscription.id);
    let (fees, pending) = with_true_ups(contract, fees, late, currency, new_id)?;
    let base_starts = bases.iter().map(|base| base.period.start).min();
    let base_ends = bases.iter().map(|base| base.period.end).max();
    Ok(Some(Lines {
        currency,
        settled: InvoiceSubscription {
            subscription: agreement.subscription.id,
            base: base_starts.zip(base_ends).map(|(start, end)| Period { start, end }),
            usage: window.as_ref().map(|window| window.period),
            whole_seconds: window.as_ref().map(|window| window.whole_seconds),
            plan_version: version.id,
        },
        fees,
        pending,
    }))
}

/// Puts the corrections of past windows, oldest first, after the lines of their charges. Those in
/// another currency wait for an invoice in theirs.
fn with_true_ups<'a>(
    contract: &Contract,
    mut fees: Vec<Fee>,
    late: impl Iterator<Item = &'a LateWindow>,
    currency: Currency,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<(Vec<Fee>, Vec<PendingTrueUp>), BillingError> {
    let mut pending = Vec::new();
    let mut windows: Vec<&LateWindow> = late.collect();
    windows.sort_by_key(|window| window.period);
    for window in windows {
        if window.version.amount.currency != currency {
            pending.extend(window.metrics.iter().map(|metric| window.pending(*metric)));
            continue;
        }
        for difference in window.differences(&contract.metrics)? {
            let charge = difference.slot.charge;
            let fee = difference.fee(window, contract.tz(), FeeId::from_u128(new_id()));
            let of_charge = |fee: &Fee| match &fee.kind {
                FeeKind::Subscription => false,
                FeeKind::Charge { slot, .. } | FeeKind::TrueUp { slot, .. } => {
                    slot.charge == charge
                }
            };
            let after = fees.iter().rposition(of_charge).map_or(fees.len(), |last| last + 1);
            fees.insert(after, fee);
        }
    }
    Ok((fees, pending))
}

fn base_fee(
    agreement: &Agreement,
    base: &Base,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<Fee, BillingError> {
    let price = base.version.amount;
    let name = agreement.plan_name.clone();
    let failed = |source| BillingError::Amount {
        subscription: agreement.subscription.id,
        line: agreement.plan_name.clone(),
        source,
    };
    let precise = price.amount().share(base.share).map_err(failed)?;
    Ok(Fee {
        id: FeeId::from_u128(new_id()),
        subscription: agreement.subscription.id,
        kind: FeeKind::Subscription,
        name,
        code: agreement.plan_code.clone(),
        period: base.period,
        units: Quantity::from(1),
        precise,
        amount: precise.round(price.currency).map_err(failed)?,
    })
}

impl UsageLine {
    /// The fee of the line.
    pub(crate) fn fee(
        self,
        code: alloc::string::String,
        subscription: SubscriptionId,
        period: Period,
        new_id: &mut dyn FnMut() -> u128,
    ) -> Fee {
        Fee {
            id: FeeId::from_u128(new_id()),
            subscription,
            kind: FeeKind::Charge { slot: self.slot, events: self.events },
            name: self.name,
            code,
            period,
            units: self.units,
            precise: self.precise,
            amount: self.amount,
        }
    }
}

fn invoice(
    contract: &Contract,
    currency: Currency,
    lines: Vec<Lines>,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<(Invoice, Vec<PendingTrueUp>), BillingError> {
    let details = &contract.customer.details;
    let (mut subscriptions, mut fees, mut pending) = (Vec::new(), Vec::new(), Vec::new());
    for lines in lines {
        subscriptions.push(lines.settled);
        fees.extend(lines.fees);
        pending.extend(lines.pending);
    }
    let (fees, waits) = fit(fees, currency)?;
    pending.extend(waits);
    let total = Money::sum(currency, fees.iter().map(|fee| fee.amount));
    // Nobody is left to correct the draft of a customer who is gone.
    let stays = contract.customer.deleted_at.is_none();
    let grace_days = details.invoice_grace_period_days.filter(|_| stays).unwrap_or(0);
    let issuing_date = local_date(contract.tz(), contract.due_at);
    let term = Days::new(details.net_payment_term_days.unwrap_or(0).into());
    let invoice = Invoice {
        id: InvoiceId::from_u128(new_id()),
        organization: contract.customer.organization,
        customer: contract.customer.id,
        status: InvoiceStatus::Draft {
            finalize_at: add_local_days(contract.tz(), contract.due_at, grace_days)?,
        },
        due_at: contract.due_at,
        issuing_date,
        payment_due_date: issuing_date.checked_add_days(term).ok_or(BillingError::OutOfCalendar)?,
        total: total.map_err(BillingError::Total)?,
        subscriptions,
        fees,
        created_at: now,
        updated_at: now,
    };
    Ok((invoice, pending))
}
