//! Text that Postgres can't hold: a string with the character U+0000.

use crate::{descriptors, error::Violation};
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Value};

/// These ask ClickHouse and the log alone, which take any text; an event may have such an id.
const OF_EVENTS: [&str; 4] =
    ["GetEventRequest", "ListEventsRequest", "IngestEventRequest", "IngestEventBatchRequest"];

/// Every string of `request` that can't be kept.
pub fn faults<T: Message + Name>(request: &T) -> Vec<Violation> {
    let mut found = Vec::new();
    let bytes = request.encode_to_vec();
    // Nearly every request has none; a byte 0 may also be part of a number.
    if !bytes.contains(&0) || OF_EVENTS.contains(&T::NAME) {
        return found;
    }
    if let Some(descriptor) = descriptors::pool().get_message_by_name(&T::full_name())
        && let Ok(message) = DynamicMessage::decode(descriptor, bytes.as_slice())
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
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    look(item, &format!("{path}[{index}]"), found);
                }
            }
            one => look(one, &path, found),
        }
    }
}

fn look(value: &Value, path: &str, found: &mut Vec<Violation>) {
    match value {
        Value::String(text) if text.contains('\0') => {
            found.push(Violation::new(path, "must not have the character U+0000"));
        }
        Value::Message(inner) => search(inner, path, found),
        _ => {}
    }
}
