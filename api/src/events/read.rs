//! Accepted events between proto and what ClickHouse holds.

use super::standing::Standing;
use crate::{
    error::OpError,
    fields::{Faults, timestamp, timestamp_out},
    lists::cursor_invalid,
};
use std::collections::BTreeMap;
use weir_proto::v2;
use weir_store::voids::Void;
use weir_usage::{EventCursor, EventFilter, EventPage, EventRow};

/// Reads a list's conditions. Errors: `Invalid`.
pub fn filter(filter: v2::EventListFilter, standing: &Standing) -> Result<EventFilter, OpError> {
    let part = filter.part.unwrap_or_default();
    let range = part.timestamp.unwrap_or_default();
    let mut faults = Faults::default();
    let mut instant = |field: &str, at: Option<prost_types::Timestamp>| {
        let field = format!("filter.part.timestamp.{field}");
        at.and_then(|at| faults.take(&field, timestamp(&at)))
    };
    let from = instant("fromInclusive", range.from_inclusive);
    let to = instant("toExclusive", range.to_exclusive);
    faults.finish(Some(EventFilter {
        external_subscription_id: part.external_subscription_id,
        code: part.code,
        from,
        to,
        unmatched: part.unmatched.unwrap_or(false).then(|| standing.unmatched()),
    }))
}

/// Where the page begins. Errors: `OutOfRange`; `Invalid` for a `skip`, which events don't have.
pub fn cursor(pagination: &v2::Pagination) -> Result<Option<EventCursor>, OpError> {
    if pagination.skip.is_some_and(|skip| skip > 0) {
        return Err(OpError::invalid("pagination.skip", "events are paged by cursor"));
    }
    let text = pagination.cursor.as_deref().filter(|text| !text.is_empty());
    let cursor =
        text.map(|text| text.parse().map_err(|_| cursor_invalid("not a cursor of this list")));
    cursor.transpose()
}

/// Writes an event with what has become of it. `voids`: those of this event and perhaps of others.
pub fn event_out(
    event: &EventRow<'_>,
    standing: &Standing,
    voids: &BTreeMap<String, Void>,
) -> v2::Event {
    let void = voids.get(event.transaction_id.as_ref());
    v2::Event {
        id: format!("{:032x}", event.event_id.as_u128()),
        transaction_id: event.transaction_id.to_string(),
        external_subscription_id: event.external_subscription_id.to_string(),
        subscription_id: standing.subscription(event).map(|id| id.to_string()),
        code: event.code.to_string(),
        timestamp: Some(timestamp_out(event.timestamp)),
        received_at: Some(timestamp_out(event.received_at)),
        payload: Some(v2::JsonObject { json: event.properties.to_string() }),
        match_subscription: event.subscription.is_some(),
        matched: standing.is_matched(event),
        voided_at: void.map(|void| timestamp_out(void.voided_at)),
        voided_by: void.map(|void| void.voided_by.clone()),
        void_reason: void.and_then(|void| void.reason.clone()),
    }
}

pub fn page_out(
    page: &EventPage,
    standing: &Standing,
    voids: &BTreeMap<String, Void>,
) -> v2::ListEventsResponse {
    v2::ListEventsResponse {
        items: page.events.iter().map(|event| event_out(event, standing, voids)).collect(),
        next_page_cursor: page.next.map(|cursor| cursor.to_string()),
    }
}
