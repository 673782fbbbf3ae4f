//! A ClickHouse cluster: every server of it holds everything.
//!
//! The statements of `migrations/clickhouse` are written for one server; [`rewritten`] turns them into
//! those of a cluster. Inserts are acknowledged by a majority. Reads are made on a replica that has
//! first been brought up to date: a majority may lack the one that is asked, and ClickHouse's own
//! `select_sequential_consistency` knows nothing of inserts that run beside each other, which several
//! partitions' do.

use crate::{UsageError, error::during, lists::quoted};
use clickhouse::Client;

/// Where the replicas of a table meet in Keeper. Without the shard: a server that is said to be
/// another shard must not silently hold another part of the usage.
const KEEPER_PATH: &str = "/weir/{database}/{table}";
/// As long as intents could ever stay open: the number of tokens is what limits, as on one server.
const TOKEN_SECONDS: &str = "31536000";
/// A majority that has not answered by now does not. Below what our own client waits for an insert.
const QUORUM_TIMEOUT_MS: &str = "60000";
/// A replica that can't catch up within this must not answer what invoices are made of.
const CATCH_UP_SECONDS: &str = "20";

/// A statement for a cluster of this name: on all its servers, with replicated tables that remember
/// as many tokens as a table of one server does. Anything but the making and altering of tables is
/// left as it is: rows and deletions are replicated by themselves.
pub(crate) fn rewritten(statement: &str, cluster: &str) -> String {
    let on_cluster = |line: &str, words: &str| {
        let (name, rest) = line[words.len()..]
            .split_at(line[words.len()..].find([' ', '(']).unwrap_or(line.len() - words.len()));
        format!("{words}{name} ON CLUSTER {}{rest}", quoted(cluster))
    };
    let lines = statement.lines().map(|line| {
        for words in ["CREATE TABLE IF NOT EXISTS ", "ALTER TABLE "] {
            if line.starts_with(words) {
                return on_cluster(line, words);
            }
        }
        match line.trim_start().strip_prefix("ENGINE = ") {
            Some(engine) => {
                let (engine, rest) = engine.split_at(engine.find(' ').unwrap_or(engine.len()));
                format!("ENGINE = Replicated{engine}('{KEEPER_PATH}', '{{replica}}'){rest}")
            }
            None => line.replace(
                "non_replicated_deduplication_window = ",
                &format!(
                    "replicated_deduplication_window_seconds = {TOKEN_SECONDS}, \
                     replicated_deduplication_window = "
                ),
            ),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Has inserts answered only when a majority of the replicas has the rows, also those of a chunk that
/// is written again.
pub(crate) fn by_majority(client: Client) -> Client {
    client
        .with_setting("insert_quorum", "auto")
        .with_setting("insert_quorum_parallel", "1")
        .with_setting("insert_quorum_timeout", QUORUM_TIMEOUT_MS)
}

/// Returns when the replica has every row of these tables that was acknowledged before the call.
pub(crate) async fn catch_up(client: &Client, tables: &[&str]) -> Result<(), UsageError> {
    for table in tables {
        client
            .query_raw(&format!("SYSTEM SYNC REPLICA {table} LIGHTWEIGHT"))
            .with_setting("receive_timeout", CATCH_UP_SECONDS)
            .execute()
            .await
            .map_err(during("wait for the replica"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_made_on_every_server_and_are_replicated() {
        let sql = "-- Why.\nCREATE TABLE IF NOT EXISTS usage (\n    a UUID\n)\n\
            ENGINE = AggregatingMergeTree\nORDER BY a\n\
            SETTINGS non_replicated_deduplication_window = 10000, merge_selector_base = 12";
        let expected = "-- Why.\nCREATE TABLE IF NOT EXISTS usage ON CLUSTER 'it\\'s' (\n    a UUID\n)\n\
            ENGINE = ReplicatedAggregatingMergeTree('/weir/{database}/{table}', '{replica}')\n\
            ORDER BY a\n\
            SETTINGS replicated_deduplication_window_seconds = 31536000, \
            replicated_deduplication_window = 10000, merge_selector_base = 12";
        assert_eq!(rewritten(sql, "it's"), expected);
    }

    #[test]
    fn tables_are_altered_on_every_server() {
        let sql = "-- Why.\nALTER TABLE usage\n    ADD COLUMN a UUID";
        let expected = "-- Why.\nALTER TABLE usage ON CLUSTER 'c'\n    ADD COLUMN a UUID";
        assert_eq!(rewritten(sql, "c"), expected);
        let line = "CREATE TABLE IF NOT EXISTS t (a UUID) ENGINE = MergeTree";
        assert!(rewritten(line, "c").starts_with("CREATE TABLE IF NOT EXISTS t ON CLUSTER 'c' ("));
    }
}
