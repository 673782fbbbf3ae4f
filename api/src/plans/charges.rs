//! The charges of a plan between proto and domain: models and their prices.

use super::{convert::ChargeDraft, filters};
use crate::{
    billable_metrics::convert::metric_out,
    fields::{Faults, decimal, decimal_out, rate},
};
use std::collections::BTreeMap;
use weir_billing::{
    charge::{Charge, ChargeModel, Tier},
    metric::BillableMetric,
};
use weir_ids::BillableMetricId;
use weir_money::Rate;
use weir_proto::{
    Decimal,
    v2::{self, ChargeModel as Model},
};

/// The most charges of a plan: an invoice has a line for each.
const CHARGES_MAX: usize = 500;

/// Reads the charges of a request, noting what is wrong with each.
pub fn charges(inputs: &[v2::ChargeInput], faults: &mut Faults) -> Vec<ChargeDraft> {
    if inputs.len() > CHARGES_MAX {
        faults.push("charges", format!("must be at most {CHARGES_MAX}"));
        return Vec::new();
    }
    let one = |(at, input)| charge(input, &format!("charges[{at}]"), faults);
    inputs.iter().enumerate().filter_map(one).collect()
}

fn charge(input: &v2::ChargeInput, path: &str, faults: &mut Faults) -> Option<ChargeDraft> {
    let at = |field: &str| format!("{path}.{field}");
    if input.invoiceable == Some(false) {
        faults.unsupported(at("invoiceable"));
    }
    let id = input.id.as_deref().filter(|text| !text.is_empty());
    let id = id.map(|text| faults.take(&at("id"), text.parse()));
    let metric = faults.take(&at("billableMetricId"), input.billable_metric_id.parse());
    let code = faults.optional_text(&at("code"), input.code.as_deref());
    let invoice_display_name =
        faults.optional_text(&at("invoiceDisplayName"), input.invoice_display_name.as_deref());
    let properties = at("properties");
    let model = priced(input.charge_model(), input.properties.as_ref(), &properties, faults);
    let pricing_group_keys = filters::group_keys(input.properties.as_ref(), &properties, faults);
    // Without a model they would all be told to lack it.
    let filters = match input.charge_model() {
        Model::Unspecified => None,
        _ => filters::filters(input, path, faults),
    };
    let (model, filters) = model.zip(filters)?;
    // An id that can't be read is told above; no charge is made from it.
    let id = match id {
        Some(read) => Some(read?),
        None => None,
    };
    Some(ChargeDraft {
        id,
        code,
        metric: metric?,
        invoice_display_name,
        model,
        filters,
        pricing_group_keys,
    })
}

/// Reads the prices of a model. `path`: of the properties, which stand beside the model or in a
/// filter.
pub fn priced(
    model: Model,
    properties: Option<&v2::PropertiesInput>,
    path: &str,
    faults: &mut Faults,
) -> Option<ChargeModel> {
    let absent = v2::PropertiesInput::default();
    let properties = properties.unwrap_or(&absent);
    let mut prices = Prices { properties, path: path.to_owned(), faults };
    match model {
        Model::Standard => {
            prices.only(&["amount"], "STANDARD");
            Some(ChargeModel::Standard { amount: prices.amount()? })
        }
        Model::Graduated => {
            prices.only(&["graduatedRanges"], "GRADUATED");
            Some(ChargeModel::Graduated { tiers: prices.graduated()? })
        }
        Model::Package => {
            prices.only(&["amount", "packageSize", "freeUnits"], "PACKAGE");
            let size = prices.properties.package_size;
            let size = prices.count("packageSize", size);
            let free_units = prices.properties.free_units.unwrap_or(0);
            let free_units = prices.count("freeUnits", Some(free_units));
            let amount = prices.amount()?;
            Some(ChargeModel::Package { amount, size: size?, free_units: free_units? })
        }
        Model::Volume => {
            prices.only(&["volumeRanges"], "VOLUME");
            Some(ChargeModel::Volume { tiers: prices.volume()? })
        }
        Model::Custom | Model::Dynamic | Model::GraduatedPercentage | Model::Percentage => {
            faults.unsupported(model_path(path));
            None
        }
        Model::Unspecified => {
            faults.push(model_path(path), "is required");
            None
        }
    }
}

/// The model stands beside the charge's own properties; of a filter it is the charge's.
fn model_path(properties: &str) -> String {
    let charge = properties.split('.').next().unwrap_or_default();
    format!("{charge}.chargeModel")
}

/// Reads the properties of one price.
struct Prices<'a> {
    properties: &'a v2::PropertiesInput,
    path: String,
    faults: &'a mut Faults,
}

