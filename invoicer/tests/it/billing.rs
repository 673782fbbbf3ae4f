//! What is due becomes an invoice, once, when the pipeline has counted everything.

use crate::world::{World, at, number, of_customer};
use sqlx::PgPool;
use std::sync::Arc;
use weir_billing::{
    customer::CustomerDetails,
    invoice::{FeeKind, InvoiceStatus},
    metric::Aggregation,
};
use weir_invoicer::{Report, invoice_due, run};
use weir_money::{Money, Quantity};
use weir_runtime::Shutdown;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_month_of_usage_becomes_a_numbered_invoice_and_a_second_run_none(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    for (time, value) in [
        ("2020-03-01T00:00:00Z", "9007199254740993"),
        ("2020-03-31T23:59:59.999999Z", "-9007199254740893"),
        ("2020-03-10T00:00:00Z", "0.1"),
        ("2020-03-10T00:00:01Z", "0.2"),
        ("2020-04-01T00:00:00Z", "5000"),
    ] {
        world.used(subscription.id, tokens, at(time), value).await;
    }
    world.set_watermark(at("2020-04-01T00:00:00Z")).await;

    let report = invoice_due(&world.deps, at("2020-04-01T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.finalized, report.left), (1, 1, 0));
    let invoices = world.invoices().await;
    let [invoice] = &invoices[..] else { panic!("{invoices:?}") };
    let InvoiceStatus::Finalized { number, .. } = &invoice.status else { panic!("a draft") };
    assert!(number.starts_with("ACM-") && number.ends_with("-001-001"), "{number}");
    assert_eq!(invoice.issuing_date.to_string(), "2020-04-01");
    assert_eq!(invoice.fees.len(), 2);
    let usage = &invoice.fees[1];
    assert_eq!(usage.units, "100.3".parse::<Quantity>().unwrap());
    assert!(matches!(usage.kind, FeeKind::Charge { events: 4, .. }), "{usage:?}");
    assert_eq!((usage.precise.to_string().as_str(), invoice.total.minor), ("1.003", 1100));
    assert_eq!(world.next_due(subscription.id).await, Some(at("2020-05-01T00:00:00Z")));

    let again = invoice_due(&world.deps, at("2020-04-01T00:00:00Z")).await.unwrap();
    assert_eq!(again, Report::default());
    assert_eq!(world.invoices().await, invoices);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_the_watermark_has_not_passed_stays_due(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    let as_of = at("2020-05-01T00:00:00Z");
    for (watermark, created) in
        [(None, 0), (Some("2020-03-31T23:59:59.999999Z"), 0), (Some("2020-04-01T00:00:00Z"), 1)]
    {
        if let Some(watermark) = watermark {
            world.set_watermark(at(watermark)).await;
        }
        let report = invoice_due(&world.deps, as_of).await.unwrap();
        assert_eq!((report.created, report.left), (created, 1), "{watermark:?}");
    }
    world.set_watermark(as_of).await;
    assert_eq!(invoice_due(&world.deps, as_of).await.unwrap().created, 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_backlog_is_billed_month_by_month(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-16T00:00:00Z")).await;
    for month in 3..=6 {
        let time = at(&format!("2020-{month:02}-20T00:00:00Z"));
        world.used(subscription.id, tokens, time, &format!("{month}00")).await;
    }
    world.set_watermark(at("2020-06-15T00:00:00Z")).await;
    let report = invoice_due(&world.deps, at("2020-06-15T00:00:00Z")).await.unwrap();
    assert_eq!(report.created, 3);
    let invoices = world.invoices().await;
    let rows: Vec<_> = invoices
        .iter()
        .map(|one| (one.due_at.format("%m-%d").to_string(), number(one), one.total.minor))
        .collect();
    // 16 of 31 days of 10.00 = 5.16
    let row = |due: &str, number: &str, total| (due.to_owned(), number.to_owned(), total);
    assert_eq!(
        rows,
        [row("04-01", "001", 516 + 300), row("05-01", "002", 1400), row("06-01", "003", 1500)]
    );
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn subscriptions_due_together_share_an_invoice_and_others_do_not(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let start = at("2020-03-01T00:00:00Z");
    let first = world.subscribe(&customer, &plan, "s1", start).await;
    let second = world.subscribe(&customer, &plan, "s2", at("2020-03-02T00:00:00Z")).await;
    let ended = world.subscribe(&customer, &plan, "s3", start).await;
    world.terminate(&ended, at("2020-03-11T12:00:00Z")).await;
    world.set_watermark(at("2020-04-01T00:00:00Z")).await;
    invoice_due(&world.deps, at("2020-04-01T00:00:00Z")).await.unwrap();
    let invoices = world.invoices().await;
    let of: Vec<Vec<_>> = invoices
        .iter()
        .map(|one| one.subscriptions.iter().map(|one| one.subscription).collect())
        .collect();
    assert_eq!(of, [vec![ended.id], vec![first.id, second.id]]);
    assert_eq!(world.next_due(ended.id).await, None);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn many_invoicers_at_once_make_each_invoice_once_and_leave_no_gap(pool: PgPool) {
    let mut world = World::new(pool).await;
    world.deps.config.batch.customers_max = 3;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let mut customers = Vec::new();
    for name in 0..20 {
        let customer = world.customer(&format!("c{name}"), CustomerDetails::default()).await;
        let start = at("2020-03-01T00:00:00Z");
        world.subscribe(&customer, &plan, &format!("s{name}"), start).await;
        customers.push(customer);
    }
    world.set_watermark(at("2020-06-01T00:00:00Z")).await;
    let as_of = at("2020-06-01T00:00:00Z");
    let world = Arc::new(world);
    let runs = (0..4).map(|_| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            // One that finds everything locked has nothing to do; together they do all.
            invoice_due(&world.deps, as_of).await.unwrap().created
        })
    });
    let mut created = 0;
    for run in runs.collect::<Vec<_>>() {
        created += run.await.unwrap();
    }
    created += invoice_due(&world.deps, as_of).await.unwrap().created;
    assert_eq!(created, 60);
    let invoices = world.invoices().await;
    for customer in customers {
        let numbers: Vec<_> = of_customer(&invoices, customer.id).into_iter().map(number).collect();
        assert_eq!(numbers, ["001", "002", "003"], "{}", customer.external_id);
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn one_run_bills_every_customer_and_month_in_batches_beside_each_other(pool: PgPool) {
    let mut world = World::new(pool).await;
    world.deps.config.batch.customers_max = 2;
    world.deps.config.batch.in_flight_max = 3;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let details = |grace| CustomerDetails {
        invoice_grace_period_days: Some(grace),
        ..CustomerDetails::default()
    };
    for name in 0..12 {
        // Half of them have drafts that are finalized in the same run.
        let customer = world.customer(&format!("c{name}"), details(name % 2)).await;
        let start = at("2020-03-01T00:00:00Z");
        world.subscribe(&customer, &plan, &format!("s{name}"), start).await;
    }
    world.set_watermark(at("2020-06-02T00:00:00Z")).await;
    let report = invoice_due(&world.deps, at("2020-06-02T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.finalized, report.left), (36, 36, 0));
    assert_eq!(report.failures, []);
    let invoices = world.invoices().await;
    let mut numbers: Vec<_> = invoices.iter().map(|one| (one.customer, number(one))).collect();
    numbers.sort();
    for of_customer in numbers.chunk_by(|one, next| one.0 == next.0) {
        let of: Vec<_> = of_customer.iter().map(|(_, number)| number.clone()).collect();
        assert_eq!(of, ["001", "002", "003"]);
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_stale_due_instant_is_put_right_before_anything_is_billed(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let mut customer = world.customer("c1", CustomerDetails::default()).await;
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-10T00:00:00Z")).await;
    customer.details.timezone = Some(chrono_tz::Tz::America__New_York);
    let mut conn = world.pool.acquire().await.unwrap();
    weir_store::customers::save(&mut conn, &customer).await.unwrap();
    world.set_watermark(at("2020-04-01T03:59:59Z")).await;
    let report = invoice_due(&world.deps, at("2020-04-01T03:59:59Z")).await.unwrap();
    assert_eq!((report.created, report.left), (0, 0), "March has four hours to go in New York");
    assert_eq!(world.next_due(subscription.id).await, Some(at("2020-04-01T04:00:00Z")));
    world.set_watermark(at("2020-04-01T04:00:00Z")).await;
    let report = invoice_due(&world.deps, at("2020-04-01T04:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.left), (1, 0));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_in_advance_plan_without_charges_ends_without_an_empty_invoice(pool: PgPool) {
    let world = World::new(pool).await;
    let amount = Money { minor: 3100, currency: world.usd };
    let plan = world.plan("advance", amount, true, vec![]).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    world.set_watermark(at("2020-03-15T00:00:00Z")).await;
    invoice_due(&world.deps, at("2020-03-02T00:00:00Z")).await.unwrap();
    world.terminate(&subscription, at("2020-03-10T00:00:00Z")).await;
    let report = invoice_due(&world.deps, at("2020-03-15T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.left), (0, 0));
    assert_eq!(world.next_due(subscription.id).await, None);
    assert_eq!(world.invoices().await.len(), 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn the_schedule_bills_by_itself_until_it_is_told_to_end(pool: PgPool) {
    let mut world = World::new(pool).await;
    world.deps.config.schedule.interval_ms = 5;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", CustomerDetails::default()).await;
    let shutdown = Shutdown::new();
    let running = tokio::spawn(run(world.deps.clone(), shutdown.clone()));
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    world.set_watermark(at("2020-04-01T00:00:00Z")).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while world.next_due(subscription.id).await == Some(at("2020-04-01T00:00:00Z")) {
        assert!(std::time::Instant::now() < deadline, "not billed by itself");
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(world.invoices().await.len(), 1);
}
