//! The test clock.

use crate::fixtures::{ACME, month, organization};
use sqlx::PgPool;
use weir_store::StoreError;
use weir_store::clock::{advance, database_now, start, start_test_clock, test_clock};

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_new_deployment_may_run_on_a_test_clock_and_keeps_it(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(test_clock(&mut conn).await.unwrap(), None);
    let clock = start_test_clock(&mut conn, month(2)).await.unwrap();
    assert_eq!(clock.now, month(2));
    organization(&pool, ACME, "Acme").await;
    let moved = advance(&mut conn, month(4)).await.unwrap();
    assert!(moved.now == month(4) && moved.moved_at > clock.moved_at);
    let again = start_test_clock(&mut conn, month(2)).await.unwrap();
    assert_eq!(again, moved, "a restart goes on where it stood");
    let started = start(&pool, Some(month(2))).await.unwrap();
    assert!(started.is_test() && started.now() == month(4));
    assert!(start(&pool, None).await.unwrap().is_test(), "the other roles need no flag");
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn the_clock_never_goes_back_but_may_be_moved_to_where_it_stands(pool: PgPool) {
    let mut conn = pool.acquire().await.unwrap();
    let clock = start_test_clock(&mut conn, month(4)).await.unwrap();
    let result = advance(&mut conn, month(3)).await;
    assert!(
        matches!(result, Err(StoreError::ClockBackwards { now, to }) if now == month(4) && to == month(3)),
        "{result:?}"
    );
    let settled = advance(&mut conn, month(4)).await.unwrap();
    assert!(settled.moved_at > clock.moved_at, "so that the watermark has to pass it");
    assert!(settled.moved_at <= database_now(&mut conn).await.unwrap());
}

#[sqlx::test(migrations = "../../migrations/postgres")]
async fn a_deployment_on_the_real_clock_stays_on_it(pool: PgPool) {
    organization(&pool, ACME, "Acme").await;
    let mut conn = pool.acquire().await.unwrap();
    let result = start_test_clock(&mut conn, month(2)).await;
    assert!(matches!(result, Err(StoreError::RealClock)), "{result:?}");
    let result = advance(&mut conn, month(2)).await;
    assert!(matches!(result, Err(StoreError::RealClock)), "{result:?}");
    assert!(!start(&pool, None).await.unwrap().is_test());
}
