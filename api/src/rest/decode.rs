//! JSON to a request message, guided by its descriptor. Every fault is told with its path.

use crate::error::Violation;
use chrono::DateTime;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;

/// Messages that stand for any JSON value, kept as text in their field `json`.
pub const FREE_JSON: [&str; 2] = ["weir.billing.v2.JsonObject", "weir.billing.v2.Unsupported"];
/// Only an object may stand in this one.
const FREE_OBJECT: &str = FREE_JSON[0];

/// Times of events, which the ingest role takes as texts and as numbers.
const EVENT_TIMES: [&str; 2] =
    ["weir.billing.v2.IngestEventRequest.timestamp", "weir.billing.v2.ExpressionEvent.timestamp"];

/// Reads an object. Faults are added to `faults`; the message is of use only without any.
pub fn message(
    descriptor: &MessageDescriptor,
    object: Map<String, Json>,
    path: &str,
    faults: &mut Vec<Violation>,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut seen = BTreeSet::new();
    for (key, json) in object {
        let path = join(path, &key);
        let Some(field) = field(descriptor, &key) else {
            faults.push(Violation::new(path, "unknown field"));
            continue;
        };
        if !seen.insert(field.number()) {
            faults.push(Violation::new(path, "stands twice, under both of its names"));
            continue;
        }
        let value = match json {
            Json::Null => continue,
            Json::Array(items) if field.is_list() => {
                let item = |(index, item)| value(&field.kind(), item, &format!("{path}[{index}]"));
                let items = items.into_iter().enumerate().map(item).collect::<Vec<_>>();
                Ok(Value::List(items.into_iter().filter_map(|item| taken(item, faults)).collect()))
            }
            _ if field.is_list() => Err(vec![Violation::new(&path, "must be an array")]),
            // A sender writes Unix seconds as a number; its digits are what counts.
            Json::Number(number) if EVENT_TIMES.contains(&field.full_name()) => {
                Ok(Value::String(number.to_string()))
            }
            json => value(&field.kind(), json, &path),
        };
        if let Some(value) = taken(value, faults) {
            message.set_field(&field, value);
        }
    }
    message
}

/// The field of this JSON name, or of this proto name.
pub fn field(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key))
}

/// Puts a query parameter (`filter.part.code=x`) into the JSON object it stands for.
pub fn insert_parameter(
    descriptor: &MessageDescriptor,
    object: &mut Map<String, Json>,
    key: &str,
    text: &str,
) -> Result<(), &'static str> {
    let (head, rest) = key.split_once('.').map_or((key, None), |(head, rest)| (head, Some(rest)));
    let field = field(descriptor, head).ok_or("unknown parameter")?;
    let name = field.json_name().to_owned();
    match (rest, field.kind()) {
        (Some(rest), Kind::Message(inner)) if !field.is_list() => {
            let inside = object.entry(name).or_insert_with(|| Json::Object(Map::new()));
            let inside = inside.as_object_mut().ok_or("is given twice, in two forms")?;
            insert_parameter(&inner, inside, rest, text)
        }
        (Some(_), _) => Err("can't be given in a query: use the form with a body"),
        (None, kind) => {
            let value = match kind {
                Kind::Bool => Json::Bool(text.parse().map_err(|_| "must be true or false")?),
                _ => Json::String(text.to_owned()),
            };
            if field.is_list() {
                let items = object.entry(name).or_insert_with(|| Json::Array(Vec::new()));
                items.as_array_mut().ok_or("is given twice, in two forms")?.push(value);
            } else if object.insert(name, value).is_some() {
                return Err("is given twice");
            }
            Ok(())
        }
    }
}

type Read = Result<Value, Vec<Violation>>;

