//! kill -9 of everything in the middle of a load.

use crate::{load::Load, up::Up};
use serde_json::Value as Json;

const EVENTS: usize = 6_000;
const BATCHES: usize = EVENTS / 50;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_counted_once_through_three_kills_under_load() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    let metric = client.metric("tokens", "tokens", Some("n")).await;
    let plan = client.plan("llm", 2_000, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, Some("2026-03-01T00:00:00Z")).await;

    let load = Load::new("acme", EVENTS);
    // With the first answers, in the middle, and with the last.
    for moment in [1, BATCHES / 3, BATCHES - 2] {
        let sending = load.start(&up.client(), false);
        load.wait_for(moment).await;
        up.kill();
        sending.until_all_is_sent().await;
        up.restart().await;
    }
    let client = up.client();
    load.finish(&client).await;
    let (accepted_before, _) = load.accepted();
    load.again();
    load.finish(&client).await;
    assert_eq!(load.unexpected(), [""; 0]);
    let (accepted, times) = load.accepted();
    assert_eq!((accepted, times), (accepted_before, 1), "a known id was accepted again");

    let (units, events) = load.total();
    client.wait_for_usage("acme", "tokens", &units.to_string(), events).await;
    let lines = up.operator(&["log", "cat"]).await.ok();
    assert!(sorted(logged_ids(&lines)) == load.ids(), "the log's ids differ");

    up.advance("2026-04-01T00:00:00Z").await;
    // Not before: usage may be ahead of the list, and a bill waits until both have everything.
    assert!(sorted(client.event_ids("acme").await) == load.ids(), "ClickHouse's list differs");
    let invoices = client.invoices("acme").await;
    assert_eq!(invoices.len(), 1);
    let fee = &invoices[0].fees["tokens"];
    assert_eq!((fee.units.clone(), fee.events), (units.to_string(), events));
    assert_eq!(invoices[0].total_cents, 2_000 + i128::from(units) * 100);
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

fn logged_ids(lines: &str) -> Vec<String> {
    let events = lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap());
    events.map(|event| event["transactionId"].as_str().unwrap().to_owned()).collect()
}
