//! Late events and voids of periods whose invoices are final, and usage that is about to change.

use crate::world::{Used, World, at, uuid_text};
use sqlx::PgPool;
use weir_billing::{
    customer::CustomerDetails,
    invoice::{FeeKind, Invoice},
    metric::Aggregation,
    subscription::Subscription,
};
use weir_ids::BillableMetricId;
use weir_invoicer::{Report, invoice_due};
use weir_store::{
    invoices,
    organizations::{self, LateEvents, OrganizationSettings},
};

/// A subscription since March at 10.00 and 0.01 a token, with 100 tokens in March, billed.
struct March {
    world: World,
    subscription: Subscription,
    tokens: BillableMetricId,
}

impl March {
    async fn billed(pool: PgPool) -> Self {
        Self::billed_for(pool, CustomerDetails::default()).await
    }

    async fn billed_for(pool: PgPool, details: CustomerDetails) -> Self {
        let world = World::new(pool).await;
        let tokens = world.metric("tokens", Aggregation::Sum).await;
        let plan = world.small_plan(tokens).await;
        let customer = world.customer("c1", details).await;
        let start = at("2020-03-01T00:00:00Z");
        let subscription = world.subscribe(&customer, &plan, "s1", start).await;
        let march = Self { world, subscription, tokens };
        march.world.used_as(&march.tokens_at("2020-03-10T12:00:00Z", "100")).await;
        assert_eq!(march.bill("2020-04-01T00:00:00Z").await.created, 1);
        march
    }

    fn tokens_at<'a>(&self, time: &str, value: &'a str) -> Used<'a> {
        Used::new(self.subscription.id, self.tokens, at(time), value)
    }

    async fn late(&self, time: &str, arrives: &str, value: &str) {
        let used = Used { arrives: at(arrives), ..self.tokens_at(time, value) };
        self.world.used_as(&used).await;
    }

    async fn bill(&self, until: &str) -> Report {
        self.world.set_watermark(at(until)).await;
        invoice_due(&self.world.deps, at(until)).await.unwrap()
    }

    async fn last(&self) -> Invoice {
        self.world.invoices().await.pop().unwrap()
    }

    async fn settings(&self, late_events: LateEvents) {
        let mut conn = self.world.pool.acquire().await.unwrap();
        let settings = OrganizationSettings { late_events, ..OrganizationSettings::default() };
        let organization = self.world.organization;
        organizations::set_settings(&mut conn, organization, &settings).await.unwrap();
    }

    async fn pending(&self) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM pending_true_ups");
        count.fetch_one(&self.world.pool).await.unwrap()
    }
}

fn lines(invoice: &Invoice) -> Vec<(String, String, i64)> {
    let line = |fee: &weir_billing::invoice::Fee| {
        (fee.name.clone(), fee.units.to_string(), fee.amount.minor)
    };
    invoice.fees.iter().map(line).collect()
}

fn line(name: &str, units: &str, minor: i64) -> (String, String, i64) {
    (name.to_owned(), units.to_owned(), minor)
}

