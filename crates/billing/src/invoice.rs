//! An invoice and its fees.

use crate::Timestamp;
use alloc::{string::String, vec::Vec};
use chrono::NaiveDate;
use weir_ids::{
    BillableMetricId, ChargeId, CustomerId, FeeId, InvoiceId, OrganizationId, PlanVersionId,
    SubscriptionId,
};
use weir_money::{Amount, Money, Quantity};

/// A half-open span of time, `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    pub start: Timestamp,
    pub end: Timestamp,
}

/// Where in its life an invoice is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvoiceStatus {
    /// May still change; becomes final at `finalize_at`.
    Draft { finalize_at: Timestamp },
    /// Fixed for ever.
    Finalized { number: String, at: Timestamp },
}

/// An invoice of one customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub id: InvoiceId,
    pub organization: OrganizationId,
    pub customer: CustomerId,
    pub status: InvoiceStatus,
    /// The instant it is due to be made: the end of the periods it settles, or a start billed in advance.
    pub due_at: Timestamp,
    pub issuing_date: NaiveDate,
    pub payment_due_date: NaiveDate,
    /// Σ fees. No taxes, coupons or credits yet.
    pub total: Money,
    pub subscriptions: Vec<InvoiceSubscription>,
    pub fees: Vec<Fee>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Invoice {
    /// Whether each line is its precise amount rounded and the lines add up to the total: asked
    /// before an invoice is written and after it is read.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let currency = self.total.currency;
        let rounded = self.fees.iter().all(|fee| fee.precise.round(currency) == Ok(fee.amount));
        let sum = Money::sum(currency, self.fees.iter().map(|fee| fee.amount));
        rounded && sum == Ok(self.total)
    }
}

/// What of a subscription an invoice settles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceSubscription {
    pub subscription: SubscriptionId,
    /// What the base fee pays for, if there is one.
    pub base: Option<Period>,
    /// What the usage fees pay for, if usage is settled.
    pub usage: Option<Period>,
    /// What the usage is priced with; without usage, what the base fee is taken from.
    pub plan_version: PlanVersionId,
}

/// What a fee is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeeKind {
    /// The plan's base fee.
    Subscription,
    /// Usage priced by a charge.
    Charge { charge: ChargeId, metric: BillableMetricId, events: u64 },
}

/// A line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fee {
    pub id: FeeId,
    pub subscription: SubscriptionId,
    pub kind: FeeKind,
    /// What the customer reads on the line.
    pub name: String,
    pub code: String,
    /// What it pays for.
    pub period: Period,
    pub units: Quantity,
    /// In major units, every digit.
    pub precise: Amount,
    /// `precise` rounded to the minor unit, half away from zero.
    pub amount: Money,
}
