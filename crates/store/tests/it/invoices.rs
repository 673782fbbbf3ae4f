//! Invoices: whole, in balance, once, numbered without gaps, fixed when final.

use crate::fixtures::{ACME, deployment, draft, insert, month, subscription, usd};
use sqlx::PgPool;
use weir_billing::invoice::{InvoiceStatus, Period};
use weir_ids::InvoiceId;
use weir_store::{StoreError, Tx, invoices, invoices::Provenance, subscriptions};

fn id(number: u128) -> InvoiceId {
    InvoiceId::from_u128(number)
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_invoice_is_read_as_it_was_written_to_the_last_digit(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let invoice = draft(ACME, 1, 1, 3);
    insert(&mut tx, &invoice).await.unwrap();
    assert_eq!(invoices::find(&mut tx, ACME, invoice.id).await.unwrap(), Some(invoice.clone()));
    assert_eq!(invoices::lock(&mut tx, ACME, invoice.id).await.unwrap(), Some(invoice.clone()));
    let digits: (String, String) =
        sqlx::query_as("SELECT units::text, precise_amount::text FROM fees WHERE position = 1")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
    assert_eq!(digits.0, "99999999999999999999999999.999999999999");
    assert_eq!(digits.1, "0.4949999999999999999999999999999999999999");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_invoice_keeps_what_it_was_computed_from_once_it_is_final(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let now = invoices::provenance_now(&mut conn).await.unwrap();
    assert!(now.catalog_version > 0 && now.watermark.is_none(), "{now:?}");
    insert(&mut conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    assert_eq!(invoices::provenance(&mut conn, ACME, id(1)).await.unwrap(), None);
    let known = Provenance { watermark: Some(month(3)), ..now };
    invoices::set_provenance(&mut conn, &[(ACME, id(1))], known).await.unwrap();
    assert_eq!(invoices::provenance(&mut conn, ACME, id(1)).await.unwrap(), Some(known));
    invoices::finalize(&mut conn, ACME, id(1), month(3)).await.unwrap();
    invoices::set_provenance(&mut conn, &[(ACME, id(1))], now).await.unwrap();
    assert_eq!(invoices::provenance(&mut conn, ACME, id(1)).await.unwrap(), Some(known));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_invoice_that_does_not_add_up_is_neither_written_nor_read(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let mut invoice = draft(ACME, 1, 1, 3);
    invoice.total = usd(2_050);
    let result = insert(&mut conn, &invoice).await;
    assert!(matches!(result, Err(StoreError::Unbalanced { .. })), "{result:?}");
    insert(&mut conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    sqlx::query("UPDATE fees SET amount_minor = 50 WHERE position = 1")
        .execute(&mut *conn)
        .await
        .unwrap();
    let result = invoices::find(&mut conn, ACME, id(1)).await;
    assert!(matches!(result, Err(StoreError::Unbalanced { .. })), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_subscription_has_one_invoice_of_an_instant(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    insert(&mut conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    let mut second = draft(ACME, 2, 1, 3);
    second.subscriptions[0].base = None;
    second.subscriptions[0].usage = None;
    let result = insert(&mut conn, &second).await;
    assert!(result.unwrap_err().is_duplicate_of("invoice_subscriptions_due_key"));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn no_time_is_billed_twice(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let february = Period { start: month(2), end: month(3) };
    let overlapping =
        Some(Period { start: february.end - chrono::Duration::microseconds(1), end: month(4) });
    let mut pool_conn = pool.acquire().await.unwrap();
    insert(&mut pool_conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    drop(pool_conn);
    for (constraint, base, usage) in [
        ("invoice_subscriptions_base_overlap", overlapping, None),
        ("invoice_subscriptions_usage_overlap", None, overlapping),
    ] {
        let mut tx = Tx::begin(&pool, ACME).await.unwrap();
        let mut march = draft(ACME, 2, 1, 4);
        march.subscriptions[0].base = base;
        march.subscriptions[0].usage = usage;
        let result = insert(&mut tx, &march).await;
        assert!(result.unwrap_err().is_duplicate_of(constraint));
    }
    let mut conn = pool.acquire().await.unwrap();
    insert(&mut conn, &draft(ACME, 2, 1, 4)).await.expect("the month after");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_drafts_fees_can_be_replaced(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut invoice = draft(ACME, 1, 1, 3);
    insert(&mut tx, &invoice).await.unwrap();
    invoice.fees.truncate(1);
    invoice.total = usd(2_000);
    invoice.updated_at = month(4);
    invoices::replace_fees(&mut tx, &invoice).await.unwrap();
    assert_eq!(invoices::find(&mut tx, ACME, invoice.id).await.unwrap(), Some(invoice.clone()));
    invoices::finalize(&mut tx, ACME, invoice.id, month(4)).await.unwrap();
    let result = invoices::replace_fees(&mut tx, &invoice).await;
    assert!(matches!(result, Err(StoreError::NotDraft(_))), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn numbers_follow_the_customer_and_the_order_of_dues(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    subscriptions::insert(&mut tx, &subscription(ACME, 2, 1, 1), None).await.unwrap();
    let drafts = [draft(ACME, 30, 1, 3), draft(ACME, 20, 1, 4), draft(ACME, 10, 1, 5)];
    invoices::insert_many(&mut tx, &drafts, None).await.unwrap();
    let all = drafts.each_ref().map(|draft| (ACME, draft.id));
    let finalized = invoices::finalize_many(&mut tx, &all, month(6)).await.unwrap();
    let number = |wanted: u128| {
        finalized.iter().find(|(found, _)| *found == id(wanted)).map(|(_, number)| number.as_str())
    };
    assert_eq!(number(30), Some("ACM-005C-001-001"));
    assert_eq!(number(20), Some("ACM-005C-001-002"));
    assert_eq!(number(10), Some("ACM-005C-001-003"));
    assert!(invoices::finalize_many(&mut tx, &all, month(6)).await.unwrap().is_empty());
    let again = invoices::finalize(&mut tx, ACME, id(30), month(6)).await;
    assert!(matches!(again, Err(StoreError::NotDraft(_))), "{again:?}");
    let found = invoices::find(&mut tx, ACME, id(30)).await.unwrap().unwrap();
    let number = "ACM-005C-001-001".to_owned();
    assert_eq!(found.status, InvoiceStatus::Finalized { number, at: month(6) });

    sqlx::query("UPDATE customers SET invoice_sequence = 999").execute(&mut *tx).await.unwrap();
    insert(&mut tx, &draft(ACME, 40, 2, 3)).await.unwrap();
    let number = invoices::finalize(&mut tx, ACME, id(40), month(6)).await.unwrap();
    assert_eq!(number, "ACM-005C-001-1000");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn two_that_finalize_at_once_take_one_number(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let drafts: Vec<_> = (1..=4).map(|n| draft(ACME, n, 1, n as u32 + 2)).collect();
    invoices::insert_many(&mut pool.acquire().await.unwrap(), &drafts, None).await.unwrap();
    let all: Vec<_> = drafts.iter().map(|draft| (ACME, draft.id)).collect();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (pool, all) = (pool.clone(), all.clone());
            tokio::spawn(async move {
                let mut tx = Tx::begin(&pool, ACME).await.unwrap();
                let done = invoices::finalize_many(&mut tx, &all, month(9)).await.unwrap();
                tx.commit().await.unwrap();
                done.len()
            })
        })
        .collect();
    let mut finalized = 0;
    for task in tasks {
        finalized += task.await.unwrap();
    }
    assert_eq!(finalized, 4);
    let mut numbers: Vec<String> =
        sqlx::query_scalar("SELECT number FROM invoices").fetch_all(&pool).await.unwrap();
    numbers.sort();
    let expected: Vec<String> = (1..=4).map(|n| format!("ACM-005C-001-00{n}")).collect();
    assert_eq!(numbers, expected);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_crash_after_the_number_leaves_no_gap(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    insert(&mut pool.acquire().await.unwrap(), &draft(ACME, 1, 1, 3)).await.unwrap();
    for _ in 0..3 {
        let mut tx = Tx::begin(&pool, ACME).await.unwrap();
        let number = invoices::finalize(&mut tx, ACME, id(1), month(3)).await.unwrap();
        assert_eq!(number, "ACM-005C-001-001");
        tx.rollback().await.unwrap();
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_final_invoice_is_fixed_whoever_tries(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    insert(&mut conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    invoices::finalize(&mut conn, ACME, id(1), month(3)).await.unwrap();
    for statement in [
        "UPDATE invoices SET total_minor = 1",
        "UPDATE invoices SET status = 'draft', number = NULL, sequential_id = NULL, finalized_at = NULL",
        "DELETE FROM fees",
        "UPDATE fees SET amount_minor = 1",
        "INSERT INTO fees SELECT organization_id, '00000000-0000-0000-0000-000000000099', invoice_id,
             subscription_id, 9, kind, charge_id, metric_id, events, name, code, period_start,
             period_end, units, precise_amount, amount_minor, currency FROM fees WHERE position = 0",
        "UPDATE invoice_subscriptions SET usage_end = usage_end + interval '1 day'",
    ] {
        let error = StoreError::from(sqlx::query(statement).execute(&mut *conn).await.unwrap_err());
        assert!(
            matches!(&error, StoreError::Violation { constraint } if constraint == "finalized_invoice_is_fixed"),
            "{statement}: {error:?}"
        );
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_fee_of_a_metric_that_is_not_there_is_refused_and_its_metric_stays(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let known = |error: &StoreError| matches!(error, StoreError::Violation { constraint } if constraint == "fees_metric_known");
    insert(&mut conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    for statement in [
        "UPDATE fees SET metric_id = '00000000-0000-0000-0000-000000000099' WHERE position = 1",
        "INSERT INTO fees SELECT organization_id, '00000000-0000-0000-0000-000000000099', invoice_id,
             subscription_id, 9, kind, charge_id, '00000000-0000-0000-0000-000000000099', events, name,
             code, period_start, period_end, units, precise_amount, amount_minor, currency
         FROM fees WHERE position = 1",
        "DELETE FROM charges; DELETE FROM billable_metrics",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&mut *conn).await.unwrap_err();
        let error = StoreError::from(refused);
        assert!(known(&error), "{statement}: {error:?}");
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_fee_of_a_subscription_that_its_invoice_does_not_settle_is_refused(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let known = |error: &StoreError| matches!(error, StoreError::Violation { constraint } if constraint == "fees_subscription_settled");
    insert(&mut conn, &draft(ACME, 1, 1, 3)).await.unwrap();
    for statement in [
        "UPDATE fees SET subscription_id = '00000000-0000-0000-0000-000000000099'",
        "INSERT INTO fees SELECT organization_id, '00000000-0000-0000-0000-000000000099', invoice_id,
             '00000000-0000-0000-0000-000000000099', 9, kind, charge_id, metric_id, events, name,
             code, period_start, period_end, units, precise_amount, amount_minor, currency
         FROM fees WHERE position = 1",
        "DELETE FROM invoice_subscriptions",
        "UPDATE invoice_subscriptions SET subscription_id = '00000000-0000-0000-0000-000000000099'",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&mut *conn).await.unwrap_err();
        let error = StoreError::from(refused);
        assert!(known(&error), "{statement}: {error:?}");
    }
    // What changes nothing of that is none of its business, and without a fee it may go.
    let allowed = "UPDATE invoice_subscriptions SET position = 7; DELETE FROM fees;
        DELETE FROM invoice_subscriptions";
    sqlx::raw_sql(allowed).execute(&mut *conn).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_number_is_found_to_the_letter_and_by_its_organization(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let invoice = draft(ACME, 1, 1, 3);
    insert(&mut conn, &invoice).await.unwrap();
    let number = invoices::finalize(&mut conn, ACME, invoice.id, month(3)).await.unwrap();
    let found = invoices::find_by_number(&mut conn, ACME, &number).await.unwrap();
    assert_eq!(found.map(|found| found.id), Some(invoice.id));
    for other in [&number[1..], &number.to_lowercase(), "%", ""] {
        assert_eq!(invoices::find_by_number(&mut conn, ACME, other).await.unwrap(), None);
    }
    let foreign = invoices::find_by_number(&mut conn, crate::fixtures::OTHER, &number).await;
    assert_eq!(foreign.unwrap(), None);
}
