//! Moving the test clock does everything that falls due on the way, in order of time.

use crate::world::{World, at, number};
use sqlx::PgPool;
use weir_billing::{
    Timestamp, customer::CustomerDetails, invoice::InvoiceStatus, metric::Aggregation,
};
use weir_invoicer::{InvoicerError, Step, advance_clock, invoice_due, run};
use weir_money::Money;
use weir_runtime::Shutdown;
use weir_store::{StoreError, clock};

async fn advance(world: &World, to: Timestamp) -> Vec<Step> {
    let mut steps = Vec::new();
    advance_clock(&world.deps, to, &mut |step| steps.push(step.clone())).await.unwrap();
    steps
}

fn stops(steps: &[Step]) -> Vec<(String, u64, u64)> {
    let stop = |step: &Step| {
        let at = step.at.format("%m-%dT%R").to_string();
        (at, step.report.created, step.report.finalized)
    };
    steps.iter().map(stop).collect()
}

fn stop(at: &str, created: u64, finalized: u64) -> (String, u64, u64) {
    (at.to_owned(), created, finalized)
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn months_pass_in_order_with_starts_ends_and_grace_periods(pool: PgPool) {
    let start = at("2020-03-17T00:00:00Z");
    let world = World::on_test_clock(pool, start).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let amount = Money { minor: 3000, currency: world.usd };
    let advance_plan = world.plan("advance", amount, true, vec![]).await;
    let kathmandu = CustomerDetails {
        timezone: Some(chrono_tz::Tz::Asia__Kathmandu),
        invoice_grace_period_days: Some(2),
        ..CustomerDetails::default()
    };
    let plain = world.customer("plain", CustomerDetails::default()).await;
    let abroad = world.customer("abroad", kathmandu).await;
    // Backdated: its March is due at the month's end as if it had been there.
    let used = world.subscribe(&plain, &plan, "used", at("2020-03-01T00:00:00Z")).await;
    world.subscribe(&abroad, &advance_plan, "paid", at("2020-03-20T00:00:00Z")).await;
    world.used(used.id, tokens, start, "100").await;

    let steps = advance(&world, at("2020-05-02T00:00:00Z")).await;
    assert_eq!(
        stops(&steps),
        [
            stop("03-20T00:00", 1, 0),
            stop("03-22T00:00", 0, 1),
            stop("03-31T18:15", 1, 0),
            stop("04-01T00:00", 1, 1),
            stop("04-02T18:15", 0, 1),
            stop("04-30T18:15", 1, 0),
            stop("05-01T00:00", 1, 1),
            stop("05-02T00:00", 0, 0),
        ]
    );
    let invoices = world.invoices().await;
    assert!(invoices.iter().all(|one| one.created_at == one.due_at), "made at its own instant");
    let finals = |one: &&weir_billing::invoice::Invoice| {
        matches!(one.status, InvoiceStatus::Finalized { .. })
    };
    let rows: Vec<_> =
        invoices.iter().filter(finals).map(|one| (number(one), one.total.minor)).collect();
    // 20 to 31 March: 12 of 31 days of 30.00 = 11.61
    let row = |number: &str, total| (number.to_owned(), total);
    assert_eq!(rows, [row("001", 1161), row("002", 3000), row("001", 1100), row("002", 1000)]);
    let mut conn = world.pool.acquire().await.unwrap();
    let now = clock::test_clock(&mut conn).await.unwrap().unwrap().now;
    assert_eq!(now, at("2020-05-02T00:00:00Z"));
    assert_eq!(world.deps.clock.now(), now);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_advance_to_the_present_bills_what_is_due_there(pool: PgPool) {
    let now = at("2020-06-15T00:00:00Z");
    let world = World::on_test_clock(pool, now).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    world.subscribe(&customer, &plan, "s1", at("2020-04-01T00:00:00Z")).await;
    assert_eq!(stops(&advance(&world, now).await), [stop("06-15T00:00", 2, 2)]);
    assert_eq!(stops(&advance(&world, now).await), [stop("06-15T00:00", 0, 0)]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_termination_at_the_instant_of_a_billed_start_is_due_no_more(pool: PgPool) {
    let now = at("2020-06-15T00:00:00Z");
    let world = World::on_test_clock(pool, now).await;
    let amount = Money { minor: 3000, currency: world.usd };
    let plan = world.plan("advance", amount, true, vec![]).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let subscription = world.subscribe(&customer, &plan, "s1", now).await;
    advance(&world, now).await;
    world.terminate(&subscription, now).await;
    let steps = advance(&world, at("2020-08-01T00:00:00Z")).await;
    assert_eq!(stops(&steps), [stop("08-01T00:00", 0, 0)]);
    assert_eq!(world.invoices().await.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_advance_waits_until_everything_before_the_move_is_counted(pool: PgPool) {
    let mut world = World::on_test_clock(pool, at("2020-03-01T00:00:00Z")).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    world.stop_aggregator().await;
    world.deps.config.watermark.settle_ms = 20;
    let outcome = advance_clock(&world.deps, at("2020-04-02T00:00:00Z"), &mut |_| {}).await;
    assert!(matches!(outcome, Err(InvoicerError::NotCovered { .. })), "{outcome:?}");
    assert_eq!(world.invoices().await, []);
    // Neither does the schedule nor an operator's run bill it.
    let report = invoice_due(&world.deps, at("2020-04-02T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.left), (0, 1));
    // The same call goes on from where it stands.
    world.watermark_is_now().await;
    world.start_aggregator();
    world.deps.config.watermark.settle_ms = 30_000;
    let steps = advance(&world, at("2020-04-02T00:00:00Z")).await;
    assert_eq!(stops(&steps), [stop("04-01T00:00", 1, 1), stop("04-02T00:00", 0, 0)]);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_advance_beside_the_schedule_bills_everything_once(pool: PgPool) {
    let mut world = World::on_test_clock(pool, at("2020-03-01T00:00:00Z")).await;
    world.deps.config.schedule.interval_ms = 1;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    for name in 0..5 {
        let customer = world.customer(&format!("c{name}"), CustomerDetails::default()).await;
        let start = at("2020-03-01T00:00:00Z");
        world.subscribe(&customer, &plan, &format!("s{name}"), start).await;
    }
    let shutdown = Shutdown::new();
    let schedule = tokio::spawn(run(world.deps.clone(), shutdown.clone()));
    advance(&world, at("2020-09-01T00:00:00Z")).await;
    let invoices = world.invoices().await;
    shutdown.cancel();
    schedule.await.unwrap();
    assert_eq!(invoices.len(), 5 * 6);
    assert!(invoices.iter().all(|one| matches!(one.status, InvoiceStatus::Finalized { .. })));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_real_clock_and_a_way_back_are_refused(pool: PgPool) {
    let world = World::new(pool).await;
    let outcome = advance_clock(&world.deps, at("2020-04-02T00:00:00Z"), &mut |_| {}).await;
    assert!(matches!(outcome, Err(InvoicerError::Store(StoreError::RealClock))), "{outcome:?}");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_clock_does_not_go_back(pool: PgPool) {
    let world = World::on_test_clock(pool, at("2020-03-01T00:00:00Z")).await;
    let outcome = advance_clock(&world.deps, at("2020-02-02T00:00:00Z"), &mut |_| {}).await;
    let back = matches!(outcome, Err(InvoicerError::Store(StoreError::ClockBackwards { .. })));
    assert!(back, "{outcome:?}");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_came_before_a_termination_is_on_the_final_invoice_of_a_test_clock(pool: PgPool) {
    let mut world = World::on_test_clock(pool, at("2020-03-01T00:00:00Z")).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let start = at("2020-03-01T00:00:00Z");
    let subscription = world.subscribe(&customer, &plan, "s1", start).await;
    let other = world.subscribe(&customer, &plan, "s2", start).await;
    advance(&world, at("2020-03-10T00:00:00Z")).await;
    // Accepted, and the aggregator has not come to it when the subscriptions end.
    world.stop_aggregator().await;
    world.terminate(&subscription, at("2020-03-10T00:00:00Z")).await;
    world.terminate(&other, at("2020-03-10T00:00:00Z")).await;
    let report = invoice_due(&world.deps, at("2020-03-10T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.left), (0, 2));
    world.used(subscription.id, tokens, at("2020-03-09T00:00:00Z"), "100").await;
    world.watermark_is_now().await;
    let report = invoice_due(&world.deps, at("2020-03-10T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.left), (1, 0));
    // 2 base fees of 10.00 for 9 of 31 days, and 1.00 of usage.
    assert_eq!(world.invoices().await.last().unwrap().total.minor, 2 * 290 + 100);
}
