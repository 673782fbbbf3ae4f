//! Usage that is counted again, as it is told.

use crate::world::World;
use serde_json::{Value as Json, json};
use sqlx::PgPool;

const ROLLS: &str = "/api/billing/v2/usage-rolls";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_metric_on_events_that_came_before_it_is_rolled_and_the_roll_is_told(pool: PgPool) {
    let world = World::new(pool).await;
    assert_eq!(world.get(ROLLS).await.ok()["items"], json!([]));
    // Something was taken from the log.
    weir_store::partitions::ensure(&mut world.pool.acquire().await.unwrap(), 4).await.unwrap();
    sqlx::query("UPDATE log_partitions SET committed = 1").execute(&world.pool).await.unwrap();
    world.metric("calls").await;
    let second = json!({
        "name": "n", "code": "n", "eventCode": "calls", "aggregationType": "SUM_AGG",
        "fieldName": "n",
    });
    let second = world.post("/api/billing/v2/billable-metrics", second).await.ok();

    let rolls = world.get(ROLLS).await.ok()["items"].clone();
    assert_eq!(rolls.as_array().unwrap().len(), 1, "{rolls}");
    let roll = &rolls[0];
    assert_eq!(roll["kind"], "USAGE_ROLL_KIND_METRIC");
    assert_eq!(roll["status"], "USAGE_ROLL_STATUS_WAITING");
    assert_eq!(roll["billableMetricId"], second["billableMetric"]["id"]);
    assert_eq!((&roll["percent"], &roll["partitions"]), (&json!(0), &json!(4)));
    assert!(roll["requestedAt"].is_string() && roll.get("startedAt").is_none(), "{roll}");

    let stranger = world.stranger().await;
    let theirs = world.call_as(Some(&stranger), "GET", ROLLS, Json::Null).await.ok();
    assert_eq!(theirs["items"], json!([]));
}
