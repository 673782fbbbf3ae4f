//! How long raw events are kept.

use crate::{ClickHouse, UsageError, error::during};
use clickhouse::Row;
use serde::Deserialize;

/// 27 years. Ten times that is still within what the column holds.
const DAYS_MAX: u32 = 10_000;

#[derive(Row, Deserialize)]
struct EngineWire {
    engine_full: String,
}

impl ClickHouse {
    /// Keeps raw events for this many days after their receipt (1 to 10,000), or for ever (`None`, as
    /// a new database does). Usage by quarters of an hour is kept either way. Changes the table only
    /// when it differs. Expired rows disappear by and by: within about a day, and at once from nowhere.
    ///
    /// What raw events are needed for can't be done for times before: rolls, audits, voids, and the
    /// index of seen ids, which is rebuilt from them. So an id may be forgotten as soon as its raw row
    /// is: the window in which repeats are recognised must not be longer than the retention.
    ///
    /// Errors: `OutOfRange`, `Unavailable`, `Refused`.
    pub async fn set_retention(&self, days: Option<u32>) -> Result<(), UsageError> {
        let failed = during("set retention");
        let now: EngineWire = self
            .reader()
            .query(
                "SELECT ?fields FROM system.tables
                WHERE database = currentDatabase() AND name = 'events'",
            )
            .fetch_one()
            .await
            .map_err(&failed)?;
        let wanted = match days {
            None => None,
            Some(days @ 1..=DAYS_MAX) => Some(format!("received_at + toIntervalDay({days})")),
            Some(days) => {
                let value = i64::from(days);
                return Err(UsageError::OutOfRange { field: "retention in days", value });
            }
        };
        let alterations = match wanted {
            None if !now.engine_full.contains(" TTL ") => return Ok(()),
            None => vec!["REMOVE TTL".to_owned()],
            Some(ttl) if now.engine_full.contains(&format!(" TTL {ttl} ")) => return Ok(()),
            // Each removal rewrites the parts it touches, the largest too: once a day, not each 4 hours.
            Some(ttl) => vec![
                "MODIFY SETTING merge_with_ttl_timeout = 86400".to_owned(),
                format!("MODIFY TTL {ttl}"),
            ],
        };
        for alteration in alterations {
            let statement = self.on_cluster(&format!("ALTER TABLE events\n{alteration}"));
            self.writer().query_raw(&statement).execute().await.map_err(&failed)?;
        }
        tracing::info!(days, "retention of raw events changed");
        Ok(())
    }
}
