//! What a well-formed event must still fulfil: the catalog's part of the checks.
//!
//! Strict: its code, its subscription and what its metrics read must be known and right. A lenient
//! organization's event is taken without them, stored, and counts once they are there. What can never
//! count is refused either way: a value with too many digits, one too long to keep usage apart by.

use crate::refresh::AwaitedCodes;
use crate::verdict::{RetryCause, Verdict};
use chrono::DateTime;
use weir_catalog::{Metric, Snapshot, Span, Unmeasurable};
use weir_events::{
    EventFields, EventId, GROUP_VALUE_CHARS_MAX, Parsed, Properties, Reason, RecordEvent,
    Rejection, WireEvent, content_hash, event_id, partition_of, too_long_for_group,
};
use weir_ids::OrganizationId;

/// An event that may be taken, ready to be packed.
#[derive(Clone, Copy)]
pub struct Candidate<'e> {
    /// Its place in the request.
    pub slot: usize,
    pub partition: u32,
    pub id: EventId,
    pub event: RecordEvent<'e>,
}

/// The circumstances that all events of a request share.
#[derive(Clone, Copy)]
pub struct Circumstances {
    pub organization: OrganizationId,
    pub partitions: u32,
    /// The timestamp of an event that has none.
    pub received_at_us: i64,
    /// How much earlier than its receipt an event may be dated; none: no bound.
    pub window_us: Option<i64>,
}

/// The outcome for a request's events under one snapshot.
pub struct Judged<'e> {
    pub candidates: Vec<Candidate<'e>>,
    /// Events refused because the catalog does not hold something: a newer one may.
    pub doubtful: Vec<usize>,
}

/// Judges each event; those that can't be taken get their verdict, the others `Retry` for now. An
/// event with an awaited code will be counted from what is stored: it is taken as it is.
pub fn judge<'e>(
    snapshot: &Snapshot,
    awaited: &AwaitedCodes,
    at: Circumstances,
    parsed: &'e Parsed<'_>,
    verdicts: &mut Vec<Verdict>,
) -> Judged<'e> {
    let mut judged =
        Judged { candidates: Vec::with_capacity(parsed.events.len()), doubtful: Vec::new() };
    let lenient = snapshot.organization(at.organization).lenient;
    let mut look_up = LookUp { snapshot, awaited, at, lenient, code: None, subscription: None };
    verdicts.clear();
    for (slot, event) in parsed.events.iter().enumerate() {
        verdicts.push(match event {
            Err(rejection) => Verdict::Rejected(Box::new(rejection.clone())),
            Ok(event) => match look_up.check(event, parsed.properties(event)) {
                Ok(timestamp_us) => {
                    judged.candidates.push(candidate(slot, at, event, timestamp_us));
                    Verdict::Retry(RetryCause::Log)
                }
                Err(rejection) => {
                    if depends_on_catalog(rejection.reason) {
                        judged.doubtful.push(slot);
                    }
                    Verdict::Rejected(Box::new(rejection))
                }
            },
        });
    }
    judged
}

fn depends_on_catalog(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::UnknownCode
            | Reason::UnknownSubscription
            | Reason::BeforeSubscription
            | Reason::AfterSubscription
    )
}

fn candidate<'e>(
    slot: usize,
    at: Circumstances,
    event: &'e WireEvent<'_>,
    timestamp_us: i64,
) -> Candidate<'e> {
    let id = event_id(at.organization, &event.transaction_id);
    Candidate {
        slot,
        partition: partition_of(id, at.partitions),
        id,
        event: RecordEvent {
            transaction_id: &event.transaction_id,
            external_subscription_id: &event.external_subscription_id,
            code: &event.code,
            timestamp_us,
            content_hash: content_hash(event),
            properties: event.properties,
        },
    }
}

/// Looks up codes and subscriptions. Neighbours in a batch mostly share them: the last answer of
/// each is kept.
struct LookUp<'s, 'e> {
    snapshot: &'s Snapshot,
    awaited: &'s AwaitedCodes,
    at: Circumstances,
    lenient: bool,
    code: Option<(&'e str, &'s [Metric])>,
    subscription: Option<(&'e str, &'s [Span])>,
}

