//! Other events in the place of all that a subscription has in a range of time.

use super::{
    forward::{Call, event_json, place_of, rejected},
    void::{Named, checked_reason},
};
use crate::{
    context::Context,
    error::{OpError, Violation},
    fields::{Faults, timestamp},
    usage::settled,
};
use std::collections::BTreeMap;
use tonic::Status;
use weir_events::{content_hash, parse_one};
use weir_proto::v2;
use weir_store::{
    Timestamp, Tx,
    voids::{self, Void},
};
use weir_usage::{EventRange, RangedEvent};

/// Replacements of one call: a body of 1 MiB holds some 4,000 of the usual 267 bytes, and each of
/// them is one more that counts twice when the call dies in between.
const REPLACEMENTS_MAX: usize = 1_000;
/// Events that one call voids: one transaction and one roll of at most as many quarters of an hour,
/// as many as the pipeline takes of single voids at a time.
const VOIDED_MAX: usize = 10_000;
/// Events of the range that are looked at, most of them voided before: some 10 MB.
const LISTED_MAX: usize = 50_000;
/// Faulty events that one answer names: by gRPC it is told in a header of at most 16 KB.
const FAULTS_MAX: usize = 20;

/// Has the replacements taken, waits until they are stored with everything accepted before, then
/// voids all other events of the range in one transaction, which one roll takes out of usage at once.
///
/// Killed before the replacements are taken, nothing has changed. Killed after, they count beside
/// what they replace until the caller sends the same again: they are duplicates then, never among
/// the voided, and the rest is done. Killed after the transaction, a repeat voids only what has come
/// into the range since. A replacement that is not taken voids nothing; others of the call may have
/// been taken, and are duplicates when it is sent again with that one mended.
///
/// Of two calls at once for one subscription, the later voids the replacements of the earlier, or is
/// refused because the earlier has voided its own.
///
/// Errors: `Invalid`, with faults of replacements under `events[i].`; `Unavailable` while accepted
/// events are still being stored; those of taking events.
pub async fn backfill(
    ctx: &Context,
    call: Call,
    request: v2::BackfillEventsRequest,
) -> Result<v2::BackfillEventsResponse, Status> {
    let backfill = Backfill::read(ctx, &request)?;
    // What can be refused now is refused before anything counts twice.
    backfill.refuse_voided(ctx, &mut ctx.begin().await?).await?;
    backfill.others(ctx, backfill.stored(ctx).await?).await?;
    let (accepted, duplicates) = take(call, request.events).await?;
    settled::stored(ctx).await?;
    let stored = backfill.stored(ctx).await?;
    backfill.refuse_unstored(&stored)?;
    let others = backfill.others(ctx, stored).await?;
    let voided = backfill.void(ctx, &others).await?;
    Ok(v2::BackfillEventsResponse { accepted, duplicates, voided })
}

/// A request that was checked as far as it can be by itself.
struct Backfill {
    range: EventRange,
    reason: Option<String>,
    /// By transaction id.
    replacements: BTreeMap<String, Replacement>,
}

#[derive(Debug, Clone, Copy)]
struct Replacement {
    /// In the request.
    place: usize,
    content_hash: u64,
}

impl Backfill {
    fn read(ctx: &Context, request: &v2::BackfillEventsRequest) -> Result<Self, OpError> {
        let mut faults = Faults::default();
        let external_subscription_id =
            faults.text("externalSubscriptionId", &request.external_subscription_id);
        let code = faults.optional_text("code", request.code.as_deref());
        let reason = checked_reason(&mut faults, request.reason.as_deref());
        let from = instant(&mut faults, "from", request.from.as_ref());
        let to = instant(&mut faults, "to", request.to.as_ref());
        if to.is_some_and(|to| to > ctx.now) {
            faults.push("to", "must not be after the present");
        }
        if from.zip(to).is_some_and(|(from, to)| from >= to) {
            faults.push("to", "must be after from");
        }
        if request.events.len() > REPLACEMENTS_MAX {
            let message = format!("must be at most {REPLACEMENTS_MAX}: cut the range");
            faults.push("events", message);
        }
        let (from, to) = faults.finish(from.zip(to))?;
        let range = EventRange { external_subscription_id, code, from, to };
        let replacements = replacements(&range, &request.events)?;
        Ok(Self { range, reason, replacements })
    }

