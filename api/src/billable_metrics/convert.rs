//! Billable metrics between proto and domain.

use super::counting::{self, Counting, aggregation, aggregation_out, rounding_out};
use crate::{
    error::OpError,
    fields::{Faults, id, timestamp_out},
    mask::Mask,
};
use weir_billing::metric::{Aggregation, BillableMetric, MetricFilter, UnitRounding};
use weir_proto::v2::{self, AggregationType};
use weir_store::billable_metrics::MetricFilter as ListFilter;

/// A metric to be made: all but what the server gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub name: String,
    pub code: String,
    pub event_code: String,
    pub description: Option<String>,
    pub aggregation: Aggregation,
    pub field_name: Option<String>,
    pub expression: Option<String>,
    pub recurring: bool,
    pub rounding: Option<UnitRounding>,
    pub filters: Vec<MetricFilter>,
}

/// Reads a create. Errors: `Invalid`, naming each field.
pub fn draft(request: &v2::CreateBillableMetricRequest) -> Result<Draft, OpError> {
    let mut faults = Faults::default();
    let name = faults.text("name", &request.name);
    let code = faults.text("code", &request.code);
    let event_code = faults.optional_text("eventCode", request.event_code.as_deref());
    let field_name = faults.optional_text("fieldName", request.field_name.as_deref());
    let counting = Counting {
        aggregation: aggregation(request.aggregation_type(), &mut faults),
        field_name,
        expression: expression(request.expression.as_deref()),
        recurring: request.recurring(),
        weighted_interval: counting::weighted_interval(request.weighted_interval),
    };
    counting.check(&mut faults);
    let rounding =
        counting::rounding(request.rounding_function, request.rounding_precision, &mut faults);
    let filters = counting::filters(&request.filters, &mut faults);
    let event_code = event_code.unwrap_or_else(|| code.clone());
    let description = faults.description("description", Some(&request.description));
    faults.finish(counting.aggregation.map(|aggregation| Draft {
        name,
        code,
        event_code,
        description,
        aggregation,
        field_name: counting.field_name,
        expression: counting.expression,
        recurring: counting.recurring,
        rounding,
        filters,
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
        changed.field_name = faults.optional_text("fieldName", request.field_name.as_deref());
    }
    if mask.names("aggregation_type")
        && let Some(aggregation) = aggregation(request.aggregation_type(), &mut faults)
    {
        changed.aggregation = aggregation;
    }
    mask.set("expression", &mut changed.expression, expression(request.expression.as_deref()));
    mask.set("recurring", &mut changed.recurring, request.recurring());
    if mask.names("filters") {
        changed.filters = counting::filters(&request.filters, &mut faults);
    }
    changed.rounding = rounding(request, mask, metric, &mut faults);
    let counting = Counting {
        aggregation: Some(changed.aggregation),
        field_name: changed.field_name.clone(),
        expression: changed.expression.clone(),
        recurring: changed.recurring,
        weighted_interval: counting::weighted_interval(request.weighted_interval)
            .filter(|_| mask.names("weighted_interval")),
    };
    counting.check(&mut faults);
    faults.finish(Some(changed))
}

/// Blank counts as absent.
fn expression(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

/// The rounding after an update: what it does not name stays, and with the function the precision
/// goes.
fn rounding(
    request: &v2::UpdateBillableMetricRequest,
    mask: &Mask,
    metric: &BillableMetric,
    faults: &mut Faults,
) -> Option<UnitRounding> {
    let before = metric.rounding.map(rounding_out);
    let function = match mask.names("rounding_function") {
        true => request.rounding_function,
        false => before.map(|(function, _)| function.into()),
    };
    let precision = match mask.names("rounding_precision") {
        true => request.rounding_precision,
        false => before.map(|(_, precision)| precision).filter(|_| function.is_some()),
    };
    counting::rounding(function, precision, faults)
}

/// Reads a list's conditions. Errors: `Invalid`; `NotFound` for an id that no plan can have.
pub fn filter(filter: v2::BillableMetricListFilter) -> Result<ListFilter, OpError> {
    let part = filter.part.unwrap_or_default();
    let mut faults = Faults::default();
    let types = part.aggregation_types.unwrap_or_default().in_values;
    let mut aggregations = Vec::new();
    for of in types {
        let of = AggregationType::try_from(of).unwrap_or_default();
        aggregations.extend(aggregation(of, &mut faults));
    }
    faults.check()?;
    Ok(ListFilter {
        aggregations,
        plan: part.plan_id.map(|text| id("plan", &text)).transpose()?,
        recurring: part.recurring,
        text: filter.text_search.trim().to_owned(),
        with_deleted: false,
    })
}

pub fn metric_out(metric: BillableMetric) -> v2::BillableMetric {
    let filter = |filter: MetricFilter| v2::BillableMetricFilter {
        id: format!("{}:{}", metric.id, filter.key),
        key: filter.key,
        values: filter.values,
    };
    let rounding = metric.rounding.map(rounding_out);
    let weighted = metric.aggregation == Aggregation::WeightedSum;
    v2::BillableMetric {
        id: metric.id.to_string(),
        name: metric.name,
        code: metric.code,
        event_code: metric.event_code,
        description: metric.description,
        aggregation_type: aggregation_out(metric.aggregation).into(),
        field_name: metric.field_name,
        recurring: metric.recurring,
        created_at: Some(timestamp_out(metric.created_at)),
        updated_at: Some(timestamp_out(metric.updated_at)),
        deleted_at: metric.deleted_at.map(timestamp_out),
        expression: metric.expression,
        filters: metric.filters.into_iter().map(filter).collect(),
        rounding_function: rounding.map(|(function, _)| function.into()),
        rounding_precision: rounding.map(|(_, precision)| precision),
        weighted_interval: weighted.then(|| v2::WeightedInterval::Seconds.into()),
    }
}
