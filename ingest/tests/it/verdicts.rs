//! What each event is answered, and what the log then holds.

use crate::deployment::{ACME, BATCH, Deployment, SINGLE, embedded, event, event_with, now};
use serde_json::{Value, json};
use sqlx::PgPool;
use weir_ingest::Config;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_single_event_is_accepted_then_a_duplicate_then_a_conflict(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;

    let first = edge.post(SINGLE, event("t-1").to_string()).await;
    assert_eq!(first.code(), 202);
    assert_eq!(first.json, json!({ "transactionId": "t-1", "status": "accepted" }));

    let again = edge.post(SINGLE, event("t-1").to_string()).await;
    assert_eq!(again.code(), 200);
    assert_eq!(again.json, json!({ "transactionId": "t-1", "status": "duplicate" }));

    let other = event_with("t-1", "properties", json!({ "tokens": 6 }));
    let conflict = edge.post(SINGLE, other.to_string()).await;
    assert_eq!(conflict.code(), 409);
    assert_eq!(
        (&conflict.json["transactionId"], &conflict.json["status"]),
        (&json!("t-1"), &json!("conflict"))
    );
    assert_eq!((&conflict.json["code"], conflict.reason()), (&json!(6), "EVENT_CONFLICT"));

    let refused = edge.post(SINGLE, event_with("t-2", "code", json!("nope")).to_string()).await;
    assert_eq!(refused.code(), 400);
    assert_eq!(refused.json["status"], "rejected");
    assert_eq!(refused.json["error"]["reason"], "UNKNOWN_CODE");
    assert_eq!((&refused.json["code"], refused.reason()), (&json!(3), "UNKNOWN_CODE"));
    assert_eq!(refused.detail("BadRequest")["fieldViolations"][0]["field"], "code");
    assert_eq!(
        refused.detail("RequestInfo")["requestId"],
        refused.headers["x-request-id"].to_str().unwrap()
    );

    assert_eq!(edge.logged().await, [("t-1".to_owned(), r#"{"tokens":5}"#.to_owned())]);
    let header = edge.records().await[0].header;
    assert_eq!(header.organization, ACME);
    assert_eq!(header.received_at_us, now().timestamp_micros());
    assert_eq!(header.catalog_version, deployment.catalog.snapshot().version);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn each_fault_is_named_and_the_neighbours_are_taken(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let tokens = |value: Value| json!({ "tokens": value });
    let faults = [
        ("transactionId", json!(""), "transactionId", "REQUIRED"),
        ("externalSubscriptionId", Value::Null, "externalSubscriptionId", "REQUIRED"),
        (
            "externalSubscriptionId",
            json!("sub-9"),
            "externalSubscriptionId",
            "UNKNOWN_SUBSCRIPTION",
        ),
        ("code", json!("nope"), "code", "UNKNOWN_CODE"),
        ("timestamp", json!("yesterday"), "timestamp", "INVALID_TIMESTAMP"),
        ("timestamp", json!("2026-02-28T23:59:59.999999Z"), "timestamp", "BEFORE_SUBSCRIPTION"),
        ("properties", Value::Null, "properties.tokens", "REQUIRED"),
        ("properties", tokens(Value::Null), "properties.tokens", "REQUIRED"),
        ("properties", tokens(json!("many")), "properties.tokens", "NOT_A_NUMBER"),
        ("properties", tokens(json!(true)), "properties.tokens", "NOT_A_NUMBER"),
        ("properties", tokens(json!("12345678901234567")), "properties.tokens", "TOO_MANY_DIGITS"),
        ("properties", tokens(json!("0.0000000000001")), "properties.tokens", "TOO_MANY_DIGITS"),
        ("preciseTotalAmountCents", json!("1"), "preciseTotalAmountCents", "UNKNOWN_FIELD"),
    ];
    let mut events = vec![event("good-0")];
    for (index, (field, value, ..)) in faults.iter().enumerate() {
        events.push(event_with(&format!("bad-{index}"), field, value.clone()));
        events.push(event(&format!("good-{}", index + 1)));
    }
    let answer = edge.batch(&events).await;
    assert_eq!(answer.code(), 200);
    assert_eq!(answer.json["accepted"], json!(faults.len() + 1));
    assert_eq!(answer.json["rejected"], json!(faults.len()));
    for (index, (_, _, field, reason)) in faults.iter().enumerate() {
        let verdict = &answer.json["verdicts"][2 * index + 1];
        assert_eq!(verdict["error"]["field"], *field, "{verdict}");
        assert_eq!(verdict["error"]["reason"], *reason, "{verdict}");
        assert_eq!(answer.json["verdicts"][2 * index + 2]["status"], "accepted");
    }
    assert_eq!(edge.logged().await.len(), faults.len() + 1);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn an_element_that_is_no_event_spoils_no_neighbour(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let answer = edge.post(BATCH, format!("[1,{},null,[]]", event("t"))).await;
    assert_eq!(answer.words(), ["rejected", "accepted", "rejected", "rejected"]);
    assert_eq!(answer.json["verdicts"][0]["transactionId"], Value::Null);
    assert!(
        answer.json["verdicts"][2]["error"]["message"].as_str().unwrap().starts_with("event 2")
    );
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn each_aggregation_asks_for_what_it_needs(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let cases = [
        ("ping", json!({}), None),
        ("ping", json!({ "anything": "goes" }), None),
        ("seats", json!({ "user": "ann" }), None),
        ("seats", json!({ "user": 7, "operation_type": "remove" }), None),
        ("seats", json!({}), Some(("properties.user", "REQUIRED"))),
        (
            "seats",
            json!({ "user": 7, "operation_type": "drop" }),
            Some(("properties.operation_type", "INVALID_TYPE")),
        ),
        ("both", json!({ "a": -1.5, "b": "2e3" }), None),
        ("both", json!({ "a": 1 }), Some(("properties.b", "REQUIRED"))),
        ("both", json!({ "b": 1, "a": {} }), Some(("properties.a", "NOT_A_NUMBER"))),
    ];
    for (index, (code, properties, fault)) in cases.into_iter().enumerate() {
        let mut event = event_with(&format!("t-{index}"), "properties", properties);
        event["code"] = json!(code);
        let answer = edge.post(SINGLE, event.to_string()).await;
        match fault {
            None => assert_eq!(answer.code(), 202, "{event} {answer:?}"),
            Some((field, reason)) => {
                assert_eq!(answer.json["error"]["field"], field, "{event} {answer:?}");
                assert_eq!(answer.json["error"]["reason"], reason, "{event}");
            }
        }
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_subscription_takes_events_from_its_start_until_its_end(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let at = |id: &str, timestamp: &str| {
        let mut event = event_with(id, "timestamp", json!(timestamp));
        event["externalSubscriptionId"] = json!("old");
        event
    };
    let answer = edge
        .batch(&[
            at("a", "2026-02-28T23:59:59.999999Z"),
            at("b", "2026-03-01T00:00:00Z"),
            at("c", "2026-03-04T23:59:59.999999Z"),
            at("d", "2026-03-05T00:00:00Z"),
        ])
        .await;
    assert_eq!(answer.words(), ["rejected", "accepted", "accepted", "rejected"]);
    assert_eq!(answer.json["verdicts"][0]["error"]["reason"], "BEFORE_SUBSCRIPTION");
    assert_eq!(answer.json["verdicts"][3]["error"]["reason"], "AFTER_SUBSCRIPTION");
    assert_eq!(answer.json["verdicts"][3]["error"]["field"], "timestamp");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_digit_and_every_form_of_time_arrives_in_the_log(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let noon = now().timestamp_micros();
    let cases = [
        (r#""2026-03-10T12:00:00.123456Z""#, noon + 123_456),
        (r#""2026-03-10T17:45:00+05:45""#, noon),
        ("1773144000", noon),
        ("1773144000.000001", noon + 1),
        (r#""1773144000.5""#, noon + 500_000),
        ("null", noon),
    ];
    let mut body = String::from("[");
    for (index, (timestamp, _)) in cases.iter().enumerate() {
        body += &format!(
            r#"{{"transactionId":"t-{index}","externalSubscriptionId":"sub-1","code":"tokens","timestamp":{timestamp},"properties":{{"tokens":9007199254740993}}}},"#
        );
    }
    body.pop();
    body.push(']');
    let answer = edge.post(BATCH, body).await;
    assert_eq!(answer.words(), ["accepted"; 6], "{answer:?}");
    let mut found = 0;
    for record in edge.records().await {
        for event in record.events() {
            let index: usize = event.transaction_id[2..].parse().unwrap();
            assert_eq!(event.timestamp_us, cases[index].1, "{}", cases[index].0);
            assert_eq!(event.properties, r#"{"tokens":9007199254740993}"#);
            found += 1;
        }
    }
    assert_eq!(found, cases.len());
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_transaction_id_comes_back_as_it_was_sent(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let ids = ["q\"uote", "back\\slash", "line\nbreak\u{1}", "ü€😀", "</script>"];
    let answer = edge.batch(&ids.map(event)).await;
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(answer.json["verdicts"][index]["transactionId"], *id);
        assert_eq!(answer.json["verdicts"][index]["status"], "accepted");
    }
    let mut logged: Vec<String> = edge.logged().await.into_iter().map(|(id, _)| id).collect();
    let mut sent = ids.map(str::to_owned).to_vec();
    logged.sort();
    sent.sort();
    assert_eq!(logged, sent);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn only_failed_verdicts_are_listed_on_request(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let body = json!([event("a"), event("a"), event_with("b", "code", json!("nope")), event("c")]);
    let answer = edge.post(&format!("{BATCH}?verdicts=failed"), body.to_string()).await;
    assert_eq!(answer.json["accepted"], 2);
    assert_eq!(answer.words(), ["duplicate", "rejected"]);
    let refused = edge.post(&format!("{BATCH}?verdicts=some"), body.to_string()).await;
    assert_eq!((refused.code(), refused.reason()), (400, "QUERY_INVALID"));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_was_created_a_moment_ago_is_known(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    for round in 0..5_u32 {
        let (code, subscription) = (format!("new-{round}"), format!("sub-new-{round}"));
        let mut event = event_with(&format!("t-{round}"), "code", json!(code));
        event["externalSubscriptionId"] = json!(subscription);
        assert_eq!(edge.post(SINGLE, event.to_string()).await.code(), 400);
        let rows = deployment.rows();
        rows.metric(ACME, 100 + u128::from(round), &code, "sum", Some("tokens")).await;
        let id = 100 + u128::from(round);
        rows.subscription(ACME, id, &subscription, "2026-03-01T00:00:00Z", None).await;
        assert_eq!(edge.post(SINGLE, event.to_string()).await.code(), 202, "round {round}");
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn while_the_catalog_is_down_unknown_events_are_retried_and_known_ones_taken(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    deployment.pool.close().await;
    let answer = edge.batch(&[event("a"), event_with("b", "code", json!("nope"))]).await;
    assert_eq!(answer.words(), ["accepted", "retry"]);
    let single = edge.post(SINGLE, event_with("b", "code", json!("nope")).to_string()).await;
    assert!(single.asks_for_a_retry() && single.reason() == "CATALOG_UNAVAILABLE", "{single:?}");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn what_is_dated_before_the_window_of_repeats_is_refused(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let mut config = Config::load().unwrap();
    config.recent.window_days = Some(3);
    let edge = deployment.edge_with(embedded(dir.path()).await, None, config).await;
    let at = |id: &str, timestamp: &str| event_with(id, "timestamp", json!(timestamp));
    let events = [
        at("a", "2026-03-07T12:00:00Z"),
        at("b", "2026-03-07T11:59:59.999999Z"),
        at("c", "2026-03-10T13:00:00Z"),
        event_with("d", "timestamp", Value::Null),
    ];
    let answer = edge.batch(&events).await;
    assert_eq!(answer.words(), ["accepted", "rejected", "accepted", "accepted"]);
    assert_eq!(answer.fault(1), ("timestamp", "TOO_OLD"));
    let message = answer.json["verdicts"][1]["error"]["message"].as_str().unwrap();
    assert!(message.ends_with("events of the last 3 days are taken"), "{message}");
    // A lenient organization's repeats must be known too.
    deployment.rows().settings(ACME, true, None).await;
    deployment.catalog.refresh().await.unwrap();
    assert_eq!(edge.batch(&events[1..2]).await.fault(0), ("timestamp", "TOO_OLD"));
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_metric_that_waits_to_be_counted_has_its_events_taken(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let rows = deployment.rows();
    rows.metric(ACME, 50, "jobs", "sum", Some("size")).await;
    // Something has been taken from the log: what was stored of the code before must be counted.
    sqlx::query("INSERT INTO log_partitions (partition, committed) VALUES (0, 5)")
        .execute(&deployment.pool)
        .await
        .unwrap();
    rows.archive_metric(ACME, 50).await;
    deployment.catalog.refresh().await.unwrap();
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let job = |id: &str| event_with(id, "code", json!("jobs")).to_string();
    assert_eq!(edge.post(SINGLE, job("a")).await.reason(), "UNKNOWN_CODE");
    rows.metric(ACME, 51, "jobs", "sum", Some("size")).await;
    assert_eq!(edge.post(SINGLE, job("a")).await.code(), 202, "it waits for its roll");
    assert_eq!(edge.post(SINGLE, job("b")).await.code(), 202);
    assert_eq!(
        edge.post(SINGLE, event_with("c", "code", json!("job")).to_string()).await.code(),
        400
    );
    rows.archive_metric(ACME, 51).await;
    deployment.catalog.refresh().await.unwrap();
    assert_eq!(edge.post(SINGLE, job("d")).await.reason(), "UNKNOWN_CODE");
}
