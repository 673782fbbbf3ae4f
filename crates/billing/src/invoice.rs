//! An invoice and its fees.

use crate::Timestamp;
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use chrono::NaiveDate;
use weir_ids::{
    BillableMetricId, ChargeFilterId, ChargeId, CustomerId, FeeId, InvoiceId, OrganizationId,
    PlanVersionId, SubscriptionId,
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
    /// The seconds of the whole period in which the usage ends, by which weighted sums are divided.
    /// None without usage, and on invoices made before this was kept.
    pub whole_seconds: Option<u64>,
    /// What the usage is priced with; without usage, what the base fee is taken from.
    pub plan_version: PlanVersionId,
}

/// What a fee is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeeKind {
    /// The plan's base fee.
    Subscription,
    /// Usage priced by a charge.
    Charge { slot: UsageSlot, events: u64 },
    /// What usage of a finalized period comes to by now, less what was billed of it: late events
    /// and voids. The fee's period is that one, its units are the difference.
    TrueUp {
        slot: UsageSlot,
        /// The difference, negative after voids.
        events: i64,
        /// The fee that billed the period first; none when the slot had none then.
        corrects: Option<FeeId>,
    },
}

/// Which usage of a subscription a line bills.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageSlot {
    pub charge: ChargeId,
    pub metric: BillableMetricId,
    /// None: the charge's default price.
    pub filter: Option<ChargeFilterId>,
    /// The charge's pricing group keys with the values that the events have; none: they lack it.
    pub group: GroupValues,
}

/// Values of properties by key.
pub type GroupValues = BTreeMap<String, Option<String>>;

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
