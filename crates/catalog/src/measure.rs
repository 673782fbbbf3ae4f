//! What an event counts for a metric: the one place that says so. The edge refuses what can't be
//! measured, the rollup leaves it out.

use crate::Metric;
use weir_events::{
    EventFields, Expression, Properties, Quantity, QuantityError, Reason, distinct_of, value_of,
};
use weir_store::catalog::Aggregation;

/// Whether an event adds a value to those that a `unique_count` holds, or takes it away.
const OPERATION_TYPE: &str = "operation_type";

/// What an event counts for a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// 0 where the metric counts events or distinct values.
    pub value: Quantity,
    /// For `unique_count`: the value, and whether it is added (else it is taken away).
    pub distinct: Option<(String, bool)>,
}

/// Why an event counts nothing for a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmeasurable {
    /// The event's field that is at fault: `properties.tokens`.
    pub field: String,
    pub reason: Reason,
    /// For people: what must be.
    pub message: String,
}

impl Metric {
    /// Whether it asks for any of an event's properties.
    #[must_use]
    pub fn reads_properties(&self) -> bool {
        self.aggregation != Aggregation::Count || !self.dimensions.is_empty()
    }

    /// What an event with the metric's code counts for it. Errors: the first field that the metric
    /// can't count by.
    pub fn measure(&self, fields: EventFields<'_>) -> Result<Measured, Unmeasurable> {
        let plain = |value| Measured { value, distinct: None };
        match self.aggregation {
            Aggregation::Count => Ok(plain(Quantity::ZERO)),
            Aggregation::UniqueCount => {
                let text = match &self.expression {
                    Some(expression) => evaluated(expression, fields, Expression::text)?,
                    None => distinct_of(self.given(fields.properties)?.1),
                };
                let distinct = Some((text, is_added(fields.properties)?));
                Ok(Measured { value: Quantity::ZERO, distinct })
            }
            Aggregation::Sum
            | Aggregation::Max
            | Aggregation::Latest
            | Aggregation::WeightedSum
            | Aggregation::Custom => match &self.expression {
                Some(expression) => evaluated(expression, fields, Expression::number).map(plain),
                None => {
                    let (field, raw) = self.given(fields.properties)?;
                    number(field, raw).map(plain)
                }
            },
        }
    }

    /// The metric's field and what it holds.
    fn given<'a>(&'a self, properties: Properties<'a>) -> Result<(&'a str, &'a str), Unmeasurable> {
        // Postgres refuses a metric that has neither: its expression is one that can't be read.
        let field = self.field.as_deref().ok_or_else(|| Unmeasurable {
            field: "properties".to_owned(),
            reason: Reason::Required,
            message: "can't be measured: write the metric's expression anew".to_owned(),
        })?;
        given(properties, field).map(|raw| (field, raw)).ok_or_else(|| {
            at_property(field, Reason::Required, "must be given: a metric counts by it")
        })
    }
}

/// The property, unless it is absent or null.
fn given<'a>(properties: Properties<'a>, key: &str) -> Option<&'a str> {
    properties.get(key).filter(|raw| raw.trim() != "null")
}

fn is_added(properties: Properties<'_>) -> Result<bool, Unmeasurable> {
    match given(properties, OPERATION_TYPE).map(distinct_of).as_deref() {
        None | Some("add") => Ok(true),
        Some("remove") => Ok(false),
        Some(_) => Err(at_property(OPERATION_TYPE, Reason::InvalidType, "must be add or remove")),
    }
}

fn number(field: &str, raw: &str) -> Result<Quantity, Unmeasurable> {
    value_of(raw).map_err(|error| match error {
        QuantityError::TooManyDigits => at_property(
            field,
            Reason::TooManyDigits,
            "must have at most 16 digits before the point and 12 after it",
        ),
        _ => at_property(field, Reason::NotANumber, "must be a number, or a string with one"),
    })
}

