//! Metrics that compute, and whose usage is kept apart: an event is taken only if it counts.

use crate::deployment::{ACME, Deployment, SINGLE, embedded, event_with};
use serde_json::{Value, json};
use sqlx::PgPool;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_expression_must_have_a_value_for_the_event(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let expression = "event.properties.input.tokens * 0.5 / event.properties.size";
    let apart = ("region", Some(&["eu"][..]));
    deployment.rows().computed_metric(ACME, 20, "work", expression, apart).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let cases = [
        (json!({ "input": { "tokens": 3 }, "size": "2" }), None),
        (json!({ "input": { "tokens": 3 } }), Some(("properties.size", "REQUIRED"))),
        (json!({ "input": 3, "size": 1 }), Some(("properties.input.tokens", "REQUIRED"))),
        (
            json!({ "input": { "tokens": "x" }, "size": 1 }),
            Some(("properties.input.tokens", "NOT_A_NUMBER")),
        ),
        (json!({ "input": { "tokens": 3 }, "size": 0 }), Some(("properties", "DIVISION_BY_ZERO"))),
        (
            json!({ "input": { "tokens": "0.0000000000001" }, "size": 1 }),
            Some(("properties.input.tokens", "TOO_MANY_DIGITS")),
        ),
        (
            json!({ "input": { "tokens": 9_999_999_999_999_999_u64 }, "size": "0.000001" }),
            Some(("properties", "TOO_MANY_DIGITS")),
        ),
    ];
    for (index, (properties, fault)) in cases.into_iter().enumerate() {
        let mut event = event_with(&format!("t-{index}"), "properties", properties);
        event["code"] = json!("work");
        let answer = edge.batch(std::slice::from_ref(&event)).await;
        match fault {
            None => assert_eq!(answer.words(), ["accepted"], "{event}"),
            Some(fault) => assert_eq!(answer.fault(0), fault, "{event}"),
        }
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_value_by_which_usage_is_kept_apart_has_255_characters_at_most(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let rows = deployment.rows();
    rows.computed_metric(ACME, 20, "any", "1", ("region", None)).await;
    rows.computed_metric(ACME, 21, "some", "1", ("region", Some(&["eu"]))).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let send = async |id: &str, code: &str, region: Value| {
        let mut event =
            event_with(id, "properties", json!({ "region": region, "note": "x".repeat(300) }));
        event["code"] = json!(code);
        edge.post(SINGLE, event.to_string()).await
    };
    assert_eq!(send("a", "any", json!("é".repeat(255))).await.code(), 202);
    let refused = send("b", "any", json!("é".repeat(256))).await;
    assert_eq!(refused.code(), 400);
    assert_eq!(refused.json["error"]["field"], "properties.region");
    assert_eq!(refused.json["error"]["reason"], "TOO_LONG");
    // What no filter names is not kept apart, and may be as long as it likes.
    assert_eq!(send("c", "some", json!("é".repeat(256))).await.code(), 202);
    // Too long is too long, lenient or not.
    rows.settings(ACME, true, None).await;
    deployment.catalog.refresh().await.unwrap();
    assert_eq!(send("d", "any", json!("é".repeat(256))).await.code(), 400);
}
