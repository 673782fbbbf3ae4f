//! What can't be billed stays due with its reason, and holds up nobody else.

use crate::world::{Used, World, at, uuid_text};
use sqlx::PgPool;
use weir_billing::{
    customer::{Customer, CustomerDetails},
    metric::Aggregation,
    plan::Plan,
    subscription::Subscription,
};
use weir_ids::BillableMetricId;
use weir_invoicer::{Report, invoice_due};
use weir_money::{Currency, Money};
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

/// A customer whose subscription was billed in dollars for March and in euros for April, and has
/// ended; since May it has one in each of them.
struct TwoCurrencies {
    world: World,
    tokens: BillableMetricId,
    ended: Subscription,
}

impl TwoCurrencies {
    async fn new(pool: PgPool) -> Self {
        let world = World::new(pool).await;
        let tokens = world.metric("tokens", Aggregation::Sum).await;
        let dollars = world.small_plan(tokens).await;
        let charge = world.standard(tokens, "tokens", "0.01");
        let amount = Money { minor: 1000, currency: Currency::parse("EUR").unwrap() };
        let euros = world.plan("euros", amount, false, vec![charge]).await;
        let customer = world.customer("c1", CustomerDetails::default()).await;
        let ended = world.subscribe(&customer, &dollars, "ended", at("2020-03-01T00:00:00Z")).await;
        let two = Self { world, tokens, ended };
        two.take_from_april_on(&euros).await;
        assert_eq!(two.bill("2020-04-20T00:00:00Z").await.created, 1);
        two.world.terminate(&two.ended, at("2020-05-01T00:00:00Z")).await;
        assert_eq!(two.bill("2020-05-01T00:00:00Z").await.created, 1);
        assert_eq!(two.world.next_due(two.ended.id).await, None);
        two.live(&customer, &dollars, "live-1").await;
        two.live(&customer, &euros, "live-2").await;
        two
    }

    async fn live(&self, customer: &Customer, plan: &Plan, name: &str) {
        self.world.subscribe(customer, plan, name, at("2020-05-01T00:00:00Z")).await;
    }

    /// The API lets nobody change a plan's currency: the rows of a database that did.
    async fn take_from_april_on(&self, plan: &Plan) {
        sqlx::query(
            "INSERT INTO subscription_plan_versions
                 (organization_id, subscription_id, effective_from, plan_version_id)
             VALUES ($1::uuid, $2::uuid, '2020-04-01T00:00:00Z', $3::uuid)",
        )
        .bind(uuid_text(self.world.organization.as_u128()))
        .bind(uuid_text(self.ended.id.as_u128()))
        .bind(uuid_text(plan.version.id.as_u128()))
        .execute(&self.world.pool)
        .await
        .unwrap();
    }

    async fn bill(&self, until: &str) -> Report {
        self.world.set_watermark(at(until)).await;
        invoice_due(&self.world.deps, at(until)).await.unwrap()
    }

    /// In March and in April, more than a total can hold, or the same taken back.
    async fn late(&self, arrives: &str, value: &str) {
        for time in ["2020-03-10T00:00:00Z", "2020-04-10T00:00:00Z"] {
            for _ in 0..2 {
                let used = Used::new(self.ended.id, self.tokens, at(time), value);
                let (arrives, times) = (at(arrives), 6_000_000_000);
                self.world.used_as(&Used { arrives, times, ..used }).await;
            }
        }
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_fails_in_two_currencies_is_one_failure_and_holds_up_no_invoice(pool: PgPool) {
    let two = TwoCurrencies::new(pool).await;
    two.late("2020-05-10T00:00:00Z", HUGE).await;
    let report = two.bill("2020-06-01T00:00:00Z").await;
    assert_eq!((report.created, report.failures.len(), report.left), (2, 1, 0));
    let mut conn = two.world.pool.acquire().await.unwrap();
    let records = billing_failures::list(&mut conn).await.unwrap();
    let subjects: Vec<_> = records.iter().map(|record| record.failure.subject).collect();
    assert_eq!(subjects, [Subject::Subscription(two.ended.id)]);
    assert_eq!(records[0].attempts, 1);
    two.bill("2020-07-01T00:00:00Z").await;
    let records = billing_failures::list(&mut conn).await.unwrap();
    assert_eq!((records.len(), records[0].attempts), (1, 2), "it fails with each invoice");

    // Taken back, nothing is left to correct of a subscription that ended long ago.
    two.late("2020-07-10T00:00:00Z", &format!("-{HUGE}")).await;
    let report = two.bill("2020-08-01T00:00:00Z").await;
    assert_eq!((report.created, report.failures.len()), (2, 0));
    assert_eq!(billing_failures::list(&mut conn).await.unwrap(), []);
}
