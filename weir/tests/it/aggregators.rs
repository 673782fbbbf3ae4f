//! Two aggregators on the same partitions.

use crate::{
    apart::{Apart, turn},
    eventually,
    load::Load,
    recount::{goes_on, recount},
};
use rustix::process::Signal;
use weir_store::partitions;

/// Waits until both aggregators hold as many partitions, give or take one.
async fn share(apart: &Apart) {
    let pool = apart.pool().await;
    eventually("partitions with both aggregators", async || {
        let mut conn = pool.acquire().await.unwrap();
        let all = partitions::list(&mut conn).await.unwrap();
        let held =
            |owner: &str| all.iter().filter(|one| one.owner.as_deref() == Some(owner)).count();
        let (one, other) = (held("aggregator"), held("aggregator-2"));
        let even = one + other == all.len() && one.abs_diff(other) <= 1;
        if even { Ok(()) } else { Err(format!("{one} and {other} of {}", all.len())) }
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

#[tokio::test(flavor = "multi_thread")]
async fn two_aggregators_share_the_work_and_one_is_paused_and_one_killed() {
    let mut apart = turn().await;
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
