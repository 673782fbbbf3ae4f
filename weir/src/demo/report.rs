//! What the demo shows, and what it checks.

use super::trace::Usage;
use anyhow::{Context, ensure};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::Value;

/// Rows printed from the start of the table; the sums are of all.
const ROWS_SHOWN: usize = 5;

/// One invoice, read back from the API and reckoned from the trace.
pub struct Row {
    pub customer: String,
    pub number: String,
    pub lines: Vec<(String, String, String)>,
    pub total_cents: u64,
    pub expected_cents: u64,
    pub usage: Usage,
    pub expected_usage: Usage,
}

impl Row {
    /// Reads an invoice in full view.
    pub fn read(invoice: &Value, customer: String, expected: Usage) -> anyhow::Result<Self> {
        let text = |value: &Value, name: &str| {
            value[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {value}"))
        };
        let mut usage = Usage::default();
        let mut lines = Vec::new();
        for fee in invoice["fees"].as_array().context("an invoice has fees")? {
            let (code, units) = (text(fee, "itemCode")?, text(fee, "units")?);
            match code.as_str() {
                "requests" => usage.requests = units.parse()?,
                "input_tokens" => usage.input_tokens = units.parse()?,
                "output_tokens" => usage.output_tokens = units.parse()?,
                _ => {}
            }
            lines.push((code, units, text(fee, "amountCents")?));
        }
        Ok(Self {
            customer,
            number: text(invoice, "number")?,
            lines,
            total_cents: text(invoice, "totalAmountCents")?.parse()?,
            expected_cents: expected.expected_cents(),
            usage,
            expected_usage: expected,
        })
    }
}

/// Prints the invoices as a table, with their sums.
pub fn print_table(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "customer",
        "invoice",
        "requests",
        "input tokens",
        "output tokens",
        "total USD",
    ]);
    for row in rows.iter().take(ROWS_SHOWN) {
        table.add_row(cells(&row.customer, &row.number, row.usage, row.total_cents));
    }
    if rows.len() > ROWS_SHOWN {
        let more = format!("… {} more", rows.len() - ROWS_SHOWN);
        table.add_row([more.as_str(), "", "", "", "", ""]);
    }
    let usage = rows.iter().fold(Usage::default(), |sum, row| sum + row.usage);
    let total = rows.iter().map(|row| row.total_cents).sum();
    table.add_row(cells("all", &format!("{} invoices", rows.len()), usage, total));
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("\n{table}");
    if let Some(row) = rows.first() {
        println!("\nThe lines of {} ({}):", row.number, row.customer);
        for (code, units, cents) in &row.lines {
            let cents: u64 = cents.parse().unwrap_or(0);
            println!("  {code:<16}{units:>12} units{:>12} USD", dollars(cents));
        }
    }
}

fn cells(customer: &str, number: &str, usage: Usage, cents: u64) -> [String; 6] {
    [
        customer.to_owned(),
        number.to_owned(),
        grouped(usage.requests),
        grouped(usage.input_tokens),
        grouped(usage.output_tokens),
        dollars(cents),
    ]
}

/// Checks one fact and prints it with a mark.
pub fn check<T: PartialEq + std::fmt::Display>(what: &str, got: T, want: T) -> anyhow::Result<()> {
    let mark = if got == want { "✓" } else { "✗" };
    println!("  {mark} {what}: {got}");
    ensure!(got == want, "{what}: got {got}, want {want}");
    Ok(())
}

/// 1234567 → 1,234,567
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 123456 cents → 1,234.56
pub fn dollars(cents: u64) -> String {
    format!("{}.{:02}", grouped(cents / 100), cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(22_361_870), "22,361,870");
        assert_eq!(dollars(123_456), "1,234.56");
        assert_eq!(dollars(5), "0.05");
    }
}
