//! An audit as a table and as JSON.

use super::compare::{Compared, Events, Worth};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value as Json, json};
use weir_billing::invoice::{Invoice, InvoiceStatus};
use weir_store::invoices::Provenance;

/// The invoice's number; a draft has none.
fn number(invoice: &Invoice) -> Option<&str> {
    match &invoice.status {
        InvoiceStatus::Draft { .. } => None,
        InvoiceStatus::Finalized { number, .. } => Some(number),
    }
}

/// A table of the lines, and what it comes to.
pub fn table(invoice: &Invoice, events: u64, lines: &[Compared]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "line",
        "subscription",
        "units then",
        "units now",
        "amount then",
        "amount now",
        "",
    ]);
    for line in lines {
        let (units, amount) = match &line.now {
            Ok(now) => (now.units.to_string(), now.amount.to_string()),
            Err(_) => ("?".to_owned(), "?".to_owned()),
        };
        table.add_row([
            title(line),
            line.external_subscription_id.clone(),
            line.then.units.to_string(),
            units,
            line.then.amount.to_string(),
            amount,
            verdict(line),
        ]);
    }
    let name = number(invoice).map_or_else(|| invoice.id.to_string(), str::to_owned);
    let equal = lines.iter().filter(|line| line.is_equal()).count();
    let of = lines.len();
    format!("{table}\n{name}: {equal} of {of} usage lines equal, from {events} events")
}

fn title(line: &Compared) -> String {
    let kind = match (line.fee, line.true_up) {
        (None, _) => " (missing)".to_owned(),
        (Some(_), true) => format!(" (true-up of {})", line.period.start.format("%Y-%m-%d")),
        (Some(_), false) => String::new(),
    };
    format!("{}{kind}", line.name)
}

fn verdict(line: &Compared) -> String {
    let now = match &line.now {
        _ if line.is_equal() => return "equal".to_owned(),
        Ok(now) => now,
        Err(error) => return error.clone(),
    };
    let mut verdict = match now.amount.checked_sub(line.then.amount) {
        Ok(difference) if difference.minor > 0 => format!("+{difference}"),
        Ok(difference) => difference.to_string(),
        Err(error) => error.to_string(),
    };
    for (events, what) in [(&line.late, "came later"), (&line.voided, "voided")] {
        if events.count > 0 {
            verdict.push_str(&format!("\n{} {what}: {}", events.count, ids(events)));
        }
    }
    verdict
}

fn ids(events: &Events) -> String {
    let more = if events.count > events.ids.len() { ", …" } else { "" };
    format!("{}{more}", events.ids.join(", "))
}

/// The same for programs. Amounts are in minor units.
pub fn json(invoice: &Invoice, from: Provenance, events: u64, lines: &[Compared]) -> Json {
    let worth = |worth: &Worth| {
        json!({
            "units": worth.units.to_string(),
            "events": worth.events,
            "amountCents": worth.amount.minor.to_string(),
        })
    };
    let named = |events: &Events| json!({ "count": events.count, "transactionIds": events.ids });
    let line = |line: &Compared| {
        json!({
            "feeId": line.fee.map(|fee| fee.to_string()),
            "name": line.name,
            "chargeCode": line.charge_code,
            "subscriptionId": line.subscription.to_string(),
            "externalSubscriptionId": line.external_subscription_id,
            "trueUp": line.true_up,
            "fromDatetime": line.period.start.to_rfc3339(),
            "toDatetime": line.period.end.to_rfc3339(),
            "then": worth(&line.then),
            "now": line.now.as_ref().ok().map(worth),
            "error": line.now.as_ref().err(),
            "equal": line.is_equal(),
            "late": named(&line.late),
            "voided": named(&line.voided),
        })
    };
    json!({
        "invoiceId": invoice.id.to_string(),
        "number": number(invoice),
        "currency": invoice.total.currency.code(),
        "catalogVersion": from.catalog_version,
        "watermark": from.watermark.map(|at| at.to_rfc3339()),
        "events": events,
        "equal": lines.iter().all(Compared::is_equal),
        "lines": lines.iter().map(line).collect::<Vec<_>>(),
    })
}
