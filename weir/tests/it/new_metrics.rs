//! Metrics that are made while events flow.

use crate::{client::charges, eventually, up::Up};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

fn event(id: &str, code: &str) -> String {
    // In the next period, which a plan edit of now applies to.
    let at = "2026-04-10T00:00:00Z";
    format!(
        r#"{{"transactionId":"{id}","externalSubscriptionId":"acme","code":"{code}","timestamp":"{at}"}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metric_made_while_events_flow_counts_them_all() {
    let up = Up::at("2026-03-10T00:00:00Z").await;
    let client = up.client();
    let old = client.metric("old", "calls", None).await;
    let plan = client.plan("pro", 0, &[(&old, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    let refused = client.event(&event("early", "fresh")).await;
    refused.verdict(400, "rejected");
    assert_eq!(refused.json["error"]["reason"], "UNKNOWN_CODE");

    let sent = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicU64::new(u64::MAX));
    let flow = tokio::spawn({
        let (client, sent, stop) = (client.clone(), sent.clone(), stop.clone());
        async move {
            for number in 0.. {
                if number >= stop.load(Ordering::SeqCst) {
                    return number;
                }
                sent.store(number + 1, Ordering::SeqCst);
                client
                    .event(&event(&format!("flow-{number}"), "calls"))
                    .await
                    .verdict(202, "accepted");
            }
            unreachable!("events do not end")
        }
    });
    eventually("events in ClickHouse", async || match client.event_ids("acme").await.len() {
        0..20 => Err("few".to_owned()),
        _ => Ok(()),
    })
    .await;
    let same = client.metric("same", "calls", None).await;
    // Chunks are decided meanwhile by a catalog that is no longer the newest: no sender sees that.
    for more in 0..8 {
        client.metric(&format!("same-{more}"), "calls", None).await;
    }
    let fresh = client.metric("fresh", "fresh", None).await;
    // A code that the edge did not know a moment ago is asked for at once.
    client.event(&event("fresh-1", "fresh")).await.verdict(202, "accepted");
    // What was sent before counts for it, and what comes after.
    stop.store(sent.load(Ordering::SeqCst) + 20, Ordering::SeqCst);
    let all = flow.await.unwrap();

    let edit = json!({
        "charges": charges(&[(&old, "1"), (&same, "1"), (&fresh, "1")]), "cascadeUpdates": true,
    });
    let url = format!("{}/plans/{plan}", client.api);
    client.send("PUT", &url, &[], edit.to_string()).await.unwrap().ok();
    up.advance("2026-05-01T00:00:00Z").await;
    let invoices = client.invoices("acme").await;
    let april = &invoices[1].fees;
    assert_eq!(april["old"].events, all);
    assert_eq!(april["fresh"].events, 1);
    assert_eq!(april["same"].events, all);
}
