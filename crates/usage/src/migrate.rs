//! The tables, from `migrations/clickhouse`: forward only, each file once.

use crate::{ClickHouse, UsageError, cluster, error::during};
use clickhouse::Row;
use serde::Deserialize;
use std::collections::HashSet;

macro_rules! migration {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../migrations/clickhouse/", $name, ".sql")))
    };
}

/// In order of time. Statements repeat harmlessly, because a crash can come between a statement
/// and the note that it ran.
const MIGRATIONS: &[(&str, &str)] = &[
    migration!("20260112090000_create_events"),
    migration!("20260112090100_create_usage"),
    migration!("20260112090200_create_usage_values"),
    migration!("20260112090300_create_conflicts"),
    migration!("20261121130000_add_generations_to_usage"),
    migration!("20261121130100_add_generations_to_usage_values"),
    migration!("20261121170000_keep_small_parts_of_events_compact"),
];

#[derive(Row, Deserialize)]
struct Applied {
    name: String,
}

const NOTES_TABLE: &str = "schema_migrations";
const NOTES: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    name String,
    applied_at DateTime DEFAULT now()
)
ENGINE = MergeTree
ORDER BY name";

/// Whether all of it has run.
pub(crate) async fn is_done(database: &ClickHouse) -> Result<bool, UsageError> {
    if !database.has_table(NOTES_TABLE).await? {
        return Ok(false);
    }
    let applied = applied(database).await?;
    Ok(MIGRATIONS.iter().all(|(name, _)| applied.contains(*name)))
}

async fn applied(database: &ClickHouse) -> Result<HashSet<String>, UsageError> {
    database.catch_up(&[NOTES_TABLE]).await?;
    let query = database.reader().query("SELECT ?fields FROM schema_migrations");
    let applied: Vec<Applied> = query.fetch_all().await.map_err(during("read migrations"))?;
    Ok(applied.into_iter().map(|row| row.name).collect())
}

pub(crate) async fn run(database: &ClickHouse) -> Result<(), UsageError> {
    let failed = during("migrate");
    let (client, inserter) = (database.reader(), database.inserter());
    client.query_raw(&database.on_cluster(NOTES)).execute().await.map_err(&failed)?;
    let applied = applied(database).await?;
    for (name, sql) in MIGRATIONS.iter().filter(|(name, _)| !applied.contains(*name)) {
        for statement in statements(sql) {
            let statement = database.on_cluster(statement);
            client.query_raw(&statement).execute().await.map_err(&failed)?;
        }
        inserter
            .query("INSERT INTO schema_migrations (name) VALUES (?)")
            .bind(name)
            .execute()
            .await
            .map_err(&failed)?;
        tracing::info!(migration = name, "clickhouse migration applied");
    }
    Ok(())
}

/// The statements that bring an empty database up to date, as a cluster of this name takes them.
#[doc(hidden)]
#[must_use]
pub fn statements_for_cluster(name: &str) -> Vec<String> {
    let all = MIGRATIONS.iter().flat_map(|(_, sql)| statements(sql));
    std::iter::once(NOTES).chain(all).map(|one| cluster::rewritten(one, name)).collect()
}

fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_in_order_of_time_and_hold_statements() {
        assert!(MIGRATIONS.is_sorted_by(|a, b| a.0 < b.0));
        for (name, sql) in MIGRATIONS {
            assert!(sql.starts_with("-- "), "{name} says why");
            assert_eq!(statements(sql).count(), 1, "{name}");
        }
    }

    #[test]
    fn for_a_cluster_every_statement_is_for_all_servers_and_every_table_replicated() {
        for statement in statements_for_cluster("c") {
            assert_eq!(statement.matches(" ON CLUSTER 'c'").count(), 1, "{statement}");
            let engines = statement.matches("MergeTree").count();
            let made = usize::from(statement.contains("CREATE TABLE"));
            assert_eq!(engines, made, "{statement}");
            let replicated = statement.contains("ENGINE = ReplicatedMergeTree('/weir/")
                || statement.contains("ENGINE = ReplicatedAggregatingMergeTree('/weir/");
            assert_eq!(replicated, engines == 1, "{statement}");
            assert!(!statement.contains("non_replicated"), "{statement}");
        }
    }

    #[test]
    fn for_a_cluster_the_statements_are_those_of_the_file_beside_the_tests() {
        let statements = statements_for_cluster("name").join(";\n\n") + ";\n";
        assert_eq!(statements, include_str!("../tests/it/cluster.sql"), "see {}", file!());
    }

    #[test]
    fn every_file_of_the_directory_is_embedded() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/clickhouse");
        let files = std::fs::read_dir(directory).unwrap().flatten();
        let files: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        assert_eq!(files.len(), MIGRATIONS.len(), "{files:?}");
    }
}
