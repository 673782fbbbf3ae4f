//! What counts after the fact: metrics and subscriptions that come after their events, events that
//! come after their invoice, events that are taken back, and metrics that count otherwise from now on.

use crate::{
    client::{Client, charges},
    eventually,
    up::{Up, shared},
};
use chrono::{DateTime, Duration, Utc};
use serde_json::{Value as Json, json};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use weir_runtime::Clock;

fn event(id: &str, customer: &str, at: &str, properties: &Json) -> String {
    json!({
        "transactionId": id, "externalSubscriptionId": customer, "code": "calls",
        "timestamp": at, "properties": properties,
    })
    .to_string()
}

/// Usage counts what the rolls under way will show: waits until none is left.
async fn wait_for_rolls(client: &Client, at_least: usize) {
    eventually("the end of all rolls", async || {
        let rolls = client.get("usage-rolls").await.ok();
        let rolls = rolls["items"].as_array().unwrap().clone();
        let done = |roll: &Json| roll["status"] == "USAGE_ROLL_STATUS_DONE";
        let whole = rolls.len() >= at_least && rolls.iter().all(done);
        if whole { Ok(()) } else { Err(format!("{rolls:?}")) }
    })
    .await;
}

/// Takes an event back, as soon as it is stored.
async fn void(client: &Client, id: &str) {
    let voided = eventually("a stored event", async || {
        let answer =
            client.post(&format!("events/{id}/void"), json!({ "reason": "a mistake" })).await;
        if answer.status == 404 { Err(answer.json.to_string()) } else { Ok(answer) }
    });
    let voided = voided.await.ok();
    assert_eq!(voided["event"]["voidReason"], "a mistake");
    assert!(voided["event"]["voidedAt"].is_string(), "{voided}");
}

