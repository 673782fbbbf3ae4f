//! What a tenant decides, and what the catalog keeps of it.

use crate::fixtures::{ACME, OTHER, organization};
use sqlx::PgPool;
use std::time::Duration;
use weir_store::catalog::{OrganizationRow, changes, load, version};
use weir_store::organizations::{LateEvents, OrganizationSettings, set_settings, settings};
use weir_store::{StoreError, aggregators};

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn settings_are_kept_and_the_edges_part_is_in_the_catalog(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    organization(&pool, OTHER, "Other").await;
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), 0, "defaults are no news");
    assert_eq!(settings(&mut conn, ACME).await.unwrap(), OrganizationSettings::default());

    let mut wanted = OrganizationSettings {
        lenient: true,
        late_events: LateEvents::Ignore,
        events_per_second_max: Some(1_000),
    };
    set_settings(&mut conn, ACME, &wanted).await.unwrap();
    assert_eq!(settings(&mut conn, ACME).await.unwrap(), wanted);
    assert_eq!(settings(&mut conn, OTHER).await.unwrap(), OrganizationSettings::default());
    let row = |lenient, events_per_second_max| OrganizationRow {
        id: ACME,
        lenient,
        events_per_second_max,
    };
    assert_eq!(load(&mut conn, 1).await.unwrap().organizations, [row(true, Some(1_000))]);

    wanted.late_events = LateEvents::TrueUp;
    set_settings(&mut conn, ACME, &wanted).await.unwrap();
    assert_eq!(version(&mut conn).await.unwrap(), 1, "nothing for the edge");
    wanted.lenient = false;
    set_settings(&mut conn, ACME, &wanted).await.unwrap();
    let changed = changes(&mut conn, 1, 2).await.unwrap();
    assert_eq!(changed.closed.organizations, [row(true, Some(1_000))]);
    assert_eq!(changed.opened.organizations, [row(false, Some(1_000))]);
    set_settings(&mut conn, ACME, &OrganizationSettings::default()).await.unwrap();
    assert!(load(&mut conn, 3).await.unwrap().organizations.is_empty());
    let ever: bool =
        sqlx::query_scalar("SELECT ever_lenient FROM organizations WHERE name = 'Acme'")
            .fetch_one(&mut *conn)
            .await
            .unwrap();
    assert!(ever, "events from that time may be there");

    let none = OrganizationSettings { events_per_second_max: Some(0), ..wanted };
    let refused = set_settings(&mut conn, ACME, &none).await;
    assert!(matches!(refused, Err(StoreError::Violation { .. })), "{refused:?}");
    let unknown = weir_ids::OrganizationId::from_u128(9);
    assert!(matches!(settings(&mut conn, unknown).await, Err(StoreError::NotFound)));
    assert!(matches!(set_settings(&mut conn, unknown, &wanted).await, Err(StoreError::NotFound)));
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn aggregators_know_of_each_other_while_they_are_heard_of(pool: PgPool) {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(aggregators::heartbeat(&mut conn, "b", MINUTE).await.unwrap(), ["b"]);
    assert_eq!(aggregators::heartbeat(&mut conn, "a", MINUTE).await.unwrap(), ["a", "b"]);
    sqlx::query(
        "UPDATE aggregators SET seen_at = seen_at - interval '2 minutes' WHERE owner = 'b'",
    )
    .execute(&mut *conn)
    .await
    .unwrap();
    assert_eq!(aggregators::heartbeat(&mut conn, "a", MINUTE).await.unwrap(), ["a"]);
    assert_eq!(aggregators::heartbeat(&mut conn, "b", MINUTE).await.unwrap(), ["a", "b"]);
    aggregators::leave(&mut conn, "a").await.unwrap();
    aggregators::leave(&mut conn, "a").await.unwrap();
    assert_eq!(aggregators::heartbeat(&mut conn, "b", MINUTE).await.unwrap(), ["b"]);
}