    /// What is stored in the range, voided or not. Errors: `Invalid` when that is too much.
    async fn stored(&self, ctx: &Context) -> Result<Vec<RangedEvent>, OpError> {
        let stored = ctx.usage.events_in(ctx.organization, &self.range, LISTED_MAX + 1).await?;
        if stored.len() > LISTED_MAX { Err(too_many("stored", LISTED_MAX)) } else { Ok(stored) }
    }

    /// What is to be voided: of these all that count and replace nothing. Errors: `Invalid` when they
    /// are too many; `Conflict` for one that can't be voided.
    async fn others(
        &self,
        ctx: &Context,
        mut stored: Vec<RangedEvent>,
    ) -> Result<Vec<RangedEvent>, OpError> {
        stored.retain(|event| !self.replacements.contains_key(&event.transaction_id));
        let ids: Vec<String> = stored.iter().map(|event| event.transaction_id.clone()).collect();
        let before = voids::find_many(&mut *ctx.begin().await?, ctx.organization, &ids).await?;
        stored.retain(|event| !before.contains_key(&event.transaction_id));
        if stored.len() > VOIDED_MAX {
            return Err(too_many("to be voided", VOIDED_MAX));
        }
        let unkept =
            |event: &RangedEvent| event.transaction_id.contains('\0') || event.code.contains('\0');
        if stored.iter().any(unkept) {
            let message = "the range holds an event with the character U+0000 in its id or code, \
                which can't be voided";
            return Err(OpError::conflict("EVENT_UNVOIDABLE", message));
        }
        Ok(stored)
    }

    /// Errors: `Invalid`, naming replacements whose ids stand for voided events.
    async fn refuse_voided(&self, ctx: &Context, tx: &mut Tx) -> Result<(), OpError> {
        let ids: Vec<String> = self.replacements.keys().cloned().collect();
        let voided = voids::find_many(tx, ctx.organization, &ids).await?;
        let message = "names a voided event, which counts for nothing: take another id";
        self.refuse(message, |id, _| voided.contains_key(id))
    }

    /// Errors: `Invalid`, naming replacements whose ids stand for other events. An edge that does not
    /// know an id's first copy accepts a second one, which will never count.
    fn refuse_unstored(&self, stored: &[RangedEvent]) -> Result<(), OpError> {
        let stored: BTreeMap<&str, u64> = stored
            .iter()
            .map(|event| (event.transaction_id.as_str(), event.content_hash))
            .collect();
        let message = "names an event that was accepted before with other content: take another id";
        self.refuse(message, |id, one| stored.get(id) != Some(&one.content_hash))
    }

    fn refuse(
        &self,
        message: &str,
        is_refused: impl Fn(&str, &Replacement) -> bool,
    ) -> Result<(), OpError> {
        let mut refused: Vec<usize> = self
            .replacements
            .iter()
            .filter(|(id, one)| is_refused(id, one))
            .map(|(_, one)| one.place)
            .collect();
        refused.sort_unstable();
        let mut faults = Faults::default();
        for place in refused.into_iter().take(FAULTS_MAX) {
            faults.push(format!("{}transactionId", place_of(place)), message);
        }
        faults.check()
    }

    /// Voids the events, all at one instant; answers how many were not voided yet.
    async fn void(&self, ctx: &Context, events: &[RangedEvent]) -> Result<u32, OpError> {
        // By the deployment's clock, like the times of receipt that it is compared with.
        let at = ctx.clock.now();
        let voids: Vec<Void> = events
            .iter()
            .map(|event| {
                let named = Named {
                    transaction_id: &event.transaction_id,
                    external_subscription_id: &self.range.external_subscription_id,
                    code: &event.code,
                    timestamp: event.timestamp,
                };
                named.voided(ctx, at, self.reason.clone())
            })
            .collect();
        let mut tx = ctx.begin().await?;
        voids::lock(&mut tx, ctx.organization, &self.range.external_subscription_id).await?;
        // Another call may have voided them meanwhile: going on would leave the events of neither.
        self.refuse_voided(ctx, &mut tx).await?;
        let voided = voids::insert_many(&mut tx, &voids).await?;
        tx.commit().await?;
        u32::try_from(voided).map_err(OpError::internal)
    }
}

