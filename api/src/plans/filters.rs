//! The filters of a charge between proto and domain, and checked against its metric's.

use super::{
    charges::{all, model_out, priced},
    convert::FilterDraft,
};
use crate::{error::Violation, fields::Faults};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use weir_billing::{
    charge::{Charge, ChargeFilter},
    metric::BillableMetric,
};
use weir_proto::v2;

/// The most filters of a charge: each is a line of an invoice.
const FILTERS_MAX: usize = 100;
/// The most properties that lines are told apart by.
const GROUP_KEYS_MAX: usize = 10;

/// Reads the filters of a charge, noting what is wrong with each. `None`: some can't be read.
pub fn filters(
    input: &v2::ChargeInput,
    path: &str,
    faults: &mut Faults,
) -> Option<Vec<FilterDraft>> {
    if input.filters.len() > FILTERS_MAX {
        faults.push(format!("{path}.filters"), format!("must be at most {FILTERS_MAX}"));
        return None;
    }
    let mut seen = BTreeSet::new();
    let one = |(at, filter): (usize, &v2::ChargeFilterInput)| {
        let path = format!("{path}.filters[{at}]");
        let read = one(input, filter, &path, faults)?;
        if !seen.insert(read.values.clone()) {
            faults.push(format!("{path}.values"), "are those of an earlier filter");
        }
        Some(read)
    };
    all(input.filters.iter().enumerate().map(one))
}

fn one(
    input: &v2::ChargeInput,
    filter: &v2::ChargeFilterInput,
    path: &str,
    faults: &mut Faults,
) -> Option<FilterDraft> {
    let name = faults.optional_text(
        &format!("{path}.invoiceDisplayName"),
        filter.invoice_display_name.as_deref(),
    );
    let values = values(filter.values.as_ref(), &format!("{path}.values"), faults);
    let properties = format!("{path}.properties");
    let model = priced(input.charge_model(), filter.properties.as_ref(), &properties, faults);
    let pricing_group_keys = group_keys(filter.properties.as_ref(), &properties, faults);
    Some(FilterDraft {
        values: values?,
        invoice_display_name: name,
        model: model?,
        pricing_group_keys,
    })
}

/// Reads `{"region": ["eu", "us"], "tier": "gold"}`: every key once, with its values sorted.
fn values(
    given: Option<&v2::JsonObject>,
    path: &str,
    faults: &mut Faults,
) -> Option<BTreeMap<String, Vec<String>>> {
    let text = given.map_or("{}", |given| given.json.as_str());
    let Ok(Json::Object(object)) = serde_json::from_str::<Json>(text) else {
        faults.push(path, "must be an object");
        return None;
    };
    if object.is_empty() {
        faults.push(path, "is required");
        return None;
    }
    let one = |(key, json): (String, Json)| {
        let path = format!("{path}.{key}");
        let texts = match json {
            Json::String(text) => Some(vec![text]),
            Json::Array(items) => items.into_iter().map(text_of).collect(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
        };
        match texts {
            Some(mut texts) if !texts.is_empty() => {
                texts.sort_unstable();
                texts.dedup();
                Some((key, texts))
            }
            _ => {
                faults.push(path, "must be a text, or a list of texts that is not empty");
                None
            }
        }
    };
    all(object.into_iter().map(one)).map(BTreeMap::from_iter)
}

fn text_of(json: Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text),
        _ => None,
    }
}

/// Reads the keys that lines are told apart by, in their order.
pub fn group_keys(
    properties: Option<&v2::PropertiesInput>,
    path: &str,
    faults: &mut Faults,
) -> Vec<String> {
    let keys = properties.map_or(&[][..], |properties| &properties.pricing_group_keys);
    let path = format!("{path}.pricingGroupKeys");
    if keys.len() > GROUP_KEYS_MAX {
        faults.push(path, format!("must be at most {GROUP_KEYS_MAX}"));
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    for (at, key) in keys.iter().enumerate() {
        let path = format!("{path}[{at}]");
        faults.text(&path, key);
        if !seen.insert(key) {
            faults.push(path, "stands twice");
        }
    }
    keys.to_vec()
}

/// What of a charge's filters its metric does not offer. `path`: of the charge.
pub fn unknown(drafts: &[FilterDraft], metric: &BillableMetric, path: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (at, draft) in drafts.iter().enumerate() {
        for (key, values) in &draft.values {
            let path = format!("{path}.filters[{at}].values.{key}");
            let Some(filter) = metric.filters.iter().find(|filter| filter.key == *key) else {
                found.push(Violation::new(path, "is no filter of the billable metric"));
                continue;
            };
            for value in values.iter().filter(|value| !filter.values.contains(value)) {
                let message = format!("{value:?} is no value of the billable metric's filter");
                found.push(Violation::new(&path, message));
            }
        }
    }
    found
}

/// Writes the filters of a charge.
pub fn filters_out(charge: &Charge) -> Vec<v2::ChargeFilter> {
    let out = |filter: &ChargeFilter| v2::ChargeFilter {
        id: filter.id.to_string(),
        charge_code: Some(charge.code.clone()),
        invoice_display_name: filter.invoice_display_name.clone(),
        properties: Some(v2::Properties {
            pricing_group_keys: filter.pricing_group_keys.clone(),
            ..model_out(&filter.model).1
        }),
        values: Some(values_out(&filter.values)),
    };
    charge.filters.iter().map(out).collect()
}

/// Writes values by key; `{}` for those of a default price.
pub fn values_out(values: &BTreeMap<String, Vec<String>>) -> v2::JsonObject {
    let object: Map<String, Json> =
        values.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
    v2::JsonObject { json: Json::Object(object).to_string() }
}
