//! The invoices of a customer's subscriptions that are due at one instant.

use crate::{
    BillingError, Timestamp,
    charge::Charge,
    contract::{Agreement, Contract, MetricTerms},
    invoice::{Fee, FeeKind, Invoice, InvoiceStatus, InvoiceSubscription, Period},
    period::{add_local_days, local_date},
    price::PriceError,
    settle::{Base, Settlement, Usage, settle},
    usage::UsageTotal,
};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use chrono::Days;
use weir_ids::{BillableMetricId, FeeId, InvoiceId, SubscriptionId};
use weir_money::{Amount, Currency, Money, Quantity};

/// Totals by subscription and metric.
pub type UsageBook = BTreeMap<(SubscriptionId, BillableMetricId), UsageTotal>;

/// What came of a contract.
#[derive(Debug, Clone, Default)]
pub struct Billing {
    /// Drafts, one for each currency; those without a grace period are to be finalized at once.
    pub invoices: Vec<Invoice>,
    /// Subscriptions that ended with nothing to bill: no invoice, and no failure.
    pub nothing_due: Vec<SubscriptionId>,
    /// Subscriptions that get no invoice, and why. They stay due.
    pub failures: Vec<(SubscriptionId, BillingError)>,
}

/// What units of a charge come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedUsage {
    pub events: u64,
    pub units: Quantity,
    /// In major units, every digit.
    pub precise: Amount,
    /// Rounded to the minor unit, half away from zero.
    pub amount: Money,
}

/// What an invoice due at the contract's instant would settle, by subscription: the usage to read.
/// Errors are kept for [`bill`], which meets them again.
#[must_use]
pub fn usage_windows(contract: &Contract) -> Vec<(SubscriptionId, Period)> {
    let window = |agreement: &Agreement| {
        let usage = settle(agreement, contract.tz(), contract.due_at).ok()?.usage?;
        (!usage.version.charges.is_empty()).then_some((agreement.subscription.id, usage.period))
    };
    contract.agreements.iter().filter_map(window).collect()
}

/// The invoices of a contract. Fees stand by subscription, oldest first; of each the base fee, then
/// its charges in plan order, with 0 where there was no usage. Each line is rounded once.
/// `usage` holds the totals of [`usage_windows`]; what is absent had no events. Ids are drawn from
/// `new_id`. A subscription that fails leaves the others' invoices as they would be without it.
pub fn bill(
    contract: &Contract,
    usage: &UsageBook,
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
        match lines(contract, agreement, usage, new_id) {
            Ok(Some(lines)) => by_currency.entry(lines.currency).or_default().push(lines),
            Ok(None) => billing.nothing_due.push(id),
            Err(error) => billing.failures.push((id, error)),
        }
    }
    for (currency, lines) in by_currency {
        let subscriptions: Vec<SubscriptionId> =
            lines.iter().map(|lines| lines.settled.subscription).collect();
        match invoice(contract, currency, lines, now, new_id) {
            Ok(invoice) => billing.invoices.push(invoice),
            Err(error) => {
                billing.failures.extend(subscriptions.into_iter().map(|id| (id, error.clone())));
            }
        }
    }
    billing
}

/// The lines of one subscription.
struct Lines {
    currency: Currency,
    settled: InvoiceSubscription,
    fees: Vec<Fee>,
}

fn lines(
    contract: &Contract,
    agreement: &Agreement,
    usage: &UsageBook,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<Option<Lines>, BillingError> {
    let Settlement { bases, usage: window } = settle(agreement, contract.tz(), contract.due_at)?;
    let mut fees = Vec::new();
    for base in &bases {
        fees.push(base_fee(agreement, base, new_id)?);
    }
    if let Some(window) = &window {
        for charge in &window.version.charges {
            fees.push(usage_fee(contract, agreement, window, charge, usage, new_id)?);
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
    let base_starts = bases.iter().map(|base| base.period.start).min();
    let base_ends = bases.iter().map(|base| base.period.end).max();
    Ok(Some(Lines {
        currency: version.amount.currency,
        settled: InvoiceSubscription {
            subscription: agreement.subscription.id,
            base: base_starts.zip(base_ends).map(|(start, end)| Period { start, end }),
            usage: window.as_ref().map(|window| window.period),
            plan_version: version.id,
        },
        fees,
    }))
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

fn usage_fee(
    contract: &Contract,
    agreement: &Agreement,
    window: &Usage,
    charge: &Charge,
    usage: &UsageBook,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<Fee, BillingError> {
    let id = agreement.subscription.id;
    let terms = contract.metrics.get(&charge.metric);
    let terms =
        terms.ok_or(BillingError::UnknownMetric { charge: charge.id, metric: charge.metric })?;
    let total = usage.get(&(id, charge.metric)).copied();
    let total = total.unwrap_or(UsageTotal::none(id, charge.metric));
    let priced = price_usage(charge, terms, &total, window.version.amount.currency)?;
    Ok(Fee {
        id: FeeId::from_u128(new_id()),
        subscription: id,
        kind: FeeKind::Charge { charge: charge.id, metric: charge.metric, events: priced.events },
        name: line_name(charge, terms),
        code: charge.code.clone(),
        period: window.period,
        units: priced.units,
        precise: priced.precise,
        amount: priced.amount,
    })
}

fn line_name(charge: &Charge, terms: &MetricTerms) -> String {
    charge.invoice_display_name.clone().unwrap_or_else(|| terms.name.clone())
}

/// What a window's usage comes to under a charge, for invoices and for usage so far.
/// Errors: a sum beyond 38 digits; an amount out of range.
pub fn price_usage(
    charge: &Charge,
    terms: &MetricTerms,
    total: &UsageTotal,
    currency: Currency,
) -> Result<PricedUsage, BillingError> {
    let (subscription, metric) = (total.subscription, total.metric);
    let units = total
        .units(terms.aggregation)
        .map_err(|_| BillingError::UsageOverflow { subscription, metric })?;
    let out_of_range =
        |source| BillingError::Amount { subscription, line: line_name(charge, terms), source };
    let precise = charge.price(units).map_err(|error| match error {
        PriceError::Money(source) => out_of_range(source),
        PriceError::NoTier(units) => {
            BillingError::NoTier { charge: charge.id, units: units.to_string() }
        }
    })?;
    let amount = precise.round(currency).map_err(out_of_range)?;
    Ok(PricedUsage { events: total.events, units, precise, amount })
}

fn invoice(
    contract: &Contract,
    currency: Currency,
    lines: Vec<Lines>,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> u128,
) -> Result<Invoice, BillingError> {
    let details = &contract.customer.details;
    let (subscriptions, fees): (Vec<_>, Vec<_>) =
        lines.into_iter().map(|lines| (lines.settled, lines.fees)).unzip();
    let fees: Vec<Fee> = fees.into_iter().flatten().collect();
    let total = Money::sum(currency, fees.iter().map(|fee| fee.amount));
    // Nobody is left to correct the draft of a customer who is gone.
    let stays = contract.customer.deleted_at.is_none();
    let grace_days = details.invoice_grace_period_days.filter(|_| stays).unwrap_or(0);
    let issuing_date = local_date(contract.tz(), contract.due_at);
    let term = Days::new(details.net_payment_term_days.unwrap_or(0).into());
    Ok(Invoice {
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
    })
}
