//! What can't be billed stays due with its reason, and holds up nobody else.

use crate::world::{Used, World, at, uuid_text};
use sqlx::PgPool;
use weir_billing::{customer::CustomerDetails, metric::Aggregation};
use weir_invoicer::invoice_due;
use weir_store::billing_failures::{self, Subject};

const HUGE: &str = "9999999999999999";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_overflowing_subscription_stays_due_with_its_reason_and_others_go_on(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let start = at("2020-03-01T00:00:00Z");
    let broken = world.subscribe(&customer, &plan, "s1", start).await;
    let healthy = world.subscribe(&customer, &plan, "s2", start).await;
    let time = at("2020-03-10T00:00:00Z");
    // 2 × 10^16 × 6 × 10^9: beyond 26 digits before the point, in two steps that each fit in 38.
    for _ in 0..2 {
        let times = 6_000_000_000;
        world.used_as(&Used { times, ..Used::new(broken.id, tokens, time, HUGE) }).await;
    }
    world.used(healthy.id, tokens, time, "100").await;
    let as_of = at("2020-05-01T00:00:00Z");
    world.set_watermark(as_of).await;

    let report = invoice_due(&world.deps, as_of).await.unwrap();
    assert_eq!((report.created, report.failures.len(), report.left), (2, 1, 0));
    let failure = &report.failures[0];
    assert_eq!(failure.subject, Subject::Subscription(broken.id));
    assert_eq!(
        (failure.reason.as_str(), failure.due_at),
        ("usage_overflow", at("2020-04-01T00:00:00Z"))
    );
    assert!(world.invoices().await.iter().all(|one| one.subscriptions.len() == 1));
    assert_eq!(world.next_due(broken.id).await, Some(at("2020-04-01T00:00:00Z")));
    assert_eq!(world.next_due(healthy.id).await, Some(at("2020-06-01T00:00:00Z")));

    let mut conn = world.pool.acquire().await.unwrap();
    invoice_due(&world.deps, as_of).await.unwrap();
    let records = billing_failures::list(&mut conn).await.unwrap();
    assert_eq!((records.len(), records[0].attempts), (1, 2), "an operator's run tries at once");

    // Corrected usage makes it billable, and the record goes.
    for _ in 0..2 {
        let (times, taken) = (6_000_000_000, format!("-{HUGE}"));
        world.used_as(&Used { times, ..Used::new(broken.id, tokens, time, &taken) }).await;
    }
    let report = invoice_due(&world.deps, as_of).await.unwrap();
    assert_eq!((report.created, report.failures.len()), (2, 0));
    assert_eq!(billing_failures::list(&mut conn).await.unwrap(), []);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_invoice_that_the_database_refuses_fails_alone(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let mut subscriptions = Vec::new();
    for name in ["a", "b", "c"] {
        let customer = world.customer(name, CustomerDetails::default()).await;
        subscriptions
            .push(world.subscribe(&customer, &plan, name, at("2020-03-01T00:00:00Z")).await);
    }
    let as_of = at("2020-04-01T00:00:00Z");
    world.set_watermark(as_of).await;
    // A rule of somebody's own database, for one of the three.
    let refused = uuid_text(subscriptions[1].id.as_u128());
    let rule = format!(
        "ALTER TABLE fees ADD CONSTRAINT not_this_one CHECK (subscription_id <> '{refused}'::uuid)"
    );
    sqlx::query(sqlx::AssertSqlSafe(rule)).execute(&world.pool).await.unwrap();
    let report = invoice_due(&world.deps, as_of).await.unwrap();
    assert_eq!((report.created, report.finalized), (2, 2));
    assert_eq!(report.failures[0].reason, "refused_by_store");
    assert!(report.failures[0].message.contains("not_this_one"), "{:?}", report.failures);
    assert_eq!(world.next_due(subscriptions[1].id).await, Some(as_of));
}
