//! Lists: filters, order, pages.

use crate::fixtures::{
    ACME, OTHER, customer, deployment, draft, metric, month, plan, subscription,
};
use sqlx::PgPool;
use weir_billing::metric::Aggregation;
use weir_billing::subscription::SubscriptionStatus;
use weir_ids::{CustomerId, PlanId, SubscriptionId};
use weir_money::Currency;
use weir_store::billable_metrics::MetricFilter;
use weir_store::customers::CustomerFilter;
use weir_store::invoices::{InvoiceFilter, StatusFilter};
use weir_store::plans::PlanFilter;
use weir_store::subscriptions::SubscriptionFilter;
use weir_store::{
    Cursor, PageRequest, Tx, billable_metrics, customers, invoices, plans, subscriptions,
};

async fn tenant(pool: &PgPool) -> Tx {
    deployment(pool, ACME, "Acme").await;
    deployment(pool, OTHER, "Other").await;
    Tx::begin(pool, ACME).await.unwrap()
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn pages_hold_each_item_once_in_either_order(pool: PgPool) {
    let mut tx = tenant(&pool).await;
    for id in 2..=7 {
        let mut one = customer(ACME, id);
        // Three were made at one instant: the id breaks the tie.
        one.created_at = month(if id <= 4 { 2 } else { 3 });
        customers::insert(&mut tx, one).await.unwrap();
    }
    for (ascending, expected) in [(false, [7, 6, 5, 4, 3, 2, 1]), (true, [1, 2, 3, 4, 5, 6, 7])] {
        let mut seen = Vec::new();
        let mut request = PageRequest { limit: 3, ascending, ..PageRequest::default() };
        loop {
            let filter = CustomerFilter::default();
            let page = customers::list(&mut tx, ACME, &filter, &request).await.unwrap();
            assert_eq!(page.total_count, 7);
            seen.extend(page.items.iter().map(|one| one.id.as_u128()));
            let Some(cursor) = page.next_cursor else { break };
            request.cursor = Some(Cursor::parse(&cursor).unwrap());
        }
        assert_eq!(seen, expected);
    }
    let skipping = PageRequest { limit: 2, skip: 5, ..PageRequest::default() };
    let page = customers::list(&mut tx, ACME, &CustomerFilter::default(), &skipping).await.unwrap();
    assert_eq!(page.items.iter().map(|one| one.id.as_u128()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(page.next_cursor, None);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn metrics_are_filtered(pool: PgPool) {
    let mut tx = tenant(&pool).await;
    let mut calls = metric(ACME, 2, "100%_calls");
    (calls.aggregation, calls.field_name) = (Aggregation::Count, None);
    billable_metrics::insert(&mut tx, &calls).await.unwrap();
    billable_metrics::insert(&mut tx, &metric(ACME, 3, "gone")).await.unwrap();
    let gone = metric(ACME, 3, "gone").id;
    billable_metrics::archive(&mut tx, ACME, gone, month(2)).await.unwrap();
    let text = |text: &str| MetricFilter { text: text.to_owned(), ..MetricFilter::default() };
    let cases = [
        (MetricFilter::default(), vec![2, 1]),
        (MetricFilter { with_deleted: true, ..MetricFilter::default() }, vec![3, 2, 1]),
        (
            MetricFilter { aggregations: vec![Aggregation::Count], ..MetricFilter::default() },
            vec![2],
        ),
        (MetricFilter { plan: Some(PlanId::from_u128(1)), ..MetricFilter::default() }, vec![1]),
        (text("TOK"), vec![1]),
        (text("0%_C"), vec![2]),
        (text("%"), vec![2]),
        (text(r"\"), vec![]),
    ];
    for (filter, expected) in cases {
        let page = billable_metrics::list(&mut tx, ACME, &filter, &PageRequest::default()).await;
        let page = page.unwrap();
        let ids: Vec<u128> = page.items.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(ids, expected, "{filter:?}");
        assert_eq!(page.total_count, expected.len() as u64);
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn plans_are_filtered(pool: PgPool) {
    let mut tx = tenant(&pool).await;
    let second = plan(ACME, 2, "free", 1);
    plans::insert(&mut tx, &second).await.unwrap();
    let all = PlanFilter::default();
    let page = plans::list(&mut tx, ACME, &all, &PageRequest::default()).await.unwrap();
    assert_eq!(page.items, [second.clone(), plan(ACME, 1, "team", 1)]);
    plans::archive(&mut tx, ACME, second.id, month(2)).await.unwrap();
    for (text, with_deleted, expected) in [
        ("", false, vec![1]),
        ("", true, vec![2, 1]),
        ("FREE", true, vec![2]),
        ("FREE", false, vec![]),
    ] {
        let filter = PlanFilter { text: text.to_owned(), with_deleted };
        let page = plans::list(&mut tx, ACME, &filter, &PageRequest::default()).await.unwrap();
        let ids: Vec<u128> = page.items.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn customers_are_filtered(pool: PgPool) {
    let mut tx = tenant(&pool).await;
    let usd = Currency::parse("USD").unwrap();
    let mut ada = customer(ACME, 2);
    ada.details.firstname = Some("Ada".to_owned());
    ada.details.country = Some("GB".to_owned());
    ada.details.currency = Some(usd);
    customers::insert(&mut tx, ada.clone()).await.unwrap();
    let default = CustomerFilter::default;
    let cases = [
        (default(), vec![2, 1]),
        (
            CustomerFilter { countries: vec!["GB".to_owned(), "FR".to_owned()], ..default() },
            vec![2],
        ),
        (CustomerFilter { currencies: vec![usd], ..default() }, vec![2]),
        (CustomerFilter { text: "ada".to_owned(), ..default() }, vec![2]),
        (CustomerFilter { text: "customer-1".to_owned(), ..default() }, vec![1]),
    ];
    for (filter, expected) in cases {
        let page = customers::list(&mut tx, ACME, &filter, &PageRequest::default()).await.unwrap();
        let ids: Vec<u128> = page.items.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
    customers::archive(&mut tx, ACME, ada.id, month(2)).await.unwrap();
    for (with_deleted, expected) in [(false, 1), (true, 2)] {
        let filter = CustomerFilter { with_deleted, ..default() };
        let page = customers::list(&mut tx, ACME, &filter, &PageRequest::default()).await.unwrap();
        assert_eq!(page.total_count, expected);
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn subscriptions_are_filtered_by_the_status_they_show(pool: PgPool) {
    let mut tx = tenant(&pool).await;
    let mut ended = subscription(ACME, 2, 1, 1);
    ended.ending_at = Some(month(4));
    let mut pending = subscription(ACME, 3, 1, 1);
    pending.started_at = month(9);
    pending.name = Some("Later".to_owned());
    for one in [&ended, &pending] {
        subscriptions::insert(&mut tx, one, None).await.unwrap();
    }
    use SubscriptionStatus::{Active, Pending, Terminated};
    let filter = |statuses: &[SubscriptionStatus]| SubscriptionFilter {
        statuses: statuses.to_vec(),
        now: month(4),
        ..SubscriptionFilter::default()
    };
    let cases = [
        (filter(&[]), vec![3, 2, 1]),
        (filter(&[Active]), vec![1]),
        (filter(&[Pending]), vec![3]),
        (filter(&[Terminated]), vec![2]),
        (filter(&[Pending, Terminated]), vec![3, 2]),
        (SubscriptionFilter { text: "later".to_owned(), ..filter(&[]) }, vec![3]),
        (
            SubscriptionFilter {
                external_customer_id: Some("customer-1".to_owned()),
                ..filter(&[])
            },
            vec![3, 2, 1],
        ),
        (
            SubscriptionFilter { external_customer_id: Some("nobody".to_owned()), ..filter(&[]) },
            vec![],
        ),
        (SubscriptionFilter { plan_code: Some("team".to_owned()), ..filter(&[Active]) }, vec![1]),
        (SubscriptionFilter { plan_code: Some("none".to_owned()), ..filter(&[]) }, vec![]),
    ];
    for (filter, expected) in cases {
        let page =
            subscriptions::list(&mut tx, ACME, &filter, &PageRequest::default()).await.unwrap();
        let ids: Vec<u128> = page.items.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(ids, expected, "{filter:?}");
        for one in &page.items {
            let shown = one.status(filter.now);
            assert!(filter.statuses.is_empty() || filter.statuses.contains(&shown), "{one:?}");
        }
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn invoices_are_filtered(pool: PgPool) {
    let mut tx = tenant(&pool).await;
    subscriptions::insert(&mut tx, &subscription(ACME, 2, 1, 1), None).await.unwrap();
    let drafts = [draft(ACME, 1, 1, 3), draft(ACME, 2, 1, 4), draft(ACME, 3, 2, 4)];
    invoices::insert_many(&mut tx, &drafts, None).await.unwrap();
    invoices::finalize(&mut tx, ACME, drafts[0].id, month(4)).await.unwrap();
    let default = InvoiceFilter::default;
    let cases = [
        (default(), vec![3, 2, 1]),
        (InvoiceFilter { statuses: vec![StatusFilter::Draft], ..default() }, vec![3, 2]),
        (InvoiceFilter { statuses: vec![StatusFilter::Finalized], ..default() }, vec![1]),
        (InvoiceFilter { customer: Some(CustomerId::from_u128(1)), ..default() }, vec![3, 2, 1]),
        (InvoiceFilter { customer: Some(CustomerId::from_u128(9)), ..default() }, vec![]),
        (InvoiceFilter { subscription: Some(SubscriptionId::from_u128(2)), ..default() }, vec![3]),
        (
            InvoiceFilter { external_subscription_id: Some("sub-1".to_owned()), ..default() },
            vec![2, 1],
        ),
        (InvoiceFilter { text: "001-001".to_owned(), ..default() }, vec![1]),
    ];
    for (filter, expected) in cases {
        let page = invoices::list(&mut tx, ACME, &filter, &PageRequest::default()).await.unwrap();
        let ids: Vec<u128> = page.items.iter().map(|one| one.id.as_u128()).collect();
        assert_eq!(ids, expected, "{filter:?}");
        assert!(page.items.iter().all(|one| one.fees.len() == 3), "lists hold whole invoices");
    }
}
