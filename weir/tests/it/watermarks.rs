//! What waits for the aggregator.

use crate::{apart::turn, load::Load, processes::run, recount::bill};

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
