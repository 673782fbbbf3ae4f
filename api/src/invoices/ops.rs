//! What each write of an invoice does.

use super::KIND;
use crate::{context::Context, error::OpError, usage};
use weir_billing::{
    invoice::{Invoice, InvoiceStatus},
    refresh::{RefreshFacts, refresh},
};
use weir_ids::{CustomerId, InvoiceId};
use weir_store::{
    PageRequest, Tx, billing,
    invoices::{self as store, InvoiceFilter, StatusFilter},
};

/// Computes a draft once more from the usage there is now and makes it final.
/// Errors: `NotFound`; `Conflict` when it is final already or can't be priced; `Unavailable`.
pub async fn finalize(ctx: &Context, id: InvoiceId) -> Result<Invoice, OpError> {
    let mut tx = ctx.begin().await?;
    let invoice = store::lock(&mut tx, ctx.organization, id).await?;
    let invoice = invoice.ok_or_else(|| OpError::not_found(KIND, id))?;
    if let InvoiceStatus::Finalized { number, .. } = &invoice.status {
        let message = format!("the invoice is final already, as {number}");
        return Err(OpError::conflict("INVOICE_NOT_DRAFT", message));
    }
    let invoice = settle(ctx, &mut tx, invoice).await?;
    tx.commit().await?;
    Ok(invoice)
}

/// Makes all drafts of a customer final, longest due first: it is leaving.
pub async fn finalize_drafts(
    ctx: &Context,
    tx: &mut Tx,
    customer: CustomerId,
) -> Result<(), OpError> {
    let filter = InvoiceFilter {
        customer: Some(customer),
        statuses: vec![StatusFilter::Draft],
        ..InvoiceFilter::default()
    };
    let page = PageRequest { ascending: true, limit: weir_store::LIMIT_MAX, ..Default::default() };
    loop {
        let drafts = store::list(tx, ctx.organization, &filter, &page).await?.items;
        if drafts.is_empty() {
            return Ok(());
        }
        for draft in drafts {
            settle(ctx, tx, draft).await?;
        }
    }
}

/// Refreshes a draft that is locked, and fixes it.
async fn settle(ctx: &Context, tx: &mut Tx, draft: Invoice) -> Result<Invoice, OpError> {
    let facts = billing::draft_facts(tx, std::slice::from_ref(&draft)).await?;
    let windows: Vec<_> = draft
        .subscriptions
        .iter()
        .filter_map(|settled| Some((settled.subscription, settled.usage?)))
        .collect();
    let book = usage::book(ctx, &windows).await?;
    let facts = RefreshFacts { versions: &facts.versions, metrics: &facts.metrics, usage: &book };

    let fresh = refresh(&draft, facts, ctx.now)?;

    store::replace_fees(tx, &fresh).await?;
    let number = store::finalize(tx, ctx.organization, fresh.id, ctx.now).await?;
    Ok(Invoice { status: InvoiceStatus::Finalized { number, at: ctx.now }, ..fresh })
}
