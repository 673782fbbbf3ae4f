//! What an invoice settles of a subscription: which windows, at which share, by which version.

use crate::{BillingError, Timestamp, contract::Agreement, invoice::Period, plan::PlanVersion};
use alloc::{sync::Arc, vec::Vec};
use chrono::TimeDelta;
use chrono_tz::Tz;
use weir_money::Share;

/// What is settled of one subscription at one instant.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Base fees: of the period just ended (in arrears), of the one that begins (in advance), or,
    /// where a new version switches from one to the other, both.
    pub bases: Vec<Base>,
    /// Usage of the period just ended.
    pub usage: Option<Usage>,
}

/// A base fee to be billed.
#[derive(Debug, Clone)]
pub struct Base {
    pub period: Period,
    /// Local days billed, of the local days of the whole month.
    pub share: Share,
    pub version: Arc<PlanVersion>,
}

/// Usage to be billed.
#[derive(Debug, Clone)]
pub struct Usage {
    pub period: Period,
    /// The seconds of the whole period in which it ends.
    pub whole_seconds: u64,
    pub version: Arc<PlanVersion>,
}

/// What an invoice due at `due_at` settles of a subscription. The caller has made sure that it is
/// due then ([`Agreement::next_due_at`]).
/// Errors: outside the calendar; a subscription without a plan version.
pub fn settle(
    agreement: &Agreement,
    tz: Tz,
    due_at: Timestamp,
) -> Result<Settlement, BillingError> {
    let usage = ended(agreement, tz, due_at)?;
    let mut bases = Vec::new();
    if let Some(usage) = &usage
        && !usage.version.pay_in_advance
    {
        bases.extend(base_in_arrears(agreement, usage, tz)?);
    }
    bases.extend(base_in_advance(agreement, tz, due_at)?);
    Ok(Settlement { bases, usage })
}

/// The window since the last invoice, which begins where that one ended.
fn ended(agreement: &Agreement, tz: Tz, due_at: Timestamp) -> Result<Option<Usage>, BillingError> {
    let start = agreement.billed.usage_to.unwrap_or(agreement.subscription.started_at);
    let period = Period { start, end: due_at };
    if period.is_empty() {
        return Ok(None);
    }
    let version = Arc::clone(agreement.version_at(start)?);
    let whole_seconds = period.whole_seconds(version.interval, tz)?;
    Ok(Some(Usage { period, whole_seconds, version }))
}

fn base_in_arrears(
    agreement: &Agreement,
    usage: &Usage,
    tz: Tz,
) -> Result<Option<Base>, BillingError> {
    let last = usage.period.end - TimeDelta::microseconds(1);
    let month = Period::holding(usage.version.interval, tz, last)?;
    // After a change of zone the window may begin before the month: those hours are paid.
    let start =
        usage.period.start.max(month.start).max(agreement.billed.base_to.unwrap_or(month.start));
    Ok(base(Period { start, end: usage.period.end }, month, tz, &usage.version))
}

fn base_in_advance(
    agreement: &Agreement,
    tz: Tz,
    due_at: Timestamp,
) -> Result<Option<Base>, BillingError> {
    let version = agreement.version_at(due_at)?;
    if !version.pay_in_advance {
        return Ok(None);
    }
    let month = Period::holding(version.interval, tz, due_at)?;
    let start = due_at.max(agreement.billed.base_to.unwrap_or(due_at));
    let end = agreement.subscription.end().map_or(month.end, |end| end.min(month.end));
    Ok(base(Period { start, end }, month, tz, version))
}

fn base(period: Period, month: Period, tz: Tz, version: &Arc<PlanVersion>) -> Option<Base> {
    let share = Share { part: period.local_days(tz), whole: month.local_days(tz) };
    (share.part > 0).then(|| Base { period, share, version: Arc::clone(version) })
}
