//! The caller's organization and its settings.

use crate::world::World;
use serde_json::{Value as Json, json};
use sqlx::PgPool;

const ORGANIZATION: &str = "/api/billing/v2/account/organization";

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_organization_reads_and_changes_its_own_settings(pool: PgPool) {
    let world = World::new(pool).await;
    let organization = world.get(ORGANIZATION).await.ok()["organization"].clone();
    assert_eq!(organization["name"], "Acme");
    assert_eq!(
        (&organization["lenient"], organization.get("eventsPerSecondMax")),
        (&json!(false), None)
    );
    assert_eq!(organization["lateEvents"], "LATE_EVENTS_TRUE_UP");

    let change = json!({ "lenient": true, "lateEvents": "IGNORE", "eventsPerSecondMax": 500 });
    let changed = world.call("PUT", ORGANIZATION, change).await.ok()["organization"].clone();
    assert_eq!((&changed["lenient"], &changed["name"]), (&json!(true), &json!("Acme")));
    assert_eq!(changed["lateEvents"], "LATE_EVENTS_IGNORE");
    assert_eq!(changed["eventsPerSecondMax"], 500);
    let change = json!({ "name": "Acme Inc.", "lenient": null, "eventsPerSecondMax": null });
    let changed = world.call("PUT", ORGANIZATION, change).await.ok()["organization"].clone();
    assert_eq!((&changed["lenient"], &changed["name"]), (&json!(false), &json!("Acme Inc.")));
    assert_eq!(changed.get("eventsPerSecondMax"), None);
    assert_eq!(changed["lateEvents"], "LATE_EVENTS_IGNORE", "what is not named stays");
    assert_eq!(world.get(ORGANIZATION).await.ok()["organization"], changed);

    let stranger = world.stranger().await;
    let theirs = world.call_as(Some(&stranger), "GET", ORGANIZATION, Json::Null).await.ok();
    assert_eq!(theirs["organization"]["name"], "Other");
    assert_eq!(theirs["organization"]["lateEvents"], "LATE_EVENTS_TRUE_UP");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_fault_of_a_setting_is_named_and_a_name_is_taken_once(pool: PgPool) {
    let world = World::new(pool).await;
    world.stranger().await;
    let cases = [
        (json!({ "name": "" }), "name"),
        (json!({ "eventsPerSecondMax": 0 }), "eventsPerSecondMax"),
        (json!({ "eventsPerSecondMax": 10_000_001 }), "eventsPerSecondMax"),
        (json!({ "lateEvents": "SOON" }), "lateEvents"),
        (json!({ "timezone": "UTC" }), "timezone"),
    ];
    for (body, field) in cases {
        let answer = world.call("PUT", ORGANIZATION, body).await;
        answer.refused(400, "FIELD_INVALID");
        assert_eq!(answer.fields(), [field]);
    }
    let answer = world.call("PUT", ORGANIZATION, json!({ "name": "Other" })).await;
    answer.refused(409, "ALREADY_EXISTS");
    assert_eq!(answer.fields(), ["name"]);
}