impl<'s, 'e> LookUp<'s, 'e> {
    /// The event's timestamp in microseconds. Errors: the first thing that is wrong with it.
    fn check(
        &mut self,
        event: &'e WireEvent<'_>,
        properties: Properties<'_>,
    ) -> Result<i64, Rejection> {
        let timestamp_us = event.timestamp_us.unwrap_or(self.at.received_at_us);
        check_age(self.at, timestamp_us)?;
        let metrics = self.metrics(&event.code);
        if !self.lenient {
            if metrics.is_empty() && !self.awaited.contains(event.code.as_ref()) {
                let message =
                    format!("no billable metric counts events with code {:?}", &*event.code);
                return Err(Rejection::new(Reason::UnknownCode, "code", message));
            }
            let spans = self.spans(&event.external_subscription_id);
            check_spans(spans, &event.external_subscription_id, timestamp_us)?;
        }
        let fields = EventFields { code: &event.code, timestamp_us, properties };
        for metric in Metric::newest(metrics) {
            check_metric(metric, fields, self.lenient)?;
        }
        Ok(timestamp_us)
    }

    fn metrics(&mut self, code: &'e str) -> &'s [Metric] {
        match self.code {
            Some((last, metrics)) if last == code => metrics,
            _ => {
                let metrics = self.snapshot.metrics(self.at.organization, code);
                self.code = Some((code, metrics));
                metrics
            }
        }
    }

    fn spans(&mut self, external_id: &'e str) -> &'s [Span] {
        match self.subscription {
            Some((last, spans)) if last == external_id => spans,
            _ => {
                let spans =
                    self.snapshot.subscription(self.at.organization, external_id).unwrap_or(&[]);
                self.subscription = Some((external_id, spans));
                spans
            }
        }
    }
}

/// Of an event from before the window a repeat would not be known.
fn check_age(at: Circumstances, timestamp_us: i64) -> Result<(), Rejection> {
    let Some(window_us) = at.window_us else { return Ok(()) };
    let oldest_us = at.received_at_us.saturating_sub(window_us);
    if timestamp_us >= oldest_us {
        return Ok(());
    }
    let event_at = DateTime::from_timestamp_micros(timestamp_us).unwrap_or_default();
    let days = window_us / 86_400_000_000;
    let message =
        format!("the event is dated {event_at:?}, events of the last {days} days are taken");
    Err(Rejection::new(Reason::TooOld, "timestamp", message))
}

/// A subscription takes events from its start up to, and without, its end.
fn check_spans(spans: &[Span], external_id: &str, at_us: i64) -> Result<(), Rejection> {
    let started = |span: &Span| span.started_at.timestamp_micros() <= at_us;
    let ended = |span: &Span| span.ended_at.is_some_and(|end| end.timestamp_micros() <= at_us);
    if spans.is_empty() {
        let message = format!("no subscription has the external id {external_id:?}");
        return Err(Rejection::new(Reason::UnknownSubscription, "externalSubscriptionId", message));
    }
    if spans.iter().any(|span| started(span) && !ended(span)) {
        return Ok(());
    }
    let event_at = DateTime::from_timestamp_micros(at_us).unwrap_or_default();
    let last_end = spans.iter().filter(|span| started(span)).filter_map(|span| span.ended_at).max();
    let (reason, message) = match last_end {
        Some(end) => (
            Reason::AfterSubscription,
            format!("the event is dated {event_at:?}, the subscription ended at {end:?}"),
        ),
        None => {
            let start = spans.iter().map(|span| span.started_at).min().unwrap_or_default();
            (
                Reason::BeforeSubscription,
                format!("the event is dated {event_at:?}, the subscription starts at {start:?}"),
            )
        }
    };
    Err(Rejection::new(reason, "timestamp", message))
}

/// What the rollup will do with the event, asked before it is taken.
fn check_metric(metric: &Metric, fields: EventFields<'_>, lenient: bool) -> Result<(), Rejection> {
    if let Err(Unmeasurable { field, reason, message }) = metric.measure(fields)
        && !(lenient && is_tolerable(reason))
    {
        return Err(Rejection::new(reason, field, message));
    }
    match too_long_for_group(fields.properties, &metric.dimensions) {
        None => Ok(()),
        Some(key) => {
            let message = format!(
                "must have at most {GROUP_VALUE_CHARS_MAX} characters: usage is kept apart by it"
            );
            Err(Rejection::new(Reason::TooLong, format!("properties.{key}"), message))
        }
    }
}

/// What is missing or of another kind may be what another metric counts.
fn is_tolerable(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Required | Reason::NotANumber | Reason::InvalidType | Reason::DivisionByZero
    )
}
