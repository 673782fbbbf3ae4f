//! Roles apart while Kafka is away.

use crate::{
    apart::{Account, Apart, turn},
    client::http,
    eventually,
    load::Load,
    recount::{goes_on, recount},
};

/// What a sender sees while the log is away, and when it is back.
async fn outage(apart: &Apart, account: &Account, load: &Load, id: &str) {
    let client = &account.client;
    let event = load.extra_event(id, 5);
    let refused = client.event(&event).await;
    refused.refused(503, "LOG_UNAVAILABLE");
    let seconds: u32 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    let refused = client.batch(format!("[{event}]")).await.unwrap();
    refused.refused(503, "LOG_UNAVAILABLE");
    assert!(refused.headers.contains_key("retry-after"));
    let ready = http().get(format!("{}/readyz", apart.url("ingest"))).send().await.unwrap();
    assert_eq!(ready.status(), 503);

    apart.start_kafka().await;
    let taken = eventually("an answer after the outage", async || {
        let answer = client.event(&event).await;
        if answer.status == 503 { Err(answer.json.to_string()) } else { Ok(answer) }
    });
    taken.await.verdict(202, "accepted");
    client.event(&event).await.verdict(200, "duplicate");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_down_senders_shall_retry_and_the_retry_is_accepted_and_counted_once() {
    let apart = turn().await;
    let account = apart.account("Outage").await;
    let load = Load::new("acme", 2_000).at(&account.month.0);
    let sending = load.start(&account.client, true);
    load.wait_for(5).await;
    apart.stop_kafka().await;
    load.add(1_000);
    outage(&apart, &account, &load, "while-it-was-stopped").await;
    goes_on(&load).await;
    apart.kill_kafka();
    load.add(1_000);
    outage(&apart, &account, &load, "while-it-was-dead").await;
    sending.until_all_is_sent().await;
    recount(&apart, &account, &load).await;
}
