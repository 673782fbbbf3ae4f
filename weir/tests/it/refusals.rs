//! What is refused, and how.

use crate::{
    client::Client,
    eventually,
    up::{Up, shared},
};
use serde_json::{Value as Json, json};
use weir_runtime::Clock;

const GOOD: &str =
    r#"{"transactionId":"t","externalSubscriptionId":"acme","code":"calls","properties":{}}"#;

/// An organization with a subscription of the code `calls`, since two months ago.
async fn organization(up: &Up, name: &str) -> Client {
    let client = up.organization(name).await;
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 5_000, &[(&metric, "0.5")]).await;
    client.customer("acme", None).await;
    let begun = (Clock::real().now() - chrono::Days::new(62)).to_rfc3339();
    client.subscription("acme", &plan, Some(&begun)).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_can_not_be_taken_are_refused_whole() {
    let up = shared().await;
    let client = organization(up, "Bodies").await;
    for broken in ["", "{", r#"{"events":[{"transactionId":"a"}"#, "[1,", "\u{1}"] {
        client.batch(broken).await.unwrap().refused(400, "BODY_INVALID");
    }
    client.event(r#"{"transactionId":"#).await.refused(400, "BODY_INVALID");
    let plans = format!("{}/plans", client.api);
    let api = client.send("POST", &plans, &[], r#"{"code":"#).await.unwrap();
    api.refused(400, "BODY_INVALID");

    let long = format!("[{GOOD}{}]", " ".repeat(8 << 20));
    client.batch(long).await.unwrap().refused(413, "BODY_TOO_LARGE");
    let many = format!("[{}]", vec!["{}"; 10_001].join(","));
    client.batch(many).await.unwrap().refused(413, "TOO_MANY_EVENTS");
    let long = format!(r#"{{"code":"{}"}}"#, "x".repeat(1 << 20));
    let api = client.send("POST", &plans, &[], long).await.unwrap();
    api.refused(413, "BODY_TOO_LARGE");

    let events = format!("{}/events", client.edge);
    for encoding in ["br", "deflate", "gzip, gzip"] {
        let headers = [("content-encoding", encoding)];
        let answer = client.send("POST", &events, &headers, GOOD).await.unwrap();
        answer.refused(415, "ENCODING_UNSUPPORTED");
        assert_eq!(answer.headers["accept-encoding"], "gzip, zstd");
    }
    let headers = [("content-encoding", "gzip")];
    let answer = client.send("POST", &events, &headers, GOOD).await.unwrap();
    answer.refused(400, "BODY_UNDECODABLE");
    // None of it was taken.
    client.event(GOOD).await.verdict(202, "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_named_and_spoils_no_neighbour() {
    let up = shared().await;
    let client = organization(up, "Neighbours").await;
    let event = |id: &str, more: Json| {
        let mut event =
            json!({ "transactionId": id, "externalSubscriptionId": "acme", "code": "calls" });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let events = json!([
        event("good-1", json!({})),
        event("b-1", json!({ "colour": "red" })),
        event("b-2", json!({ "preciseTotalAmountCents": "1" })),
        event("b-3", json!({ "code": "nobody" })),
        event("b-4", json!({ "externalSubscriptionId": "nobody" })),
        event("b-5", json!({ "timestamp": "yesterday" })),
        event("b-6", json!({ "timestamp": "2001-01-01T00:00:00Z" })),
        7,
        event("good-1", json!({})),
        event("good-2", json!({})),
    ]);
    let answer = client.batch(events.to_string()).await.unwrap().ok();
    let verdicts: Vec<_> = answer["verdicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|verdict| {
            let error = &verdict["error"];
            let text = |json: &Json| json.as_str().unwrap_or_default().to_owned();
            (text(&verdict["status"]), text(&error["field"]), text(&error["reason"]))
        })
        .collect();
    let rejected =
        |field: &str, reason: &str| ("rejected".to_owned(), field.to_owned(), reason.to_owned());
    let fine = |status: &str| (status.to_owned(), String::new(), String::new());
    let wanted = [
        fine("accepted"),
        rejected("colour", "UNKNOWN_FIELD"),
        rejected("preciseTotalAmountCents", "UNKNOWN_FIELD"),
        rejected("code", "UNKNOWN_CODE"),
        rejected("externalSubscriptionId", "UNKNOWN_SUBSCRIPTION"),
        rejected("timestamp", "INVALID_TIMESTAMP"),
        rejected("timestamp", "BEFORE_SUBSCRIPTION"),
        rejected("", "NOT_AN_OBJECT"),
        fine("duplicate"),
        fine("accepted"),
    ];
    assert_eq!(verdicts, wanted);
    assert_eq!(answer["verdicts"][2]["error"]["message"], "not supported yet");
    client.wait_for_usage("acme", "calls", "2", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_do_not_exist_or_not_yet_are_named() {
    let up = shared().await;
    let client = up.organization("Fields").await;
    let unknown = json!({ "externalId": "acme", "shoeSize": 43, "name": "Acme" });
    let answer = client.post("customers", unknown).await;
    answer.refused(400, "FIELD_INVALID");
    assert_eq!(answer.violations().len(), 1, "{}", answer.json);
    assert_eq!(answer.violations()[0].0, "shoeSize");

    let body = json!({ "externalId": "acme", "taxCodes": ["vat"] });
    let answer = client.post("customers", body).await;
    answer.refused(400, "NOT_SUPPORTED_YET");
    let (field, said) = answer.violations()[0];
    assert!(field == "taxCodes" && said.contains("not supported yet"), "{}", answer.json);
    // It asks for nothing, so nothing is missing.
    client.post("customers", json!({ "externalId": "acme", "taxCodes": [] })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_and_a_missing_scope_are_refused_by_both_doors() {
    let up = shared().await;
    let client = organization(up, "Keys").await;
    for (key, reason) in [("", "API_KEY_MISSING"), ("weir_wrong", "API_KEY_UNKNOWN")] {
        let stranger = client.with_key(key);
        stranger.event(GOOD).await.refused(401, reason);
        stranger.batch("[]").await.unwrap().refused(401, reason);
        stranger.get("plans").await.refused(401, reason);
        stranger.post("customers", json!({ "externalId": "x" })).await.refused(401, reason);
    }
    let make = |scopes: &'static str| async move {
        let create = ["keys", "create", "--name", "some", "--organization", "Keys"];
        up.operator(&[&create[..], &["--scopes", scopes]].concat()).await.ok()
    };
    let reader = client.with_key(&make("plans.read,events.read").await);
    reader.get("plans").await.ok();
    reader.event(GOOD).await.refused(403, "SCOPE_MISSING");
    reader.post("customers", json!({ "externalId": "x" })).await.refused(403, "SCOPE_MISSING");
    let sender = client.with_key(&make("events.write").await);
    sender.event(GOOD).await.verdict(202, "accepted");
    sender.get("events/t").await.refused(403, "SCOPE_MISSING");
    sender.get("plans").await.refused(403, "SCOPE_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organizations_things_are_not_there() {
    let up = shared().await;
    let owner = organization(up, "Owner").await;
    let stranger = organization(up, "Stranger").await;
    owner.event(GOOD).await.verdict(202, "accepted");
    owner.wait_for_usage("acme", "calls", "1", 1).await;
    // The invoicer bills the months that are over by itself.
    let invoice = eventually("an invoice by schedule", async || {
        owner.invoices("acme").await.pop().ok_or_else(|| "none".to_owned())
    });
    let invoice = invoice.await.id;
    let id = |list: &Json| list["items"][0]["id"].as_str().unwrap().to_owned();
    let mut paths = vec![format!("invoices/{invoice}")];
    for kind in ["billable-metrics", "plans", "customers", "subscriptions"] {
        paths.push(format!("{kind}/{}", id(&owner.get(kind).await.ok())));
    }
    for path in &paths {
        owner.get(path).await.ok();
        stranger.get(path).await.refused(404, "NOT_FOUND");
        let kind = path.split_once('/').unwrap().0;
        let listed = stranger.get(&format!("{kind}?pagination.limit=1000")).await.ok();
        let theirs = path.split_once('/').unwrap().1;
        assert!(!listed.to_string().contains(theirs), "{path} is listed");
    }
    let [_, metric, plan, customer, subscription] = &paths[..] else { panic!("{paths:?}") };
    for path in [metric, plan, customer] {
        let url = format!("{}/{path}", stranger.api);
        stranger.send("DELETE", &url, &[], "").await.unwrap().refused(404, "NOT_FOUND");
    }
    stranger.post(&format!("{subscription}/terminate"), json!({})).await.refused(404, "NOT_FOUND");
    let name = |path: &str| path.split_once('/').unwrap().1.to_owned();
    let body = json!({ "customerId": "acme", "planId": name(plan) });
    stranger.post("subscriptions", body).await.refused(404, "NOT_FOUND");

    stranger.get("events/t").await.refused(404, "NOT_FOUND");
    assert!(stranger.event_ids("acme").await.is_empty());
    assert_eq!(stranger.usage("acme").await["calls"].events, 0);
    // The same transaction id is another event in another organization.
    stranger.event(GOOD).await.verdict(202, "accepted");
    stranger.wait_for_usage("acme", "calls", "1", 1).await;
    assert_eq!(owner.usage("acme").await["calls"].events, 1);
}
