//! The facts that an invoice is made from.

use crate::{
    BillingError, Timestamp,
    customer::Customer,
    due::{next_due_at, replanned_due_at},
    invoice::Period,
    metric::{Aggregation, BillableMetric, MetricFilter, UnitRounding},
    plan::PlanVersion,
    subscription::{Subscription, SubscriptionStatus},
};
use alloc::{collections::BTreeMap, string::String, sync::Arc, vec::Vec};
use chrono_tz::Tz;
use weir_ids::BillableMetricId;

/// A customer and those of its subscriptions that are due at one instant.
#[derive(Debug, Clone)]
pub struct Contract {
    pub customer: Customer,
    /// The instant they are due at.
    pub due_at: Timestamp,
    pub agreements: Vec<Agreement>,
    /// At least the metrics that the plans' charges count.
    pub metrics: Arc<BTreeMap<BillableMetricId, MetricTerms>>,
}

/// What a metric is called and how it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricTerms {
    pub name: String,
    pub aggregation: Aggregation,
    /// Whether units carry over to the next period.
    pub recurring: bool,
    pub rounding: Option<UnitRounding>,
    /// What charges may choose from.
    pub filters: Vec<MetricFilter>,
}

impl From<&BillableMetric> for MetricTerms {
    fn from(metric: &BillableMetric) -> Self {
        Self {
            name: metric.name.clone(),
            aggregation: metric.aggregation,
            recurring: metric.recurring,
            rounding: metric.rounding,
            filters: metric.filters.clone(),
        }
    }
}

/// A subscription with its plan's versions and what of it is billed already.
#[derive(Debug, Clone)]
pub struct Agreement {
    pub subscription: Subscription,
    /// What the base fee's line is called and coded.
    pub plan_name: String,
    pub plan_code: String,
    /// The versions that have been in force for it, in any order; at least one.
    pub versions: Vec<EffectiveVersion>,
    pub billed: Billed,
    /// When its next invoice was last said to be due, in the zone its customer had then.
    pub planned_due_at: Option<Timestamp>,
}

/// A plan version and since when it holds for a subscription.
#[derive(Debug, Clone)]
pub struct EffectiveVersion {
    pub from: Timestamp,
    pub version: Arc<PlanVersion>,
}

/// Up to where a subscription is billed, over all its invoices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Billed {
    /// The last instant an invoice was due at.
    pub due_at: Option<Timestamp>,
    /// The end of the last usage window.
    pub usage_to: Option<Timestamp>,
    /// The end of the last base fee's period.
    pub base_to: Option<Timestamp>,
}

impl Contract {
    /// Where the customer's months are cut.
    #[must_use]
    pub fn tz(&self) -> Tz {
        self.customer.details.timezone.unwrap_or(Tz::UTC)
    }
}

impl Agreement {
    /// The version that prices a period which starts at `at`: the newest in force then; before the
    /// first, the first. Errors: none at all.
    pub fn version_at(&self, at: Timestamp) -> Result<&Arc<PlanVersion>, BillingError> {
        let in_force = self.versions.iter().filter(|one| one.from <= at).max_by_key(|one| one.from);
        in_force
            .or_else(|| self.versions.iter().min_by_key(|one| one.from))
            .map(|one| &one.version)
            .ok_or(BillingError::NoPlanVersion(self.subscription.id))
    }

    /// The next instant at which an invoice is due, given what is billed. Errors: outside the calendar.
    pub fn next_due_at(&self, tz: Tz) -> Result<Option<Timestamp>, BillingError> {
        let first = self.version_at(self.subscription.started_at)?;
        let (billed, planned) = (self.billed.due_at, self.planned_due_at);
        replanned_due_at(&self.subscription, first, tz, billed, planned)
    }

    /// The window of usage that runs at `now`: what the next invoice settles, or, while invoices that
    /// are due have not been made, the one after them. `None`: not started, or ended.
    /// Errors: outside the calendar.
    pub fn usage_window(&self, tz: Tz, now: Timestamp) -> Result<Option<Period>, BillingError> {
        let subscription = &self.subscription;
        if subscription.status(now) != SubscriptionStatus::Active {
            return Ok(None);
        }
        let first = self.version_at(subscription.started_at)?;
        let mut start = self.billed.usage_to.unwrap_or(subscription.started_at);
        let mut due = self.next_due_at(tz)?;
        while let Some(at) = due.filter(|at| *at <= now) {
            start = at;
            due = next_due_at(subscription, first, tz, Some(at))?;
        }
        Ok(due.or(subscription.end()).map(|end| Period { start, end }))
    }
}
