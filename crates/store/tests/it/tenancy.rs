//! One organization never sees or writes another's rows, even where a statement forgets to filter.

use crate::fixtures::{ACME, OTHER, deployment, draft, insert, metric};
use sqlx::{AssertSqlSafe, PgPool};
use std::time::Duration;
use weir_billing::invoice::Invoice;
use weir_ids::OrganizationId;
use weir_store::billing_failures::{Failure, Subject};
use weir_store::{StoreError, Tx, billable_metrics, billing_failures, idempotency};

async fn filled(pool: &PgPool, organization: OrganizationId, name: &str) {
    deployment(pool, organization, name).await;
    let mut tx = Tx::begin(pool, organization).await.unwrap();
    let invoice: Invoice = draft(organization, 1, 1, 3);
    insert(&mut tx, &invoice).await.unwrap();
    let request = idempotency::Request { key: "one", rpc: "Create", hash: [1; 32] };
    idempotency::claim(&mut tx, organization, &request).await.unwrap();
    idempotency::record(&mut tx, organization, "one", 1).await.unwrap();
    tx.commit().await.unwrap();
    let failure = Failure {
        organization,
        subject: Subject::Draft(invoice.id),
        due_at: invoice.due_at,
        reason: "test".to_owned(),
        message: "test".to_owned(),
    };
    let mut conn = pool.acquire().await.unwrap();
    billing_failures::record(&mut conn, &[failure], Duration::from_secs(60)).await.unwrap();
    let bits = organization.as_u128();
    let roll = format!(
        "INSERT INTO log_partitions (partition) VALUES (0) ON CONFLICT DO NOTHING;
         INSERT INTO usage_rolls (generation, organization_id, kind, state)
         VALUES ({bits}, '{bits:032x}', 'cells', 'waiting');
         INSERT INTO usage_roll_cells (generation, organization_id, subscription_id)
         VALUES ({bits}, '{bits:032x}', '{bits:032x}');
         INSERT INTO usage_roll_partitions
             (generation, organization_id, partition, to_position, catalog_version)
         VALUES ({bits}, '{bits:032x}', 0, 0, 0);
         INSERT INTO event_voids (organization_id, transaction_id, external_subscription_id, code,
             timestamp, voided_at, voided_by)
         VALUES ('{bits:032x}', 'one', 'sub-1', 'tokens', now(), now(), 'test');
         INSERT INTO pending_true_ups
             (organization_id, subscription_id, metric_id, period_start, period_end)
         SELECT s.organization_id, s.id, m.id, now(), now()
         FROM subscriptions s JOIN billable_metrics m USING (organization_id)
         WHERE organization_id = '{bits:032x}'"
    );
    sqlx::raw_sql(AssertSqlSafe(roll)).execute(&mut *conn).await.unwrap();
}

async fn tenant_tables(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        // Views are not for tenants at all.
        "SELECT table_name::text
         FROM information_schema.columns
         JOIN information_schema.tables USING (table_schema, table_name)
         WHERE table_schema = 'public' AND column_name = 'organization_id'
           AND table_type = 'BASE TABLE'
         ORDER BY table_name",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_query_that_forgets_the_organization_sees_only_its_own_rows(pool: PgPool) {
    filled(&pool, ACME, "Acme").await;
    filled(&pool, OTHER, "Other").await;
    for table in tenant_tables(&pool).await {
        if table.starts_with("catalog_") {
            continue;
        }
        let count = |what: &str| AssertSqlSafe(format!("SELECT {what} FROM {table}"));
        let all: i64 = sqlx::query_scalar(count("count(DISTINCT organization_id)"))
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(all, 2, "the test fills {table} for both");
        let mut tx = Tx::begin(&pool, ACME).await.unwrap();
        let seen: Vec<String> = sqlx::query_scalar(count("DISTINCT organization_id::text"))
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        assert_eq!(seen, ["00000000-0000-0000-0000-0000000000ac"], "{table}");
    }
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM organizations").fetch_all(&mut *tx).await.unwrap();
    assert_eq!(names, ["Acme"]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn every_table_of_tenants_has_row_level_security_and_a_policy(pool: PgPool) {
    let mut tables = tenant_tables(&pool).await;
    assert!(tables.len() >= 14, "{tables:?}");
    tables.push("organizations".to_owned());
    for table in tables {
        let guarded: bool = sqlx::query_scalar(
            "SELECT c.relrowsecurity AND EXISTS (
                 SELECT FROM pg_policies p
                 WHERE p.tablename = c.relname AND p.roles = '{weir_tenant}' AND p.cmd = 'ALL'
                   AND p.qual = p.with_check AND p.qual LIKE '%weir_organization()%')
             FROM pg_class c
             WHERE c.oid = $1::text::regclass",
        )
        .bind(&table)
        .fetch_one(&pool)
        .await
        .unwrap();
        assert!(guarded, "{table}");
    }
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn writing_for_another_organization_is_refused(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    deployment(&pool, OTHER, "Other").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let result = billable_metrics::insert(&mut tx, &metric(OTHER, 9, "stolen")).await;
    assert!(matches!(result, Err(StoreError::Database(_))), "{result:?}");
    drop(tx);
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let renamed = metric(OTHER, 1, "tokens");
    let result = billable_metrics::save(&mut tx, &renamed).await;
    assert!(matches!(result, Err(StoreError::NotFound)), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn the_role_and_the_organization_end_with_the_transaction(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    for statement in [
        "BEGIN",
        "SELECT set_config('weir.organization', '00000000-0000-0000-0000-0000000000ac', true), \
         set_config('role', 'weir_tenant', true)",
        "COMMIT",
    ] {
        sqlx::query(statement).execute(&mut *conn).await.unwrap();
    }
    let (role, organization): (String, Option<String>) =
        sqlx::query_as("SELECT current_user::text, weir_organization()::text")
            .fetch_one(&mut *conn)
            .await
            .unwrap();
    assert_ne!(role, "weir_tenant");
    assert_eq!(organization, None);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_tenant_can_change_neither_the_pipeline_nor_a_plan_version(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    for statement in [
        "UPDATE log_partitions SET committed = 0",
        "SELECT * FROM chunk_intents",
        "SELECT committed FROM log_partitions",
        "UPDATE usage_rolls SET state = 'done'",
        "DELETE FROM usage_roll_cells",
        "INSERT INTO usage_roll_partitions SELECT * FROM usage_roll_partitions",
        "UPDATE event_voids SET generation = 1",
        "DELETE FROM event_voids",
        "SELECT * FROM aggregators",
        "SELECT * FROM unsettled_organizations",
        "SELECT usage_starts_now()",
        "UPDATE catalog_version SET version = 0",
        "INSERT INTO test_clock (now, moved_at) VALUES (now(), now())",
        "SELECT catalog_next_version()",
        "UPDATE plan_versions SET amount_minor = 1",
        "DELETE FROM charges",
        "DELETE FROM invoices",
    ] {
        let mut tx = Tx::begin(&pool, ACME).await.unwrap();
        let error = sqlx::query(statement).execute(&mut *tx).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}");
    }
}
