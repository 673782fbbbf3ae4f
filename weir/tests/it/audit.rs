//! Invoices, computed again from the events.

use crate::{
    client::{Client, http},
    eventually,
    up::Up,
};
use serde_json::{Value as Json, json};

fn event(id: &str, region: &str, user: &str, n: &str, at: &str) -> Json {
    json!({
        "transactionId": id, "externalSubscriptionId": "acme", "code": "inference",
        "timestamp": at,
        "properties": { "n": n, "region": region, "model": format!("m-{}", &id[2..3]), "user": user },
    })
}

/// A metric on the events `inference`. Answers its id.
async fn metric(client: &Client, body: Json) -> String {
    let mut metric = json!({ "name": body["code"], "eventCode": "inference" });
    metric.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let made = client.post("billable-metrics", metric).await.ok();
    made["billableMetric"]["id"].as_str().unwrap().to_owned()
}

/// A plan with filters, groups, tiers, and aggregations of every kind; a customer that is on it.
async fn subscribed(client: &Client) {
    let regions = json!([{ "key": "region", "values": ["eu", "us"] }]);
    let price = |metric: &str, properties: Json| json!({ "billableMetricId": metric, "chargeModel": "STANDARD", "properties": properties });
    let sum = json!({
        "code": "tokens", "aggregationType": "SUM_AGG", "fieldName": "n", "filters": regions,
    });
    let mut tokens = price(
        &metric(client, sum).await,
        json!({ "amount": "0.01", "pricingGroupKeys": ["model"] }),
    );
    tokens["filters"] =
        json!([{ "values": { "region": ["eu"] }, "properties": { "amount": "0.03" } }]);
    let users =
        json!({ "code": "users", "aggregationType": "UNIQUE_COUNT_AGG", "fieldName": "user" });
    let seats = json!({
        "code": "held", "aggregationType": "WEIGHTED_SUM_AGG", "fieldName": "n", "recurring": true,
        "roundingFunction": "CEIL",
    });
    let double = json!({
        "code": "double", "aggregationType": "CUSTOM_AGG", "expression": "event.properties.n * 2",
    });
    let latest = json!({ "code": "latest", "aggregationType": "LATEST_AGG", "fieldName": "n" });
    let mut charges = vec![tokens];
    for body in [users, seats, double, latest] {
        charges.push(price(&metric(client, body).await, json!({ "amount": "1" })));
    }
    let plan = json!({
        "code": "llm", "name": "llm", "interval": "MONTHLY", "amountCents": 2_000,
        "amountCurrency": "USD", "charges": charges,
    });
    let plan = client.post("plans", plan).await.ok();
    client.customer("acme", None).await;
    let plan = plan["plan"]["id"].as_str().unwrap();
    client.subscription("acme", plan, Some("2026-03-01T00:00:00Z")).await;
}

