//! Trying an expression on a sample event.

use crate::{context::Context, error::OpError, fields::Faults};
use serde_json::{Value as Json, json};
use weir_events::{EventFields, Expression, ExpressionValue, PropertyReader, parse_one};
use weir_proto::v2;

/// What the expression makes of the event. Errors: `Invalid`, naming what of either is wrong.
pub fn evaluate(
    ctx: &Context,
    request: &v2::EvaluateExpressionRequest,
) -> Result<v2::ExpressionResult, OpError> {
    let mut faults = Faults::default();
    let text = request.expression.as_str();
    let expression = match text.trim().is_empty() {
        true => {
            faults.push("expression", "is required");
            None
        }
        false => faults.take("expression", Expression::parse(text)),
    };
    let event = request.event.clone().unwrap_or_default();
    let body = sample(&event).to_string();
    let read = parse_one(body.as_bytes()).map_err(|error| {
        // Properties by gRPC are a text that need not be JSON.
        OpError::invalid("event.properties", error.to_string())
    })?;
    let read = match read {
        Ok(read) => Some(read),
        Err(fault) => {
            faults.push(format!("event.{}", fault.field), fault.message);
            None
        }
    };
    let (expression, read) = faults.finish(expression.zip(read))?;
    let mut reader = PropertyReader::default();
    let fields = EventFields {
        code: &event.code,
        timestamp_us: read.timestamp_us.unwrap_or_else(|| ctx.now.timestamp_micros()),
        properties: reader.read(read.properties),
    };
    let value = expression
        .evaluate(fields)
        .map_err(|error| OpError::invalid(format!("event.{}", error.field()), error.to_string()))?;
    let is_number = matches!(value, ExpressionValue::Number(_));
    let value = match value {
        ExpressionValue::Number(number) => number.to_string(),
        ExpressionValue::Text(text) => text,
    };
    Ok(v2::ExpressionResult { value, is_number })
}

/// The event as a sender would send it: it is read by the same rules. Its ids don't matter.
fn sample(event: &v2::ExpressionEvent) -> Json {
    let code = if event.code.is_empty() { "sample" } else { &event.code };
    let mut sample =
        json!({ "transactionId": "sample", "externalSubscriptionId": "sample", "code": code });
    if let Some(timestamp) = &event.timestamp {
        sample["timestamp"] = json!(timestamp);
    }
    if let Some(properties) = &event.properties {
        let read = serde_json::from_str(&properties.json);
        sample["properties"] = read.unwrap_or_else(|_| json!(properties.json));
    }
    sample
}
