//! `docs/openapi.json`, made from the descriptors, so that it can't tell another story.

use crate::descriptors::{self, Binding, Rpc, comment};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

const UNSUPPORTED: &str = "weir.billing.v2.Unsupported";
const ABOUT: &str = "Usage metering and billing. One definition serves gRPC and REST on one port. \
    Amounts in cents are 64-bit integers: answers write them as strings, requests take numbers or \
    strings. Decimals are strings in answers; requests take strings, JSON numbers (digit by digit) \
    or {units, nanos}. Enums are written with their full names; requests take short ones too. \
    Unknown fields are refused with their path.";
/// What `EventService.Ingest` answers beside 200.
const ACCEPTED: (&str, &str) = ("EventService.Ingest", "202");
/// The rpc that takes lines of JSON too.
const NDJSON: &str = "EventService.IngestBatch";

/// The OpenAPI 3.1 document of all rpcs.
#[must_use]
pub fn document() -> Json {
    let rpcs = descriptors::rpcs();
    let mut paths: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    for rpc in rpcs {
        for (index, binding) in rpc.bindings.iter().enumerate() {
            let verb = binding.method.as_str().to_ascii_lowercase();
            let path = camel_path(&binding.path);
            paths.entry(path).or_default().insert(verb, operation(rpc, binding, index));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir billing API",
            "version": "2",
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost:8080" }],
        "tags": tags(),
        "paths": paths,
        "components": {
            "securitySchemes": { "apiKey": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, `weir_…`, with the scope that the operation names.",
            }},
            "responses": { "Error": {
                "description": "What went wrong, as google.rpc.Status with details.",
                "content": { "application/json": { "schema": reference("Status") } },
            }},
            "schemas": schemas(rpcs),
        },
    })
}

fn tags() -> Vec<Json> {
    let tag = |service: prost_reflect::ServiceDescriptor| {
        let text = comment(&service.parent_file(), service.path()).unwrap_or_default();
        json!({ "name": service.name(), "description": text })
    };
    descriptors::pool().services().map(tag).collect()
}

