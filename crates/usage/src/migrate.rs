//! The tables, from `migrations/clickhouse`: forward only, each file once.

use crate::{UsageError, error::during};
use clickhouse::{Client, Row};
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
];

#[derive(Row, Deserialize)]
struct Applied {
    name: String,
}

pub(crate) async fn run(client: &Client) -> Result<(), UsageError> {
    let failed = during("migrate");
    client
        .query(
            "CREATE TABLE IF NOT EXISTS schema_migrations (name String, applied_at DateTime DEFAULT now())
             ENGINE = MergeTree ORDER BY name",
        )
        .execute()
        .await
        .map_err(&failed)?;
    let applied: Vec<Applied> =
        client.query("SELECT ?fields FROM schema_migrations").fetch_all().await.map_err(&failed)?;
    let applied: HashSet<String> = applied.into_iter().map(|row| row.name).collect();
    for (name, sql) in MIGRATIONS.iter().filter(|(name, _)| !applied.contains(*name)) {
        for statement in statements(sql) {
            client.query_raw(statement).execute().await.map_err(&failed)?;
        }
        client
            .query("INSERT INTO schema_migrations (name) VALUES (?)")
            .bind(name)
            .execute()
            .await
            .map_err(&failed)?;
        tracing::info!(migration = name, "clickhouse migration applied");
    }
    Ok(())
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
    fn every_file_of_the_directory_is_embedded() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/clickhouse");
        let files = std::fs::read_dir(directory).unwrap().flatten();
        let files: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        assert_eq!(files.len(), MIGRATIONS.len(), "{files:?}");
    }
}
