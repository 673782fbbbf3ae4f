//! Migrations as such.

use sqlx::PgPool;

#[sqlx::test(migrations = false)]
async fn any_number_of_processes_may_migrate_at_once(pool: PgPool) {
    let (one, two, three) = tokio::join!(
        weir_store::migrate(&pool),
        weir_store::migrate(&pool),
        weir_store::migrate(&pool)
    );
    one.unwrap();
    two.unwrap();
    three.unwrap();
    weir_store::ping(&pool).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_role_that_is_no_superuser_can_migrate_and_act_for_tenants(pool: PgPool) {
    // Only what the migration needs of a managed Postgres' administrator.
    let name: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.unwrap();
    let suffix: String = name.chars().rev().take(12).collect();
    let role = format!("weir_admin_{suffix}").to_lowercase().replace('-', "_");
    let run = |sql: String| {
        let pool = pool.clone();
        async move { sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap() }
    };
    run(format!("CREATE ROLE {role} CREATEROLE; GRANT weir_tenant TO {role} WITH ADMIN OPTION"))
        .await;
    run(format!(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {role};
         GRANT CREATE ON DATABASE \"{name}\" TO {role}"
    ))
    .await;
    let mut conn = pool.acquire().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET ROLE {role}")))
        .execute(&mut *conn)
        .await
        .unwrap();
    let migrated = sqlx::migrate!("../../migrations/postgres").run(&mut *conn).await;
    let acted = sqlx::raw_sql("BEGIN; SET LOCAL ROLE weir_tenant; SELECT * FROM customers; COMMIT")
        .execute(&mut *conn)
        .await;
    drop(conn);
    run(format!("RESET ROLE; DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
    migrated.unwrap();
    acted.unwrap();
}
