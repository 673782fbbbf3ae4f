//! A billable metric: what of the events is counted, and how.

use crate::Timestamp;
use alloc::string::String;
use alloc::vec::Vec;
use weir_ids::{BillableMetricId, OrganizationId};

/// How the events of a period become units.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
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
    /// Mean over the period's seconds of the running total of the field.
    WeightedSum,
    /// Sum of the expression's values.
    Custom,
}

/// Which way a metric's units are rounded before they are priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundingFunction {
    /// Half away from zero.
    Round,
    Ceil,
    Floor,
}

/// How a metric's units are rounded, for each group, before they are priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRounding {
    pub function: RoundingFunction,
    /// Digits after the point, -12..=12: -2 rounds to hundreds.
    pub precision: i32,
}

/// A property by which charges of a metric may tell events apart.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MetricFilter {
    pub key: String,
    /// The values that charges may choose from, as `events::distinct_of` writes them.
    pub values: Vec<String>,
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
    /// The property that is summed, compared or told apart; none for `Count` and `Custom`.
    pub field_name: Option<String>,
    /// Computes each event's value in place of the field; `Custom` needs one.
    pub expression: Option<String>,
    /// Whether units carry over to the next period: `Sum`, `UniqueCount` and `WeightedSum` only.
    pub recurring: bool,
    pub rounding: Option<UnitRounding>,
    pub filters: Vec<MetricFilter>,
    /// The properties that charges of this metric ever grouped by. It only grows.
    pub group_keys: Vec<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}