const MARCH: &str = "tokens, correction of 2020-03-01 to 2020-03-31";
const APRIL: &str = "tokens, correction of 2020-04-01 to 2020-04-30";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_late_event_is_a_line_of_the_next_invoice_and_of_no_later_one(pool: PgPool) {
    let march = March::billed(pool).await;
    march.late("2020-03-31T23:59:59Z", "2020-04-02T00:00:00Z", "50").await;
    march.bill("2020-05-01T00:00:00Z").await;
    let april = march.last().await;
    assert_eq!(
        lines(&april),
        [line("small", "1", 1000), line("tokens", "0", 0), line(MARCH, "50", 50)]
    );
    let first = march.world.invoices().await.remove(0);
    let FeeKind::TrueUp { corrects, events, .. } = &april.fees[2].kind else { panic!("a true-up") };
    assert_eq!((*corrects, *events), (Some(first.fees[1].id), 1));
    assert_eq!(april.fees[2].period, first.fees[1].period);
    // One more of March and one of April come in May: each is billed once.
    march.late("2020-03-05T00:00:00Z", "2020-05-02T00:00:00Z", "7").await;
    march.late("2020-04-05T00:00:00Z", "2020-05-03T00:00:00Z", "9").await;
    march.bill("2020-06-01T00:00:00Z").await;
    assert_eq!(lines(&march.last().await)[2..], [line(MARCH, "7", 7), line(APRIL, "9", 9)]);
    march.bill("2020-07-01T00:00:00Z").await;
    assert_eq!(lines(&march.last().await), [line("small", "1", 1000), line("tokens", "0", 0)]);
    assert_eq!(march.world.invoices().await[0], first, "what is final stays");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_organization_may_ignore_late_events(pool: PgPool) {
    let march = March::billed(pool).await;
    march.settings(LateEvents::Ignore).await;
    march.late("2020-03-20T00:00:00Z", "2020-04-02T00:00:00Z", "50").await;
    march.bill("2020-05-01T00:00:00Z").await;
    assert_eq!(lines(&march.last().await), [line("small", "1", 1000), line("tokens", "0", 0)]);
    // What came while it did so stays unbilled.
    march.settings(LateEvents::TrueUp).await;
    march.bill("2020-06-01T00:00:00Z").await;
    assert_eq!(lines(&march.last().await).len(), 2);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_void_of_a_billed_event_is_a_negative_line_and_what_does_not_fit_waits(pool: PgPool) {
    let march = March::billed(pool).await;
    march.late("2020-03-20T00:00:00Z", "2020-04-02T00:00:00Z", "2500").await;
    march.bill("2020-05-01T00:00:00Z").await;
    assert_eq!(march.last().await.total.minor, 3500);
    let voided = march.tokens_at("2020-03-20T00:00:00Z", "2500");
    march.world.void_cell(&voided, at("2020-05-10T00:00:00Z")).await;
    march.bill("2020-06-01T00:00:00Z").await;
    let may = march.last().await;
    assert_eq!((may.total.minor, lines(&may)[2].clone()), (0, line(MARCH, "-2500", -1000)));
    assert_eq!(march.pending().await, 1);
    march.bill("2020-08-01T00:00:00Z").await;
    let totals: Vec<i64> =
        march.world.invoices().await.iter().map(|invoice| invoice.total.minor).collect();
    assert_eq!(totals, [1100, 3500, 0, 0, 500], "25.00 back over three months");
    assert_eq!(march.pending().await, 0);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_comes_late_for_an_ended_subscription_is_on_its_customer_s_next_invoice(pool: PgPool) {
    let march = March::billed(pool).await;
    let world = &march.world;
    let mut conn = world.pool.acquire().await.unwrap();
    let (organization, plan) = (world.organization, march.subscription.plan);
    let plan = weir_store::plans::find(&mut conn, organization, plan).await.unwrap().unwrap();
    let customer = march.subscription.customer;
    let customer = weir_store::customers::find(&mut conn, organization, customer).await;
    let other =
        world.subscribe(&customer.unwrap().unwrap(), &plan, "s2", at("2020-04-01T00:00:00Z")).await;
    world.terminate(&march.subscription, at("2020-04-16T00:00:00Z")).await;
    march.bill("2020-04-20T00:00:00Z").await;
    assert_eq!(world.next_due(march.subscription.id).await, None);
    march.late("2020-03-20T00:00:00Z", "2020-04-21T00:00:00Z", "50").await;
    march.bill("2020-05-01T00:00:00Z").await;
    let april = march.last().await;
    assert_eq!(
        lines(&april),
        [line("small", "1", 1000), line("tokens", "0", 0), line(MARCH, "50", 50)]
    );
    let of: Vec<_> = april.fees.iter().map(|fee| fee.subscription).collect();
    assert_eq!(of, [other.id, other.id, march.subscription.id]);
    march.bill("2020-06-01T00:00:00Z").await;
    let may = march.last().await;
    assert_eq!((lines(&may).len(), may.subscriptions.len()), (2, 1), "billed once");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_late_event_of_a_draft_s_window_is_in_its_lines_and_no_true_up(pool: PgPool) {
    let details =
        CustomerDetails { invoice_grace_period_days: Some(3), ..CustomerDetails::default() };
    let march = March::billed_for(pool, details).await;
    march.late("2020-03-20T00:00:00Z", "2020-04-02T00:00:00Z", "50").await;
    march.bill("2020-04-04T00:00:00Z").await;
    assert_eq!(lines(&march.last().await), [line("small", "1", 1000), line("tokens", "150", 150)]);
    march.late("2020-03-21T00:00:00Z", "2020-04-05T00:00:00Z", "1").await;
    march.bill("2020-05-04T00:00:00Z").await;
    assert_eq!(
        lines(&march.last().await),
        [line("small", "1", 1000), line("tokens", "0", 0), line(MARCH, "1", 1)]
    );
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn invoices_wait_while_usage_is_about_to_change(pool: PgPool) {
    let march = March::billed(pool).await;
    sqlx::query("INSERT INTO usage_rolls (organization_id, kind, state) VALUES ($1::uuid, 'cells', 'waiting')")
        .bind(uuid_text(march.world.organization.as_u128()))
        .execute(&march.world.pool)
        .await
        .unwrap();
    let report = march.bill("2020-05-01T00:00:00Z").await;
    assert_eq!((report.created, report.left), (0, 1));
    sqlx::query("UPDATE usage_rolls SET state = 'done', catalog_version = 1, started_at = now(), ended_at = now()")
        .execute(&march.world.pool)
        .await
        .unwrap();
    assert_eq!(march.bill("2020-05-01T00:00:00Z").await.created, 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_audit_finds_what_each_line_of_usage_follows_from(pool: PgPool) {
    let march = March::billed(pool).await;
    march.late("2020-03-20T00:00:00Z", "2020-04-02T00:00:00Z", "50").await;
    march.bill("2020-05-01T00:00:00Z").await;
    let april = march.last().await;
    let mut conn = march.world.pool.acquire().await.unwrap();
    let organization = march.world.organization;
    let audited = invoices::audit_lines(&mut conn, organization, april.id).await.unwrap();
    assert_eq!(audited.len(), 2, "the base fee is no usage");
    let correction = &audited[1];
    assert_eq!(correction.fee, april.fees[2]);
    assert_eq!(correction.external_subscription_id, "s1");
    assert_eq!(correction.whole_seconds, 31 * 86_400);
    let before: Vec<i64> = correction.before.iter().map(|fee| fee.amount.minor).collect();
    assert_eq!(before, [100]);
    let mut book = weir_billing::book::UsageBook::new();
    let total = weir_billing::usage::UsageTotal {
        events: 2,
        total: 150_u64.into(),
        ..weir_billing::usage::UsageTotal::default()
    };
    let key = (march.subscription.id, weir_billing::book::Span::Window);
    book.insert(key, march.tokens, String::new(), total);
    let lines = correction.pricing().lines(&book).unwrap();
    assert_eq!((lines[0].slot == correction.slot, lines[0].amount.minor), (true, 150));
}
