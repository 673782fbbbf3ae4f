//! Why something cannot be billed.

use alloc::string::String;
use chrono::NaiveDate;
use chrono_tz::Tz;
use weir_ids::{BillableMetricId, ChargeId, PlanVersionId, SubscriptionId};
use weir_money::MoneyError;

/// Why a subscription gets no invoice. Nothing is billed in its place: an operator must look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BillingError {
    /// The period's total needs more than 38 digits.
    #[error("usage of {metric} by {subscription} is beyond 38 digits")]
    UsageOverflow { subscription: SubscriptionId, metric: BillableMetricId },
    /// A line's amount is out of range or needs too many digits.
    #[error("line {line:?} of {subscription}: {source}")]
    Amount { subscription: SubscriptionId, line: String, source: MoneyError },
    /// The lines of one invoice add up to more than can be written.
    #[error("the invoice's total: {0}")]
    Total(MoneyError),
    /// No tier holds the units; a plan that was checked when written has an open last one.
    #[error("no tier of charge {charge} holds {units} units")]
    NoTier { charge: ChargeId, units: String },
    /// A group of usage whose text is not one.
    #[error("usage of {metric} has the unreadable group {group:?}")]
    UnreadableGroup { metric: BillableMetricId, group: String },
    /// Distinct values of several groups that were not counted together.
    #[error("the distinct values of {metric} by {subscription} were not counted over its groups")]
    NotCounted { subscription: SubscriptionId, metric: BillableMetricId },
    /// A charge counts a metric that the contract doesn't hold.
    #[error("charge {charge} counts the unknown metric {metric}")]
    UnknownMetric { charge: ChargeId, metric: BillableMetricId },
    /// A subscription without a plan version.
    #[error("{0} has no plan version")]
    NoPlanVersion(SubscriptionId),
    /// An invoice names a plan version that the facts don't hold.
    #[error("plan version {0} is missing")]
    UnknownPlanVersion(PlanVersionId),
    /// A date outside the calendar that can be computed with.
    #[error("no day {date} in {tz}")]
    NoSuchDay { date: NaiveDate, tz: Tz },
    /// An instant too far away for the calendar.
    #[error("an instant is outside the calendar")]
    OutOfCalendar,
}
