//! Several invoicers at once.

use crate::{
    eventually,
    processes::{Process, run},
    up::Up,
};
use std::collections::BTreeSet;

const CUSTOMERS: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn two_invoicers_at_once_make_one_invoice_each_and_numbers_without_gaps() {
    // Only whoever is asked to bills.
    let never = ("INVOICER__SCHEDULE__INTERVAL_MS", "3600000");
    let batch = ("INVOICER__BATCH__CUSTOMERS_MAX", "3");
    let clock = ("WEIR_TEST_CLOCK", "2026-05-10T00:00:00Z");
    let up = Up::with(&[clock, never]).await;
    let client = up.client();
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 1_000, &[(&metric, "0.25")]).await;
    let names: Vec<String> = (0..CUSTOMERS).map(|number| format!("customer-{number}")).collect();
    for name in &names {
        client.customer(name, None).await;
        client.subscription(name, &plan, Some("2026-03-01T00:00:00Z")).await;
        for (month, events) in [("03", 1), ("04", 3)] {
            for event in 0..events {
                let body = format!(
                    r#"{{"transactionId":"{name}-{month}-{event}","externalSubscriptionId":"{name}","code":"calls","timestamp":"2026-{month}-15T00:00:00Z"}}"#
                );
                client.event(&body).await.verdict(202, "accepted");
            }
        }
    }

    // Before the first month was over nothing is due; then one month; never more than the present.
    let as_of = async |time: &str| up.operator(&["invoice", "--as-of", time]).await.ok();
    assert!(as_of("2026-03-31T23:59:59Z").await.starts_with("0 invoices made"));
    let two = async |time: &str| {
        let start = || {
            let mut command = up.command(&["invoice", "--as-of", time]);
            command.env(batch.0, batch.1);
            run(command)
        };
        let (one, other) = tokio::join!(start(), start());
        made(&one.ok()) + made(&other.ok())
    };
    assert_eq!(two("2026-04-01T00:00:00Z").await, CUSTOMERS);
    assert_eq!(two("2027-01-01T00:00:00Z").await, CUSTOMERS);
    assert_eq!(two("2027-01-01T00:00:00Z").await, 0);

    let mut numbers = BTreeSet::new();
    for (place, name) in names.iter().enumerate() {
        let invoices = client.invoices(name).await;
        assert_eq!(invoices.len(), 2, "{name}");
        for (month, invoice) in invoices.iter().enumerate() {
            let (events, cents) = [(1, 1_025), (3, 1_075)][month];
            assert_eq!((invoice.fees["calls"].events, invoice.total_cents), (events, cents));
            let end = format!("-{:03}-{:03}", place + 1, month + 1);
            assert!(invoice.number.ends_with(&end), "{} of {name}", invoice.number);
            numbers.insert(invoice.number.clone());
        }
    }
    assert_eq!(numbers.len(), 2 * CUSTOMERS);
}

/// "24 invoices made, …"
fn made(report: &str) -> usize {
    report.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advance_of_the_clock_that_is_killed_goes_on_and_bills_nothing_twice() {
    let mut up = Up::at("2026-03-01T00:00:00Z").await;
    let client = up.client();
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 1_000, &[(&metric, "0.25")]).await;
    for number in 0..CUSTOMERS {
        let name = format!("customer-{number}");
        client.customer(&name, None).await;
        client.subscription(&name, &plan, None).await;
    }
    let event = r#"{"transactionId":"t","externalSubscriptionId":"customer-7","code":"calls"}"#;
    client.event(event).await.verdict(202, "accepted");
    let to = ["clock", "advance", "--to", "2027-03-01T00:00:00Z"];
    for kills in 1..=2 {
        let mut command = up.command(&to);
        command.env("INVOICER__BATCH__CUSTOMERS_MAX", "5");
        let mut advance = Process::spawn(command, up.beside("advance.log"));
        let client = up.client();
        eventually("some invoices", async || {
            let listed = client.get("invoices?pagination.limit=1").await.ok();
            let count: usize = listed["totalCount"].as_str().unwrap().parse().unwrap();
            if count > kills * 2 * CUSTOMERS { Ok(()) } else { Err(format!("{count}")) }
        })
        .await;
        assert!(advance.status().is_none(), "it ended before it was killed");
        if kills == 2 {
            up.kill();
        }
        advance.kill();
    }
    up.restart().await;
    up.operator(&to).await.ok();
    let client = up.client();
    for number in 0..CUSTOMERS {
        let invoices = client.invoices(&format!("customer-{number}")).await;
        let ends: Vec<&str> =
            invoices.iter().map(|one| one.fees["pro"].window.1.as_str()).collect();
        assert_eq!(invoices.len(), 12, "{ends:?}");
        for (month, invoice) in (1..).zip(&invoices) {
            let used = u64::from(number == 7 && month == 1);
            assert_eq!(invoice.fees["calls"].events, used);
            assert_eq!(invoice.total_cents, 1_000 + i128::from(used) * 25);
            assert!(invoice.number.ends_with(&format!("-{:03}-{month:03}", number + 1)));
        }
        let distinct: BTreeSet<&str> = ends.iter().copied().collect();
        assert_eq!(distinct.len(), 12, "{ends:?}");
    }
}