fn operation(rpc: &Rpc, binding: &Binding, index: usize) -> Json {
    let input = rpc.descriptor.input();
    let output = rpc.descriptor.output();
    let text = comment(&rpc.descriptor.parent_file(), rpc.descriptor.path()).unwrap_or_default();
    let service = rpc.descriptor.parent_service().name().to_owned();
    // Aliases need ids of their own.
    let suffix = if index == 0 { String::new() } else { format!("_{}", index + 1) };
    let content = json!({ "application/json": { "schema": reference(output.name()) } });
    let mut responses = json!({
        "200": { "description": "Done.", "content": content },
        "default": { "$ref": "#/components/responses/Error" },
    });
    if rpc.label == ACCEPTED.0 {
        responses[ACCEPTED.1] = json!({ "description": "New and durable.", "content": content });
    }
    let mut operation = json!({
        "operationId": format!("{}{suffix}", rpc.label.replace('.', "_")),
        "tags": [service],
        "description": text,
        "security": [{ "apiKey": [rpc.permission.clone().unwrap_or_default()] }],
        "parameters": parameters(rpc, binding, &input),
        "responses": responses,
    });
    if binding.has_body {
        let schema = json!({ "schema": reference(input.name()) });
        let mut content = json!({ "application/json": schema });
        if rpc.label == NDJSON {
            content["application/x-ndjson"] = json!({ "schema": { "type": "string" } });
        }
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn parameters(rpc: &Rpc, binding: &Binding, input: &MessageDescriptor) -> Vec<Json> {
    let names: Vec<&str> = variables(&binding.path).collect();
    let mut all = Vec::new();
    for name in &names {
        if let Some(field) = input.get_field_by_name(name) {
            all.push(parameter("path", field.json_name(), &field));
        }
    }
    if !binding.has_body {
        let fields = input.fields().filter(|field| !names.contains(&field.name()));
        fields.for_each(|field| query(&field, "", &mut all));
    }
    if rpc.descriptor.name() == "Create" {
        all.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "A repeat with the same key and body answers what the first call made.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        }));
    }
    all
}

/// A field as query parameters: those of a message are joined by dots.
fn query(field: &FieldDescriptor, prefix: &str, all: &mut Vec<Json>) {
    let name = format!("{prefix}{}", field.json_name());
    match field.kind() {
        Kind::Message(inner) if inner.full_name() == UNSUPPORTED => {}
        Kind::Message(inner) if special(&inner).is_none() => {
            if !field.is_list() {
                inner.fields().for_each(|inside| query(&inside, &format!("{name}."), all));
            }
        }
        _ => all.push(parameter("query", &name, field)),
    }
}

fn parameter(place: &str, name: &str, field: &FieldDescriptor) -> Json {
    let mut parameter = json!({ "name": name, "in": place, "schema": schema(field) });
    if place == "path" {
        parameter["required"] = json!(true);
    }
    if let Some(text) = comment(&field.parent_message().parent_file(), field.path()) {
        parameter["description"] = json!(text);
    }
    parameter
}

/// The names in a path's braces.
fn variables(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// `/customers/{customer_id}` as its JSON name has it: `/customers/{customerId}`.
fn camel_path(path: &str) -> String {
    let mut camel = String::new();
    let mut upper = false;
    for letter in path.chars() {
        match letter {
            '_' => upper = true,
            _ if upper => {
                camel.push(letter.to_ascii_uppercase());
                upper = false;
            }
            _ => camel.push(letter),
        }
    }
    camel
}

fn schemas(rpcs: &[Rpc]) -> BTreeMap<String, Json> {
    let mut inputs = Reached::default();
    let mut outputs = Reached::default();
    for rpc in rpcs {
        inputs.message(&rpc.descriptor.input());
        outputs.message(&rpc.descriptor.output());
    }
    let mut schemas = BTreeMap::from([("Status".to_owned(), status())]);
    for (name, message) in outputs.messages.iter().chain(&inputs.messages) {
        let answered = !inputs.messages.contains_key(name);
        schemas.insert(name.clone(), message_schema(message, answered));
    }
    for (name, descriptor) in outputs.enums.into_iter().chain(inputs.enums) {
        schemas.insert(name, enum_schema(&descriptor));
    }
    schemas
}

/// The messages and enums that can be reached from some message.
#[derive(Default)]
struct Reached {
    messages: BTreeMap<String, MessageDescriptor>,
    enums: BTreeMap<String, EnumDescriptor>,
}

impl Reached {
    fn message(&mut self, message: &MessageDescriptor) {
        if special(message).is_some() || message.full_name() == UNSUPPORTED {
            return;
        }
        if self.messages.insert(message.name().to_owned(), message.clone()).is_some() {
            return;
        }
        for field in message.fields() {
            match field.kind() {
                Kind::Message(inner) => self.message(&inner),
                Kind::Enum(inner) => {
                    self.enums.insert(inner.name().to_owned(), inner);
                }
                _ => {}
            }
        }
    }
}

fn message_schema(message: &MessageDescriptor, answered: bool) -> Json {
    let mut properties = Map::new();
    let mut unsupported = BTreeSet::new();
    let mut required = Vec::new();
    for field in message.fields() {
        let name = field.json_name().to_owned();
        if is_unsupported(&field) {
            unsupported.insert(name);
            continue;
        }
        if answered && !field.supports_presence() {
            required.push(name.clone());
        }
        let mut property = schema(&field);
        if let Some(text) = comment(&message.parent_file(), field.path()) {
            property["description"] = json!(text);
        }
        properties.insert(name, property);
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if let Some(text) = comment(&message.parent_file(), message.path()) {
        schema["description"] = json!(text);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !unsupported.is_empty() {
        schema["x-not-supported-yet"] = json!(unsupported);
    }
    schema
}

fn is_unsupported(field: &FieldDescriptor) -> bool {
    field.kind().as_message().is_some_and(|inner| inner.full_name() == UNSUPPORTED)
}

fn enum_schema(descriptor: &EnumDescriptor) -> Json {
    let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
    let mut schema = json!({ "type": "string", "enum": names });
    if let Some(text) = comment(&descriptor.parent_file(), descriptor.path()) {
        schema["description"] = json!(text);
    }
    schema
}

fn schema(field: &FieldDescriptor) -> Json {
    let one = match field.kind() {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({ "type": "integer", "format": "int32" })
        }
        Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0 }),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({ "type": "string", "format": "int64" })
        }
        Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
        Kind::Double | Kind::Float => json!({ "type": "number" }),
        Kind::String | Kind::Bytes => json!({ "type": "string" }),
        Kind::Enum(inner) => reference(inner.name()),
        Kind::Message(inner) => special(&inner).unwrap_or_else(|| reference(inner.name())),
    };
    if field.is_list() { json!({ "type": "array", "items": one }) } else { one }
}

/// Messages that are not written as objects of their fields.
fn special(message: &MessageDescriptor) -> Option<Json> {
    Some(match message.full_name() {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.FieldMask" => {
            json!({ "type": "string", "examples": ["name,amountCents"] })
        }
        "google.type.Decimal" => json!({ "type": "string", "format": "decimal" }),
        "weir.billing.v2.JsonObject" => json!({ "type": "object" }),
        _ => return None,
    })
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn status() -> Json {
    json!({
        "type": "object",
        "description": "google.rpc.Status. `details` holds an ErrorInfo with a stable reason, a \
            RequestInfo, and where it applies a BadRequest and a RetryInfo.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": { "type": "integer", "description": "The gRPC code." },
            "message": { "type": "string" },
            "details": { "type": "array", "items": {
                "type": "object",
                "required": ["@type"],
                "properties": { "@type": { "type": "string" } },
            }},
        },
    })
}