fn evaluated<T>(
    expression: &Expression,
    fields: EventFields<'_>,
    evaluate: impl FnOnce(&Expression, EventFields<'_>) -> Result<T, weir_events::EvaluationError>,
) -> Result<T, Unmeasurable> {
    evaluate(expression, fields).map_err(|error| Unmeasurable {
        field: error.field(),
        reason: error.reason(),
        message: error.to_string(),
    })
}

fn at_property(field: &str, reason: Reason, message: &str) -> Unmeasurable {
    Unmeasurable { field: format!("properties.{field}"), reason, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_events::PropertyReader;
    use weir_ids::BillableMetricId;

    fn metric(aggregation: Aggregation, field: Option<&str>, expression: Option<&str>) -> Metric {
        Metric {
            id: BillableMetricId::from_u128(1),
            aggregation,
            field: field.map(str::to_owned),
            expression: expression.map(|text| Expression::parse(text).unwrap().into()),
            dimensions: Vec::new(),
            generation: 0,
            rolling: false,
        }
    }

    fn measure(metric: &Metric, properties: &str) -> Result<Measured, Unmeasurable> {
        let mut reader = PropertyReader::default();
        let properties = reader.read(properties);
        metric.measure(EventFields { code: "calls", timestamp_us: 1_500_000, properties })
    }

    #[test]
    fn values_are_the_fields_or_the_expressions() {
        use Aggregation::{Count, Custom, Latest, Max, Sum, WeightedSum};
        let cases = [
            (Count, None, None, r"{}", "0"),
            (Sum, Some("v"), None, r#"{"v": 1.5}"#, "1.5"),
            (Max, Some("v"), None, r#"{"v": "-2"}"#, "-2"),
            (Latest, Some("v"), None, r#"{"v": 9007199254740993}"#, "9007199254740993"),
            (WeightedSum, Some("v"), None, r#"{"v": 0.000000000001}"#, "0.000000000001"),
            (
                Custom,
                None,
                Some("event.properties.a * event.properties.b"),
                r#"{"a":3,"b":4}"#,
                "12",
            ),
            // The expression goes before the field.
            (Sum, Some("v"), Some("event.properties.v * 2"), r#"{"v": 4}"#, "8"),
            (Sum, None, Some("event.timestamp"), r"{}", "1.5"),
        ];
        for (aggregation, field, expression, properties, expected) in cases {
            let measured = measure(&metric(aggregation, field, expression), properties).unwrap();
            assert_eq!(measured.value, expected.parse().unwrap(), "{aggregation:?} {properties}");
            assert_eq!(measured.distinct, None);
        }
    }

    #[test]
    fn distinct_values_are_texts_added_or_taken_away() {
        let by_field = metric(Aggregation::UniqueCount, Some("v"), None);
        let by_expression = metric(
            Aggregation::UniqueCount,
            None,
            Some("concat(event.properties.v, '-', event.code)"),
        );
        let cases = [
            (&by_field, r#"{"v": "a"}"#, "a", true),
            (&by_field, r#"{"v": 1.0, "operation_type": "add"}"#, "1", true),
            (&by_field, r#"{"v": "1", "operation_type": "remove"}"#, "1", false),
            (&by_field, r#"{"v": true, "operation_type": null}"#, "true", true),
            (&by_expression, r#"{"v": "a", "operation_type": "remove"}"#, "a-calls", false),
        ];
        for (metric, properties, text, added) in cases {
            let measured = measure(metric, properties).unwrap();
            assert_eq!(measured.distinct, Some((text.to_owned(), added)), "{properties}");
            assert_eq!(measured.value, Quantity::ZERO);
        }
    }

    #[test]
    fn what_is_at_fault_is_named() {
        let sum = metric(Aggregation::Sum, Some("v"), None);
        let unique = metric(Aggregation::UniqueCount, Some("v"), None);
        let custom = metric(Aggregation::Custom, None, Some("1 / event.properties.d"));
        let unreadable = metric(Aggregation::Custom, None, None);
        let cases = [
            (&sum, r"{}", "properties.v", Reason::Required),
            (&sum, r#"{"v": null}"#, "properties.v", Reason::Required),
            (&sum, r#"{"v": "x"}"#, "properties.v", Reason::NotANumber),
            (&sum, r#"{"v": 12345678901234567}"#, "properties.v", Reason::TooManyDigits),
            (&unique, r"{}", "properties.v", Reason::Required),
            (
                &unique,
                r#"{"v": 1, "operation_type": "foo"}"#,
                "properties.operation_type",
                Reason::InvalidType,
            ),
            (&custom, r"{}", "properties.d", Reason::Required),
            (&custom, r#"{"d": 0}"#, "properties", Reason::DivisionByZero),
            (&unreadable, r#"{"d": 1, "": 1}"#, "properties", Reason::Required),
        ];
        for (metric, properties, field, reason) in cases {
            let fault = measure(metric, properties).unwrap_err();
            assert_eq!((fault.field.as_str(), fault.reason), (field, reason), "{properties}");
            assert!(!fault.message.is_empty());
        }
    }
}
