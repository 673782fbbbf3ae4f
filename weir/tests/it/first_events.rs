//! One event and its repeats, to the last digit.

use crate::{client::Client, up::Up};
use serde_json::json;

fn event(id: &str, customer: &str, n: &str) -> String {
    format!(
        r#"{{"transactionId":"{id}","externalSubscriptionId":"{customer}","code":"tokens","properties":{{"n":{n}}}}}"#
    )
}

/// Repeats are told apart by every digit: as floats these pairs would be the same.
async fn repeats_are_known(client: &Client) {
    client.event(&event("big-1", "big", "9007199254740993")).await.verdict(200, "duplicate");
    client.event(&event("big-1", "big", "9007199254740992")).await.verdict(409, "conflict");
    client.event(&event("small-1", "small", "0.1")).await.verdict(200, "duplicate");
    let close = event("small-1", "small", "0.10000000000000001");
    client.event(&close).await.verdict(400, "rejected");
    client.event(&event("small-1", "small", "0.100000000001")).await.verdict(409, "conflict");
    client.event(&event("small-1", "big", "0.1")).await.verdict(409, "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_billed_once_and_to_the_last_digit_also_after_kill_9() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    let metric = client.metric("tokens", "tokens", Some("n")).await;
    for (customer, price) in [("big", "0.005"), ("small", "12345.67")] {
        let plan = client.plan(customer, 0, &[(&metric, price)]).await;
        client.customer(customer, None).await;
        client.subscription(customer, &plan, None).await;
    }

    let first = client.event(&event("big-1", "big", "9007199254740993")).await;
    assert_eq!(first.status, 202);
    assert_eq!(first.json, json!({ "transactionId": "big-1", "status": "accepted" }));
    client.event(&event("small-1", "small", "0.1")).await.verdict(202, "accepted");
    repeats_are_known(&client).await;
    client.wait_for_usage("big", "tokens", "9007199254740993", 1).await;
    client.wait_for_usage("small", "tokens", "0.1", 1).await;

    let named = async |client: &Client, name: &str| {
        let (url, headers) = (format!("{}/customers", client.api), [("idempotency-key", "once")]);
        let body = json!({ "externalId": "once", "name": name }).to_string();
        client.send("POST", &url, &headers, body).await.unwrap()
    };
    let made = named(&client, "Once").await.ok();
    up.kill();
    up.restart().await;
    let client = up.client();
    assert_eq!(named(&client, "Once").await.ok(), made);
    named(&client, "Twice").await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    repeats_are_known(&client).await;
    client.event(&event("small-2", "small", "0.2")).await.verdict(202, "accepted");
    client.wait_for_usage("small", "tokens", "0.3", 2).await;
    client.wait_for_usage("big", "tokens", "9007199254740993", 1).await;
    // Again, with what came after the first crash.
    up.kill();
    up.restart().await;
    let client = up.client();
    repeats_are_known(&client).await;
    client.event(&event("small-2", "small", "0.2")).await.verdict(200, "duplicate");

    up.advance("2026-04-01T00:00:00Z").await;
    // 9007199254740993 × 0.005 = 45035996273704.965 (the float before it would be a cent less), and
    // (0.1 + 0.2) × 12345.67 = 3703.701
    let wanted = [
        ("big", "9007199254740993", 1, 4_503_599_627_370_497, "4503599627370496.5"),
        ("small", "0.3", 2, 370_370, "370370.1"),
    ];
    for (customer, units, events, cents, precise) in wanted {
        let invoices = client.invoices(customer).await;
        assert_eq!(invoices.len(), 1, "{invoices:?}");
        let fee = &invoices[0].fees["tokens"];
        assert_eq!((fee.units.as_str(), fee.events, fee.cents), (units, events, cents));
        assert_eq!(fee.precise_cents, precise);
        assert_eq!(invoices[0].total_cents, cents);
    }
    let stored = client.get("events/big-1").await.ok();
    assert_eq!(stored["event"]["payload"].to_string(), r#"{"n":9007199254740993}"#);
}
