//! Writing a chunk: one block for each table, each under the chunk's token.

use crate::{
    ClickHouse, ConflictRow, EventBlock, UsageError, UsageRow, UsageValueRow,
    error::during,
    rows::{ConflictWire, UsageValueWire, UsageWire},
};
use clickhouse::{Client, Row, RowWrite};
use std::time::Duration;

/// A socket that takes nothing for this long is dead.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// 200,000 rows with fsync take under one second; merges and a busy disk may multiply that.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// ClickHouse cuts an insert into blocks of this many rows. Larger than any chunk, because each
/// block is written on its own, and a chunk shall be there as a whole or not at all.
const BLOCK_ROWS: &str = "100000000";

/// What one chunk of one partition adds.
#[derive(Debug, Clone, Default)]
pub struct Chunk<'a> {
    pub events: EventBlock,
    pub usage: Vec<UsageRow>,
    pub values: Vec<UsageValueRow>,
    pub conflicts: Vec<ConflictRow<'a>>,
}

impl ClickHouse {
    /// Writes the chunk. `Ok`: all of it is there, and on disk when the engine is ours.
    ///
    /// A table that has seen `token` among its last 10,000 chunks drops its rows, so after any error
    /// or crash the same chunk is written again under the same token; another chunk under a used
    /// token would be lost. Rows must come in the same order each time.
    /// Errors: `OutOfRange` leaves nothing written, `Unavailable` and `Refused` any of the tables.
    pub async fn insert_chunk(&self, chunk: &Chunk<'_>, token: &str) -> Result<(), UsageError> {
        // Before anything is sent: a row that can't be written must not leave half a chunk.
        check::<UsageWire<'_>, _>(&chunk.usage)?;
        check::<UsageValueWire<'_>, _>(&chunk.values)?;
        check::<ConflictWire<'_>, _>(&chunk.conflicts)?;
        let client = self.one_block_writer(token);
        // The client's validation knows neither Decimal(76, 12) nor tuples with names; what is
        // written without it has tests that read it back.
        let unchecked = client.clone().with_validation(false);
        futures::try_join!(
            chunk.events.insert(&client, SEND_TIMEOUT, END_TIMEOUT),
            insert::<UsageWire<'_>, _>(&unchecked, "usage", &chunk.usage),
            insert::<UsageValueWire<'_>, _>(&unchecked, "usage_values", &chunk.values),
            insert::<ConflictWire<'_>, _>(&client, "conflicts", &chunk.conflicts),
        )?;
        Ok(())
    }

    /// Writes what a piece of a roll computed, under its token, as [`Self::insert_chunk`] would.
    pub async fn insert_roll(
        &self,
        usage: &[UsageRow],
        values: &[UsageValueRow],
        token: &str,
    ) -> Result<(), UsageError> {
        check::<UsageWire<'_>, _>(usage)?;
        check::<UsageValueWire<'_>, _>(values)?;
        let unchecked = self.one_block_writer(token).with_validation(false);
        futures::try_join!(
            insert::<UsageWire<'_>, _>(&unchecked, "usage", usage),
            insert::<UsageValueWire<'_>, _>(&unchecked, "usage_values", values),
        )?;
        Ok(())
    }

    fn one_block_writer(&self, token: &str) -> Client {
        self.inserter()
            .with_setting("insert_deduplication_token", token)
            .with_setting("insert_deduplicate", "1")
            .with_setting("async_insert", "0")
            .with_setting("max_insert_threads", "1")
            .with_setting("input_format_parallel_parsing", "0")
            .with_setting("max_insert_block_size", BLOCK_ROWS)
            .with_setting("min_insert_block_size_rows", BLOCK_ROWS)
            .with_setting("min_insert_block_size_bytes", "0")
    }
}

fn check<'r, W: TryFrom<&'r R, Error = UsageError>, R>(rows: &'r [R]) -> Result<(), UsageError> {
    rows.iter().try_for_each(|row| W::try_from(row).map(drop))
}

/// Sends `rows` as one insert; none at all when there are none.
async fn insert<'r, W, R>(client: &Client, table: &str, rows: &'r [R]) -> Result<(), UsageError>
where
    W: Row + RowWrite,
    W::Value<'r>: TryFrom<&'r R, Error = UsageError>,
{
    if rows.is_empty() {
        return Ok(());
    }
    let failed = during("insert");
    let insert = client.insert::<W>(table).await.map_err(&failed)?;
    let mut insert = insert.with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT));
    for row in rows {
        let wire = W::Value::<'r>::try_from(row)?;
        insert.write(&wire).await.map_err(&failed)?;
    }
    insert.end().await.map_err(&failed)
}
