//! What each write of a subscription does.

use super::{KIND, convert::Draft, find, lock_customer};
use crate::{context::Context, error::OpError, fields::Faults, plans};
use chrono_tz::Tz;
use weir_billing::{
    Timestamp,
    customer::Customer,
    plan::Plan,
    subscription::{Subscription, SubscriptionStatus},
};
use weir_ids::{CustomerId, SubscriptionId};
use weir_store::{
    Cursor, PageRequest, StoreError, Tx, billing, customers as customer_store, plans as plan_store,
    subscriptions::{self as store, NextDue, SubscriptionFilter},
};

/// The first and the last year in which a subscription may start or end: usage has no others.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=2099;

/// Subscribes a customer; its currency is from now on that of the plan.
/// Errors: `NotFound` customer or plan; `Conflict` for an archived plan, another currency or an
/// external id that lives; `Invalid` dates.
pub async fn create(ctx: &Context, draft: Draft) -> Result<Subscription, OpError> {
    check_years(&draft)?;
    let mut tx = ctx.begin().await?;
    if let Some(made) = ctx.made_before::<SubscriptionId>(&mut tx).await? {
        return find(ctx, &mut tx, &made.to_string()).await;
    }
    let customer = lock_customer(ctx, &mut tx, &draft.customer).await?;
    let plan = plan_store::lock(&mut tx, ctx.organization, draft.plan).await?;
    let plan = plan.ok_or_else(|| OpError::not_found(plans::KIND, draft.plan))?;
    let customer = in_currency(ctx, customer, &plan)?;
    let id = ctx.clock.new_id::<SubscriptionId>();
    let subscription = Subscription {
        id,
        organization: ctx.organization,
        customer: customer.id,
        plan: plan.id,
        external_id: draft.external_id.unwrap_or_else(|| id.to_string()),
        name: draft.name,
        started_at: draft.starts_at.unwrap_or(ctx.now),
        ending_at: draft.ending_at,
        terminated_at: None,
        skip_final_invoice: false,
        created_at: ctx.now,
        updated_at: ctx.now,
    };

    customer_store::save(&mut tx, &customer).await?;
    let inserted = store::insert(&mut tx, &subscription, None).await;
    inserted.map_err(|error| taken(error, &subscription.external_id))?;
    schedule(ctx, &mut tx, &[id], customer.details.timezone.unwrap_or(Tz::UTC)).await?;
    ctx.commit_made(tx, id.as_u128()).await?;
    Ok(subscription)
}

