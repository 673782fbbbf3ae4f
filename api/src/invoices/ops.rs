//! What each write of an invoice does.

use super::KIND;
use crate::{
    context::Context,
    error::OpError,
    usage::{self, settled},
};
use weir_billing::{
    invoice::{Invoice, InvoiceStatus},
    refresh::{RefreshFacts, refresh},
};
use weir_ids::{CustomerId, InvoiceId};
use weir_store::{
    PageRequest, Tx, billing,
    invoices::{self as store, InvoiceFilter, Provenance, StatusFilter},
};

/// Computes a draft once more from everything accepted until now and makes it final.
/// Errors: `NotFound`; `Conflict` when it is final already or can't be priced; `Unavailable`.
pub async fn finalize(ctx: &Context, id: InvoiceId) -> Result<Invoice, OpError> {
    let mut tx = ctx.begin().await?;
    let draft = store::find(&mut tx, ctx.organization, id).await?;
    tx.commit().await?;
    let is_draft = |invoice: &Invoice| matches!(invoice.status, InvoiceStatus::Draft { .. });
    let provenance = match draft.as_ref().is_some_and(is_draft) {
        true => settled::settled(ctx).await?,
        false => settled::as_it_is(ctx).await?,
    };
    let mut tx = ctx.begin().await?;
    let invoice = store::lock(&mut tx, ctx.organization, id).await?;
    let invoice = invoice.ok_or_else(|| OpError::not_found(KIND, id))?;
    if let InvoiceStatus::Finalized { number, .. } = &invoice.status {
        let message = format!("the invoice is final already, as {number}");
        return Err(OpError::conflict("INVOICE_NOT_DRAFT", message));
    }
    let invoice = settle(ctx, &mut tx, invoice, provenance).await?;
    tx.commit().await?;
    Ok(invoice)
}

/// Waits until the drafts of a customer, if it has any, can be made final with everything accepted
/// until now: what [`finalize_drafts`] asks for. Errors: `Unavailable`.
pub async fn drafts_settled(ctx: &Context, customer: CustomerId) -> Result<Provenance, OpError> {
    let mut tx = ctx.begin().await?;
    let page = PageRequest { limit: 1, ..PageRequest::default() };
    let drafts = store::list(&mut tx, ctx.organization, &drafts_of(customer), &page).await?;
    tx.commit().await?;
    match drafts.items.is_empty() {
        true => settled::as_it_is(ctx).await,
        false => settled::settled(ctx).await,
    }
}

fn drafts_of(customer: CustomerId) -> InvoiceFilter {
    InvoiceFilter {
        customer: Some(customer),
        statuses: vec![StatusFilter::Draft],
        ..InvoiceFilter::default()
    }
}

/// Makes all drafts of a locked customer final, longest due first: it is leaving, or has no grace
/// period any more. Errors: `Conflict` when one of them can't be priced; `Unavailable`.
pub async fn finalize_drafts(
    ctx: &Context,
    tx: &mut Tx,
    customer: CustomerId,
    provenance: Provenance,
) -> Result<(), OpError> {
    let filter = drafts_of(customer);
    let page = PageRequest { ascending: true, limit: weir_store::LIMIT_MAX, ..Default::default() };
    loop {
        let drafts = store::list(tx, ctx.organization, &filter, &page).await?.items;
        if drafts.is_empty() {
            return Ok(());
        }
        for draft in drafts {
            settle(ctx, tx, draft, provenance).await?;
        }
    }
}

/// Refreshes a draft that is locked, and fixes it.
async fn settle(
    ctx: &Context,
    tx: &mut Tx,
    draft: Invoice,
    provenance: Provenance,
) -> Result<Invoice, OpError> {
    let facts = billing::draft_facts(tx, std::slice::from_ref(&draft)).await?;
    let facts = RefreshFacts {
        versions: &facts.versions,
        metrics: &facts.metrics,
        started_at: &facts.started_at,
    };
    let mut pricings = Vec::new();
    for settled in &draft.subscriptions {
        pricings.extend(facts.pricings(settled)?);
    }
    let reader = usage::reader(ctx, tx, &pricings).await?;
    let book = usage::read(ctx, &reader, &pricings).await?;

    let (fresh, pending) = refresh(&draft, facts, &book, ctx.now, &mut || ctx.clock.new_id())?;

    let pending: Vec<_> = pending.into_iter().map(|one| (ctx.organization, one)).collect();
    store::note_pending(tx, &pending).await?;
    store::replace_fees(tx, &fresh).await?;
    store::set_provenance(tx, &[(ctx.organization, fresh.id)], provenance).await?;
    let number = store::finalize(tx, ctx.organization, fresh.id, ctx.now).await?;
    Ok(Invoice { status: InvoiceStatus::Finalized { number, at: ctx.now }, ..fresh })
}
