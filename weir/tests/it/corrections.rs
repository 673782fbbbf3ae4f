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

/// Events on 11 March, by their ids, times of day and values.
fn on_the_11th(events: &[(&str, &str, &str)]) -> Vec<Json> {
    let event = |(id, time, n): &(&str, &str, &str)| {
        json!({
            "transactionId": id, "externalSubscriptionId": "acme", "code": "tokens",
            "timestamp": format!("2026-03-11T{time}Z"), "properties": { "region": "eu", "n": n },
        })
    };
    events.iter().map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_filled_anew_is_what_is_used_and_billed_also_after_its_invoice() {
    let up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    subscribed(&client).await;
    up.advance("2026-03-20T00:00:00Z").await;
    let sent = [("t-1", "10:00:00", "10"), ("t-2", "10:59:59", "20"), ("t-3", "11:00:00", "5.5")];
    client.batch(json!(on_the_11th(&sent)).to_string()).await.unwrap().ok();
    let backfill = |to: &str, events: &[(&str, &str, &str)]| {
        json!({
            "externalSubscriptionId": "acme", "code": "tokens", "from": "2026-03-11T10:00:00Z",
            "to": format!("2026-03-11T{to}Z"), "events": on_the_11th(events),
            "reason": "a meter that counted twice",
        })
    };
    let body = backfill("11:00:00", &[("n-1", "10:05:00", "1.25"), ("n-2", "10:50:00", "2")]);
    // What was accepted a moment ago is waited for.
    let done = client.post("events/backfill", body.clone()).await.ok();
    assert_eq!(done, json!({ "accepted": 2, "duplicates": 0, "voided": 2 }));
    // 5.5 + 1.25 + 2.
    client.wait_for_usage("acme", "tokens", "8.75", 3).await;
    let again = client.post("events/backfill", body).await.ok();
    assert_eq!(again, json!({ "accepted": 0, "duplicates": 2, "voided": 0 }));
    let unknown = json!({
        "transactionId": "n-3", "externalSubscriptionId": "acme", "code": "tokens",
        "timestamp": "2026-03-11T10:00:00Z", "properties": { "n": "many" },
    });
    let mut refused = backfill("11:00:00", &[]);
    refused["events"] = json!([unknown]);
    let refused = client.post("events/backfill", refused).await;
    let named =
        vec![("events[0].properties.n", "must be a number, or a string with one (NOT_A_NUMBER)")];
    assert_eq!((refused.status, refused.violations()), (400, named));
    client.wait_for_usage("acme", "tokens", "8.75", 3).await;

    up.advance("2026-04-01T00:00:00Z").await;
    let march = client.invoices("acme").await.remove(0);
    assert_eq!(march.total_cents, 875);
    up.operator(&["audit", &march.number]).await.ok();

    // March is final: n-1 with its 1.25 goes, 0.25 comes.
    let body = backfill("10:30:00", &[("m-1", "10:15:00", "0.25")]);
    let done = client.post("events/backfill", body).await.ok();
    assert_eq!(done, json!({ "accepted": 1, "duplicates": 0, "voided": 1 }));
    send(&client, &[("t-4", "eu", "30")]).await;
    up.advance("2026-05-01T00:00:00Z").await;
    let invoices = client.invoices("acme").await;
    let totals: Vec<i128> = invoices.iter().map(|invoice| invoice.total_cents).collect();
    assert_eq!(totals, [875, 2_900]);
    let april = client.get(&format!("invoices/{}", invoices[1].id)).await.ok();
    let fees = april["invoice"]["fees"].as_array().unwrap().iter();
    let corrections: Vec<&Json> = fees.filter(|fee| fee["trueUp"] == true).collect();
    let [correction] = corrections[..] else { panic!("{april:#}") };
    let [units, cents, from] = [
        &correction["units"],
        &correction["amountCents"],
        &correction["properties"]["fromDatetime"],
    ];
    assert_eq!((units, cents), (&json!("-1"), &json!("-100")));
    assert_eq!(from, "2026-03-10T12:00:00Z");
    up.operator(&["audit", &invoices[1].number]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_is_killed_in_between_is_ended_by_the_same_call() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    subscribed(&client).await;
    up.advance("2026-03-20T00:00:00Z").await;
    let sent = [("t-1", "10:00:00", "10"), ("t-2", "10:30:00", "20"), ("t-3", "11:00:00", "5")];
    client.batch(json!(on_the_11th(&sent)).to_string()).await.unwrap().ok();
    client.wait_for_usage("acme", "tokens", "35", 3).await;
    let body = json!({
        "externalSubscriptionId": "acme", "from": "2026-03-11T10:00:00Z",
        "to": "2026-03-11T11:00:00Z", "events": on_the_11th(&[("n-1", "10:05:00", "2")]),
    });
    let cut_off = tokio::spawn({
        let (client, body) = (client.clone(), body.to_string());
        async move { client.send("POST", &format!("{}/events/backfill", client.api), &[], body).await }
    });
    // It is stored; nothing is voided before the aggregator has said that all is.
    eventually("the replacement", async || match client.get("events/n-1").await.status {
        200 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    up.kill();
    let _no_answer = cut_off.await;
    up.restart().await;
    let client = up.client();
    let done = eventually("the same call", async || {
        let answer = client.post("events/backfill", body.clone()).await;
        if answer.status == 503 { Err(answer.json.to_string()) } else { Ok(answer.ok()) }
    });
    let done = done.await;
    assert_eq!((&done["accepted"], &done["duplicates"]), (&json!(0), &json!(1)), "{done}");
    client.wait_for_usage("acme", "tokens", "7", 2).await;
    up.advance("2026-04-01T00:00:00Z").await;
    let march = client.invoices("acme").await.remove(0);
    assert_eq!(march.total_cents, 700);
    up.operator(&["audit", &march.number]).await.ok();
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
