//! Taking an accepted event out of usage, and putting another in its place.

use super::{KIND, forward::Call, standing::voids_of};
use crate::{context::Context, error::OpError, fields::Faults, usage::settled::Patience};
use tonic::Status;
use weir_proto::v2;
use weir_store::{
    StoreError, Timestamp, clock, partitions,
    voids::{self, Void},
};
use weir_usage::EventRow;

/// The longest reason, in characters.
const REASON_MAX: usize = 1_000;

/// Voids a stored event; one that was voided before stays as it was. Answers the event.
/// Errors: `Invalid`; `NotFound`; `Unavailable` while accepted events are still being stored.
pub async fn void(
    ctx: &Context,
    transaction_id: &str,
    reason: Option<&str>,
) -> Result<EventRow<'static>, OpError> {
    let reason = read_reason(reason)?;
    let event = stored(ctx, transaction_id).await?;
    write(ctx, &event, reason).await?;
    Ok(event)
}

/// Has the replacement taken, then voids the event. In this order nothing is lost when we die in
/// between: until the caller sends the same again both count, and then its replacement is a
/// duplicate. Answers the voided event and what became of the replacement.
/// Errors: `Invalid`; `NotFound`; `Unavailable` while accepted events are still being stored;
/// `Conflict` when the event was voided without this replacement; the replacement's own.
pub async fn amend(
    ctx: &Context,
    call: Call,
    request: &v2::AmendEventRequest,
) -> Result<(EventRow<'static>, v2::EventVerdict), Status> {
    let reason = read_reason(request.reason.as_deref())?;
    let Some(replacement) = &request.event else {
        return Err(OpError::invalid("event", "is required").into());
    };
    if replacement.transaction_id == request.transaction_id {
        let message = "must be another id: this one names the voided event for ever";
        return Err(OpError::invalid("event.transactionId", message).into());
    }
    let event = stored(ctx, &request.transaction_id).await?;
    if is_voided(ctx, &event).await? {
        // A repeat of a call that went well: then the replacement is stored, or about to be.
        let taken_before = stored(ctx, &replacement.transaction_id).await;
        taken_before.map_err(|error| match error {
            OpError::NotFound { .. } => {
                let message = "the event was voided before, without this replacement: send the \
                    replacement as an event of its own";
                OpError::conflict("EVENT_VOIDED", message)
            }
            other => other,
        })?;
    }
    let verdict = call.one(replacement, "event.").await?;
    write(ctx, &event, reason).await?;
    Ok((event, verdict))
}

fn read_reason(reason: Option<&str>) -> Result<Option<String>, OpError> {
    let mut faults = Faults::default();
    let reason = checked_reason(&mut faults, reason);
    faults.finish(Some(reason))
}

/// The reason without the spaces around it; blank counts as absent.
pub fn checked_reason(faults: &mut Faults, reason: Option<&str>) -> Option<String> {
    let reason = reason.map(str::trim).filter(|reason| !reason.is_empty())?;
    if reason.chars().count() > REASON_MAX {
        faults.push("reason", format!("must have at most {REASON_MAX} characters"));
    }
    Some(reason.to_owned())
}

/// The event once it is in ClickHouse. One accepted a moment ago is waited for, until everything
/// that was accepted before the call is stored. Errors: `NotFound`; `Unavailable`.
async fn stored(ctx: &Context, transaction_id: &str) -> Result<EventRow<'static>, OpError> {
    let patience = Patience::of(ctx);
    let mut connection = ctx.pool.acquire().await.map_err(StoreError::from)?;
    let asked_at = clock::database_now(&mut connection).await?;
    loop {
        // Asked before the event is looked for: then what it promises is there to be found.
        let all_is_stored = partitions::covers(&mut connection, asked_at).await?;
        if let Some(event) = ctx.usage.event(ctx.organization, transaction_id).await? {
            return Ok(event);
        }
        if all_is_stored {
            return Err(OpError::not_found(KIND, transaction_id));
        }
        patience.again().await?;
    }
}

async fn is_voided(ctx: &Context, event: &EventRow<'static>) -> Result<bool, OpError> {
    let mut tx = ctx.begin().await?;
    Ok(!voids_of(ctx, &mut tx, std::slice::from_ref(event)).await?.is_empty())
}

async fn write(
    ctx: &Context,
    event: &EventRow<'static>,
    reason: Option<String>,
) -> Result<(), OpError> {
    let named = Named {
        transaction_id: &event.transaction_id,
        external_subscription_id: &event.external_subscription_id,
        code: &event.code,
        timestamp: event.timestamp,
    };
    let mut tx = ctx.begin().await?;
    // By the deployment's clock, like the time of receipt that it is compared with.
    voids::insert(&mut tx, &named.voided(ctx, ctx.clock.now(), reason)).await?;
    Ok(tx.commit().await?)
}

/// An event that is to be voided.
pub struct Named<'a> {
    pub transaction_id: &'a str,
    pub external_subscription_id: &'a str,
    pub code: &'a str,
    pub timestamp: Timestamp,
}

impl Named<'_> {
    /// Its void by the caller.
    pub fn voided(&self, ctx: &Context, at: Timestamp, reason: Option<String>) -> Void {
        Void {
            organization: ctx.organization,
            transaction_id: self.transaction_id.to_owned(),
            external_subscription_id: self.external_subscription_id.to_owned(),
            code: self.code.to_owned(),
            timestamp: self.timestamp,
            voided_at: at,
            voided_by: ctx.key.to_string(),
            reason,
            generation: None,
        }
    }
}
