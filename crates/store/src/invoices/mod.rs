//! Invoices with what they settle and their fees. Whoever reads or writes one has it whole, and it
//! adds up.

mod provenance;
mod read;
mod write;

pub use provenance::{Provenance, provenance, provenance_now, set_provenance};
pub use read::{InvoiceFilter, StatusFilter, find, find_many, list, lock};
pub use write::{finalize, finalize_many, insert, insert_many, replace_fees};

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
