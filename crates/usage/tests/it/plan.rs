//! Usage of one subscription is a point read, however much there is of others.

use crate::support::*;
use chrono::TimeDelta;
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_usage::{Chunk, Generations, UsageRow, bucket_of};

#[tokio::test]
async fn usage_of_one_subscription_reads_one_granule_of_many_by_the_primary_key() {
    const SUBSCRIPTIONS: u128 = 40;
    const BUCKETS: i32 = 3_000;
    let database = database().await;
    let blank = usage("2026-01-01T00:00:00Z", "1");
    let rows = (0..SUBSCRIPTIONS).flat_map(|subscription| {
        let blank = &blank;
        (0..BUCKETS).map(move |bucket| UsageRow {
            subscription: SubscriptionId::from_u128(0x1000 + subscription),
            bucket: blank.bucket + TimeDelta::minutes(15) * bucket,
            ..blank.clone()
        })
    });
    insert_some(&database, Chunk { usage: rows.collect(), ..Chunk::default() }).await;
    run(&database, "OPTIMIZE TABLE usage FINAL").await;
    let subscription = SubscriptionId::from_u128(0x1000 + SUBSCRIPTIONS / 2);
    let windows = [(subscription, at("2026-01-10T00:00:00Z"), at("2026-01-11T00:00:00Z"))];
    let rolled = Generations {
        metrics: vec![(BillableMetricId::from_u128(0xC9), 4)],
        subscriptions: vec![(subscription, 2)],
        cells: vec![(subscription, bucket_of(at("2026-01-10T10:00:00Z")), 3)],
    };
    for generations in [Generations::default(), rolled] {
        let plan = database
            .explain_usage(ORGANIZATION, &windows, &everything(), &generations)
            .await
            .unwrap();
        let (_, by_key) = plan.split_once("PrimaryKey").expect(&plan);
        let granules = by_key.lines().find_map(|line| line.split_once("Granules: "));
        let (read, all) = granules.expect(&plan).1.trim().split_once('/').unwrap();
        let (read, all): (u64, u64) = (read.parse().unwrap(), all.parse().unwrap());
        assert!(all >= 14, "{plan}");
        // A day of a subscription's month can lie across a granule's bound.
        assert!(read <= 2, "{plan}");
        for column in ["organization_id", "subscription_id", "bucket"] {
            assert!(by_key.contains(column), "{plan}");
        }
    }
}
