//! Fields of the reference that we don't have yet: taken while they ask for nothing, refused by
//! name when they ask for something. The one place, for REST and gRPC alike.

use crate::{descriptors, error::Violation};
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

const NAME: &str = "weir.billing.v2.Unsupported";
/// Values that ask for nothing; 64-bit numbers are strings in JSON.
const IDLE: [&str; 8] = ["", "null", "false", "0", "\"0\"", "\"\"", "[]", "{}"];

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
                if !IDLE.contains(&json.trim()) {
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