/// Ends a subscription now. One that has not begun is called off and never billed.
/// Errors: `NotFound`; `Conflict` when it has ended.
pub async fn terminate(
    ctx: &Context,
    name: &str,
    skip_invoice: bool,
) -> Result<Subscription, OpError> {
    let mut tx = ctx.begin().await?;
    let found = find(ctx, &mut tx, name).await?;
    let customer = customer_store::lock(&mut tx, ctx.organization, found.customer).await?;
    let locked = store::lock(&mut tx, ctx.organization, found.id).await?;
    let (Some(customer), Some(subscription)) = (customer, locked) else {
        return Err(OpError::not_found(KIND, name));
    };
    if subscription.status(ctx.now) == SubscriptionStatus::Terminated {
        let message = format!("subscription {} has ended", subscription.id);
        return Err(OpError::conflict("ALREADY_TERMINATED", message));
    }
    let tz = customer.details.timezone.unwrap_or(Tz::UTC);
    let ended = end(ctx, &mut tx, &subscription, skip_invoice, tz).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends a locked subscription now.
pub async fn end(
    ctx: &Context,
    tx: &mut Tx,
    subscription: &Subscription,
    skip_invoice: bool,
    tz: Tz,
) -> Result<Subscription, OpError> {
    let ended = Subscription {
        terminated_at: Some(ctx.now),
        skip_final_invoice: skip_invoice,
        updated_at: ctx.now,
        ..subscription.clone()
    };
    store::save(tx, &ended).await?;
    schedule(ctx, tx, &[ended.id], tz).await?;
    Ok(ended)
}

/// Works out when the next invoices of subscriptions are due, after anything that moves it: their
/// beginning, their end, their customer's zone `tz`.
pub async fn schedule(
    ctx: &Context,
    tx: &mut Tx,
    subscriptions: &[SubscriptionId],
    tz: Tz,
) -> Result<(), OpError> {
    let wanted: Vec<_> = subscriptions.iter().map(|one| (ctx.organization, *one)).collect();
    let agreements = billing::agreements(tx, &wanted).await?;
    let mut dues = Vec::with_capacity(agreements.len());
    for agreement in &agreements {
        dues.push(NextDue {
            organization: ctx.organization,
            subscription: agreement.subscription.id,
            at: agreement.next_due_at(tz)?,
        });
    }
    Ok(store::set_next_due(tx, &dues).await?)
}

/// [`schedule`] for the subscriptions to plans of this code that have not begun: an edit that
/// reached them may bill them at another time.
pub async fn schedule_pending(ctx: &Context, tx: &mut Tx, plan_code: &str) -> Result<(), OpError> {
    let filter = SubscriptionFilter {
        plan_code: Some(plan_code.to_owned()),
        statuses: vec![SubscriptionStatus::Pending],
        now: ctx.now,
        ..SubscriptionFilter::default()
    };
    let mut page = PageRequest { limit: weir_store::LIMIT_MAX, ..PageRequest::default() };
    loop {
        let found = store::list(tx, ctx.organization, &filter, &page).await?;
        let ids: Vec<CustomerId> = found.items.iter().map(|one| one.customer).collect();
        let customers = customer_store::find_many(tx, ctx.organization, &ids).await?;
        for one in &found.items {
            let customer = customers.get(&one.customer);
            let tz = customer.and_then(|customer| customer.details.timezone).unwrap_or(Tz::UTC);
            schedule(ctx, tx, &[one.id], tz).await?;
        }
        let Some(cursor) = found.next_cursor else { return Ok(()) };
        page.cursor = Some(Cursor::parse(&cursor).map_err(OpError::internal)?);
    }
}

/// The customer in the plan's currency. Errors: the plan is archived; the customer is billed in
/// another currency, which never changes.
fn in_currency(ctx: &Context, customer: Customer, plan: &Plan) -> Result<Customer, OpError> {
    if plan.deleted_at.is_some() {
        let message = format!("plan {} is archived: it takes no new subscriptions", plan.code);
        return Err(OpError::conflict("PLAN_ARCHIVED", message));
    }
    let currency = plan.version.amount.currency;
    match customer.details.currency {
        Some(other) if other != currency => Err(OpError::conflict(
            "CURRENCY_MISMATCH",
            format!("the plan is in {}, the customer in {}", currency.code(), other.code()),
        )),
        Some(_) => Ok(customer),
        None => {
            let mut customer = customer;
            customer.details.currency = Some(currency);
            Ok(Customer { updated_at: ctx.now, ..customer })
        }
    }
}

fn check_years(draft: &Draft) -> Result<(), OpError> {
    use chrono::Datelike;
    let mut faults = Faults::default();
    let dates = [("subscriptionAt", draft.starts_at), ("endingAt", draft.ending_at)];
    let outside = |at: &Timestamp| !YEARS.contains(&at.year());
    for (field, _) in dates.into_iter().filter(|(_, at)| at.as_ref().is_some_and(outside)) {
        faults.push(field, format!("must be within {} to {}", YEARS.start(), YEARS.end()));
    }
    faults.check()
}

fn taken(error: StoreError, external_id: &str) -> OpError {
    if error.is_duplicate_of("subscriptions_external_id_overlap") {
        let message = format!(
            "a subscription with the external id {external_id:?} lives at that time; \
             a change of plan is not supported yet: terminate it first"
        );
        return OpError::conflict("EXTERNAL_ID_IN_USE", message);
    }
    error.into()
}
