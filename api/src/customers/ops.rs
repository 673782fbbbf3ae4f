//! What each write of a customer does.

use super::{KIND, convert::Draft, find};
use crate::{
    context::Context,
    error::OpError,
    invoices::ops::{drafts_settled, finalize_drafts},
    subscriptions::ops::{end, schedule},
};
use chrono_tz::Tz;
use weir_billing::{
    customer::Customer,
    subscription::{Subscription, SubscriptionStatus},
};
use weir_ids::{CustomerId, SubscriptionId};
use weir_store::{StoreError, Tx, customers as store, subscriptions as subscription_store};

/// Makes a customer. Errors: `Duplicate` external id; `Conflict` for a reused idempotency key.
pub async fn create(ctx: &Context, draft: Draft) -> Result<Customer, OpError> {
    let mut tx = ctx.begin().await?;
    if let Some(made) = ctx.made_before::<CustomerId>(&mut tx).await? {
        return find(ctx, &mut tx, &made.to_string()).await;
    }
    let external_id = draft.external_id.clone();
    let customer = Customer {
        id: ctx.clock.new_id(),
        organization: ctx.organization,
        external_id: draft.external_id,
        // The store gives the next one.
        sequential_id: 0,
        details: draft.details,
        created_at: ctx.now,
        updated_at: ctx.now,
        deleted_at: None,
    };
    let inserted = store::insert(&mut tx, customer).await;
    let customer = inserted.map_err(|error| taken(error, &external_id))?;
    ctx.commit_made(tx, customer.id.as_u128()).await?;
    Ok(customer)
}

/// Changes a customer. After a change of time zone its months are cut in the new one; without a
/// grace period any more, its drafts become final.
/// Errors: `NotFound`; `Duplicate` external id; `Conflict` when the currency of a customer that
/// ever subscribed shall change, or a draft can't be priced; `Unavailable`.
pub async fn update(
    ctx: &Context,
    id: CustomerId,
    may_end_grace: bool,
    change: impl FnOnce(&Customer) -> Result<Draft, OpError>,
) -> Result<Customer, OpError> {
    let settled = match may_end_grace {
        true => Some(drafts_settled(ctx, id).await?),
        false => None,
    };
    let mut tx = ctx.begin().await?;
    let customer = lock(ctx, &mut tx, id).await?;
    let Draft { external_id, details } = change(&customer)?;
    let subscriptions = subscription_store::of_customer(&mut tx, ctx.organization, id).await?;
    if details.currency != customer.details.currency && !subscriptions.is_empty() {
        let message = "the customer has subscribed: its currency is fixed";
        return Err(OpError::conflict("CURRENCY_FIXED", message));
    }
    let changed = Customer { external_id, details, updated_at: ctx.now, ..customer.clone() };
    let saved = store::save(&mut tx, &changed).await;
    saved.map_err(|error| taken(error, &changed.external_id))?;
    if changed.details.timezone != customer.details.timezone {
        let ids: Vec<SubscriptionId> = living(&subscriptions, ctx).map(|one| one.id).collect();
        schedule(ctx, &mut tx, &ids, changed.details.timezone.unwrap_or(Tz::UTC)).await?;
    }
    let grace = |customer: &Customer| customer.details.invoice_grace_period_days.unwrap_or(0);
    if let Some(provenance) = settled
        && grace(&customer) > 0
        && grace(&changed) == 0
    {
        finalize_drafts(ctx, &mut tx, id, provenance).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

/// Deletes a customer: its subscriptions end now, with final invoices, and its drafts become final.
/// Errors: `NotFound`, also when it is deleted already; `Unavailable` with drafts and no usage.
pub async fn delete(ctx: &Context, id: CustomerId) -> Result<(), OpError> {
    let provenance = drafts_settled(ctx, id).await?;
    let mut tx = ctx.begin().await?;
    let customer = lock(ctx, &mut tx, id).await?;
    let tz = customer.details.timezone.unwrap_or(Tz::UTC);
    let subscriptions = subscription_store::of_customer(&mut tx, ctx.organization, id).await?;
    for subscription in living(&subscriptions, ctx) {
        end(ctx, &mut tx, subscription, subscription.skip_final_invoice, tz).await?;
    }
    finalize_drafts(ctx, &mut tx, id, provenance).await?;
    store::archive(&mut tx, ctx.organization, id, ctx.now).await?;
    Ok(tx.commit().await?)
}

async fn lock(ctx: &Context, tx: &mut Tx, id: CustomerId) -> Result<Customer, OpError> {
    let customer = store::lock(tx, ctx.organization, id).await?;
    let live = customer.filter(|customer| customer.deleted_at.is_none());
    live.ok_or_else(|| OpError::not_found(KIND, id))
}

/// Those that have not ended.
fn living<'a>(
    subscriptions: &'a [Subscription],
    ctx: &Context,
) -> impl Iterator<Item = &'a Subscription> {
    let now = ctx.now;
    subscriptions.iter().filter(move |one| one.status(now) != SubscriptionStatus::Terminated)
}

fn taken(error: StoreError, external_id: &str) -> OpError {
    if error.is_duplicate_of("customers_external_id_key") {
        return OpError::Duplicate { field: "externalId", value: external_id.to_owned() };
    }
    error.into()
}
