//! What is stored of a subscription in a range of time, without what the events say.

use crate::{ClickHouse, UsageError, error::during, lists, rows};
use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::Deserialize;
use weir_ids::OrganizationId;

/// Which events of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRange {
    pub external_subscription_id: String,
    /// `None`: of every code.
    pub code: Option<String>,
    /// By the events' own times: at or after.
    pub from: DateTime<Utc>,
    /// Before.
    pub to: DateTime<Utc>,
}

/// What names an event and tells its content from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangedEvent {
    pub transaction_id: String,
    pub code: String,
    pub timestamp: DateTime<Utc>,
    /// `weir_events::content_hash` of it.
    pub content_hash: u64,
}

#[derive(Row, Deserialize)]
struct RangedWire {
    transaction_id: String,
    code: String,
    timestamp: i64,
    content_hash: u64,
}

impl ClickHouse {
    /// The events of the range, oldest first, at most `limit`; in a cluster all that were written
    /// before the call. Errors: `Unavailable`, `Refused`.
    pub async fn events_in(
        &self,
        organization: OrganizationId,
        range: &EventRange,
        limit: usize,
    ) -> Result<Vec<RangedEvent>, UsageError> {
        self.catch_up(&["events"]).await?;
        let at = |time| format!("fromUnixTimestamp64Micro({}, 'UTC')", rows::clamped_micros(time));
        let of_code = range
            .code
            .as_deref()
            .map_or_else(String::new, |code| format!("AND code = {}", lists::quoted(code)));
        let sql = format!(
            "SELECT transaction_id, code, timestamp, content_hash
            FROM events
            WHERE organization_id = {} AND external_subscription_id = {} {of_code}
                AND timestamp >= {} AND timestamp < {}
            ORDER BY timestamp, partition, position
            LIMIT {limit}",
            lists::uuid(organization.as_u128()),
            lists::quoted(&range.external_subscription_id),
            at(range.from),
            at(range.to),
        );
        let found: Vec<RangedWire> =
            self.ask(&sql).fetch_all().await.map_err(during("read the events of a range"))?;
        let event = |wire: RangedWire| {
            Ok(RangedEvent {
                transaction_id: wire.transaction_id,
                code: wire.code,
                timestamp: rows::time("timestamp", wire.timestamp)?,
                content_hash: wire.content_hash,
            })
        };
        found.into_iter().map(event).collect()
    }
}
