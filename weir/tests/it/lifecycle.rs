//! Starting, standing beside others, and ending.

use crate::{
    client::{Client, http},
    eventually,
    load::Load,
    processes::{living_in, run, weir},
    up::Up,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{io::Write, net::TcpStream, os::unix::fs::PermissionsExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_weir_on_the_directory_or_on_the_port_is_refused_with_a_clear_word() {
    let up = Up::start().await;
    let second = |data: std::path::PathBuf, listen: &str, metrics: &str| {
        let mut command = weir();
        command.arg("up").arg("--data").arg(data).args(["--listen", listen]);
        command.args(["--metrics-listen", metrics]);
        run(command)
    };
    let any = "127.0.0.1:0";
    let refused = second(up.data(), any, any).await;
    refused.refused("another weir is running on");
    assert!(refused.err.contains(up.data().to_str().unwrap()), "{refused:?}");
    let taken = up.url().trim_start_matches("http://");
    let refused = second(up.beside("other"), taken, any).await;
    refused.refused(&format!("can't listen on {taken}"));
    let metrics = up.metrics_url().trim_start_matches("http://").trim_end_matches("/metrics");
    second(up.beside("other"), any, metrics).await.refused(&format!("can't listen on {metrics}"));

    let mode = |name: &str| up.data().join(name).metadata().unwrap().permissions().mode() & 0o777;
    for secret in ["log", "index", "clickhouse", "postgres", "postgres.socket"] {
        assert_eq!(mode(secret), 0o700, "{secret}");
    }
    assert_eq!((mode("connections.json"), mode("admin.sock")), (0o600, 0o600));

    // The first one has not noticed.
    let http = http();
    let get = async |url: String| {
        let answer = http.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, body) = get(format!("{}/healthz", up.url())).await;
    assert_eq!((status, body.contains("ok")), (200, true));
    let (status, body) = get(format!("{}/readyz", up.url())).await;
    assert_eq!(status, 200, "{body}");
    for part in ["log", "postgres", "clickhouse"] {
        assert!(body.contains(&format!(r#""{part}":"ok""#)), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_ends_everything_in_order_and_a_restart_goes_on() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    let metric = client.metric("tokens", "tokens", Some("n")).await;
    let plan = client.plan("llm", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    let load = Load::new("acme", 3_000);
    let sending = load.start(&client, false);
    load.wait_for(10).await;
    // Somebody who has begun a request and says nothing more holds nobody up.
    let mut silent = TcpStream::connect(up.url().trim_start_matches("http://")).unwrap();
    silent.write_all(b"POST /api/billing/v2/events HTTP/1.1\r\nhost: w").unwrap();
    let status = up.terminate().await;
    assert!(status.success(), "{status}");
    drop(silent);
    sending.until_all_is_sent().await;
    eventually("an empty house", async || match living_in(&up.data()) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    assert!(!up.data().join("connections.json").exists());

    let (accepted, _) = load.accepted();
    assert!(accepted >= 10 * 50);
    up.restart().await;
    let client = up.client();
    load.again();
    load.finish(&client).await;
    assert_eq!(load.unexpected(), [""; 0]);
    assert_eq!(load.accepted().1, 1, "an accepted id was accepted again");
    let (units, events) = load.total();
    client.wait_for_usage("acme", "tokens", &units.to_string(), events).await;

    let metrics = http().get(up.metrics_url()).send().await.unwrap().text().await.unwrap();
    let counted =
        metrics.lines().find_map(|line| line.strip_prefix("ingest_events_accepted_total "));
    let counted: usize = counted.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap();
    assert_eq!(counted, load.accepted().0 - accepted, "this process counts what it accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_the_terminal_lets_us_end_in_order_before_our_children() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    let client = up.client();
    let metric = client.metric("tokens", "tokens", Some("n")).await;
    let plan = client.plan("llm", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    let load = Load::new("acme", 3_000);
    let sending = load.start(&client, false);
    load.wait_for(10).await;
    // A terminal signals the whole group.
    up.process().signal_group(Signal::INT);
    let status = up.process().end().await;
    assert!(status.success(), "{status}");
    sending.until_all_is_sent().await;
    let said = up.process().said();
    let end = said.split_once("ending in order").expect("it says that it ends").1;
    assert!(!end.contains("WARN") && !end.contains("ERROR"), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_child_dies_everything_ends_and_a_restart_goes_on() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    for (child, name) in [("__engine", "engine"), ("postgres -D", "Postgres")] {
        let living = living_in(&up.data());
        let line = living.iter().find(|line| line.contains(child)).expect(child);
        let pid: i32 = line.split(' ').next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let status = up.process().end().await;
        assert_eq!(status.code(), Some(1));
        let said = up.process().said();
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("weir: ") && last.contains(name), "{said}");
        up.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_at_any_moment_does_not_spoil_the_next() {
    let data = |up: &Up, name: &str| up.data().join(name).exists();
    let said = |up: &mut Up, words: &str| up.process().said().contains(words);
    type Moment = Box<dyn Fn(&mut Up) -> bool + Send>;
    let moments: [Moment; 6] = [
        Box::new(move |up| data(up, "lock")),
        Box::new(move |up| data(up, "postgres.new/global")),
        Box::new(move |up| data(up, "clickhouse/engine.port")),
        Box::new(move |up| data(up, "postgres.socket/.s.PGSQL.5432")),
        Box::new(move |up| said(up, "clickhouse migration applied")),
        Box::new(move |up| said(up, "partition claimed")),
    ];
    let mut up = Up::begin(&[("WEIR_TEST_CLOCK", "2026-03-10T12:00:00Z")]).await;
    for moment in &moments {
        eventually("a moment of the start", async || {
            if moment(&mut up) { Ok(()) } else { Err(up.process().said()) }
        })
        .await;
        up.kill();
        up.launch();
    }
    up.wait_until_ready().await;
    let create = ["keys", "create", "--name", "own"];
    let client = Client::new(up.url(), up.url(), &up.operator(&create).await.ok());
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    let event = r#"{"transactionId":"t","externalSubscriptionId":"acme","code":"calls"}"#;
    client.event(event).await.verdict(202, "accepted");
    client.wait_for_usage("acme", "calls", "1", 1).await;
}
