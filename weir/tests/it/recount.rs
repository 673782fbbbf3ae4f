//! Whether everything that was sent to roles apart is counted once, and billed.

use crate::{
    apart::{Account, Apart},
    load::Load,
};

/// Everything sent is stored, used and billed once, and nothing else is.
pub async fn recount(apart: &Apart, account: &Account, load: &Load) {
    assert_eq!(load.unexpected(), [""; 0]);
    let (client, (units, events)) = (&account.client, load.total());
    client.wait_for_usage("acme", "tokens", &units.to_string(), events).await;
    bill(apart, account, load).await;
    // Not before: usage may be ahead of the list, and a bill waits until both have everything.
    let mut stored = client.event_ids("acme").await;
    stored.sort_unstable();
    assert!(stored == load.ids(), "{} stored, {events} sent", stored.len());
}

/// The month is billed with everything that was sent.
pub async fn bill(apart: &Apart, account: &Account, load: &Load) {
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

/// More is sent, and some of it answered.
pub async fn goes_on(load: &Load) {
    load.add(1_000);
    load.wait_for(load.settled() + 8).await;
}
