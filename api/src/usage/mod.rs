//! What was used: current usage, priced as an invoice would price it now.

mod book;
mod charges;
pub mod settled;

pub use book::{read, reader};
pub use charges::group_out;

use crate::{
    context::Context,
    customers,
    error::OpError,
    fields::{currency_out, date_out, timestamp_out},
    subscriptions,
};
use chrono_tz::Tz;
use std::collections::BTreeMap;
use weir_billing::{
    BillingError,
    contract::{Agreement, MetricTerms},
    line::PricedWindow,
    period::local_date,
};
use weir_ids::BillableMetricId;
use weir_money::Money;
use weir_proto::v2;
use weir_store::{Tx, billable_metrics, billing};

/// What a subscription used in its current period, by charge. A weighted sum is that of the whole
/// period, as if no more events came. While usage is counted again it is shown as it was before.
/// Errors: `NotFound`; `Conflict` when it is not active or can't be priced; `Unavailable`.
pub async fn current(
    ctx: &Context,
    request: &v2::GetUsageRequest,
) -> Result<v2::CustomerUsage, OpError> {
    let mut tx = ctx.begin().await?;
    let (agreement, tz) = load(ctx, &mut tx, request).await?;
    let subscription = &agreement.subscription;
    let period = agreement.usage_window(tz, ctx.now)?.ok_or_else(|| {
        let message = format!("subscription {} is not active", subscription.id);
        OpError::conflict("SUBSCRIPTION_NOT_ACTIVE", message)
    })?;
    let version = agreement.version_at(period.start)?;
    let ids: Vec<BillableMetricId> = version.charges.iter().map(|charge| charge.metric).collect();
    let metrics = billable_metrics::find_many(&mut tx, ctx.organization, &ids).await?;

    let terms: BTreeMap<BillableMetricId, MetricTerms> =
        metrics.iter().map(|(id, metric)| (*id, MetricTerms::from(metric))).collect();
    let currency = version.amount.currency;
    let whole_seconds = period.whole_seconds(version.interval, tz)?;
    let priced = PricedWindow {
        subscription: subscription.id,
        started_at: subscription.started_at,
        period,
        whole_seconds,
        currency,
    };
    let missing = |error: BillingError| OpError::internal(error.to_string());
    let pricings = priced.pricings(&version.charges, &terms).map_err(missing)?;
    let reader = reader(ctx, &mut tx, &pricings).await?;
    tx.commit().await?;
    let book = read(ctx, &reader, &pricings).await?;

    let mut amount = Money::zero(currency);
    let mut charges_usage = Vec::with_capacity(pricings.len());
    for pricing in &pricings {
        let Some(metric) = metrics.get(&pricing.charge.metric) else { continue };
        let (usage, sum) = charges::charge_usage(pricing, metric, &pricing.lines(&book)?)?;
        amount = amount.checked_add(sum).map_err(BillingError::Total)?;
        charges_usage.push(usage);
    }
    Ok(v2::CustomerUsage {
        currency: currency_out(currency).into(),
        from_datetime: Some(timestamp_out(period.start)),
        to_datetime: Some(timestamp_out(period.end)),
        issuing_date: Some(date_out(local_date(tz, period.end))),
        amount_cents: amount.minor,
        taxes_amount_cents: 0,
        total_amount_cents: amount.minor,
        charges_usage,
    })
}

/// The subscription that a request names, with its plan's versions and its customer's time zone.
async fn load(
    ctx: &Context,
    tx: &mut Tx,
    request: &v2::GetUsageRequest,
) -> Result<(Agreement, Tz), OpError> {
    if request.subscription_id.is_empty() {
        return Err(OpError::invalid("subscriptionId", "is required"));
    }
    let customer = customers::find(ctx, tx, &request.customer_id).await?;
    let subscription = subscriptions::find(ctx, tx, &request.subscription_id).await?;
    let not_found = || OpError::not_found(subscriptions::KIND, &request.subscription_id);
    if subscription.customer != customer.id {
        return Err(not_found());
    }
    let wanted = [(ctx.organization, subscription.id)];
    let agreement = billing::agreements(tx, &wanted).await?.pop().ok_or_else(not_found)?;
    Ok((agreement, customer.details.timezone.unwrap_or(Tz::UTC)))
}
