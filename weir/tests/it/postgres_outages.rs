//! Roles apart while Postgres is away.

use crate::{
    apart::turn,
    eventually,
    load::Load,
    recount::{goes_on, recount},
};

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
    client.event(&unknown).await.refused(503, "CATALOG_UNAVAILABLE");
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
