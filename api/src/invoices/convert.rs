//! Invoices and fees between proto and domain.

use crate::{
    error::OpError,
    fields::{currency_out, date_out, decimal_out, timestamp_out},
    usage::group_out,
};
use chrono_tz::Tz;
use weir_billing::{
    invoice::{Fee, FeeKind, GroupValues, Invoice, InvoiceStatus, InvoiceSubscription, Period},
    period::local_date,
};
use weir_ids::{InvoiceId, SubscriptionId};
use weir_money::MoneyError;
use weir_proto::v2::{self, FeeTypes, InvoiceStatusType, InvoiceType};
use weir_store::invoices::StatusFilter;

/// Reads the statuses of a list's filter. Errors: one that no invoice has yet.
pub fn statuses(filter: Option<v2::InvoiceStatuses>) -> Result<Vec<StatusFilter>, OpError> {
    let numbers = filter.unwrap_or_default().in_values;
    let one = |number| match InvoiceStatusType::try_from(number).unwrap_or_default() {
        InvoiceStatusType::Draft => Ok(StatusFilter::Draft),
        InvoiceStatusType::Finalized => Ok(StatusFilter::Finalized),
        InvoiceStatusType::Closed
        | InvoiceStatusType::Failed
        | InvoiceStatusType::Generating
        | InvoiceStatusType::Open
        | InvoiceStatusType::Pending
        | InvoiceStatusType::Voided => Err(OpError::unsupported("filter.part.status")),
        InvoiceStatusType::Unspecified => {
            Err(OpError::invalid("filter.part.status", "must name statuses"))
        }
    };
    numbers.into_iter().map(one).collect()
}

/// Writes an invoice without what only a full view holds. Days are those of the customer's zone.
/// Errors: a sum of its fees that no amount can hold; the store keeps such invoices out.
pub fn invoice_out(invoice: &Invoice, tz: Tz) -> Result<v2::Invoice, MoneyError> {
    let total = invoice.total.minor;
    let (status, number, finalized_at, finalization) = match &invoice.status {
        InvoiceStatus::Draft { finalize_at } => {
            (InvoiceStatusType::Draft, String::new(), None, *finalize_at)
        }
        InvoiceStatus::Finalized { number, at } => {
            (InvoiceStatusType::Finalized, number.clone(), Some(*at), *at)
        }
    };
    let settled = |one| settled_out(invoice, one);
    Ok(v2::Invoice {
        id: invoice.id.to_string(),
        number,
        status: status.into(),
        invoice_type: InvoiceType::Subscription.into(),
        customer_id: invoice.customer.to_string(),
        customer: None,
        currency: currency_out(invoice.total.currency).into(),
        issuing_date: Some(date_out(invoice.issuing_date)),
        payment_due_date: Some(date_out(invoice.payment_due_date)),
        expected_finalization_date: Some(date_out(local_date(tz, finalization))),
        finalized_at: finalized_at.map(timestamp_out),
        fees_amount_cents: total,
        charge_amount_cents: minor(invoice, is_usage)?,
        coupons_amount_cents: 0,
        sub_total_excluding_taxes_amount_cents: total,
        taxes_amount_cents: 0,
        sub_total_including_taxes_amount_cents: total,
        total_amount_cents: total,
        total_due_amount_cents: total,
        invoice_subscriptions: invoice
            .subscriptions
            .iter()
            .map(settled)
            .collect::<Result<_, _>>()?,
        fees: Vec::new(),
        subscriptions: Vec::new(),
        created_at: Some(timestamp_out(invoice.created_at)),
        updated_at: Some(timestamp_out(invoice.updated_at)),
    })
}

fn is_usage(fee: &Fee) -> bool {
    matches!(fee.kind, FeeKind::Charge { .. } | FeeKind::TrueUp { .. })
}

/// The sum of the fees that `counts`, in minor units.
fn minor(invoice: &Invoice, counts: impl Fn(&Fee) -> bool) -> Result<i64, MoneyError> {
    let fees = invoice.fees.iter().filter(|fee| counts(fee)).map(|fee| fee.amount);
    Ok(weir_money::Money::sum(invoice.total.currency, fees)?.minor)
}

fn settled_out(
    invoice: &Invoice,
    one: &InvoiceSubscription,
) -> Result<v2::InvoiceSubscription, MoneyError> {
    let of = |id: SubscriptionId| move |fee: &Fee| fee.subscription == id;
    let own = of(one.subscription);
    let bounds = |period: Option<Period>| {
        let start = period.map(|period| timestamp_out(period.start));
        (start, period.map(|period| timestamp_out(period.end)))
    };
    let (from_datetime, to_datetime) = bounds(one.base);
    let (charges_from_datetime, charges_to_datetime) = bounds(one.usage);
    Ok(v2::InvoiceSubscription {
        subscription_id: one.subscription.to_string(),
        from_datetime,
        to_datetime,
        charges_from_datetime,
        charges_to_datetime,
        subscription_amount_cents: minor(invoice, |fee| own(fee) && !is_usage(fee))?,
        charge_amount_cents: minor(invoice, |fee| own(fee) && is_usage(fee))?,
        total_amount_cents: minor(invoice, own)?,
    })
}

/// Writes a fee. Errors: an exact amount of more digits than 256 bits hold.
pub fn fee_out(fee: &Fee, invoice: InvoiceId) -> Result<v2::Fee, MoneyError> {
    let currency = fee.amount.currency;
    let (fee_type, item_type, usage) = match &fee.kind {
        FeeKind::Subscription => (FeeTypes::Subscription, "plan", None),
        FeeKind::Charge { slot, events } => {
            let events = i64::try_from(*events).unwrap_or(i64::MAX);
            (FeeTypes::Charge, "billable_metric", Some((slot, events)))
        }
        FeeKind::TrueUp { slot, events, .. } => {
            (FeeTypes::Charge, "billable_metric", Some((slot, *events)))
        }
    };
    let (true_up, corrects) = match fee.kind {
        FeeKind::TrueUp { corrects, .. } => (true, corrects),
        FeeKind::Subscription | FeeKind::Charge { .. } => (false, None),
    };
    let slot = usage.map(|(slot, _)| slot);
    Ok(v2::Fee {
        id: fee.id.to_string(),
        invoice_id: invoice.to_string(),
        fee_type: fee_type.into(),
        subscription_id: fee.subscription.to_string(),
        charge_id: usage.map(|(slot, _)| slot.charge.to_string()),
        billable_metric_id: usage.map(|(slot, _)| slot.metric.to_string()),
        item_code: fee.code.clone(),
        item_name: fee.name.clone(),
        item_type: item_type.to_owned(),
        units: Some(decimal_out(fee.units)),
        events_count: usage.map(|(_, events)| events),
        amount_currency: currency_out(currency).into(),
        amount_cents: fee.amount.minor,
        precise_amount_cents: Some(decimal_out(fee.precise.in_minor_units(currency)?)),
        taxes_amount_cents: 0,
        total_amount_cents: fee.amount.minor,
        properties: Some(v2::FeeProperties {
            from_datetime: Some(timestamp_out(fee.period.start)),
            to_datetime: Some(timestamp_out(fee.period.end)),
        }),
        charge_filter_id: slot.and_then(|slot| slot.filter).map(|filter| filter.to_string()),
        grouped_by: Some(
            slot.map_or_else(|| group_out(&GroupValues::new()), |slot| group_out(&slot.group)),
        ),
        true_up,
        true_up_parent_fee_id: corrects.map(|fee| fee.to_string()),
    })
}
