//! Plans and charges between proto and domain.

use super::charges::{charge_out, charges};
use crate::{
    error::OpError,
    fields::{Faults, currency, currency_out, id, timestamp_out},
    mask::Mask,
};
use std::collections::BTreeMap;
use weir_billing::{
    charge::{Charge, ChargeFilter, ChargeModel},
    metric::BillableMetric,
    plan::{Interval, Plan},
};
use weir_ids::{BillableMetricId, ChargeId};
use weir_money::{Currency, Money};
use weir_proto::v2::{self, PlanInterval};
use weir_store::plans::PlanFilter;

/// A plan as a request describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub name: String,
    pub code: String,
    pub description: Option<String>,
    pub invoice_display_name: Option<String>,
    pub interval: Interval,
    pub amount: Money,
    pub pay_in_advance: bool,
    pub charges: Vec<ChargeDraft>,
}

/// A charge as a request describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeDraft {
    /// The charge it changes.
    pub id: Option<ChargeId>,
    pub code: Option<String>,
    pub metric: BillableMetricId,
    pub invoice_display_name: Option<String>,
    pub model: ChargeModel,
    pub filters: Vec<FilterDraft>,
    pub pricing_group_keys: Vec<String>,
}

/// A filter as a request describes it. In a charge its values are its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterDraft {
    /// Of each key sorted.
    pub values: BTreeMap<String, Vec<String>>,
    pub invoice_display_name: Option<String>,
    pub model: ChargeModel,
    pub pricing_group_keys: Vec<String>,
}

/// Reads a create. Errors: `Invalid`, naming each field.
pub fn draft(request: &v2::CreatePlanRequest) -> Result<Draft, OpError> {
    let mut faults = Faults::default();
    let name = faults.text("name", &request.name);
    let code = faults.text("code", &request.code);
    let invoice_display_name =
        faults.optional_text("invoiceDisplayName", request.invoice_display_name.as_deref());
    let interval = interval(request.interval(), &mut faults);
    let currency = faults.take("amountCurrency", currency(request.amount_currency));
    let amount = currency.and_then(|currency| amount(request.amount_cents, currency, &mut faults));
    let charges = charges(&request.charges, &mut faults);
    let description = faults.description("description", request.description.as_deref());
    let pay_in_advance = request.pay_in_advance;
    faults.finish(interval.zip(amount).map(|(interval, amount)| Draft {
        name,
        code,
        description,
        invoice_display_name,
        interval,
        amount,
        pay_in_advance,
        charges,
    }))
}

/// The plan with what the update names. Errors: `Invalid`, naming each field.
pub fn changed(
    request: &v2::UpdatePlanRequest,
    mask: &Mask,
    plan: &Plan,
) -> Result<Draft, OpError> {
    let mut faults = Faults::default();
    let mut changed = as_draft(plan);
    if mask.names("name") {
        changed.name = faults.text("name", &request.name);
    }
    if mask.names("code") {
        changed.code = faults.text("code", &request.code);
    }
    let description = faults.description("description", request.description.as_deref());
    mask.set("description", &mut changed.description, description);
    if mask.names("invoice_display_name") {
        changed.invoice_display_name =
            faults.optional_text("invoiceDisplayName", request.invoice_display_name.as_deref());
    }
    if mask.names("interval")
        && let Some(interval) = interval(request.interval(), &mut faults)
    {
        changed.interval = interval;
    }
    if mask.names("amount_cents") || mask.names("amount_currency") {
        let in_currency = match mask.names("amount_currency") {
            true => faults.take("amountCurrency", currency(request.amount_currency)),
            false => Some(plan.version.amount.currency),
        };
        let cents = match mask.names("amount_cents") {
            true => request.amount_cents,
            false => plan.version.amount.minor,
        };
        let new = in_currency.and_then(|currency| amount(cents, currency, &mut faults));
        changed.amount = new.unwrap_or(changed.amount);
    }
    mask.set("pay_in_advance", &mut changed.pay_in_advance, request.pay_in_advance);
    if mask.names("charges") {
        changed.charges = charges(&request.charges, &mut faults);
    }
    faults.finish(Some(changed))
}

/// The plan as the request that would leave it as it is.
pub fn as_draft(plan: &Plan) -> Draft {
    let filter = |filter: &ChargeFilter| FilterDraft {
        values: filter.values.clone(),
        invoice_display_name: filter.invoice_display_name.clone(),
        model: filter.model.clone(),
        pricing_group_keys: filter.pricing_group_keys.clone(),
    };
    let charge = |charge: &Charge| ChargeDraft {
        id: Some(charge.id),
        code: Some(charge.code.clone()),
        metric: charge.metric,
        invoice_display_name: charge.invoice_display_name.clone(),
        model: charge.model.clone(),
        filters: charge.filters.iter().map(filter).collect(),
        pricing_group_keys: charge.pricing_group_keys.clone(),
    };
    Draft {
        name: plan.name.clone(),
        code: plan.code.clone(),
        description: plan.description.clone(),
        invoice_display_name: plan.invoice_display_name.clone(),
        interval: plan.version.interval,
        amount: plan.version.amount,
        pay_in_advance: plan.version.pay_in_advance,
        charges: plan.version.charges.iter().map(charge).collect(),
    }
}

fn interval(of: PlanInterval, faults: &mut Faults) -> Option<Interval> {
    match of {
        PlanInterval::Monthly => Some(Interval::Monthly),
        PlanInterval::Quarterly
        | PlanInterval::Semiannual
        | PlanInterval::Weekly
        | PlanInterval::Yearly => {
            faults.unsupported("interval");
            None
        }
        PlanInterval::Unspecified => {
            faults.push("interval", "is required");
            None
        }
    }
}

fn amount(cents: i64, currency: Currency, faults: &mut Faults) -> Option<Money> {
    if cents < 0 {
        faults.push("amountCents", "must not be negative");
        return None;
    }
    faults.take("amountCents", Money::new(cents, currency))
}

/// Reads a list's conditions.
pub fn filter(filter: &v2::PlanListFilter) -> PlanFilter {
    PlanFilter {
        text: filter.text_search.trim().to_owned(),
        with_deleted: filter.part.is_some_and(|part| part.with_deleted()),
    }
}

/// Writes a plan with the metrics that its charges count.
pub fn plan_out(plan: Plan, metrics: &BTreeMap<BillableMetricId, BillableMetric>) -> v2::Plan {
    let Interval::Monthly = plan.version.interval;
    let charges: Vec<v2::Charge> =
        plan.version.charges.iter().map(|charge| charge_out(charge, metrics)).collect();
    v2::Plan {
        id: plan.id.to_string(),
        name: plan.name,
        code: plan.code,
        description: plan.description,
        invoice_display_name: plan.invoice_display_name,
        amount_cents: plan.version.amount.minor,
        amount_currency: currency_out(plan.version.amount.currency).into(),
        interval: PlanInterval::Monthly.into(),
        pay_in_advance: plan.version.pay_in_advance,
        charges_count: i32::try_from(charges.len()).unwrap_or(i32::MAX),
        has_charges: !charges.is_empty(),
        charges,
        created_at: Some(timestamp_out(plan.created_at)),
        updated_at: Some(timestamp_out(plan.updated_at)),
        deleted_at: plan.deleted_at.map(timestamp_out),
    }
}

/// The id of a plan. Errors: `NotFound`.
pub fn plan_id(text: &str) -> Result<weir_ids::PlanId, OpError> {
    id(super::KIND, text)
}
