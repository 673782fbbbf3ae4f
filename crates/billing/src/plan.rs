//! A plan and its versions.

use crate::{Timestamp, charge::Charge};
use alloc::{string::String, vec::Vec};
use weir_ids::{OrganizationId, PlanId, PlanVersionId};
use weir_money::Money;

/// How long a period of the plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    Monthly,
}

/// A plan with its newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub id: PlanId,
    pub organization: OrganizationId,
    /// Unique among the organization's plans that are not deleted.
    pub code: String,
    pub name: String,
    pub description: Option<String>,
    pub invoice_display_name: Option<String>,
    pub version: PlanVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// What a plan costs, from one edit to the next. Never changed once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanVersion {
    pub id: PlanVersionId,
    pub plan: PlanId,
    /// 1, 2, 3 … within the plan.
    pub number: u32,
    pub interval: Interval,
    /// The base fee of a whole period.
    pub amount: Money,
    /// Whether the base fee is billed at the period's start instead of its end.
    pub pay_in_advance: bool,
    /// In the order of the request that made them.
    pub charges: Vec<Charge>,
    pub created_at: Timestamp,
}
