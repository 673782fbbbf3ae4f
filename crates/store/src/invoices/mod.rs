//! Invoices with what they settle and their fees. Whoever reads or writes one has it whole, and it
//! adds up.

mod audit;
mod fee_row;
mod provenance;
mod read;
mod true_ups;
mod write;

pub use audit::{AuditLine, audit_lines};
pub use provenance::{Provenance, provenance, provenance_now, set_provenance};
pub use read::{InvoiceFilter, StatusFilter, find, find_by_number, find_many, list, lock};
pub use true_ups::{
    PastWindow, TrueUpSince, billed_lines, ended_subscriptions, note_pending, past_windows,
    replace_pending, true_up_since,
};
pub use write::{finalize, finalize_many, insert_many, replace_fees};

use crate::StoreError;
use weir_billing::invoice::Invoice;
use weir_money::Money;

/// Checked before every write and after every read.
fn check_sum(invoice: &Invoice) -> Result<(), StoreError> {
    if invoice.adds_up() {
        return Ok(());
    }
    let sum = Money::sum(invoice.total.currency, invoice.fees.iter().map(|fee| fee.amount));
    Err(StoreError::Unbalanced {
        invoice: invoice.id,
        fees: sum.map_or_else(|error| error.to_string(), |sum| sum.to_string()),
        total: invoice.total.to_string(),
    })
}
