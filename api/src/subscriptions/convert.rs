//! Subscriptions between proto and domain.

use crate::{
    error::OpError,
    fields::{Faults, id, timestamp, timestamp_out},
};
use weir_billing::{
    Timestamp,
    invoice::Period,
    subscription::{Subscription, SubscriptionStatus},
};
use weir_ids::{PlanId, SubscriptionId};
use weir_proto::v2::{
    self, BillingTime, OnTerminationCreditNote, OnTerminationInvoice, StatusType,
};
use weir_store::subscriptions::SubscriptionFilter;

/// A subscription as a request describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The customer's id or its external id.
    pub customer: String,
    pub plan: PlanId,
    pub external_id: Option<String>,
    pub name: Option<String>,
    pub starts_at: Option<Timestamp>,
    pub ending_at: Option<Timestamp>,
}

/// How a path names a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    Id(SubscriptionId),
    External(String),
}

/// Reads `sub_…` or `external:…`. Errors: `NotFound`, since nothing can have another name.
pub fn name(text: &str) -> Result<Name, OpError> {
    match text.strip_prefix("external:") {
        Some(external) => Ok(Name::External(external.to_owned())),
        None => id(super::KIND, text).map(Name::Id),
    }
}

/// Reads a create. Errors: `Invalid`, naming each field; `NotFound` for an id no plan can have.
pub fn draft(request: &v2::CreateSubscriptionRequest, now: Timestamp) -> Result<Draft, OpError> {
    let mut faults = Faults::default();
    let customer = faults.text("customerId", &request.customer_id);
    match request.billing_time() {
        BillingTime::Calendar | BillingTime::Unspecified => {}
        BillingTime::Anniversary => faults.unsupported("billingTime"),
    }
    if request.plan_id.is_empty() {
        faults.push("planId", "is required");
    }
    let external_id = faults.optional_text("externalId", request.external_id.as_deref());
    let name = faults.optional_text("name", request.name.as_deref());
    let mut instant = |field, at: Option<&prost_types::Timestamp>| {
        at.and_then(|at| faults.take(field, timestamp(at)))
    };
    let starts_at = instant("subscriptionAt", request.subscription_at.as_ref());
    let ending_at = instant("endingAt", request.ending_at.as_ref());
    if ending_at.is_some_and(|end| end <= now || end <= starts_at.unwrap_or(now)) {
        faults.push("endingAt", "must be after the start and after now");
    }
    faults.check()?;
    let plan = crate::plans::convert::plan_id(&request.plan_id)?;
    Ok(Draft { customer, plan, external_id, name, starts_at, ending_at })
}

/// Whether a terminate wants no final invoice. Errors: a credit note.
pub fn skips_invoice(request: &v2::TerminateSubscriptionRequest) -> Result<bool, OpError> {
    match request.on_termination_credit_note() {
        OnTerminationCreditNote::Unspecified | OnTerminationCreditNote::Skip => {}
        OnTerminationCreditNote::Credit
        | OnTerminationCreditNote::Offset
        | OnTerminationCreditNote::Refund => {
            return Err(OpError::unsupported("onTerminationCreditNote"));
        }
    }
    Ok(request.on_termination_invoice() == OnTerminationInvoice::Skip)
}

/// Reads a list's conditions. Errors: `Invalid`.
pub fn filter(
    filter: v2::SubscriptionListFilter,
    now: Timestamp,
) -> Result<SubscriptionFilter, OpError> {
    let part = filter.part.unwrap_or_default();
    let mut statuses = Vec::new();
    for number in part.status.unwrap_or_default().in_values {
        match StatusType::try_from(number).unwrap_or_default() {
            StatusType::Active => statuses.push(SubscriptionStatus::Active),
            StatusType::Pending => statuses.push(SubscriptionStatus::Pending),
            StatusType::Terminated => statuses.push(SubscriptionStatus::Terminated),
            StatusType::Canceled => return Err(OpError::unsupported("filter.part.status")),
            StatusType::Unspecified => {
                return Err(OpError::invalid("filter.part.status", "must name statuses"));
            }
        }
    }
    Ok(SubscriptionFilter {
        external_customer_id: part.external_customer_id,
        plan_code: part.plan_code,
        statuses,
        text: filter.text_search.trim().to_owned(),
        now,
    })
}

/// Writes a subscription as it is at `now`; what else it belongs to joins it in a full view.
pub fn subscription_out(subscription: &Subscription, now: Timestamp) -> v2::Subscription {
    let status = match subscription.status(now) {
        SubscriptionStatus::Pending => StatusType::Pending,
        SubscriptionStatus::Active => StatusType::Active,
        SubscriptionStatus::Terminated => StatusType::Terminated,
    };
    let on_termination = match subscription.skip_final_invoice {
        true => OnTerminationInvoice::Skip,
        false => OnTerminationInvoice::Generate,
    };
    let started = (subscription.started_at <= now).then_some(subscription.started_at);
    v2::Subscription {
        id: subscription.id.to_string(),
        external_id: subscription.external_id.clone(),
        name: subscription.name.clone(),
        customer_id: subscription.customer.to_string(),
        plan_id: subscription.plan.to_string(),
        billing_time: BillingTime::Calendar.into(),
        status: status.into(),
        subscription_at: Some(timestamp_out(subscription.started_at)),
        started_at: started.map(timestamp_out),
        ending_at: subscription.ending_at.map(timestamp_out),
        terminated_at: subscription.end().filter(|end| *end <= now).map(timestamp_out),
        on_termination_invoice: on_termination.into(),
        current_billing_period_started_at: None,
        current_billing_period_ending_at: None,
        customer: None,
        plan: None,
        created_at: Some(timestamp_out(subscription.created_at)),
        updated_at: Some(timestamp_out(subscription.updated_at)),
    }
}

/// Adds the current period.
pub fn set_period(subscription: &mut v2::Subscription, period: Period) {
    subscription.current_billing_period_started_at = Some(timestamp_out(period.start));
    subscription.current_billing_period_ending_at = Some(timestamp_out(period.end));
}