impl Prices<'_> {
    /// Refuses what the model would ignore: a price that is not charged is a mistake.
    fn only(&mut self, used: &[&str], model: &str) {
        let properties = self.properties;
        let given = [
            ("amount", properties.amount.is_some()),
            ("graduatedRanges", !properties.graduated_ranges.is_empty()),
            ("packageSize", properties.package_size.is_some()),
            ("freeUnits", properties.free_units.is_some()),
            ("volumeRanges", !properties.volume_ranges.is_empty()),
        ];
        for (name, _) in given.into_iter().filter(|(name, given)| *given && !used.contains(name)) {
            let message = format!("is no property of the model {model}");
            self.faults.push(format!("{}.{name}", self.path), message);
        }
    }

    fn amount(&mut self) -> Option<Rate> {
        self.rate("amount", self.properties.amount.as_ref())
    }

    fn rate(&mut self, field: &str, value: Option<&Decimal>) -> Option<Rate> {
        let path = format!("{}.{field}", self.path);
        match value {
            Some(value) => self.faults.take(&path, rate(value)),
            None => {
                self.faults.push(path, "is required");
                None
            }
        }
    }

    fn count(&mut self, field: &str, value: Option<i64>) -> Option<u64> {
        let path = format!("{}.{field}", self.path);
        match value {
            Some(value) => {
                self.faults.take(&path, u64::try_from(value).map_err(|_| "must not be negative"))
            }
            None => {
                self.faults.push(path, "is required");
                None
            }
        }
    }

    fn bound(&mut self, field: &str, value: Option<&Decimal>) -> Option<rust_decimal::Decimal> {
        let path = format!("{}.{field}", self.path);
        value.and_then(|value| self.faults.take(&path, decimal(value)))
    }

    fn graduated(&mut self) -> Option<Vec<Tier>> {
        let properties = self.properties;
        let tier = |(at, range): (usize, &v2::GraduatedRange)| {
            let name = |field: &str| format!("graduatedRanges[{at}].{field}");
            let from = self.bound(&name("fromValue"), range.from_value.as_ref());
            let to = self.bound(&name("toValue"), range.to_value.as_ref());
            let per_unit = self.rate(&name("perUnitAmount"), range.per_unit_amount.as_ref());
            let flat = range.flat_amount.as_ref();
            let flat =
                flat.map_or(Some(Rate::ZERO), |flat| self.rate(&name("flatAmount"), Some(flat)));
            Some(Tier { from: from.unwrap_or_default(), to, per_unit: per_unit?, flat: flat? })
        };
        all(properties.graduated_ranges.iter().enumerate().map(tier))
    }

    fn volume(&mut self) -> Option<Vec<Tier>> {
        let properties = self.properties;
        let tier = |(at, range): (usize, &v2::VolumeRange)| {
            let name = |field: &str| format!("volumeRanges[{at}].{field}");
            let per_unit = self.rate(&name("perUnitAmount"), range.per_unit_amount.as_ref());
            let flat = range.flat_amount.as_ref();
            let flat =
                flat.map_or(Some(Rate::ZERO), |flat| self.rate(&name("flatAmount"), Some(flat)));
            Some(Tier {
                from: range.from_value.into(),
                to: range.to_value.map(Into::into),
                per_unit: per_unit?,
                flat: flat?,
            })
        };
        all(properties.volume_ranges.iter().enumerate().map(tier))
    }
}

/// All values, after every one was looked at: each fault is to be told.
pub fn all<T>(values: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    values.collect::<Vec<_>>().into_iter().collect()
}

/// Writes a charge with the metric that it counts.
pub fn charge_out(
    charge: &Charge,
    metrics: &BTreeMap<BillableMetricId, BillableMetric>,
) -> v2::Charge {
    let (model, properties) = model_out(&charge.model);
    v2::Charge {
        id: charge.id.to_string(),
        code: charge.code.clone(),
        billable_metric: metrics.get(&charge.metric).cloned().map(metric_out),
        charge_model: model.into(),
        invoice_display_name: charge.invoice_display_name.clone(),
        properties: Some(v2::Properties {
            pricing_group_keys: charge.pricing_group_keys.clone(),
            ..properties
        }),
        invoiceable: true,
        min_amount_cents: 0,
        pay_in_advance: false,
        prorated: false,
        filters: filters::filters_out(charge),
    }
}

pub fn model_out(model: &ChargeModel) -> (Model, v2::Properties) {
    let none = v2::Properties::default();
    let rate = |rate: &Rate| Some(decimal_out(rate.decimal()));
    match model {
        ChargeModel::Standard { amount } => {
            (Model::Standard, v2::Properties { amount: rate(amount), ..none })
        }
        ChargeModel::Graduated { tiers } => {
            let range = |tier: &Tier| v2::GraduatedRange {
                from_value: Some(decimal_out(tier.from)),
                to_value: tier.to.map(decimal_out),
                per_unit_amount: rate(&tier.per_unit),
                flat_amount: rate(&tier.flat),
            };
            let graduated_ranges = tiers.iter().map(range).collect();
            (Model::Graduated, v2::Properties { graduated_ranges, ..none })
        }
        ChargeModel::Package { amount, size, free_units } => {
            let properties = v2::Properties {
                amount: rate(amount),
                package_size: i64::try_from(*size).ok(),
                free_units: i64::try_from(*free_units).ok(),
                ..none
            };
            (Model::Package, properties)
        }
        ChargeModel::Volume { tiers } => {
            // Bounds of this model came in as whole numbers of 64 bits.
            let whole = |bound: rust_decimal::Decimal| i64::try_from(bound).unwrap_or(i64::MAX);
            let range = |tier: &Tier| v2::VolumeRange {
                from_value: whole(tier.from),
                to_value: tier.to.map(whole),
                per_unit_amount: rate(&tier.per_unit),
                flat_amount: rate(&tier.flat),
            };
            let volume_ranges = tiers.iter().map(range).collect();
            (Model::Volume, v2::Properties { volume_ranges, ..none })
        }
    }
}
