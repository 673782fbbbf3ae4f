//! A billable metric: what of the events is counted, and how.

use crate::Timestamp;
use alloc::string::String;
use weir_ids::{BillableMetricId, OrganizationId};

/// How the events of a period become units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Number of events.
    Count,
    /// Sum of the field; a negative total bills as 0.
    Sum,
    /// Greatest value of the field, 0 without events.
    Max,
    /// Distinct values of the field whose last operation is `add`.
    UniqueCount,
    /// Value of the event with the greatest timestamp; a negative one bills as 0.
    Latest,
}

/// A billable metric of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BillableMetric {
    pub id: BillableMetricId,
    pub organization: OrganizationId,
    pub name: String,
    /// Unique among the organization's metrics that are not deleted.
    pub code: String,
    /// The `code` of the events it counts; several metrics may count the same events.
    /// The metric's own code unless the request says otherwise.
    pub event_code: String,
    pub description: Option<String>,
    pub aggregation: Aggregation,
    /// The property that is summed, compared or told apart; none for `Count`.
    pub field_name: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}
