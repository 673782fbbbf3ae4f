//! What was used: current usage, priced as an invoice would price it now.

pub mod settled;

use crate::{
    billable_metrics::convert::metric_out,
    context::Context,
    customers,
    error::OpError,
    fields::{currency_out, date_out, decimal_out, timestamp_out},
    plans::charge_out,
    subscriptions,
};
use chrono_tz::Tz;
use std::collections::BTreeMap;
use weir_billing::{
    bill::{PricedUsage, UsageBook, price_usage},
    charge::Charge,
    contract::{Agreement, MetricTerms},
    invoice::Period,
    metric::BillableMetric,
    period::local_date,
    usage::UsageTotal,
};
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_money::Money;
use weir_proto::v2;
use weir_store::{Tx, billable_metrics, billing};

/// What a subscription used in its current period, by charge. Errors: `NotFound`; `Conflict` when
/// it is not active or can't be priced; `Unavailable`.
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
    tx.commit().await?;

    let book = book(ctx, &[(subscription.id, period)]).await?;
    let currency = version.amount.currency;
    let mut amount = Money::zero(currency);
    let mut charges_usage = Vec::with_capacity(version.charges.len());
    for charge in &version.charges {
        let metric = metrics.get(&charge.metric).ok_or_else(|| {
            OpError::internal(format!("charge {} counts a metric that is not there", charge.id))
        })?;
        let terms = MetricTerms { name: metric.name.clone(), aggregation: metric.aggregation };
        let none = UsageTotal::none(subscription.id, charge.metric);
        let total = book.get(&(subscription.id, charge.metric)).unwrap_or(&none);
        let priced = price_usage(charge, &terms, total, currency)?;
        let sum = amount.checked_add(priced.amount);
        amount = sum.map_err(weir_billing::BillingError::Total)?;
        charges_usage.push(charge_usage(charge, metric, &priced));
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

/// The totals of these windows, as ClickHouse has them now.
pub async fn book(
    ctx: &Context,
    windows: &[(SubscriptionId, Period)],
) -> Result<UsageBook, OpError> {
    let windows: Vec<_> =
        windows.iter().map(|(one, period)| (*one, period.start, period.end)).collect();
    let rows = ctx.usage.usage(ctx.organization, &windows).await?;
    let totals = rows.into_iter().map(|row| match row {
        Ok(row) => UsageTotal {
            events: row.events,
            total: Some(row.total),
            greatest: row.greatest,
            latest: row.latest,
            distinct: row.distinct,
            ..UsageTotal::none(row.subscription, row.metric)
        },
        // Only a sum of it can't be billed, which pricing finds out.
        Err(over) => UsageTotal { total: None, ..UsageTotal::none(over.subscription, over.metric) },
    });
    Ok(totals.map(|total| ((total.subscription, total.metric), total)).collect())
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

fn charge_usage(charge: &Charge, metric: &BillableMetric, priced: &PricedUsage) -> v2::ChargeUsage {
    let metrics = BTreeMap::from([(metric.id, metric.clone())]);
    v2::ChargeUsage {
        id: charge.id.to_string(),
        billable_metric: Some(metric_out(metric.clone())),
        charge: Some(charge_out(charge, &metrics)),
        units: Some(decimal_out(priced.units)),
        events_count: i32::try_from(priced.events).unwrap_or(i32::MAX),
        amount_cents: priced.amount.minor,
    }
}
