//! Grace periods: a draft takes late usage until it is finalized.

use crate::world::{World, at, number};
use sqlx::PgPool;
use weir_billing::{customer::CustomerDetails, invoice::InvoiceStatus, metric::Aggregation};
use weir_invoicer::invoice_due;

fn three_days() -> CustomerDetails {
    CustomerDetails { invoice_grace_period_days: Some(3), ..CustomerDetails::default() }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_draft_takes_late_usage_and_gets_its_number_at_the_end_of_the_grace_period(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let customer = world.customer("c1", three_days()).await;
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    world.used(subscription.id, tokens, at("2020-03-10T00:00:00Z"), "100").await;
    world.set_watermark(at("2020-04-01T00:00:00Z")).await;
    let report = invoice_due(&world.deps, at("2020-04-01T00:00:00Z")).await.unwrap();
    assert_eq!((report.created, report.finalized), (1, 0));
    let draft = world.invoices().await.remove(0);
    let finalize_at = at("2020-04-04T00:00:00Z");
    assert_eq!(draft.status, InvoiceStatus::Draft { finalize_at });
    assert_eq!(draft.total.minor, 1100);

    world.used(subscription.id, tokens, at("2020-03-20T00:00:00Z"), "50.5").await;
    // A watermark before the end of the grace period covers the invoice, not its finalization.
    let report = invoice_due(&world.deps, finalize_at).await.unwrap();
    assert_eq!((report.finalized, report.left), (0, 1));
    world.set_watermark(finalize_at).await;
    let report = invoice_due(&world.deps, finalize_at).await.unwrap();
    assert_eq!((report.created, report.finalized, report.left), (0, 1, 0));
    let invoice = world.invoices().await.remove(0);
    assert_eq!((number(&invoice).as_str(), invoice.total.minor), ("001", 1151));
    assert_eq!(invoice.issuing_date, draft.issuing_date);
    let ids =
        |of: &weir_billing::invoice::Invoice| of.fees.iter().map(|fee| fee.id).collect::<Vec<_>>();
    assert_eq!(ids(&invoice), ids(&draft));

    world.used(subscription.id, tokens, at("2020-03-21T00:00:00Z"), "1000").await;
    invoice_due(&world.deps, finalize_at).await.unwrap();
    assert_eq!(world.invoices().await.remove(0), invoice, "final for ever");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn drafts_of_several_months_are_refreshed_each_from_its_own_window(pool: PgPool) {
    let world = World::new(pool).await;
    let tokens = world.metric("tokens", Aggregation::Sum).await;
    let plan = world.small_plan(tokens).await;
    let details = CustomerDetails { invoice_grace_period_days: Some(90), ..three_days() };
    let customer = world.customer("c1", details).await;
    let subscription = world.subscribe(&customer, &plan, "s1", at("2020-03-01T00:00:00Z")).await;
    world.set_watermark(at("2020-05-01T00:00:00Z")).await;
    invoice_due(&world.deps, at("2020-05-01T00:00:00Z")).await.unwrap();
    world.used(subscription.id, tokens, at("2020-03-20T00:00:00Z"), "300").await;
    world.used(subscription.id, tokens, at("2020-04-20T00:00:00Z"), "400").await;
    let end = at("2020-07-30T00:00:00Z");
    world.terminate(&subscription, at("2020-05-01T00:00:00Z")).await;
    world.set_watermark(end).await;
    let report = invoice_due(&world.deps, end).await.unwrap();
    assert_eq!(report.finalized, 2, "{report:?}");
    let rows: Vec<_> =
        world.invoices().await.iter().map(|one| (number(one), one.total.minor)).collect();
    assert_eq!(rows, [("001".to_owned(), 1300), ("002".to_owned(), 1400)]);
}
