//! What a roll has replaced goes, and nothing else.

use crate::support::*;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_usage::{
    Chunk, Generations, Superseded, SupersededScope, UsageRow, UsageValueRow, bucket_of,
};

const TEN: &str = "2026-03-01T10:00:00Z";
const ELEVEN: &str = "2026-03-01T11:00:00Z";

/// How many rows a table has, by number, to be compared without reading by generation.
async fn rows(database: &weir_usage::ClickHouse, table: &str, condition: &str) -> String {
    run(database, &format!("SELECT count() FROM {table} WHERE {condition}")).await
}

#[tokio::test]
async fn only_lower_generations_of_what_was_rolled_are_deleted() {
    let database = database().await;
    let (metric, subscription) =
        (BillableMetricId::from_u128(0xC2), SubscriptionId::from_u128(0xB2));
    let mut chunk = Chunk::default();
    for generation in [0, 3, 5, 7] {
        for (subscription, metric) in
            [(SUBSCRIPTION, METRIC), (SUBSCRIPTION, metric), (subscription, METRIC)]
        {
            for time in [TEN, ELEVEN] {
                chunk.usage.push(UsageRow { subscription, metric, generation, ..usage(time, "1") });
                let values = value(time, "ann", true);
                chunk.values.push(UsageValueRow { subscription, metric, generation, ..values });
            }
        }
    }
    let organization = OrganizationId::from_u128(0xA2);
    chunk.usage.push(UsageRow { organization, ..usage(TEN, "1") });
    insert_some(&database, chunk).await;
    let counts = async || {
        let mut all = Vec::new();
        for table in ["usage", "usage_values"] {
            all.push(rows(&database, table, "1").await.parse::<u32>().unwrap());
        }
        all
    };
    assert_eq!(counts().await, [25, 24]);
    let delete = async |scope, below| {
        let superseded = [Superseded { scope, below }];
        database.delete_superseded(ORGANIZATION, &superseded).await.unwrap();
    };
    // One cell of two metrics: generations 0 and 3.
    delete(SupersededScope::Cell(SUBSCRIPTION, bucket_of(at(TEN))), 5).await;
    assert_eq!(counts().await, [21, 20]);
    delete(SupersededScope::Metric(metric), 5).await;
    assert_eq!(counts().await, [19, 18], "two of the other hour");
    delete(SupersededScope::Subscription(subscription), 7).await;
    assert_eq!(counts().await, [13, 12]);
    delete(SupersededScope::Subscription(subscription), 7).await;
    assert_eq!(counts().await, [13, 12], "again: nothing");
    let ours = "organization_id = '00000000-0000-0000-0000-0000000000a2'";
    assert_eq!(rows(&database, "usage", ours).await, "1", "another organization's");
    let generations = Generations { metrics: vec![(METRIC, 7)], ..Generations::default() };
    let left = used(&database, MARCH, &generations).await;
    assert_eq!(left.iter().map(|one| one.events).collect::<Vec<_>>(), [2]);
    database.delete_superseded(ORGANIZATION, &[]).await.unwrap();
}

#[tokio::test]
async fn a_chunk_written_again_after_the_deletion_is_still_dropped() {
    let database = database().await;
    let chunk = Chunk {
        usage: vec![usage(TEN, "1"), UsageRow { generation: 5, ..usage(TEN, "2") }],
        ..Chunk::default()
    };
    database.insert_chunk(&chunk, "a").await.unwrap();
    let superseded = [Superseded { scope: SupersededScope::Metric(METRIC), below: 5 }];
    database.delete_superseded(ORGANIZATION, &superseded).await.unwrap();
    database.insert_chunk(&chunk, "a").await.unwrap();
    assert_eq!(rows(&database, "usage", "1").await, "1");
    database.insert_roll(&chunk.usage, &[], "roll-5-0-0-9").await.unwrap();
    database.insert_roll(&chunk.usage, &[], "roll-5-0-0-9").await.unwrap();
    assert_eq!(rows(&database, "usage", "1").await, "3");
}
