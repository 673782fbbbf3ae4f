//! What dies and comes back while the roles run apart on Kafka.

use crate::{
    apart::{Account, Apart, Turn, turn},
    eventually,
    load::Load,
    processes::run,
};
use rustix::process::Signal;
use serde_json::Value as Json;
use std::collections::BTreeSet;
use weir_store::partitions;

/// Everything sent is stored, used and billed once, and nothing else is.
async fn recount(apart: &Apart, account: &Account, load: &Load) {
    assert_eq!(load.unexpected(), [""; 0]);
    let (client, (units, events)) = (&account.client, load.total());
    client.wait_for_usage("acme", "tokens", &units.to_string(), events).await;
    let mut stored = client.event_ids("acme").await;
    stored.sort_unstable();
    assert!(stored == load.ids(), "{} stored, {events} sent", stored.len());
    bill(apart, account, load).await;
}

/// The month is billed with everything that was sent.
async fn bill(apart: &Apart, account: &Account, load: &Load) {
    let (client, (units, events)) = (&account.client, load.total());
    apart.operator(&["clock", "advance", "--to", &account.month.1]).await.ok();
    let invoices = client.invoices("acme").await;
    assert_eq!(invoices.len(), 1);
    let fee = &invoices[0].fees["tokens"];
    assert_eq!((fee.units.clone(), fee.events), (units.to_string(), events));
    assert_eq!(invoices[0].total_cents, i128::from(units) * 100);
    assert!(invoices[0].number.ends_with("-001-001"), "{}", invoices[0].number);
    // Every role knows by now what time it is.
    let late = client.customer("late", None).await;
    let late = client.get(&format!("customers/{late}")).await.ok();
    assert_eq!(late["customer"]["createdAt"], account.month.1.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_is_killed_under_load_and_comes_back_and_everything_is_counted_once() {
    let mut apart = turn().await;
    let account = apart.account("Killed").await;
    let load = Load::new("acme", 1_000).at(&account.month.0);
    let sending = load.start(&account.client, true);
    for role in ["aggregator", "ingest", "invoicer", "api", "ingest", "aggregator"] {
        load.add(1_500);
        load.wait_for(load.settled() + 8).await;
        apart.kill(role);
        if role == "ingest" {
            // The api role hands events on, and says so when it can't.
            let refused = account.at_the_other_door().batch("[]").await.unwrap();
            refused.refused(503, "UNAVAILABLE");
            assert!(refused.headers.contains_key("retry-after"));
        }
        apart.start_role(role);
        apart.wait_until_ready(role).await;
    }
    sending.until_all_is_sent().await;
    // A sender that can't know sends everything again, and here to the other door.
    load.again();
    load.finish(&account.at_the_other_door()).await;
    let lines = apart.operator(&["log", "cat"]).await.ok();
    let logged: BTreeSet<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap())
        .map(|event| event["transactionId"].as_str().unwrap().to_owned())
        .collect();
    assert!(load.ids().iter().all(|id| logged.contains(id)), "the log lacks something");
    recount(&apart, &account, &load).await;
}

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
    let ready = reqwest::get(format!("{}/readyz", apart.url("ingest"))).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_down_known_events_are_accepted_and_counted_when_it_is_back() {
    let mut apart = turn().await;
    let account = apart.account("Catalog").await;
    let client = &account.client;
    let load = Load::new("acme", 2_000).at(&account.month.0);
    let sending = load.start(client, true);
    load.wait_for(5).await;
    apart.stop_postgres().await;
    goes_on(&load).await;
    // It may have been made a moment ago: only the catalog could refuse it for good.
    let unknown = load.extra_event("unknown", 9).replace("tokens", "brand-new");
    client.event(&unknown).await.refused(503, "LOG_UNAVAILABLE");
    apart.start_postgres().await;
    let refused = eventually("an answer of the catalog", async || {
        let answer = client.event(&unknown).await;
        if answer.status == 503 { Err(answer.json.to_string()) } else { Ok(answer) }
    });
    refused.await.verdict(400, "rejected");
    let known = unknown.replace("brand-new", "tokens");
    client.event(&known).await.verdict(202, "accepted");
    sending.until_all_is_sent().await;
    recount(&apart, &account, &load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_billed_before_the_aggregator_has_counted_it() {
    let mut apart = turn().await;
    let account = apart.account("Behind").await;
    apart.kill("aggregator");
    let load = Load::new("acme", 500).at(&account.month.0);
    load.finish(&account.client).await;
    let advance = ["clock", "advance", "--to", &account.month.1];
    let mut command = apart.command(&advance);
    command.env("INVOICER__WATERMARK__SETTLE_MS", "1500");
    run(command).await.refused("is the aggregator running?");
    let mut command = apart.command(&["invoice"]);
    command.env("INVOICER__WATERMARK__WAIT_MS", "1000");
    let said = run(command).await.ok();
    assert!(said.starts_with("0 invoices made"), "{said}");
    assert!(account.client.invoices("acme").await.is_empty());
    apart.start_role("aggregator");
    bill(&apart, &account, &load).await;
}

/// Lets go of partitions until both aggregators hold some.
async fn share(apart: &Apart) {
    let pool = apart.pool().await;
    eventually("partitions with both aggregators", async || {
        let mut conn = pool.acquire().await.unwrap();
        let all = partitions::list(&mut conn).await.unwrap();
        let owners: BTreeSet<_> = all.iter().map(|one| one.owner.as_deref()).collect();
        if owners == BTreeSet::from([Some("aggregator"), Some("aggregator-2")]) {
            return Ok(());
        }
        for one in all.iter().filter(|one| one.partition % 2 == 0) {
            partitions::release(&mut conn, one.partition, one.epoch).await.unwrap();
        }
        Err(format!("{owners:?}"))
    })
    .await;
}

async fn wait_for_only_owner(apart: &Apart, owner: &str) {
    let pool = apart.pool().await;
    eventually("one owner of all partitions", async || {
        let mut conn = pool.acquire().await.unwrap();
        let all = partitions::list(&mut conn).await.unwrap();
        let others: Vec<_> = all.iter().filter(|one| one.owner.as_deref() != Some(owner)).collect();
        if others.is_empty() { Ok(()) } else { Err(format!("{others:?}")) }
    })
    .await;
}

async fn goes_on(load: &Load) {
    load.add(1_000);
    load.wait_for(load.settled() + 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_aggregators_share_the_work_and_one_is_paused_and_one_killed() {
    let mut apart: Turn = turn().await;
    let account = apart.account("Shared").await;
    apart.start_role("aggregator-2");
    apart.wait_until_ready("aggregator-2").await;
    let load = Load::new("acme", 2_000).at(&account.month.0);
    let sending = load.start(&account.client, true);
    load.wait_for(5).await;
    share(&apart).await;
    goes_on(&load).await;
    // One that is paused beyond its lease is not the owner any more when it goes on.
    apart.signal("aggregator", Signal::STOP);
    goes_on(&load).await;
    wait_for_only_owner(&apart, "aggregator-2").await;
    apart.signal("aggregator", Signal::CONT);
    goes_on(&load).await;
    share(&apart).await;
    goes_on(&load).await;
    apart.kill("aggregator-2");
    goes_on(&load).await;
    wait_for_only_owner(&apart, "aggregator").await;
    sending.until_all_is_sent().await;
    recount(&apart, &account, &load).await;
}
