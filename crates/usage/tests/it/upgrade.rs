//! A database of before generations and groups goes on.

use crate::support::*;
use weir_usage::{Chunk, ClickHouse};

/// The tables as the first version made them, with a chunk that it wrote.
async fn of_before() -> ClickHouse {
    let database = nameless().await;
    run_outside(&format!("CREATE DATABASE {} ENGINE = Atomic", database.database())).await;
    let notes = "CREATE TABLE schema_migrations (name String, applied_at DateTime DEFAULT now())
        ENGINE = MergeTree ORDER BY name";
    run(&database, notes).await;
    for (migration, sql) in [
        (
            "20260112090000_create_events",
            include_str!("../../../../migrations/clickhouse/20260112090000_create_events.sql"),
        ),
        (
            "20260112090100_create_usage",
            include_str!("../../../../migrations/clickhouse/20260112090100_create_usage.sql"),
        ),
        (
            "20260112090200_create_usage_values",
            include_str!(
                "../../../../migrations/clickhouse/20260112090200_create_usage_values.sql"
            ),
        ),
        (
            "20260112090300_create_conflicts",
            include_str!("../../../../migrations/clickhouse/20260112090300_create_conflicts.sql"),
        ),
    ] {
        run(&database, sql.trim_end().trim_end_matches(';')).await;
        run(&database, &format!("INSERT INTO schema_migrations (name) VALUES ('{migration}')"))
            .await;
    }
    let ids = "'00000000-0000-0000-0000-0000000000a1', '00000000-0000-0000-0000-0000000000b1',
        '00000000-0000-0000-0000-0000000000c1', '2026-03-01 10:00:00'";
    let time = "'2026-03-01 10:00:00'";
    let settings = "SETTINGS insert_deduplication_token = '3:1-11'";
    run(
        &database,
        &format!("INSERT INTO usage {settings} VALUES ({ids}, 1, 5, 5, ({time}, {time}, 1, 5))"),
    )
    .await;
    run(
        &database,
        &format!(
            "INSERT INTO usage_values {settings} VALUES ({ids}, 'ann', ({time}, {time}, 1, 1))"
        ),
    )
    .await;
    database
}

#[tokio::test]
async fn old_usage_is_there_and_a_chunk_from_before_is_still_dropped() {
    let database = of_before().await;
    for _again in 0..2 {
        database.migrate().await.unwrap();
        let found = one(&database, MARCH).await;
        assert_eq!((found.group.as_str(), found.events, found.distinct), ("", 1, 1));
        assert_eq!(found.total, quantity("5"));
    }
    // The program was stopped between the insert and its note: the new one does the chunk again.
    let chunk = |token| {
        let (time, database) = ("2026-03-01T10:00:00Z", database.clone());
        let (usage, values) = (vec![usage(time, "5")], vec![value(time, "bob", true)]);
        async move {
            let chunk = Chunk { usage, values, ..Chunk::default() };
            database.insert_chunk(&chunk, token).await.unwrap();
            let found = one(&database, MARCH).await;
            (found.events, found.total.to_string(), found.distinct)
        }
    };
    assert_eq!(chunk("3:1-11").await, (1, "5".to_owned(), 1));
    assert_eq!(chunk("3:11-21").await, (2, "10".to_owned(), 2));
    assert_eq!(chunk("3:11-21").await, (2, "10".to_owned(), 2));
    // Old and new rows of a bucket become one, and its key has the new columns.
    run(&database, "OPTIMIZE TABLE usage FINAL").await;
    assert_eq!(run(&database, "SELECT count() FROM usage").await, "1");
    assert_eq!(chunk("3:11-21").await, (2, "10".to_owned(), 2));
}
