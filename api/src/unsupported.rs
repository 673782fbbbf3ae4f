//! Fields of the reference that we don't have yet: taken while they ask for nothing, refused by
//! name when they ask for something. The one place, for REST and gRPC alike.

use crate::{descriptors, error::Violation};
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use serde_json::Value as Json;

const NAME: &str = "weir.billing.v2.Unsupported";

/// Every field of `request` that asks for something we don't have.
pub fn fields<T: Message + Name>(request: &T) -> Vec<Violation> {
    let mut found = Vec::new();
    if let Some(descriptor) = descriptors::pool().get_message_by_name(&T::full_name())
        && let Ok(message) = DynamicMessage::decode(descriptor, request.encode_to_vec().as_slice())
    {
        search(&message, "", &mut found);
    }
    found
}

fn search(message: &DynamicMessage, path: &str, found: &mut Vec<Violation>) {
    for (field, value) in message.fields() {
        let name = field.json_name();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Message(inner) if inner.descriptor().full_name() == NAME => {
                let json = inner.get_field_by_name("json");
                let json = json.as_ref().and_then(|json| json.as_str()).unwrap_or_default();
                if asks_for_something(json) {
                    found.push(Violation::unsupported(path));
                }
            }
            Value::Message(inner) => search(inner, &path, found),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        search(inner, &format!("{path}[{index}]"), found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Text that is no JSON asks for something: by gRPC nobody has looked at it before.
fn asks_for_something(json: &str) -> bool {
    let json = json.trim();
    !json.is_empty() && serde_json::from_str(json).map_or(true, |json| !is_idle(&json))
}

/// What a client writes that writes every field it knows, set or not.
fn is_idle(json: &Json) -> bool {
    match json {
        Json::Null | Json::Bool(false) => true,
        Json::Bool(true) => false,
        Json::Number(number) => is_zero(&number.to_string()),
        // 64-bit numbers and decimals are strings in JSON, enums their names.
        Json::String(text) => text.is_empty() || is_zero(text) || text.ends_with("_UNSPECIFIED"),
        Json::Array(items) => items.is_empty(),
        Json::Object(fields) => fields.values().all(is_idle),
    }
}

/// `0`, `-0.00`, `0e3`: no digit before the exponent counts.
fn is_zero(number: &str) -> bool {
    let digits = number.split(['e', 'E']).next().unwrap_or_default();
    let digits = digits.strip_prefix('-').unwrap_or(digits);
    digits.contains('0') && digits.bytes().all(|byte| byte == b'0' || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::asks_for_something;

    #[test]
    fn what_is_empty_asks_for_nothing_in_any_spelling() {
        for json in [
            "",
            " null ",
            "false",
            "0",
            "0.0",
            "-0",
            "0e5",
            "\"0\"",
            "\"0.00\"",
            "\"\"",
            "[]",
            "{}",
            "\"ROUNDING_FUNCTION_UNSPECIFIED\"",
            r#"{"units":"0","nanos":0}"#,
            r#"{"documentLocale":null,"lines":[]}"#,
        ] {
            assert!(!asks_for_something(json), "{json}");
        }
        for json in [
            "true",
            "1",
            "0.01",
            "\"-1\"",
            "\"e\"",
            "\".\"",
            "[0]",
            "[{}]",
            r#"{"a":{"b":"x"}}"#,
            "no json",
            "\"ROUND\"",
        ] {
            assert!(asks_for_something(json), "{json}");
        }
    }
}