async fn unmatched(client: &Client) -> usize {
    let listed = client.get("events?filter.part.unmatched=true&pagination.limit=1000").await.ok();
    listed["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_lenient_organization_count_once_metric_and_subscription_exist() {
    let up = shared().await;
    let client = up.organization("Lenient").await;
    let now = Clock::real().now();
    let (at, start) = (now.to_rfc3339(), (now - Duration::hours(1)).to_rfc3339());
    let refused = client.event(&event("strict", "acme", &at, &json!({}))).await;
    refused.verdict(400, "rejected");
    up.operator(&["organizations", "set", "Lenient", "--lenient", "true"]).await.ok();
    // The edge hears of it within a second.
    eventually("a lenient edge", async || {
        let answer = client.event(&event("early-0", "acme", &at, &json!({ "n": 1 }))).await;
        if answer.status == 400 { Err(answer.json.to_string()) } else { Ok(()) }
    })
    .await;
    for number in 1..30 {
        let body = event(&format!("early-{number}"), "acme", &at, &json!({ "n": 1 }));
        client.event(&body).await.verdict(202, "accepted");
    }
    client
        .event(&event("early-7", "acme", &at, &json!({ "n": 1 })))
        .await
        .verdict(200, "duplicate");
    eventually("unmatched events", async || match unmatched(&client).await {
        30 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;

    let metric = client.metric("units", "calls", Some("n")).await;
    let plan = client.plan("pro", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, Some(&start)).await;
    client.event(&event("late", "acme", &at, &json!({ "n": 5 }))).await.verdict(202, "accepted");
    client.wait_for_usage("acme", "units", "35", 31).await;
    eventually("no unmatched event", async || match unmatched(&client).await {
        0 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voided_event_is_as_if_it_had_never_come_and_stays_readable() {
    let up = shared().await;
    let client = up.organization("Voids").await;
    let metric = client.metric("units", "calls", Some("n")).await;
    let plan = client.plan("pro", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    let now: DateTime<Utc> = Clock::real().now();
    client.subscription("acme", &plan, Some(&(now - Duration::hours(1)).to_rfc3339())).await;
    let at = now.to_rfc3339();
    for (id, n) in [("keep", 100), ("mistake", 20), ("only-1", 3)] {
        client.event(&event(id, "acme", &at, &json!({ "n": n }))).await.verdict(202, "accepted");
    }
    client.wait_for_usage("acme", "units", "123", 3).await;
    void(&client, "mistake").await;
    client.wait_for_usage("acme", "units", "103", 2).await;
    void(&client, "mistake").await;
    // Its id stays taken, and its content known.
    let again = event("mistake", "acme", &at, &json!({ "n": 20 }));
    client.event(&again).await.verdict(200, "duplicate");
    client.event(&event("new", "acme", &at, &json!({ "n": 1 }))).await.verdict(202, "accepted");
    client.wait_for_usage("acme", "units", "104", 3).await;
    let read = client.get("events/mistake").await.ok();
    assert_eq!(read["event"]["payload"]["n"].to_string(), "20");
    assert!(read["event"]["voidedBy"].as_str().unwrap().starts_with("key_"), "{read}");
}

/// A customer's invoices, oldest first.
async fn invoices(client: &Client, customer: &str) -> Vec<Json> {
    let listed = client.get(&format!("customers/{customer}/invoices")).await.ok();
    let mut invoices = Vec::new();
    for item in listed["items"].as_array().unwrap().iter().rev() {
        let read = client.get(&format!("invoices/{}", item["id"].as_str().unwrap())).await.ok();
        invoices.push(read["invoice"].clone());
    }
    invoices
}

/// Their true-ups: (invoice, units, events, cents, first instant of the window).
fn true_ups(invoices: &[Json]) -> Vec<(usize, &str, &str, &str, &str)> {
    let fees = invoices.iter().enumerate().flat_map(|(place, invoice)| {
        invoice["fees"].as_array().unwrap().iter().map(move |fee| (place, fee))
    });
    fees.filter(|(_, fee)| fee["trueUp"] == true)
        .map(|(place, fee)| {
            let window = &fee["properties"]["fromDatetime"];
            let [units, events, cents, from] =
                [&fee["units"], &fee["eventsCount"], &fee["amountCents"], window]
                    .map(|json| json.as_str().unwrap_or_default());
            (place, units, events, cents, from)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_or_goes_after_the_invoice_is_a_line_of_the_next_one() {
    let up = Up::at("2026-03-10T00:00:00Z").await;
    let client = up.client();
    let metric = client.metric("units", "calls", Some("n")).await;
    let plan = client.plan("pro", 1_000, &[(&metric, "1")]).await;
    let march = "2026-03-20T00:00:00Z";
    for customer in ["late", "voided", "quiet"] {
        client.customer(customer, None).await;
        client.subscription(customer, &plan, Some("2026-03-01T00:00:00Z")).await;
        for (name, n) in [("a", 10), ("b", 4)] {
            let body = event(&format!("{customer}-{name}"), customer, march, &json!({ "n": n }));
            client.event(&body).await.verdict(202, "accepted");
        }
    }
    up.advance("2026-04-01T00:00:00Z").await;
    for customer in ["late", "voided", "quiet"] {
        assert_eq!(client.invoices(customer).await[0].total_cents, 2_400, "{customer}");
    }
    // March is billed: 7.00 more, and 4.00 less.
    let body = event("late-c", "late", march, &json!({ "n": 7 }));
    client.event(&body).await.verdict(202, "accepted");
    void(&client, "voided-b").await;
    wait_for_rolls(&client, 1).await;
    for customer in ["late", "voided"] {
        let april =
            event(&format!("{customer}-d"), customer, "2026-04-02T00:00:00Z", &json!({ "n": 30 }));
        client.event(&april).await.verdict(202, "accepted");
    }
    up.advance("2026-05-01T00:00:00Z").await;
    up.advance("2026-06-01T00:00:00Z").await;
    let of_march = "2026-03-01T00:00:00Z";
    // 10.00 base, 30.00 of April, and the true-up; then nothing more.
    let wanted = [
        ("late", vec![(1, "7", "1", "700", of_march)], ["2400", "4700", "1000"]),
        ("voided", vec![(1, "-4", "-1", "-400", of_march)], ["2400", "3600", "1000"]),
        ("quiet", Vec::new(), ["2400", "1000", "1000"]),
    ];
    for (customer, lines, totals) in wanted {
        let invoices = invoices(&client, customer).await;
        assert_eq!(true_ups(&invoices), lines, "{customer}");
        let billed: Vec<&str> =
            invoices.iter().map(|invoice| invoice["totalAmountCents"].as_str().unwrap()).collect();
        assert_eq!(billed, totals, "{customer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_counts_otherwise_counts_all_events_so_also_those_that_come_meanwhile() {
    let up = Up::at("2026-03-10T00:00:00Z").await;
    let client = up.client();
    let calls = client.metric("all", "calls", None).await;
    let size = client.metric("size", "calls", Some("n")).await;
    let plan = client.plan("pro", 0, &[(&calls, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    let stop = Arc::new(AtomicU64::new(0));
    let flow = tokio::spawn({
        let (client, stop) = (client.clone(), stop.clone());
        async move {
            let mut sent = 0;
            while stop.load(Ordering::SeqCst) == 0 {
                let at = format!("2026-04-{:02}T12:00:00Z", 1 + sent % 28);
                let body = event(&format!("flow-{sent}"), "acme", &at, &json!({ "n": 1, "m": 2 }));
                client.event(&body).await.verdict(202, "accepted");
                sent += 1;
            }
            sent
        }
    });
    eventually("events in ClickHouse", async || match client.event_ids("acme").await.len() {
        0..60 => Err("few".to_owned()),
        _ => Ok(()),
    })
    .await;
    let url = format!("{}/billable-metrics/{size}", client.api);
    let change = json!({ "fieldName": "m" }).to_string();
    client.send("PUT", &url, &[], change).await.unwrap().ok();
    wait_for_rolls(&client, 1).await;
    stop.store(1, Ordering::SeqCst);
    let sent = flow.await.unwrap();

    // Charges of the next period, which a plan edit of now applies to.
    let edit =
        json!({ "charges": charges(&[(&calls, "1"), (&size, "1")]), "cascadeUpdates": true });
    let url = format!("{}/plans/{plan}", client.api);
    client.send("PUT", &url, &[], edit.to_string()).await.unwrap().ok();
    up.advance("2026-05-01T00:00:00Z").await;
    let april = &client.invoices("acme").await[1].fees;
    assert_eq!(april["all"].events, sent);
    assert_eq!((april["size"].units.clone(), april["size"].events), ((2 * sent).to_string(), sent));
}
