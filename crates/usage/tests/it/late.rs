//! Buckets that changed after they were billed.

use crate::support::*;
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_usage::{Generations, LateBucket, LateQuestion, UsageRow, bucket_of};

fn row(time: &str, changed: &str, generation: u64) -> UsageRow {
    UsageRow { generation, changed_at: at(changed), ..usage(time, "1") }
}

fn late(time: &str) -> LateBucket {
    LateBucket { subscription: SUBSCRIPTION, metric: METRIC, bucket: bucket_of(at(time)) }
}

#[tokio::test]
async fn late_buckets_are_those_that_changed_after_the_instant_and_begin_before_the_bound() {
    let database = database().await;
    insert_usage(
        &database,
        [
            row("2026-03-01T10:00:00Z", "2026-03-01T10:00:01Z", 0),
            row("2026-03-02T10:00:00Z", "2026-04-02T10:00:00.001Z", 0),
            // Two shares of a bucket: the newer counts.
            row("2026-03-03T10:00:00Z", "2026-03-03T10:00:00Z", 0),
            row("2026-03-03T10:05:00Z", "2026-04-03T10:00:00Z", 0),
            row("2026-03-31T23:45:00Z", "2026-04-03T10:00:00Z", 0),
            row("2026-04-01T00:00:00Z", "2026-04-03T10:00:00Z", 0),
        ],
    )
    .await;
    let ask = async |before: &str, after: &str| {
        let (before, changed_after) = (at(before), at(after));
        let question = LateQuestion { subscription: SUBSCRIPTION, before, changed_after };
        let none = Generations::default();
        database.late_buckets(ORGANIZATION, &[question], &none).await.unwrap()
    };
    let all =
        [late("2026-03-02T10:00:00Z"), late("2026-03-03T10:00:00Z"), late("2026-03-31T23:45:00Z")];
    assert_eq!(ask(MARCH.1, "2026-04-01T00:00:00Z").await, all);
    assert_eq!(ask("2026-03-31T23:45:00Z", "2026-04-01T00:00:00Z").await, all[..2]);
    assert_eq!(ask("2026-03-31T23:45:00.000001Z", "2026-04-01T00:00:00Z").await, all);
    assert_eq!(ask(MARCH.1, "2026-04-02T10:00:00.001999Z").await, all, "the same millisecond");
    assert_eq!(ask(MARCH.1, "2026-04-02T10:00:00.002Z").await, all[1..]);
    assert_eq!(ask(MARCH.1, "2026-05-01T00:00:00Z").await, []);
}

#[tokio::test]
async fn each_subscription_is_asked_by_its_own_bounds_and_only_what_counts_is_late() {
    let database = database().await;
    let other = SubscriptionId::from_u128(0xB2);
    let metric = BillableMetricId::from_u128(0xC2);
    let (old, new) = ("2026-03-01T11:00:00Z", "2026-04-05T10:00:00Z");
    insert_usage(
        &database,
        [
            // A roll that has not ended, and what a roll replaced.
            row("2026-03-01T10:00:00Z", old, 0),
            row("2026-03-01T10:00:00Z", new, 8),
            UsageRow { metric, ..row("2026-03-01T10:00:00Z", new, 0) },
            UsageRow { metric, ..row("2026-03-01T10:00:00Z", old, 5) },
            // Emptied by a void.
            UsageRow { metric, events: 0, ..row("2026-03-02T10:00:00Z", new, 6) },
            UsageRow { subscription: other, ..row("2026-03-01T10:00:00Z", new, 0) },
            UsageRow { subscription: other, ..row("2026-03-20T10:00:00Z", new, 0) },
        ],
    )
    .await;
    let generations = Generations {
        metrics: vec![(metric, 5)],
        subscriptions: vec![],
        cells: vec![(SUBSCRIPTION, bucket_of(at("2026-03-02T10:00:00Z")), 6)],
    };
    let question = |subscription, before: &str, after: &str| LateQuestion {
        subscription,
        before: at(before),
        changed_after: at(after),
    };
    let questions = [
        question(SUBSCRIPTION, MARCH.1, MARCH.1),
        question(other, "2026-03-10T00:00:00Z", MARCH.1),
        // Asked twice of one subscription, it is answered once.
        question(other, "2026-03-10T00:00:00Z", "2026-04-01T00:00:00Z"),
    ];
    let found = database.late_buckets(ORGANIZATION, &questions, &generations).await.unwrap();
    let expected = [
        LateBucket { metric, ..late("2026-03-02T10:00:00Z") },
        LateBucket { subscription: other, ..late("2026-03-01T10:00:00Z") },
    ];
    assert_eq!(found, expected);
    assert_eq!(database.late_buckets(ORGANIZATION, &[], &generations).await.unwrap(), []);
}
