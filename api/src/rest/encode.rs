//! A reply message to JSON. Fields without presence are always written.

use super::decode::FREE_JSON;
use chrono::{DateTime, SecondsFormat};
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};
use serde_json::{Map, Value as Json};

/// Why a reply can't be written: a defect of the method that made it.
#[derive(Debug, thiserror::Error)]
#[error("reply field {field} can't be written as JSON")]
pub struct EncodeError {
    field: String,
}

/// Writes a message as an object, fields in the order of their numbers.
pub fn message(message: &DynamicMessage) -> Result<Json, EncodeError> {
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let written = match &*message.get_field(&field) {
            Value::List(items) => {
                let items = items.iter().map(|item| value(&field.kind(), item));
                items.collect::<Option<Vec<_>>>().map(Json::Array)
            }
            one => value(&field.kind(), one),
        };
        let written = written.ok_or_else(|| EncodeError { field: field.full_name().to_owned() })?;
        object.insert(field.json_name().to_owned(), written);
    }
    Ok(Json::Object(object))
}

fn value(kind: &Kind, value: &Value) -> Option<Json> {
    Some(match (kind, value) {
        (_, Value::Bool(flag)) => Json::Bool(*flag),
        (_, Value::String(text)) => Json::String(text.clone()),
        (_, Value::I32(number)) => Json::from(*number),
        (_, Value::U32(number)) => Json::from(*number),
        // Readers that have only binary floats would lose digits of 64 bits.
        (_, Value::I64(number)) => Json::String(number.to_string()),
        (_, Value::U64(number)) => Json::String(number.to_string()),
        (Kind::Enum(descriptor), Value::EnumNumber(number)) => {
            Json::String(descriptor.get_value(*number)?.name().to_owned())
        }
        (_, Value::Message(inner)) => nested(inner)?,
        _ => return None,
    })
}

fn nested(inner: &DynamicMessage) -> Option<Json> {
    let descriptor = inner.descriptor();
    let text = |name: &str| {
        let value = inner.get_field_by_name(name)?;
        value.as_str().map(str::to_owned)
    };
    match descriptor.full_name() {
        "google.type.Decimal" => text("value").map(Json::String),
        "google.protobuf.Timestamp" => {
            let seconds = inner.get_field_by_name("seconds")?.as_i64()?;
            let nanos = u32::try_from(inner.get_field_by_name("nanos")?.as_i32()?).ok()?;
            let at = DateTime::from_timestamp(seconds, nanos)?;
            Some(Json::String(at.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
        }
        name if FREE_JSON.contains(&name) => serde_json::from_str(&text("json")?).ok(),
        _ => message(inner).ok(),
    }
}
