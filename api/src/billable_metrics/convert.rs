//! Billable metrics between proto and domain.

use crate::{
    error::OpError,
    fields::{Faults, id, timestamp_out},
    mask::Mask,
};
use weir_billing::metric::{Aggregation, BillableMetric};
use weir_proto::v2::{self, AggregationType};
use weir_store::billable_metrics::MetricFilter;

/// A metric to be made: all but what the server gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub name: String,
    pub code: String,
    pub event_code: String,
    pub description: Option<String>,
    pub aggregation: Aggregation,
    pub field_name: Option<String>,
}

/// Reads a create. Errors: `Invalid`, naming each field.
pub fn draft(request: &v2::CreateBillableMetricRequest) -> Result<Draft, OpError> {
    let mut faults = Faults::default();
    let name = faults.text("name", &request.name);
    let code = faults.text("code", &request.code);
    let event_code = faults.optional_text("eventCode", request.event_code.as_deref());
    let field_name = faults.optional_text("fieldName", request.field_name.as_deref());
    let aggregation = aggregation(request.aggregation_type(), &mut faults);
    check_field(aggregation, field_name.as_deref(), &mut faults);
    let event_code = event_code.unwrap_or_else(|| code.clone());
    let description = faults.description("description", Some(&request.description));
    faults.finish(aggregation.map(|aggregation| Draft {
        name,
        code,
        event_code,
        description,
        aggregation,
        field_name,
    }))
}

/// The metric with what the update names. Errors: `Invalid`, naming each field.
pub fn changed(
    request: &v2::UpdateBillableMetricRequest,
    mask: &Mask,
    metric: &BillableMetric,
) -> Result<BillableMetric, OpError> {
    let mut faults = Faults::default();
    let mut changed = metric.clone();
    if mask.names("name") {
        changed.name = faults.text("name", &request.name);
    }
    if mask.names("code") {
        changed.code = faults.text("code", &request.code);
    }
    if mask.names("event_code") {
        let event_code = faults.optional_text("eventCode", request.event_code.as_deref());
        changed.event_code = event_code.unwrap_or_else(|| changed.code.clone());
    }
    let description = faults.description("description", Some(&request.description));
    mask.set("description", &mut changed.description, description);
    if mask.names("field_name") {
        let field_name = faults.optional_text("fieldName", request.field_name.as_deref());
        changed.field_name = field_name;
    }
    if mask.names("aggregation_type")
        && let Some(aggregation) = aggregation(request.aggregation_type(), &mut faults)
    {
        changed.aggregation = aggregation;
    }
    check_field(Some(changed.aggregation), changed.field_name.as_deref(), &mut faults);
    faults.finish(Some(changed))
}

fn aggregation(of: AggregationType, faults: &mut Faults) -> Option<Aggregation> {
    match of {
        AggregationType::CountAgg => Some(Aggregation::Count),
        AggregationType::SumAgg => Some(Aggregation::Sum),
        AggregationType::MaxAgg => Some(Aggregation::Max),
        AggregationType::UniqueCountAgg => Some(Aggregation::UniqueCount),
        AggregationType::LatestAgg => Some(Aggregation::Latest),
        AggregationType::CustomAgg | AggregationType::WeightedSumAgg => {
            faults.unsupported("aggregationType");
            None
        }
        AggregationType::Unspecified => {
            faults.push("aggregationType", "is required");
            None
        }
    }
}

/// Counting reads no property; everything else reads one.
fn check_field(aggregation: Option<Aggregation>, field: Option<&str>, faults: &mut Faults) {
    match (aggregation, field) {
        (Some(Aggregation::Count), Some(_)) => {
            faults.push("fieldName", "must be absent: COUNT_AGG reads no property");
        }
        (Some(Aggregation::Count), None) | (None, _) | (Some(_), Some(_)) => {}
        (Some(_), None) => faults.push("fieldName", "is required but for COUNT_AGG"),
    }
}

/// Reads a list's conditions. Errors: `Invalid`; `NotFound` for an id that no plan can have.
pub fn filter(filter: v2::BillableMetricListFilter) -> Result<MetricFilter, OpError> {
    let part = filter.part.unwrap_or_default();
    let mut faults = Faults::default();
    let types = part.aggregation_types.unwrap_or_default().in_values;
    let mut aggregations = Vec::new();
    for of in types {
        let of = AggregationType::try_from(of).unwrap_or_default();
        aggregations.extend(aggregation(of, &mut faults));
    }
    faults.check()?;
    Ok(MetricFilter {
        aggregations,
        plan: part.plan_id.map(|text| id("plan", &text)).transpose()?,
        text: filter.text_search.trim().to_owned(),
        with_deleted: false,
    })
}

pub fn metric_out(metric: BillableMetric) -> v2::BillableMetric {
    v2::BillableMetric {
        id: metric.id.to_string(),
        name: metric.name,
        code: metric.code,
        event_code: metric.event_code,
        description: metric.description,
        aggregation_type: aggregation_out(metric.aggregation).into(),
        field_name: metric.field_name,
        recurring: false,
        created_at: Some(timestamp_out(metric.created_at)),
        updated_at: Some(timestamp_out(metric.updated_at)),
        deleted_at: metric.deleted_at.map(timestamp_out),
    }
}

fn aggregation_out(aggregation: Aggregation) -> AggregationType {
    match aggregation {
        Aggregation::Count => AggregationType::CountAgg,
        Aggregation::Sum => AggregationType::SumAgg,
        Aggregation::Max => AggregationType::MaxAgg,
        Aggregation::UniqueCount => AggregationType::UniqueCountAgg,
        Aggregation::Latest => AggregationType::LatestAgg,
    }
}
