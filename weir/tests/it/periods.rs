//! Where one period ends and the next begins.

use crate::{
    client::{Client, Invoice},
    up::Up,
};

/// An event of so many units, at its time or now.
async fn use_units(client: &Client, customer: &str, n: u32, at: Option<&str>) {
    let at = at.map_or_else(String::new, |at| format!(r#","timestamp":"{at}""#));
    let event = format!(
        r#"{{"transactionId":"{customer}-{n}","externalSubscriptionId":"{customer}","code":"u","properties":{{"n":{n}}}{at}}}"#
    );
    client.event(&event).await.verdict(202, "accepted");
}

#[track_caller]
fn check(invoice: &Invoice, units: i128, events: u64, window: (&str, &str)) {
    let fee = &invoice.fees["u"];
    assert_eq!((fee.units.clone(), fee.events), (units.to_string(), events), "{invoice:?}");
    assert_eq!((fee.window.0.as_str(), fee.window.1.as_str()), window);
    // A whole month's base fee, and 1.00 for each unit.
    assert_eq!(invoice.fees["plan"].cents, 3_100);
    assert_eq!(invoice.total_cents, 3_100 + units * 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_midnight_is_billed_in_the_new_period_of_the_customers_own_zone() {
    let up = Up::at("2026-03-31T12:00:00Z").await;
    let client = up.client();
    let metric = client.metric("u", "u", Some("n")).await;
    let plan = client.plan("plan", 3_100, &[(&metric, "1")]).await;
    // (customer, zone, first instant of March, last microsecond of March, first instant of April)
    let customers = [
        (
            "london",
            None,
            "2026-03-01T00:00:00Z",
            "2026-03-31T23:59:59.999999Z",
            "2026-04-01T00:00:00Z",
        ),
        (
            "kathmandu",
            Some("Asia/Kathmandu"),
            "2026-02-28T18:15:00Z",
            "2026-03-31T18:14:59.999999Z",
            "2026-03-31T18:15:00Z",
        ),
    ];
    for (customer, zone, march, last, april) in customers {
        client.customer(customer, zone).await;
        client.subscription(customer, &plan, Some(march)).await;
        use_units(&client, customer, 1, Some(march)).await;
        use_units(&client, customer, 20, Some(last)).await;
        use_units(&client, customer, 300, Some(april)).await;
        // Between the two midnights: April in Kathmandu, March in London.
        use_units(&client, customer, 4_000, Some("2026-03-31T20:00:00Z")).await;
        use_units(&client, customer, 50_000, Some("2026-04-01T00:00:00+05:45")).await;
    }

    up.advance("2026-03-31T18:14:59.999999Z").await;
    assert!(client.invoices("kathmandu").await.is_empty());
    up.advance("2026-03-31T18:15:00Z").await;
    let march = ("2026-02-28T18:15:00Z", "2026-03-31T18:15:00Z");
    check(&client.invoices("kathmandu").await[0], 21, 2, march);
    assert!(client.invoices("london").await.is_empty());

    up.advance("2026-04-01T00:00:00Z").await;
    // Without a time of its own an event is of now, and that is April by now.
    for (customer, ..) in customers {
        use_units(&client, customer, 600_000, None).await;
    }
    let march = ("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z");
    check(&client.invoices("london").await[0], 54_021, 4, march);
    assert_eq!(client.invoices("kathmandu").await.len(), 1);

    up.advance("2026-05-01T00:00:00Z").await;
    let kathmandu = client.invoices("kathmandu").await;
    let april = ("2026-03-31T18:15:00Z", "2026-04-30T18:15:00Z");
    check(&kathmandu[1], 654_300, 4, april);
    let london = client.invoices("london").await;
    check(&london[1], 600_300, 2, ("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z"));
    assert_eq!((kathmandu.len(), london.len()), (2, 2));
    let numbers = |invoices: &[Invoice]| -> Vec<String> {
        invoices.iter().map(|one| one.number[one.number.len() - 7..].to_owned()).collect()
    };
    assert_eq!(numbers(&london), ["001-001", "001-002"]);
    assert_eq!(numbers(&kathmandu), ["002-001", "002-002"]);
}
