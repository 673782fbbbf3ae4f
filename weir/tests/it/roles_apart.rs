//! Roles that are killed and come back, each by itself.

use crate::{apart::turn, load::Load, recount::recount};
use serde_json::Value as Json;
use std::collections::BTreeSet;

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
    // Who looks makes nothing: the second look finds nothing either.
    for _ in 0..2 {
        let mistyped = apart.operator(&["log", "cat", "--kafka-topic", "weir-evnets"]).await;
        mistyped.refused("can't read topic weir-evnets");
    }
    let logged: BTreeSet<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap())
        .map(|event| event["transactionId"].as_str().unwrap().to_owned())
        .collect();
    assert!(load.ids().iter().all(|id| logged.contains(id)), "the log lacks something");
    recount(&apart, &account, &load).await;
}