fn taken(value: Read, faults: &mut Vec<Violation>) -> Option<Value> {
    value.map_err(|found| faults.extend(found)).ok()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads one value of a field's kind.
pub fn value(kind: &Kind, json: Json, path: &str) -> Read {
    let read = match kind {
        Kind::Bool => json.as_bool().map(Value::Bool).ok_or("must be true or false"),
        Kind::String => match json {
            Json::String(text) => Ok(Value::String(text)),
            _ => Err("must be a string"),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => whole(&json).map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => whole(&json).map(Value::I64),
        Kind::Uint32 | Kind::Fixed32 => whole(&json).map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => whole(&json).map(Value::U64),
        Kind::Enum(descriptor) => enumeration(descriptor, &json),
        Kind::Message(descriptor) => return nested(descriptor, json, path),
        // Binary floats have no place near amounts: a test sees to it that no request has any.
        Kind::Double | Kind::Float | Kind::Bytes => Err("has a type that JSON calls can't carry"),
    };
    read.map_err(|fault| vec![Violation::new(path, fault)])
}

fn whole<T: std::str::FromStr>(json: &Json) -> Result<T, &'static str> {
    let text = match json {
        Json::Number(number) => number.to_string(),
        Json::String(text) => text.clone(),
        _ => return Err("must be a whole number"),
    };
    text.parse().map_err(|_| "must be a whole number in its range")
}

/// Takes `CHARGE_MODEL_STANDARD`, `STANDARD` or the value's number.
fn enumeration(descriptor: &EnumDescriptor, json: &Json) -> Result<Value, &'static str> {
    let found = match json {
        Json::String(text) => descriptor
            .get_value_by_name(text)
            .or_else(|| descriptor.get_value_by_name(&format!("{}{text}", prefix(descriptor)))),
        Json::Number(number) => number
            .as_i64()
            .and_then(|number| i32::try_from(number).ok())
            .and_then(|number| descriptor.get_value(number)),
        _ => None,
    };
    found.map(|value| Value::EnumNumber(value.number())).ok_or("is none of the enum's values")
}

/// What every value of the enum starts with: `CHARGE_MODEL_`.
pub fn prefix(descriptor: &EnumDescriptor) -> String {
    let mut prefix = String::new();
    for letter in descriptor.name().chars() {
        if letter.is_ascii_uppercase() && !prefix.is_empty() {
            prefix.push('_');
        }
        prefix.push(letter.to_ascii_uppercase());
    }
    prefix.push('_');
    prefix
}

fn nested(descriptor: &MessageDescriptor, json: Json, path: &str) -> Read {
    let name = descriptor.full_name();
    let special = match name {
        "google.type.Decimal" => {
            Some(decimal(&json).map(|text| vec![("value", Value::String(text))]))
        }
        "google.protobuf.Timestamp" => Some(timestamp(&json)),
        "google.protobuf.FieldMask" => Some(field_mask(&json)),
        FREE_OBJECT if !json.is_object() => Some(Err("must be an object")),
        _ if FREE_JSON.contains(&name) => Some(Ok(vec![("json", Value::String(json.to_string()))])),
        _ => None,
    };
    match special {
        Some(Ok(fields)) => {
            let mut message = DynamicMessage::new(descriptor.clone());
            fields.into_iter().for_each(|(name, value)| message.set_field_by_name(name, value));
            Ok(Value::Message(message))
        }
        Some(Err(fault)) => Err(vec![Violation::new(path, fault)]),
        None => match json {
            Json::Object(object) => {
                let mut faults = Vec::new();
                let message = message(descriptor, object, path, &mut faults);
                if faults.is_empty() { Ok(Value::Message(message)) } else { Err(faults) }
            }
            _ => Err(vec![Violation::new(path, "must be an object")]),
        },
    }
}

type Fields = Result<Vec<(&'static str, Value)>, &'static str>;

fn timestamp(json: &Json) -> Fields {
    let text = json.as_str().ok_or("must be an RFC 3339 string")?;
    let at = DateTime::parse_from_rfc3339(text).map_err(|_| "must be an RFC 3339 string")?;
    let nanos = i32::try_from(at.timestamp_subsec_nanos()).map_err(|_| "is out of range")?;
    Ok(vec![("seconds", Value::I64(at.timestamp())), ("nanos", Value::I32(nanos))])
}

/// `"name,amountCents"`, in camelCase as proto3 JSON has it.
fn field_mask(json: &Json) -> Fields {
    let text = json.as_str().ok_or("must be a string of field names, joined by commas")?;
    let paths = text.split(',').filter(|path| !path.is_empty());
    Ok(vec![("paths", Value::List(paths.map(|path| Value::String(snake(path))).collect()))])
}

fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// A string as it is, a number's own digits, or `{units, nanos}`. Never through a float.
fn decimal(json: &Json) -> Result<String, &'static str> {
    match json {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => Ok(number.to_string()),
        Json::Object(parts) if parts.keys().all(|key| key == "units" || key == "nanos") => {
            let part = |key| parts.get(key).map_or(Ok(0), whole::<i64>);
            let (units, nanos) = (part("units")?, part("nanos")?);
            if nanos.abs() >= NANOS || (units > 0 && nanos < 0) || (units < 0 && nanos > 0) {
                return Err("nanos must be within a unit and have its sign");
            }
            let sign = if units < 0 || nanos < 0 { "-" } else { "" };
            let text = format!("{sign}{}.{:09}", units.unsigned_abs(), nanos.unsigned_abs());
            Ok(text.trim_end_matches('0').trim_end_matches('.').to_owned())
        }
        _ => Err("must be a decimal: a string, a number or {units, nanos}"),
    }
}

const NANOS: i64 = 1_000_000_000;
