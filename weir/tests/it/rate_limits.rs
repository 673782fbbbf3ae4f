//! How many events a second an organization may send.

use crate::{client::Client, eventually, up::shared};
use serde_json::json;

fn batch(name: &str, events: usize) -> String {
    let events = (0..events).map(|number| {
        json!({
            "transactionId": format!("{name}-{number}"), "externalSubscriptionId": "acme",
            "code": "calls",
        })
    });
    json!({ "events": events.collect::<Vec<_>>() }).to_string()
}

async fn subscribe(client: &Client) {
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_more_than_it_may_is_told_when_to_go_on_and_others_are_not() {
    let up = shared().await;
    let (limited, free) = (up.organization("Limited").await, up.organization("Free").await);
    subscribe(&limited).await;
    subscribe(&free).await;
    let set = ["organizations", "set", "Limited", "--events-per-second", "100"];
    up.operator(&set).await.ok();
    // The edge hears of it within a second; then a batch of ten seconds' worth passes, and what
    // follows waits for it.
    let mut sent = 0;
    let refused = eventually("a refusal", async || {
        let answer = limited.batch(batch(&format!("big-{sent}"), 1_000)).await.unwrap();
        if answer.status == 429 {
            return Ok(answer);
        }
        assert_eq!(answer.ok()["accepted"], 1_000);
        sent += 1_000;
        Err("it is taken".to_owned())
    })
    .await;
    refused.refused(429, "RATE_LIMITED");
    let seconds: u32 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&seconds), "{seconds}");
    let one = r#"{"transactionId":"one","externalSubscriptionId":"acme","code":"calls"}"#;
    limited.event(one).await.refused(429, "RATE_LIMITED");
    assert_eq!(free.batch(batch("free", 1_000)).await.unwrap().ok()["accepted"], 1_000);

    // What was refused has left no trace, and is taken in its time.
    let taken = eventually("an end of the wait", async || {
        let answer = limited.event(one).await;
        if answer.status == 429 { Err(answer.json.to_string()) } else { Ok(answer) }
    });
    taken.await.verdict(202, "accepted");
    let counted = sent + 1;
    limited.wait_for_usage("acme", "calls", &counted.to_string(), counted).await;
}
