//! A customer's subscription to a plan, and its life.

use crate::Timestamp;
use alloc::string::String;
use weir_ids::{CustomerId, OrganizationId, PlanId, SubscriptionId};

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub organization: OrganizationId,
    pub customer: CustomerId,
    pub plan: PlanId,
    /// What events name; unique among the organization's live subscriptions.
    pub external_id: String,
    pub name: Option<String>,
    /// The instant it starts (or started), inclusive.
    pub started_at: Timestamp,
    /// When it shall end by itself, exclusive.
    pub ending_at: Option<Timestamp>,
    /// When it ended, exclusive: events from this instant on are not its own.
    pub terminated_at: Option<Timestamp>,
    /// Whether `Terminate` asked for no final invoice.
    pub skip_final_invoice: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Where in its life a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionStatus {
    /// Starts later.
    Pending,
    Active,
    Terminated,
}

impl Subscription {
    /// The instant it ends, exclusive: by itself or terminated, whichever is earlier.
    #[must_use]
    pub fn end(&self) -> Option<Timestamp> {
        match (self.ending_at, self.terminated_at) {
            (Some(ending), Some(terminated)) => Some(ending.min(terminated)),
            (ending, terminated) => ending.or(terminated),
        }
    }

    /// The status at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> SubscriptionStatus {
        match self.end() {
            Some(end) if end <= now => SubscriptionStatus::Terminated,
            _ if self.started_at > now => SubscriptionStatus::Pending,
            _ => SubscriptionStatus::Active,
        }
    }
}
