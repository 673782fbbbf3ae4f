//! What is due, to whom.

use crate::fixtures::{
    ACME, OTHER, base, customer, deployment, draft, insert, month, subscription,
};
use sqlx::PgPool;
use std::time::Duration;
use weir_ids::{CustomerId, SubscriptionId};
use weir_store::billing::{
    DueCustomer, Horizon, agreements, contracts, draft_facts, due_customers, due_drafts, next_due,
};
use weir_store::billing_failures::{Failure, Subject};
use weir_store::subscriptions::{NextDue, set_next_due};
use weir_store::{Tx, billing_failures, clock, customers, invoices, subscriptions};

fn due(organization: weir_ids::OrganizationId, customer: u128) -> DueCustomer {
    DueCustomer { organization, customer: CustomerId::from_u128(base(organization) + customer) }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn customers_are_due_at_the_very_instant_and_each_once(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    deployment(&pool, OTHER, "Other").await;
    let mut tx = pool.begin().await.unwrap();
    subscriptions::insert(&mut tx, &subscription(ACME, 2, 1, 1), Some(month(3))).await.unwrap();
    let before = month(3) - chrono::Duration::microseconds(1);
    assert!(due_customers(&mut tx, before, 10).await.unwrap().is_empty());
    assert_eq!(next_due(&mut tx, before).await.unwrap(), Some(month(3)));
    assert_eq!(next_due(&mut tx, month(3)).await.unwrap(), None, "strictly after");
    let mut found = due_customers(&mut tx, month(3), 10).await.unwrap();
    found.sort();
    assert_eq!(found, [due(OTHER, 1), due(ACME, 1)]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn what_became_due_after_the_horizon_waits_with_all_of_its_customer(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    subscriptions::insert(&mut conn, &subscription(ACME, 2, 1, 1), Some(month(4))).await.unwrap();
    let known_before = Some(clock::database_now(&mut conn).await.unwrap());
    let horizon = Horizon { as_of: month(3), known_before };
    assert_eq!(due_customers(&mut conn, horizon, 10).await.unwrap(), [due(ACME, 1)]);
    // Later than was planned is no news, sooner is.
    let (organization, subscription) = (ACME, SubscriptionId::from_u128(base(ACME) + 2));
    for (at, found) in [(month(5), 1), (month(3), 0)] {
        let sooner = NextDue { organization, subscription, at: Some(at) };
        set_next_due(&mut conn, &[sooner]).await.unwrap();
        let customers = due_customers(&mut conn, horizon, 10).await.unwrap();
        assert_eq!(customers.len(), found, "{at}");
    }
    assert_eq!(
        contracts(&mut conn, &[due(ACME, 1)], horizon).await.unwrap()[0].agreements.len(),
        1
    );
    let later =
        Horizon { known_before: Some(clock::database_now(&mut conn).await.unwrap()), ..horizon };
    assert_eq!(due_customers(&mut conn, later, 10).await.unwrap(), [due(ACME, 1)]);
    let contracts = contracts(&mut conn, &[due(ACME, 1)], later).await.unwrap();
    assert_eq!(contracts[0].agreements.len(), 2);
    assert!(contracts[0].agreements.iter().all(|one| one.planned_due_at == Some(month(3))));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn two_invoicers_never_work_on_one_customer(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    deployment(&pool, OTHER, "Other").await;
    let mut one = pool.begin().await.unwrap();
    let mut two = pool.begin().await.unwrap();
    let first = due_customers(&mut one, month(3), 1).await.unwrap();
    let second = due_customers(&mut two, month(3), 10).await.unwrap();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first, second);
    let mut three = pool.begin().await.unwrap();
    assert!(due_customers(&mut three, month(3), 10).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_contract_holds_what_is_due_first_and_together(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = pool.begin().await.unwrap();
    customers::insert(&mut tx, customer(ACME, 2)).await.unwrap();
    let dues = [(2, 1, 3), (3, 1, 4), (4, 2, 4), (5, 2, 9)];
    for (id, customer, at) in dues {
        let new = subscription(ACME, id, customer, 1);
        subscriptions::insert(&mut tx, &new, Some(month(at))).await.unwrap();
    }
    let customers = due_customers(&mut tx, month(5), 10).await.unwrap();
    let found = contracts(&mut tx, &customers, month(5)).await.unwrap();
    let shape: Vec<(u128, _, Vec<u128>)> = found
        .iter()
        .map(|contract| {
            let ids = contract.agreements.iter().map(|one| one.subscription.id.as_u128());
            let mut ids: Vec<_> = ids.collect();
            ids.sort_unstable();
            (contract.customer.id.as_u128(), contract.due_at, ids)
        })
        .collect();
    assert_eq!(shape, [(1, month(3), vec![1, 2]), (2, month(4), vec![4])]);
    let agreement = &found[0].agreements[0];
    assert_eq!((agreement.plan_name.as_str(), agreement.plan_code.as_str()), ("Plan team", "team"));
    assert_eq!(agreement.versions.len(), 1);
    assert_eq!(agreement.versions[0].version.charges.len(), 4);
    assert_eq!(agreement.billed, weir_billing::contract::Billed::default());
    let metric = agreement.versions[0].version.charges[0].metric;
    assert_eq!(found[0].metrics[&metric].name, "Metric tokens");
    assert!(contracts(&mut tx, &customers, month(2)).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn what_is_billed_is_known_to_the_next_contract(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = pool.begin().await.unwrap();
    insert(&mut tx, &draft(ACME, 1, 1, 3)).await.unwrap();
    let next = NextDue {
        organization: ACME,
        subscription: SubscriptionId::from_u128(1),
        at: Some(month(4)),
    };
    set_next_due(&mut tx, &[next]).await.unwrap();
    assert!(due_customers(&mut tx, month(3), 10).await.unwrap().is_empty());
    let found = agreements(&mut tx, &[(ACME, next.subscription)]).await.unwrap();
    let billed = found[0].billed;
    assert_eq!(billed.due_at, Some(month(3)));
    assert_eq!(billed.usage_to, Some(month(3)));
    assert_eq!(billed.base_to, Some(month(3)));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn drafts_fall_due_and_bring_their_prices(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = pool.begin().await.unwrap();
    let mut graced = draft(ACME, 1, 1, 3);
    let finalize_at = month(5);
    graced.status = weir_billing::invoice::InvoiceStatus::Draft { finalize_at };
    insert(&mut tx, &graced).await.unwrap();
    assert_eq!(next_due(&mut tx, month(4)).await.unwrap(), Some(finalize_at));
    assert!(due_drafts(&mut tx, month(4), 10).await.unwrap().is_empty());
    let found = due_drafts(&mut tx, month(5), 10).await.unwrap();
    assert_eq!(found, [(ACME, graced.id)]);
    let drafts = invoices::find_many(&mut tx, &found).await.unwrap();
    assert_eq!(drafts, [graced]);
    let facts = draft_facts(&mut tx, &drafts).await.unwrap();
    assert_eq!((facts.versions.len(), facts.metrics.len()), (1, 1));
    invoices::finalize_many(&mut tx, &found, month(5)).await.unwrap();
    assert!(due_drafts(&mut tx, month(5), 10).await.unwrap().is_empty());
    assert_eq!(next_due(&mut tx, month(4)).await.unwrap(), None);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn what_failed_is_passed_over_until_its_retry_and_holds_up_nothing_else(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = pool.begin().await.unwrap();
    subscriptions::insert(&mut tx, &subscription(ACME, 2, 1, 1), Some(month(4))).await.unwrap();
    let failed = SubscriptionId::from_u128(1);
    let failure = Failure {
        organization: ACME,
        subject: Subject::Subscription(failed),
        due_at: month(3),
        reason: "overflow".to_owned(),
        message: "too many digits".to_owned(),
    };
    let an_hour = Duration::from_secs(3_600);
    for _ in 0..2 {
        billing_failures::record(&mut tx, std::slice::from_ref(&failure), an_hour).await.unwrap();
    }
    let listed = billing_failures::list(&mut tx).await.unwrap();
    assert_eq!((listed.len(), listed[0].attempts, &listed[0].failure), (1, 2, &failure));
    assert!(due_customers(&mut tx, month(3), 10).await.unwrap().is_empty());
    let customers = due_customers(&mut tx, month(4), 10).await.unwrap();
    let found = contracts(&mut tx, &customers, month(4)).await.unwrap();
    assert_eq!(found[0].agreements[0].subscription.id.as_u128(), 2, "the other goes on");

    billing_failures::retry_now(&mut tx).await.unwrap();
    assert_eq!(due_customers(&mut tx, month(3), 10).await.unwrap().len(), 1);
    billing_failures::clear(&mut tx, &[(ACME, failure.subject)]).await.unwrap();
    assert!(billing_failures::list(&mut tx).await.unwrap().is_empty());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn what_failed_is_forgotten_once_there_is_nothing_left_to_bill_of_it(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let subscription = SubscriptionId::from_u128(1);
    let graced = draft(ACME, 11, 1, 3);
    insert(&mut conn, &graced).await.unwrap();
    let failed = |subject| Failure {
        organization: ACME,
        subject,
        due_at: month(3),
        reason: "overflow".to_owned(),
        message: "too many digits".to_owned(),
    };
    let failures = [failed(Subject::Subscription(subscription)), failed(Subject::Draft(graced.id))];
    let an_hour = Duration::from_secs(3_600);
    billing_failures::record(&mut conn, &failures, an_hour).await.unwrap();
    let left = async || {
        let records = billing_failures::list(&mut pool.acquire().await.unwrap()).await.unwrap();
        records.into_iter().map(|record| record.failure.subject).collect::<Vec<_>>()
    };
    let due = |at| NextDue { organization: ACME, subscription, at };

    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    set_next_due(&mut tx, &[due(Some(month(4)))]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(left().await.len(), 2, "it is still to be billed");
    let customer = (ACME, CustomerId::from_u128(1));
    billing_failures::clear_ended(&mut conn, &[customer], &[]).await.unwrap();
    assert_eq!(left().await.len(), 2, "it has not ended");

    // As the API ends it, for the tenant alone.
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    set_next_due(&mut tx, &[due(None)]).await.unwrap();
    invoices::finalize(&mut tx, ACME, graced.id, month(4)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(left().await, []);

    // What comes late for it failed, and does not any more.
    billing_failures::record(&mut conn, &failures[..1], an_hour).await.unwrap();
    billing_failures::clear_ended(&mut conn, &[customer], &failures[..1]).await.unwrap();
    let stranger = (ACME, CustomerId::from_u128(2));
    billing_failures::clear_ended(&mut conn, &[stranger], &[]).await.unwrap();
    assert_eq!(left().await, [failures[0].subject]);
    billing_failures::clear_ended(&mut conn, &[customer], &[]).await.unwrap();
    assert_eq!(left().await, []);
}
