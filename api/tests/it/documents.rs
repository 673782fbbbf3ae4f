//! `docs/openapi.json` is what the descriptors say. `WEIR_BLESS=1` writes it anew.

use serde_json::Value as Json;
use std::path::Path;
use weir_api::openapi;

#[test]
fn the_openapi_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let written = format!("{:#}\n", openapi::document());
    if std::env::var_os("WEIR_BLESS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == written, "docs/openapi.json is stale: run the test with WEIR_BLESS=1");
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let document = openapi::document();
    let mut values = vec![&document];
    while let Some(value) = values.pop() {
        match value {
            Json::Object(object) => {
                if let Some(reference) = object.get("$ref") {
                    let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{pointer}");
                }
                values.extend(object.values());
            }
            Json::Array(items) => values.extend(items),
            _ => {}
        }
    }
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key(
        "/api/billing/v2/customers/{customerId}/subscriptions/{subscriptionId}/usage"
    ));
}
