//! Following Postgres, and looking back.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool};
use std::sync::Arc;
use std::time::Duration;
use weir_catalog::{Aggregation, Catalog, CatalogError, Snapshot};
use weir_ids::{OrganizationId, SubscriptionId};
use weir_runtime::{Clock, Shutdown};
use weir_store::{catalog, clock};

const ACME: OrganizationId = OrganizationId::from_u128(0xAC);

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
}

fn uuid(bits: u128) -> String {
    format!("'{bits:032x}'")
}

/// An organization with one customer and one plan.
async fn deployment(pool: &PgPool) {
    let id = uuid(ACME.as_u128());
    run(
        pool,
        &format!(
            "INSERT INTO organizations (id, name, document_number_prefix, created_at)
             VALUES ({id}, 'Acme', 'ACM-0001', now());
             INSERT INTO customers (organization_id, id, external_id, sequential_id, created_at,
                 updated_at)
             VALUES ({id}, {id}, 'customer', 1, now(), now());
             INSERT INTO plans (organization_id, id, code, name, created_at, updated_at)
             VALUES ({id}, {id}, 'plan', 'plan', now(), now())"
        ),
    )
    .await;
}

async fn add_metric(pool: &PgPool, id: u128, event_code: &str) {
    let (organization, id) = (uuid(ACME.as_u128()), uuid(id));
    run(
        pool,
        &format!(
            "INSERT INTO billable_metrics (organization_id, id, name, code, event_code,
                 aggregation, field_name, created_at, updated_at)
             VALUES ({organization}, {id}, 'm', {id}, '{event_code}', 'sum', 'v', now(), now())"
        ),
    )
    .await;
}

async fn add_subscription(pool: &PgPool, id: u128, external_id: &str) {
    let (organization, id) = (uuid(ACME.as_u128()), uuid(id));
    run(
        pool,
        &format!(
            "INSERT INTO subscriptions (organization_id, id, customer_id, plan_id, external_id,
                 started_at, created_at, updated_at)
             VALUES ({organization}, {id}, {organization}, {organization}, '{external_id}',
                 '2026-01-01Z', now(), now())"
        ),
    )
    .await;
}

async fn started(pool: &PgPool, clock: &Clock, shutdown: &Shutdown) -> Arc<Catalog> {
    Catalog::start(pool.clone(), clock.clone(), shutdown.clone()).await.unwrap()
}

/// Polls, with a deadline, until the snapshot is as wanted; never asks Postgres itself.
async fn until(catalog: &Catalog, wanted: impl Fn(&Snapshot) -> bool) {
    let arrives = async {
        while !wanted(&catalog.snapshot()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), arrives).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_change_arrives_without_being_asked_for(pool: PgPool) {
    deployment(&pool).await;
    let shutdown = Shutdown::new();
    let catalog = started(&pool, &Clock::real(), &shutdown).await;
    assert!(catalog.snapshot().metrics(ACME, "llm").is_empty());
    add_metric(&pool, 1, "llm").await;
    until(&catalog, |snapshot| snapshot.metrics(ACME, "llm").len() == 1).await;
    let snapshot = catalog.snapshot();
    let metric = &snapshot.metrics(ACME, "llm")[0];
    assert_eq!((metric.aggregation, metric.field.as_deref()), (Aggregation::Sum, Some("v")));

    run(&pool, "UPDATE billable_metrics SET deleted_at = now()").await;
    until(&catalog, |snapshot| snapshot.metrics(ACME, "llm").is_empty()).await;
    shutdown.cancel();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_named_version_is_fetched_at_once_and_a_later_one_refused(pool: PgPool) {
    deployment(&pool).await;
    let shutdown = Shutdown::new();
    let catalog = started(&pool, &Clock::real(), &shutdown).await;
    shutdown.cancel();
    add_subscription(&pool, 1, "acme").await;
    let newest = catalog::version(&mut pool.acquire().await.unwrap()).await.unwrap();
    let snapshot = catalog.at_least(newest).await.unwrap();
    assert_eq!(snapshot.version, newest);
    assert_eq!(snapshot.subscription(ACME, "acme").unwrap().len(), 1);
    let result = catalog.at_least(newest + 1).await;
    let not_yet = |error: &CatalogError| {
        matches!(error, CatalogError::NotYet { wanted, newest: found }
            if *wanted == newest + 1 && *found == newest)
    };
    assert!(result.as_ref().is_err_and(not_yet), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn every_older_version_is_what_it_was(pool: PgPool) {
    deployment(&pool).await;
    let shutdown = Shutdown::new();
    let catalog = started(&pool, &Clock::real(), &shutdown).await;
    shutdown.cancel();
    let first = catalog.snapshot().version;
    for n in 1..=3 {
        add_metric(&pool, n, "llm").await;
        add_subscription(&pool, n, &format!("sub-{n}")).await;
    }
    for change in [
        "UPDATE billable_metrics SET event_code = 'tokens' WHERE right(id::text, 1) = '2'",
        "UPDATE subscriptions SET terminated_at = '2026-06-01Z' WHERE external_id = 'sub-1'",
        "UPDATE subscriptions SET external_id = 'renamed' WHERE external_id = 'sub-2'",
        "UPDATE billable_metrics SET deleted_at = now() WHERE right(id::text, 1) = '1'",
        "UPDATE subscriptions SET terminated_at = '2025-01-01Z' WHERE external_id = 'sub-3'",
        "UPDATE billable_metrics SET aggregation = 'count', field_name = NULL",
    ] {
        run(&pool, change).await;
    }
    let at: DateTime<Utc> = "2026-07-01T00:00:00Z".parse().unwrap();
    let seen = |snapshot: &Snapshot| {
        let codes = ["llm", "tokens"].map(|code| snapshot.metrics(ACME, code).to_vec());
        let names = ["sub-1", "sub-2", "sub-3", "renamed"];
        let spans = names.map(|name| snapshot.subscription(ACME, name).map(<[_]>::to_vec));
        let holding: [Option<SubscriptionId>; 4] =
            names.map(|name| snapshot.subscription_at(ACME, name, at.timestamp_micros()));
        (codes, spans, holding)
    };
    let newest = catalog.refresh().await.unwrap().version;
    assert_eq!(newest, first + 12);
    for version in (first..=newest).chain([first + 3, first + 3]) {
        let rows = catalog::load(&mut pool.acquire().await.unwrap(), version).await.unwrap();
        let expected = Snapshot::new(version, rows);
        let found = catalog.as_of(version).await.unwrap();
        assert_eq!(found.version, version);
        assert_eq!(seen(&found), seen(&expected), "version {version}");
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn the_clock_follows_the_deployments_test_clock(pool: PgPool) {
    let time = |text: &str| -> DateTime<Utc> { text.parse().unwrap() };
    let (begin, later) = (time("2023-11-17T00:00:00Z"), time("2023-12-02T00:00:00Z"));
    clock::start_test_clock(&mut pool.acquire().await.unwrap(), begin).await.unwrap();
    let (own, shutdown) = (Clock::real(), Shutdown::new());
    let catalog = started(&pool, &own, &shutdown).await;
    assert!(own.is_test() && own.now() == begin);
    clock::advance(&mut pool.acquire().await.unwrap(), later).await.unwrap();
    let arrives = async {
        while own.now() != later {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), arrives).await.unwrap();

    // Whoever moves it in this process is ahead of what was read a moment ago.
    own.set(later + chrono::Duration::days(1));
    catalog.refresh().await.unwrap();
    assert_eq!(own.now(), later + chrono::Duration::days(1));
    shutdown.cancel();
}
