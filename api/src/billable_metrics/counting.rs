//! How a metric counts: read from a request, and checked as a whole.

use crate::fields::Faults;
use std::collections::BTreeSet;
use weir_billing::metric::{Aggregation, MetricFilter, RoundingFunction, UnitRounding};
use weir_events::Expression;
use weir_proto::v2::{self, AggregationType};

/// The most filters of a metric: an event is looked through for each of their keys.
const FILTERS_MAX: usize = 20;
/// The most values of a filter: they are compared with those of every event.
const FILTER_VALUES_MAX: usize = 500;
/// Digits that units may be rounded to, before the point and after it: values have no more.
const PRECISION_MAX: i32 = 12;

/// How the events of a period become units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    /// `None` where the request names none that there is; the fault is noted.
    pub aggregation: Option<Aggregation>,
    pub field_name: Option<String>,
    pub expression: Option<String>,
    pub recurring: bool,
    pub weighted_interval: Option<v2::WeightedInterval>,
}

impl Counting {
    /// Notes what does not fit together.
    pub fn check(&self, faults: &mut Faults) {
        if let Some(text) = &self.expression
            && let Err(error) = Expression::parse(text)
        {
            faults.push("expression", error.to_string());
        }
        let Some(aggregation) = self.aggregation else { return };
        self.check_value(aggregation, faults);
        let name = aggregation_out(aggregation).as_str_name();
        let name = name.strip_prefix("AGGREGATION_TYPE_").unwrap_or(name);
        if self.recurring && !may_recur(aggregation) {
            let message = format!(
                "must be false: only SUM_AGG, UNIQUE_COUNT_AGG and WEIGHTED_SUM_AGG carry units \
                 over, not {name}"
            );
            faults.push("recurring", message);
        }
        if self.weighted_interval.is_some() && aggregation != Aggregation::WeightedSum {
            faults.push("weightedInterval", format!("must be absent: {name} weights nothing"));
        }
    }

    /// Counting events needs nothing of them; everything else reads a property or an expression.
    fn check_value(&self, aggregation: Aggregation, faults: &mut Faults) {
        match (aggregation, &self.field_name, &self.expression) {
            (Aggregation::Count, field, expression) => {
                let absent = "must be absent: COUNT_AGG reads nothing of an event";
                field.iter().for_each(|_| faults.push("fieldName", absent));
                expression.iter().for_each(|_| faults.push("expression", absent));
            }
            (Aggregation::Custom, Some(_), _) => {
                faults.push("fieldName", "must be absent: CUSTOM_AGG sums its expression");
            }
            (Aggregation::Custom, None, None) => {
                faults.push("expression", "is required for CUSTOM_AGG");
            }
            (_, None, None) => {
                faults.push("fieldName", "is required but for COUNT_AGG, or an expression is");
            }
            // With an expression the field is only what it is called.
            (_, Some(_), _) | (_, None, Some(_)) => {}
        }
    }
}

/// Whether an aggregation can go on with what the period before ended with.
const fn may_recur(aggregation: Aggregation) -> bool {
    matches!(aggregation, Aggregation::Sum | Aggregation::UniqueCount | Aggregation::WeightedSum)
}

/// Reads an aggregation, noting when there is none.
pub fn aggregation(of: AggregationType, faults: &mut Faults) -> Option<Aggregation> {
    match of {
        AggregationType::CountAgg => Some(Aggregation::Count),
        AggregationType::SumAgg => Some(Aggregation::Sum),
        AggregationType::MaxAgg => Some(Aggregation::Max),
        AggregationType::UniqueCountAgg => Some(Aggregation::UniqueCount),
        AggregationType::LatestAgg => Some(Aggregation::Latest),
        AggregationType::WeightedSumAgg => Some(Aggregation::WeightedSum),
        AggregationType::CustomAgg => Some(Aggregation::Custom),
        AggregationType::Unspecified => {
            faults.push("aggregationType", "is required");
            None
        }
    }
}

pub fn aggregation_out(aggregation: Aggregation) -> AggregationType {
    match aggregation {
        Aggregation::Count => AggregationType::CountAgg,
        Aggregation::Sum => AggregationType::SumAgg,
        Aggregation::Max => AggregationType::MaxAgg,
        Aggregation::UniqueCount => AggregationType::UniqueCountAgg,
        Aggregation::Latest => AggregationType::LatestAgg,
        Aggregation::WeightedSum => AggregationType::WeightedSumAgg,
        Aggregation::Custom => AggregationType::CustomAgg,
    }
}

/// Reads an interval: the only one there is, or none.
pub fn weighted_interval(number: Option<i32>) -> Option<v2::WeightedInterval> {
    let interval = v2::WeightedInterval::try_from(number?).ok()?;
    (interval != v2::WeightedInterval::Unspecified).then_some(interval)
}

/// Reads how units are rounded; an unspecified function is none.
pub fn rounding(
    function: Option<i32>,
    precision: Option<i32>,
    faults: &mut Faults,
) -> Option<UnitRounding> {
    let function = function.and_then(|number| v2::RoundingFunction::try_from(number).ok());
    let function = match function.unwrap_or_default() {
        v2::RoundingFunction::Ceil => RoundingFunction::Ceil,
        v2::RoundingFunction::Floor => RoundingFunction::Floor,
        v2::RoundingFunction::Round => RoundingFunction::Round,
        v2::RoundingFunction::Unspecified => {
            if precision.is_some_and(|digits| digits != 0) {
                faults.push("roundingPrecision", "needs a roundingFunction");
            }
            return None;
        }
    };
    let precision = precision.unwrap_or(0);
    if precision.abs() > PRECISION_MAX {
        let message = format!("must be -{PRECISION_MAX} to {PRECISION_MAX}");
        faults.push("roundingPrecision", message);
    }
    Some(UnitRounding { function, precision })
}

pub fn rounding_out(rounding: UnitRounding) -> (v2::RoundingFunction, i32) {
    let function = match rounding.function {
        RoundingFunction::Round => v2::RoundingFunction::Round,
        RoundingFunction::Ceil => v2::RoundingFunction::Ceil,
        RoundingFunction::Floor => v2::RoundingFunction::Floor,
    };
    (function, rounding.precision)
}

/// Reads the filters, noting what is wrong with each.
pub fn filters(inputs: &[v2::BillableMetricFilterInput], faults: &mut Faults) -> Vec<MetricFilter> {
    if inputs.len() > FILTERS_MAX {
        faults.push("filters", format!("must be at most {FILTERS_MAX}"));
        return Vec::new();
    }
    let mut keys = BTreeSet::new();
    let mut filters = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let path = format!("filters[{at}]");
        let key = faults.text(&format!("{path}.key"), &input.key);
        if !keys.insert(key.clone()) {
            faults.push(format!("{path}.key"), "stands twice");
        }
        let values = values(&input.values, &format!("{path}.values"), faults);
        filters.push(MetricFilter { key, values });
    }
    filters
}

fn values(inputs: &[String], path: &str, faults: &mut Faults) -> Vec<String> {
    match inputs.len() {
        0 => faults.push(path, "is required"),
        1..=FILTER_VALUES_MAX => {}
        _ => {
            faults.push(path, format!("must be at most {FILTER_VALUES_MAX}"));
            return Vec::new();
        }
    }
    let mut seen = BTreeSet::new();
    for (at, value) in inputs.iter().enumerate() {
        let path = format!("{path}[{at}]");
        faults.text(&path, value);
        if !seen.insert(value) {
            faults.push(path, "stands twice");
        }
    }
    inputs.to_vec()
}
