//! What a well-formed event must still fulfil: the catalog's part of the checks, strict mode.

use crate::verdict::Verdict;
use chrono::DateTime;
use weir_catalog::{Aggregation, Metric, Snapshot, Span};
use weir_events::{
    EventId, QuantityError, Reason, RecordEvent, Rejection, WireEvent, content_hash, distinct_of,
    event_id, partition_of, property, value_of,
};
use weir_ids::OrganizationId;

/// Whether an event adds a value to those that a `unique_count` holds, or takes it away.
const OPERATION_TYPE: &str = "operation_type";

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
}

/// The outcome for a request's events under one snapshot.
pub struct Judged<'e> {
    pub candidates: Vec<Candidate<'e>>,
    /// Events refused because the catalog does not hold something: a newer one may.
    pub doubtful: Vec<usize>,
}

/// Judges each event; those that can't be taken get their verdict, the others `Retry` for now.
pub fn judge<'e>(
    snapshot: &Snapshot,
    at: Circumstances,
    events: &'e [Result<WireEvent<'_>, Rejection>],
    verdicts: &mut Vec<Verdict>,
) -> Judged<'e> {
    let mut judged = Judged { candidates: Vec::with_capacity(events.len()), doubtful: Vec::new() };
    let mut look_up = LookUp { snapshot, at, code: None, subscription: None };
    verdicts.clear();
    for (slot, event) in events.iter().enumerate() {
        verdicts.push(match event {
            Err(rejection) => Verdict::Rejected(Box::new(rejection.clone())),
            Ok(event) => match look_up.check(event) {
                Ok(timestamp_us) => {
                    judged.candidates.push(candidate(slot, at, event, timestamp_us));
                    Verdict::Retry
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
    at: Circumstances,
    code: Option<(&'e str, &'s [Metric])>,
    subscription: Option<(&'e str, &'s [Span])>,
}

impl<'s, 'e> LookUp<'s, 'e> {
    /// The event's timestamp in microseconds. Errors: the first thing that is wrong with it.
    fn check(&mut self, event: &'e WireEvent<'_>) -> Result<i64, Rejection> {
        let metrics = self.metrics(&event.code);
        if metrics.is_empty() {
            let message = format!("no billable metric counts events with code {:?}", &*event.code);
            return Err(Rejection::new(Reason::UnknownCode, "code", message));
        }
        let timestamp_us = event.timestamp_us.unwrap_or(self.at.received_at_us);
        let spans = self.spans(&event.external_subscription_id);
        check_spans(spans, &event.external_subscription_id, timestamp_us)?;
        for metric in metrics {
            check_value(metric, event.properties)?;
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

fn check_value(metric: &Metric, properties: &str) -> Result<(), Rejection> {
    let Some(field) = metric.field.as_deref() else { return Ok(()) };
    let given = |field: &str| property(properties, field).filter(|raw| *raw != "null");
    let refused = |reason, field: &str, message: &str| {
        Err(Rejection::new(reason, format!("properties.{field}"), message))
    };
    match (metric.aggregation, given(field)) {
        (Aggregation::Count, _) => Ok(()),
        (_, None) => refused(Reason::Required, field, "must be given: a metric counts by it"),
        (Aggregation::UniqueCount, Some(_)) => match given(OPERATION_TYPE).map(distinct_of) {
            None => Ok(()),
            Some(operation) if operation == "add" || operation == "remove" => Ok(()),
            Some(_) => refused(Reason::InvalidType, OPERATION_TYPE, "must be add or remove"),
        },
        (Aggregation::Sum | Aggregation::Max | Aggregation::Latest, Some(raw)) => {
            match value_of(raw) {
                Ok(_) => Ok(()),
                Err(QuantityError::TooManyDigits) => refused(
                    Reason::TooManyDigits,
                    field,
                    "must have at most 16 digits before the point and 12 after it",
                ),
                Err(_) => {
                    refused(Reason::NotANumber, field, "must be a number, or a string with one")
                }
            }
        }
    }
}