async fn send(client: &Client, events: &[Json]) {
    let sent = client.batch(json!(events).to_string()).await.unwrap().ok();
    assert_eq!(sent["accepted"], events.len(), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_agrees_with_an_invoice_until_its_events_change_and_says_which_did() {
    let up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    subscribed(&client).await;
    send(
        &client,
        &[
            event("t-1", "eu", "ann", "100", "2026-03-02T00:00:00Z"),
            event("t-2", "us", "bob", "0.5", "2026-03-02T00:00:01Z"),
            event("t-3", "mars", "ann", "7", "2026-03-09T00:00:00.123456Z"),
            event("t-1b", "eu", "cid", "50", "2026-03-09T23:59:59.999999Z"),
        ],
    )
    .await;
    up.advance("2026-04-01T00:00:00Z").await;
    let invoice = client.invoices("acme").await.remove(0);
    assert!(invoice.total_cents > 2_000, "{invoice:?}");

    let told = up.operator(&["audit", &invoice.number]).await.ok();
    assert!(told.contains("usage lines equal, from 4 events") && !told.contains('?'), "{told}");
    let by_id = ["audit", &invoice.id, "--json"];
    let report: Json = serde_json::from_str(&up.operator(&by_id).await.ok()).unwrap();
    assert_eq!(report["equal"], true, "{report:#}");
    let lines = report["lines"].as_array().unwrap();
    assert_eq!(lines.len(), invoice.lines - 1, "all but the base fee: {report:#}");
    // Nothing is known then: apart from a difference. A number is meant to the letter.
    let (part, lower) = (&invoice.number[1..], invoice.number.to_lowercase());
    for unknown in ["ACM-0000-001-001", part, &lower] {
        let said = up.operator(&["audit", unknown]).await;
        said.refused("not audited: no invoice");
        assert_eq!(said.status.code(), Some(2), "{unknown}");
    }

    // One comes late for the invoice, one is taken out.
    send(&client, &[event("t-2late", "us", "dan", "1000", "2026-03-20T00:00:00Z")]).await;
    client.post("events/t-1b/void", json!({ "reason": "sent twice" })).await.ok();
    let differing = eventually("the late event", async || {
        let said = up.operator(&["audit", &invoice.number, "--json"]).await;
        let report: Json = serde_json::from_str(&said.out).map_err(|error| error.to_string())?;
        if report["events"] == 5 { Ok((said, report)) } else { Err(report.to_string()) }
    });
    let (said, report) = differing.await;
    said.refused("usage lines differ");
    assert_eq!(said.status.code(), Some(1));
    let lines = report["lines"].as_array().unwrap();
    let of_filter = |name: &str| lines.iter().find(|line| line["name"] == name).unwrap();
    let voided = of_filter("tokens (eu; m-1)");
    assert_eq!((&voided["then"]["units"], &voided["now"]["units"]), (&json!("150"), &json!("100")));
    assert_eq!(voided["voided"], json!({ "count": 1, "transactionIds": ["t-1b"] }));
    let late = of_filter("tokens (m-2)");
    assert_eq!((&late["then"]["units"], &late["now"]["units"]), (&json!("0.5"), &json!("1000.5")));
    assert_eq!(late["late"], json!({ "count": 1, "transactionIds": ["t-2late"] }));
    let same = of_filter("tokens (m-3)");
    assert_eq!((&same["equal"], &same["late"]["count"]), (&json!(true), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_shows_a_row_that_somebody_changed_in_clickhouse() {
    let up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    let tokens = client.metric("tokens", "inference", Some("n")).await;
    let plan = client.plan("llm", 0, &[(&tokens, "0.10")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, Some("2026-03-01T00:00:00Z")).await;
    let events = [
        event("t-1", "eu", "ann", "100", "2026-03-02T00:00:00Z"),
        event("t-2", "eu", "ann", "10", "2026-03-02T00:00:00Z"),
    ];
    send(&client, &events).await;
    up.advance("2026-04-01T00:00:00Z").await;
    let invoice = client.invoices("acme").await.remove(0);
    up.operator(&["audit", &invoice.number]).await.ok();

    let connections = std::fs::read(up.data().join("connections.json")).unwrap();
    let connections: Json = serde_json::from_slice(&connections).unwrap();
    let clickhouse = &connections["clickhouse"];
    let text = |name: &str| clickhouse[name].as_str().unwrap().to_owned();
    let url = format!("{}/?database={}", text("clickhouse_url"), text("clickhouse_database"));
    let answer = http()
        .post(url)
        .header("x-clickhouse-user", text("clickhouse_user"))
        .header("x-clickhouse-key", text("clickhouse_password"))
        .body("ALTER TABLE events DELETE WHERE transaction_id = 't-2' SETTINGS mutations_sync = 1")
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let said = up.operator(&["audit", &invoice.number]).await;
    said.refused("1 of 1 usage lines differ");
    for part in ["110", "100", "11.00 USD", "10.00 USD", "-1.00 USD"] {
        assert!(said.out.contains(part), "no {part} in {}", said.out);
    }
}