fn too_many(what: &str, most: usize) -> OpError {
    let message = format!("the range holds more than {most} events {what}: cut it");
    OpError::Invalid(["from", "to"].map(|field| Violation::new(field, &message)).to_vec())
}

fn instant(
    faults: &mut Faults,
    field: &str,
    at: Option<&prost_types::Timestamp>,
) -> Option<Timestamp> {
    match at {
        Some(at) => faults.take(field, timestamp(at)),
        None => {
            faults.push(field, "is required");
            None
        }
    }
}

/// The events as the edge will read them. Errors: `Invalid`, naming the first faulty ones.
fn replacements(
    range: &EventRange,
    events: &[v2::IngestEventRequest],
) -> Result<BTreeMap<String, Replacement>, OpError> {
    let mut found = BTreeMap::new();
    let mut faults = Vec::new();
    for (place, event) in events.iter().enumerate() {
        match replacement(range, event, &place_of(place)) {
            // With other content the second is a conflict, and then nothing is voided.
            Ok((id, content_hash)) => {
                found.entry(id).or_insert(Replacement { place, content_hash });
            }
            Err(fault) => faults.push(fault),
        }
        if faults.len() == FAULTS_MAX {
            break;
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(OpError::Invalid(faults)) }
}

fn replacement(
    range: &EventRange,
    event: &v2::IngestEventRequest,
    path: &str,
) -> Result<(String, u64), Violation> {
    let text = event_json(event, path)?.to_string();
    let at = |field: &str, message: String| Violation::new(format!("{path}{field}"), message);
    let read = parse_one(text.as_bytes()).map_err(|error| at("properties", error.to_string()))?;
    let event =
        read.map_err(|fault| rejected(path, &fault.field, fault.reason.as_str(), &fault.message))?;
    let must = |field, wanted: &str| Err(at(field, format!("must be {wanted}")));
    if event.external_subscription_id != range.external_subscription_id {
        return must("externalSubscriptionId", "that of the range");
    }
    if range.code.as_ref().is_some_and(|code| event.code != *code) {
        return must("code", "that of the range");
    }
    let Some(timestamp_us) = event.timestamp_us else {
        return must("timestamp", "given: the time of receipt lies outside the range");
    };
    let span = range.from.timestamp_micros()..range.to.timestamp_micros();
    if !span.contains(&timestamp_us) {
        return must("timestamp", "at or after from, and before to");
    }
    let content_hash = content_hash(&event);
    Ok((event.transaction_id.into_owned(), content_hash))
}

/// Sends the replacements; how many were new and how many were there. Errors: `Invalid`, naming those
/// that were not taken; `Unavailable` when some are to be sent again.
async fn take(call: Call, events: Vec<v2::IngestEventRequest>) -> Result<(u32, u32), Status> {
    if events.is_empty() {
        return Ok((0, 0));
    }
    let sent = events.len();
    let answer = call.batch(&v2::IngestEventBatchRequest { events, verdicts: None }).await?;
    let mut faults = Vec::new();
    let mut is_to_repeat = false;
    for (place, verdict) in answer.verdicts.iter().enumerate() {
        let path = place_of(place);
        match (verdict.status.as_str(), &verdict.error) {
            ("accepted" | "duplicate", _) => {}
            ("retry", _) => is_to_repeat = true,
            ("conflict", _) => faults.push(Violation::new(
                format!("{path}transactionId"),
                "names an event that was accepted before with other content: take another id",
            )),
            (_, Some(error)) => {
                faults.push(rejected(&path, &error.field, &error.reason, &error.message));
            }
            (other, None) => return Err(OpError::internal(format!("the verdict {other}")).into()),
        }
    }
    if !faults.is_empty() {
        faults.truncate(FAULTS_MAX);
        return Err(OpError::Invalid(faults).into());
    }
    if is_to_repeat {
        let message = "some of the events are not durable: send the same call again".to_owned();
        return Err(OpError::Unavailable { message }.into());
    }
    if answer.verdicts.len() != sent {
        return Err(OpError::internal("the ingest role answered for other events").into());
    }
    Ok((answer.accepted, answer.duplicates))
}
