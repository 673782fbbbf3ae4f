//! Customers.

use crate::fixtures::{ACME, OTHER, customer, deployment, month, organization};
use sqlx::PgPool;
use weir_billing::customer::CustomerDetails;
use weir_ids::CustomerId;
use weir_money::Currency;
use weir_store::{StoreError, Tx, customers};

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn every_detail_is_read_as_it_was_written(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    let mut wanted = customer(ACME, 1);
    wanted.details = CustomerDetails {
        name: text("name"),
        firstname: text("firstname"),
        lastname: text("lastname"),
        email: text("email"),
        phone: text("phone"),
        url: text("url"),
        legal_name: text("legal name"),
        legal_number: text("legal number"),
        tax_identification_number: text("tax"),
        address_line1: text("line 1"),
        address_line2: text("line 2"),
        city: text("city"),
        state: text("state"),
        zipcode: text("zip"),
        country: text("NP"),
        currency: Some(Currency::parse("KWD").unwrap()),
        timezone: Some(chrono_tz::Asia::Kathmandu),
        invoice_grace_period_days: Some(3),
        net_payment_term_days: Some(u16::MAX),
    };
    let written = customers::insert(&mut tx, wanted.clone()).await.unwrap();
    assert_eq!(written.sequential_id, 1);
    wanted.sequential_id = 1;
    assert_eq!(written, wanted);
    assert_eq!(customers::find(&mut tx, ACME, wanted.id).await.unwrap(), Some(wanted.clone()));

    wanted.details =
        CustomerDetails { timezone: Some(chrono_tz::UTC), ..CustomerDetails::default() };
    customers::save(&mut tx, &wanted).await.unwrap();
    assert_eq!(customers::lock(&mut tx, ACME, wanted.id).await.unwrap(), Some(wanted.clone()));
    let found = customers::find_by_external_id(&mut tx, ACME, "customer-1").await.unwrap();
    assert_eq!(found, Some(wanted));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn customers_are_numbered_without_gaps_in_each_organization(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    organization(&pool, OTHER, "Other").await;
    for (id, keep, expected) in [(1, true, 1), (2, false, 2), (3, true, 2), (4, true, 3)] {
        let mut tx = Tx::begin(&pool, ACME).await.unwrap();
        let written = customers::insert(&mut tx, customer(ACME, id)).await.unwrap();
        assert_eq!(written.sequential_id, expected, "customer {id}");
        if keep {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    let mut tx = Tx::begin(&pool, OTHER).await.unwrap();
    assert_eq!(customers::insert(&mut tx, customer(OTHER, 1)).await.unwrap().sequential_id, 1);
    let mut conn = pool.acquire().await.unwrap();
    let nowhere = weir_ids::OrganizationId::from_u128(99);
    let result = customers::insert(&mut conn, customer(nowhere, 1)).await;
    assert!(matches!(result, Err(StoreError::NotFound)), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_external_id_is_free_again_once_its_customer_is_archived(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let mut twin = customer(ACME, 2);
    twin.external_id = "customer-1".to_owned();
    let result = customers::insert(&mut conn, twin.clone()).await;
    assert!(result.unwrap_err().is_duplicate_of("customers_external_id_key"));
    customers::archive(&mut conn, ACME, CustomerId::from_u128(1), month(2)).await.unwrap();
    assert_eq!(customers::insert(&mut conn, twin).await.unwrap().sequential_id, 2);
    let result = customers::archive(&mut conn, ACME, CustomerId::from_u128(1), month(2)).await;
    assert!(matches!(result, Err(StoreError::NotFound)), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn active_subscriptions_are_counted(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let ids = [CustomerId::from_u128(1), CustomerId::from_u128(2)];
    let counts = customers::active_subscriptions(&mut conn, ACME, &ids, month(2)).await.unwrap();
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(ids[0], 1)]);
    let before = month(2) - chrono::Duration::microseconds(1);
    assert!(
        customers::active_subscriptions(&mut conn, ACME, &ids, before).await.unwrap().is_empty()
    );
    assert_eq!(customers::find_many(&mut conn, ACME, &ids).await.unwrap().len(), 1);
}
