//! Metrics, plans and their versions.

use crate::fixtures::{
    ACME, deployment, draft, insert, metric, month, organization, plan, subscription, version,
};
use sqlx::PgPool;
use weir_ids::{BillableMetricId, PlanId, SubscriptionId};
use weir_store::{StoreError, Tx, billable_metrics, billing, plans, subscriptions};

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_metric_is_read_as_it_was_written(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut tokens = metric(ACME, 1, "tokens");
    tokens.description = Some("what went in".to_owned());
    billable_metrics::insert(&mut tx, &tokens).await.unwrap();
    assert_eq!(
        billable_metrics::find(&mut tx, ACME, tokens.id).await.unwrap(),
        Some(tokens.clone())
    );
    let found = billable_metrics::find_by_code(&mut tx, ACME, "tokens").await.unwrap();
    assert_eq!(found, Some(tokens.clone()));
    tokens.name = "Tokens".to_owned();
    billable_metrics::save(&mut tx, &tokens).await.unwrap();
    assert_eq!(
        billable_metrics::lock(&mut tx, ACME, tokens.id).await.unwrap(),
        Some(tokens.clone())
    );

    let twin = billable_metrics::insert(&mut tx, &metric(ACME, 2, "tokens")).await;
    assert!(twin.unwrap_err().is_duplicate_of("billable_metrics_code_key"));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_archived_metric_frees_its_code_and_is_still_found_by_id(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let tokens = metric(ACME, 1, "tokens");
    billable_metrics::insert(&mut conn, &tokens).await.unwrap();
    billable_metrics::archive(&mut conn, ACME, tokens.id, month(2)).await.unwrap();
    let again = billable_metrics::archive(&mut conn, ACME, tokens.id, month(2)).await;
    assert!(matches!(again, Err(StoreError::NotFound)), "{again:?}");
    let saved = billable_metrics::save(&mut conn, &tokens).await;
    assert!(matches!(saved, Err(StoreError::NotFound)), "{saved:?}");
    assert_eq!(billable_metrics::find_by_code(&mut conn, ACME, "tokens").await.unwrap(), None);
    let found = billable_metrics::find(&mut conn, ACME, tokens.id).await.unwrap().unwrap();
    assert_eq!(found.deleted_at, Some(month(2)));
    billable_metrics::insert(&mut conn, &metric(ACME, 2, "tokens")).await.unwrap();
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn every_charge_model_is_read_as_it_was_written(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    billable_metrics::insert(&mut tx, &metric(ACME, 1, "tokens")).await.unwrap();
    let team = plan(ACME, 1, "team", 1);
    plans::insert(&mut tx, &team).await.unwrap();
    assert_eq!(plans::find(&mut tx, ACME, team.id).await.unwrap(), Some(team.clone()));
    assert_eq!(plans::find_by_code(&mut tx, ACME, "team").await.unwrap(), Some(team.clone()));
    assert_eq!(plans::lock(&mut tx, ACME, team.id).await.unwrap(), Some(team.clone()));
    let version = plans::find_version(&mut tx, ACME, team.version.id).await.unwrap();
    assert_eq!(version, Some(team.version));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_plan_is_shown_in_its_newest_version_and_the_old_one_stays(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut team = plan(ACME, 1, "team", 1);
    let first = team.version.clone();
    team.version = version(1, 2, 1);
    team.name = "Team".to_owned();
    plans::add_version(&mut tx, ACME, &team.version).await.unwrap();
    plans::save(&mut tx, &team).await.unwrap();
    assert_eq!(plans::find(&mut tx, ACME, team.id).await.unwrap(), Some(team.clone()));
    assert_eq!(plans::find_version(&mut tx, ACME, first.id).await.unwrap(), Some(first));
    let mut twin = version(1, 2, 1);
    twin.id = weir_ids::PlanVersionId::from_u128(77);
    let twin = plans::add_version(&mut tx, ACME, &twin).await;
    assert!(twin.unwrap_err().is_duplicate_of("plan_versions_number_key"));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_charge_on_a_metric_that_is_not_there_is_refused(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let result = plans::insert(&mut conn, &plan(ACME, 1, "team", 99)).await;
    assert!(matches!(result, Err(StoreError::Violation { .. })), "{result:?}");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn an_edit_reaches_live_subscriptions_only_when_cascaded(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    let mut ended = subscription(ACME, 2, 1, 1);
    ended.terminated_at = Some(month(4));
    let mut pending = subscription(ACME, 3, 1, 1);
    pending.started_at = month(9);
    subscriptions::insert(&mut tx, &ended, None).await.unwrap();
    subscriptions::insert(&mut tx, &pending, None).await.unwrap();
    let second = version(1, 2, 1);
    plans::add_version(&mut tx, ACME, &second).await.unwrap();

    let plan = PlanId::from_u128(1);
    let numbers = async |tx: &mut Tx, id: u128| -> Vec<(u32, _)> {
        let wanted = [(ACME, SubscriptionId::from_u128(id))];
        let found = billing::agreements(tx, &wanted).await.unwrap().remove(0);
        found.versions.iter().map(|one| (one.version.number, one.from)).collect()
    };
    assert_eq!(numbers(&mut tx, 1).await, [(1, month(2))]);
    assert_eq!(plans::cascade(&mut tx, ACME, plan, second.id, month(5)).await.unwrap(), 2);
    assert_eq!(numbers(&mut tx, 1).await, [(1, month(2)), (2, month(5))]);
    assert_eq!(numbers(&mut tx, 2).await, [(1, month(2))]);
    assert_eq!(numbers(&mut tx, 3).await, [(2, month(9))], "from its start");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_start_before_the_plan_was_made_takes_its_first_version(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    plans::add_version(&mut tx, ACME, &version(1, 2, 1)).await.unwrap();
    let mut early = subscription(ACME, 2, 1, 1);
    early.started_at = month(1) - chrono::Duration::days(30);
    subscriptions::insert(&mut tx, &early, None).await.unwrap();
    subscriptions::insert(&mut tx, &subscription(ACME, 3, 1, 1), None).await.unwrap();
    let wanted = [(ACME, SubscriptionId::from_u128(2)), (ACME, SubscriptionId::from_u128(3))];
    let found = billing::agreements(&mut tx, &wanted).await.unwrap();
    let numbers: Vec<u32> = found.iter().map(|one| one.versions[0].version.number).collect();
    assert_eq!(numbers, [1, 2]);
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn uses_of_plans_and_metrics_are_counted(pool: PgPool) {
    deployment(&pool, ACME, "Acme").await;
    let mut tx = Tx::begin(&pool, ACME).await.unwrap();
    billable_metrics::insert(&mut tx, &metric(ACME, 2, "unused")).await.unwrap();
    insert(&mut tx, &draft(ACME, 1, 1, 3)).await.unwrap();
    let (used, unused) = (BillableMetricId::from_u128(1), BillableMetricId::from_u128(2));
    let uses = billable_metrics::uses(&mut tx, ACME, &[used, unused], month(3)).await.unwrap();
    let found = uses[&used];
    assert!(
        found.plans && found.subscriptions && found.active_subscriptions && found.draft_invoices
    );
    assert_eq!(uses[&unused], billable_metrics::MetricUses::default());
    let before = billable_metrics::uses(&mut tx, ACME, &[used], month(1)).await.unwrap();
    assert!(!before[&used].active_subscriptions, "it starts in February");

    let plan = PlanId::from_u128(1);
    let counts = plans::counts(&mut tx, ACME, &[plan], month(3)).await.unwrap()[&plan];
    let expected = plans::PlanCounts {
        subscriptions: 1,
        active_subscriptions: 1,
        customers: 1,
        draft_invoices: 1,
    };
    assert_eq!(counts, expected);
}
