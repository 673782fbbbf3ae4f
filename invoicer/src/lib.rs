//! The invoicer: finds what is due, waits until the pipeline has counted everything accepted by
//! then, prices it (in the pure crate `weir_billing`) and writes invoices, numbers and the next due
//! instants in one transaction.
//!
//! Knows no prices and no rules of its own. Any number may run at once: a customer is locked while
//! it is billed, and a subscription has one invoice for a due instant by constraint.

mod advance;
mod batch;
mod config;
mod cover;
mod drafts;
mod failure;
mod metrics;
mod role;
mod schedule;
mod true_ups;

pub use advance::{Step, advance_clock};
pub use config::{Config, InvalidConfig};
pub use metrics::describe as describe_metrics;
pub use role::{RoleOptions, connect, run_role};
pub use schedule::{invoice_due, run};

use sqlx::PgPool;
use weir_billing::Timestamp;
use weir_runtime::Clock;
use weir_store::{StoreError, billing_failures::Failure};
use weir_usage::{ClickHouse, UsageError};

/// What the invoicer works with.
#[derive(Clone)]
pub struct InvoicerDeps {
    /// Not a tenant's connections: the invoicer works for all organizations.
    pub pool: PgPool,
    pub usage: ClickHouse,
    /// Moved by the invoicer itself where the deployment runs on a test clock.
    pub clock: Clock,
    pub config: Config,
}

/// What one run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Invoices made.
    pub created: u64,
    /// Invoices that got their number, made now or before.
    pub finalized: u64,
    /// What could not be billed, and why; it stays due.
    pub failures: Vec<Failure>,
    /// Subscriptions and drafts that stay due because the pipeline's watermark has not passed
    /// their instant, or because another invoicer is at them.
    pub left: u64,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.created += other.created;
        self.finalized += other.finalized;
        self.failures.extend(other.failures);
        self.left = other.left;
    }
}

/// Why the invoicer could not go on. What it had committed stays; the rest stays due.
#[derive(Debug, thiserror::Error)]
pub enum InvoicerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The aggregator has not caught up in time with what was accepted before `needed`.
    #[error(
        "the pipeline's watermark stands at {}, not yet at {needed}: is the aggregator running?",
        watermark.map_or_else(|| "no instant".to_owned(), |at| at.to_rfc3339())
    )]
    NotCovered { needed: Timestamp, watermark: Option<Timestamp> },
    /// Another invoicer holds what is due at a step of the clock.
    #[error("{left} subscriptions or drafts due at {at} are still being billed elsewhere")]
    Held { at: Timestamp, left: u64 },
}

impl From<sqlx::Error> for InvoicerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
