//! What is said to a cluster. No cluster runs here: the engine only parses the statements, and
//! refuses those that want a replica.

use crate::support::*;
use weir_events::Position;
use weir_usage::{
    Chunk, ChunkRange, DistinctUnion, Generations, LateQuestion, RawScope, UsageError,
};

#[tokio::test]
async fn every_statement_for_a_cluster_is_one_that_clickhouse_understands() {
    let database = database().await;
    let statements = weir_usage::statements_for_cluster("it's weir's");
    assert!(statements.len() > 6);
    for statement in statements {
        let tree = run(&database, &format!("EXPLAIN AST {statement}")).await;
        assert!(tree.contains("Query"), "{statement}: {tree}");
    }
    // The engine does tell what it does not understand.
    let broken = run(&database, "EXPLAIN AST CREATE TABLE t ON ON CLUSTER 'c' (a UUID)").await;
    assert!(broken.contains("SYNTAX_ERROR"), "{broken}");
}

#[tokio::test]
async fn every_read_that_money_depends_on_first_has_the_replica_catch_up() {
    let database = database().await;
    let cluster = database.clone().of_cluster("c");
    let window = window(MARCH.0, MARCH.1);
    let none = Generations::default();
    let scope = RawScope {
        organization: ORGANIZATION,
        codes: vec![],
        external_subscription_ids: vec![],
        times: vec![],
    };
    let union = DistinctUnion { window, metric: METRIC, groups: vec![String::new()] };
    let late = LateQuestion {
        subscription: SUBSCRIPTION,
        before: at(MARCH.1),
        changed_after: at(MARCH.1),
    };
    let (from, to) = (Position::ZERO, Position::from_u64(9));
    let range = ChunkRange { partition: 3, from, to };
    let errors: [(&str, UsageError); 7] = [
        ("usage", cluster.usage(ORGANIZATION, &[window], &everything(), &none).await.unwrap_err()),
        ("usage_values", cluster.distinct_unions(ORGANIZATION, &[union], &none).await.unwrap_err()),
        ("usage", cluster.late_buckets(ORGANIZATION, &[late], &none).await.unwrap_err()),
        ("events", cluster.raw_boundary(&scope, 3, from, to, 5).await.unwrap_err()),
        ("events", cluster.raw_events(&scope, None, from, to).await.unwrap_err()),
        ("events", cluster.ids_of_partition(3, to, |_| ()).await.unwrap_err()),
        ("events", cluster.chunk_counts(&[range]).await.unwrap_err()),
    ];
    for (table, error) in errors {
        let text = error.to_string();
        assert!(text.contains(&format!("Table {}.{table} (", database.database())), "{text}");
        assert!(text.contains("is not replicated"), "{text}");
    }
}

#[tokio::test]
async fn inserts_for_a_majority_are_ones_that_clickhouse_understands() {
    let database = database().await;
    let chunk = Chunk { usage: vec![usage(MARCH.0, "1")], ..Chunk::default() };
    let cluster = database.clone().of_cluster("c");
    cluster.insert_chunk(&chunk, "a").await.unwrap();
    cluster.insert_roll(&chunk.usage, &[], "b").await.unwrap();
    assert_eq!(one(&database, MARCH).await.events, 2);
}

#[tokio::test]
async fn where_every_table_is_there_a_start_says_nothing_to_all_servers() {
    let database = database().await;
    database.migrate().await.unwrap();
    // The engine knows no such cluster, and would say so.
    let error = database.clone().of_cluster("c").migrate().await.unwrap_err().to_string();
    assert!(error.contains("schema_migrations (") && error.contains("not replicated"), "{error}");
}
