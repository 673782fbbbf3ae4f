//! Counting what chunks left in the table of events, for the verifier.

use crate::{ClickHouse, UsageError, error::during, rows};
use clickhouse::Row;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};
use weir_events::Position;

/// Positions `[from, to)` of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRange {
    /// Below 65,536.
    pub partition: u32,
    pub from: Position,
    pub to: Position,
}

#[derive(Row, Deserialize)]
struct Counted {
    partition: u16,
    start: u64,
    rows: u64,
}

impl ClickHouse {
    /// The number of rows that each range left in the table of events, in the order of `ranges`.
    /// One query however many there are; ranges of one partition must not overlap. A few thousand
    /// at most: the query's text grows by 40 bytes with each.
    pub async fn chunk_counts(&self, ranges: &[ChunkRange]) -> Result<Vec<u64>, UsageError> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        self.catch_up(&["events"]).await?;
        let failed = during("count chunks");
        let query = self.ask(&counting(ranges)?);
        let counted: Vec<Counted> = query.fetch_all().await.map_err(&failed)?;
        let rows: BTreeMap<(u32, u64), u64> = counted
            .into_iter()
            .map(|counted| ((u32::from(counted.partition), counted.start), counted.rows))
            .collect();
        let rows_of =
            |range: &ChunkRange| rows.get(&(range.partition, range.from.as_u64())).copied();
        Ok(ranges.iter().map(|range| rows_of(range).unwrap_or(0)).collect())
    }
}

/// Rows by the greatest bound that is not behind them. Ends are bounds too: what lies between two
/// ranges is counted for neither.
fn counting(ranges: &[ChunkRange]) -> Result<String, UsageError> {
    let mut bounds: BTreeMap<u16, BTreeSet<u64>> = BTreeMap::new();
    for range in ranges {
        let of_partition = bounds.entry(rows::partition(range.partition)?).or_default();
        of_partition.extend([range.from.as_u64(), range.to.as_u64()]);
    }
    let (mut starts, mut wanted) = (String::new(), String::new());
    for (partition, bounds) in &bounds {
        let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else { continue };
        let list: Vec<String> = bounds.iter().map(u64::to_string).collect();
        let list = list.join(",");
        // Writing to a String can't fail.
        let _ = write!(
            starts,
            "partition = {partition}, roundDown(position, CAST([{list}], 'Array(UInt64)')), "
        );
        let or = if wanted.is_empty() { "" } else { " OR " };
        let _ = write!(
            wanted,
            "{or}(partition = {partition} AND position >= {first} AND position < {last})"
        );
    }
    Ok(format!(
        "SELECT partition, multiIf({starts}toUInt64(0)) AS start, count() AS rows
        FROM events
        WHERE {wanted}
        GROUP BY partition, start"
    ))
}
