//! The priced lines of a charge, as usage shows them.

use crate::{
    billable_metrics::convert::metric_out,
    fields::decimal_out,
    plans::{charge_out, filters::values_out},
};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use weir_billing::{
    BillingError,
    charge::{Charge, ChargeFilter},
    invoice::GroupValues,
    line::{Pricing, UsageLine},
    metric::BillableMetric,
};
use weir_ids::ChargeFilterId;
use weir_money::{Money, Quantity};
use weir_proto::v2;

/// What several lines come to.
struct Sum {
    units: Quantity,
    events: u64,
    amount: Money,
}

impl Sum {
    /// Errors: units or an amount out of range.
    fn of<'a>(
        pricing: &Pricing<'_>,
        lines: impl IntoIterator<Item = &'a UsageLine>,
    ) -> Result<Self, BillingError> {
        let (subscription, metric) = (pricing.subscription, pricing.charge.metric);
        let mut sum =
            Self { units: Quantity::ZERO, events: 0, amount: Money::zero(pricing.currency) };
        for line in lines {
            let units = sum.units.checked_add(line.units);
            sum.units = units.ok_or(BillingError::UsageOverflow { subscription, metric })?;
            sum.events = sum.events.saturating_add(line.events);
            sum.amount = sum.amount.checked_add(line.amount).map_err(BillingError::Total)?;
        }
        Ok(sum)
    }

    /// At most what the field holds.
    fn events_count(&self) -> i32 {
        i32::try_from(self.events).unwrap_or(i32::MAX)
    }
}

/// Writes what a charge counted and what that costs. Errors: units or an amount out of range.
pub fn charge_usage(
    pricing: &Pricing<'_>,
    metric: &BillableMetric,
    lines: &[UsageLine],
) -> Result<(v2::ChargeUsage, Money), BillingError> {
    let charge = pricing.charge;
    let metrics = BTreeMap::from([(metric.id, metric.clone())]);
    let sum = Sum::of(pricing, lines)?;
    let filters = match charge.filters.is_empty() {
        true => Vec::new(),
        false => filters(pricing, lines)?,
    };
    let usage = v2::ChargeUsage {
        id: charge.id.to_string(),
        billable_metric: Some(metric_out(metric.clone())),
        charge: Some(charge_out(charge, &metrics)),
        units: Some(decimal_out(sum.units)),
        events_count: sum.events_count(),
        amount_cents: sum.amount.minor,
        filters,
        grouped_usage: groups(pricing, lines)?,
    };
    Ok((usage, sum.amount))
}

/// Each filter and last the default price, over all groups; lines stand in this order already.
fn filters(
    pricing: &Pricing<'_>,
    lines: &[UsageLine],
) -> Result<Vec<v2::ChargeFilterUsage>, BillingError> {
    let mut usages = Vec::new();
    for of_filter in lines.chunk_by(|one, next| one.slot.filter == next.slot.filter) {
        let filter = of_filter.first().and_then(|line| line.slot.filter);
        usages.push(filter_usage(pricing, filter, of_filter)?);
    }
    Ok(usages)
}

fn filter_usage<'a>(
    pricing: &Pricing<'_>,
    filter: Option<ChargeFilterId>,
    lines: impl IntoIterator<Item = &'a UsageLine>,
) -> Result<v2::ChargeFilterUsage, BillingError> {
    let sum = Sum::of(pricing, lines)?;
    let found = filter.and_then(|id| find(pricing.charge, id));
    let values = found.map(|filter| &filter.values);
    Ok(v2::ChargeFilterUsage {
        id: filter.map(|id| id.to_string()),
        invoice_display_name: found.and_then(|filter| filter.invoice_display_name.clone()),
        values: Some(values_out(values.unwrap_or(&BTreeMap::new()))),
        units: Some(decimal_out(sum.units)),
        events_count: sum.events_count(),
        amount_cents: sum.amount.minor,
    })
}

fn find(charge: &Charge, id: ChargeFilterId) -> Option<&ChargeFilter> {
    charge.filters.iter().find(|filter| filter.id == id)
}

/// Each combination of group values that was used, with the filters inside.
fn groups(
    pricing: &Pricing<'_>,
    lines: &[UsageLine],
) -> Result<Vec<v2::GroupedChargeUsage>, BillingError> {
    let mut groups: BTreeMap<&GroupValues, Vec<&UsageLine>> = BTreeMap::new();
    // A price without keys has one line with no values: it is no group.
    for line in lines.iter().filter(|line| !line.slot.group.is_empty() && line.is_used()) {
        groups.entry(&line.slot.group).or_default().push(line);
    }
    let mut usages = Vec::with_capacity(groups.len());
    for (values, lines) in groups {
        let sum = Sum::of(pricing, lines.iter().copied())?;
        let mut filters = Vec::new();
        if !pricing.charge.filters.is_empty() {
            for line in &lines {
                filters.push(filter_usage(pricing, line.slot.filter, [*line])?);
            }
        }
        usages.push(v2::GroupedChargeUsage {
            id: pricing.charge.id.to_string(),
            grouped_by: Some(group_out(values)),
            units: Some(decimal_out(sum.units)),
            events_count: sum.events_count(),
            amount_cents: sum.amount.minor,
            filters,
        });
    }
    Ok(usages)
}

/// Writes the values that a line's events have in common; null where they lack one.
pub fn group_out(values: &GroupValues) -> v2::JsonObject {
    let value = |value: &Option<String>| value.clone().map_or(Json::Null, Json::String);
    let object: Map<String, Json> =
        values.iter().map(|(key, of)| (key.clone(), value(of))).collect();
    v2::JsonObject { json: Json::Object(object).to_string() }
}
