//! What is corrected after events have come: replacements and filters.

use crate::{client::Client, eventually, up::Up};
use serde_json::{Value as Json, json};

async fn send(client: &Client, events: &[(&str, &str, &str)]) {
    let event = |(id, region, n): &(&str, &str, &str)| {
        json!({
            "transactionId": id, "externalSubscriptionId": "acme", "code": "tokens",
            "properties": { "region": region, "n": n },
        })
    };
    let events: Vec<Json> = events.iter().map(event).collect();
    let sent = client.batch(json!(events).to_string()).await.unwrap().ok();
    assert_eq!(sent["accepted"], events.len(), "{sent}");
}

/// A customer that pays 1.00 for each unit of the metric; answers the metric's id.
async fn subscribed(client: &Client) -> String {
    let metric = client.metric("tokens", "tokens", Some("n")).await;
    let plan = client.plan("llm", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    metric
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voided_event_and_an_amended_one_leave_usage_and_the_invoice() {
    let up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    subscribed(&client).await;
    send(&client, &[("t-1", "eu", "10"), ("t-2", "eu", "20"), ("t-3", "eu", "5.5")]).await;
    // It was accepted a moment ago, and is waited for.
    let voided = client.post("events/t-2/void", json!({ "reason": "sent twice" })).await.ok();
    assert_eq!(voided["event"]["voidReason"], "sent twice");
    client.wait_for_usage("acme", "tokens", "15.5", 2).await;

    let replacement = json!({ "event": {
        "transactionId": "t-3b", "externalSubscriptionId": "acme", "code": "tokens",
        "properties": { "n": 7 },
    } });
    let amended = client.post("events/t-3/amend", replacement.clone()).await.ok();
    assert_eq!(amended["replacement"]["status"], "accepted");
    client.wait_for_usage("acme", "tokens", "17", 2).await;
    let again = client.post("events/t-3/amend", replacement).await.ok();
    assert_eq!(again["replacement"]["status"], "duplicate");
    assert_eq!(again["event"], amended["event"]);
    client.post("events/t-9/void", json!({})).await.refused(404, "NOT_FOUND");
    // A repeat of a voided event is one.
    let repeat = json!({
        "transactionId": "t-2", "externalSubscriptionId": "acme", "code": "tokens",
        "properties": { "region": "eu", "n": "20" },
    });
    client.event(&repeat.to_string()).await.verdict(200, "duplicate");

    up.advance("2026-04-01T00:00:00Z").await;
    let invoice = client.invoices("acme").await.remove(0);
    assert_eq!(invoice.total_cents, 1_700);
    up.operator(&["audit", &invoice.number]).await.ok();

    // What is final is corrected on the next one.
    client.post("events/t-1/void", json!({})).await.ok();
    send(&client, &[("t-4", "eu", "30")]).await;
    up.advance("2026-05-01T00:00:00Z").await;
    let invoices = client.invoices("acme").await;
    let totals: Vec<i128> = invoices.iter().map(|invoice| invoice.total_cents).collect();
    assert_eq!(totals, [1_700, 2_000]);
    up.operator(&["audit", &invoices[1].number]).await.ok();
    up.operator(&["audit", &invoices[0].number]).await.refused("1 of 1 usage lines differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_added_to_a_charged_metric_tells_earlier_events_apart_too() {
    let up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    let metric = subscribed(&client).await;
    send(&client, &[("t-1", "eu", "10"), ("t-2", "us", "20"), ("t-3", "mars", "5")]).await;
    client.wait_for_usage("acme", "tokens", "35", 3).await;

    let put = async |path: &str, body: Json| {
        let url = format!("{}/{path}", client.api);
        client.send("PUT", &url, &[], body.to_string()).await.unwrap().ok()
    };
    let filters = json!({ "filters": [{ "key": "region", "values": ["eu", "us"] }] });
    put(&format!("billable-metrics/{metric}"), filters).await;
    eventually("the roll", async || {
        let rolls = client.get("usage-rolls").await.ok();
        let done = rolls["items"][0]["status"] == "USAGE_ROLL_STATUS_DONE";
        if done { Ok(()) } else { Err(rolls.to_string()) }
    })
    .await;
    client.wait_for_usage("acme", "tokens", "35", 3).await;

    let plan = json!({
        "code": "eu", "name": "eu", "interval": "MONTHLY", "amountCents": 0, "amountCurrency": "USD",
        "charges": [{
            "billableMetricId": metric, "chargeModel": "STANDARD", "properties": { "amount": "1" },
            "filters": [{ "values": { "region": ["eu"] }, "properties": { "amount": "3" } }],
        }],
    });
    let plan = client.post("plans", plan).await.ok()["plan"]["id"].as_str().unwrap().to_owned();
    client.customer("beta", None).await;
    client.subscription("beta", &plan, None).await;
    let event = json!({
        "transactionId": "b-1", "externalSubscriptionId": "beta", "code": "tokens",
        "properties": { "region": "eu", "n": 2 },
    });
    client.event(&event.to_string()).await.verdict(202, "accepted");
    client.wait_for_usage("beta", "tokens", "2", 1).await;
    let usage = client.get("customers/beta/subscriptions/external:beta/usage").await.ok();
    let charge = &usage["customerUsage"]["chargesUsage"][0];
    assert_eq!(
        (&charge["filters"][0]["units"], &charge["amountCents"]),
        (&json!("2"), &json!("600"))
    );
}
