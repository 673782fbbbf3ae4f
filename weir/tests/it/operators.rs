//! Operator's commands.

use crate::{
    eventually,
    processes::{run, weir},
    up::{Up, shared},
};
use serde_json::Value as Json;

#[tokio::test(flavor = "multi_thread")]
async fn organizations_are_made_and_listed() {
    let up = shared().await;
    let id = up.operator(&["organizations", "create", "Muster & Söhne"]).await.ok();
    assert!(id.trim().starts_with("org_") && id.lines().count() == 1, "{id}");
    let again = up.operator(&["organizations", "create", "Muster & Söhne"]).await;
    again.refused("can't make the organization \"Muster & Söhne\"");
    up.operator(&["organizations", "create", " "]).await.refused("needs a name");
    let list = up.operator(&["organizations", "list"]).await.ok();
    let lines: Vec<&str> = list.lines().filter(|line| line.contains("Muster")).collect();
    assert!(lines.len() == 1 && lines[0].contains(id.trim()), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_an_organization_are_changed_one_by_one() {
    let up = shared().await;
    up.operator(&["organizations", "create", "Settled"]).await.ok();
    let set = async |changes: &[&str]| {
        up.operator(&[&["organizations", "set", "Settled"], changes].concat()).await
    };
    let values = |table: &str| -> Vec<String> {
        let cell = |line: &str| line.split(['│', '┆']).nth(2).map(|cell| cell.trim().to_owned());
        let lines: Vec<_> = table.lines().filter_map(cell).collect();
        lines[lines.len() - 3..].to_vec()
    };
    let shown = up.operator(&["organizations", "show", "Settled"]).await.ok();
    assert_eq!(values(&shown), ["false", "true-up", "none"], "{shown}");
    let shown = set(&["--lenient", "true", "--events-per-second", "50"]).await.ok();
    assert_eq!(values(&shown), ["true", "true-up", "50"], "{shown}");
    set(&["--late-events", "ignore", "--events-per-second", "none"]).await.ok();
    let shown = up.operator(&["organizations", "show", "Settled"]).await.ok();
    assert_eq!(values(&shown), ["true", "ignore", "none"], "{shown}");
    set(&["--events-per-second", "0"]).await.refused("from 1 to 2147483647, or none");
    set(&["--late-events", "never"]).await.refused("must be true-up or ignore");
    set(&[]).await.refused("required");
    up.operator(&["organizations", "show", "Nobody"]).await.refused("no organization \"Nobody\"");
    let rolls = up.operator(&["organizations", "rolls", "Settled"]).await.ok();
    assert!(rolls.contains("generation") && rolls.lines().count() < 5, "{rolls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_listed_without_it_and_useless_after_its_end() {
    let up = shared().await;
    let owner = up.organization("Doors").await;
    owner.metric("calls", "calls", None).await;
    let in_it = ["--organization", "Doors"];
    let operator = async |args: &[&str]| up.operator(&[args, &in_it[..]].concat()).await;
    let create = ["keys", "create", "--name", "gate", "--scopes", "plans.read,events.write"];
    let key = operator(&create).await.ok();
    let secret = key.strip_suffix('\n').unwrap();
    let body = secret.strip_prefix("weir_").unwrap();
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    assert!(body.len() == 43 && body.bytes().all(in_alphabet), "only the key is printed: {key}");

    let list = operator(&["keys", "list"]).await.ok();
    assert!(!list.contains(body), "the list shows the key");
    let line = list.lines().find(|line| line.contains("gate")).unwrap();
    assert!(line.contains("plans.read,events.write"), "{line}");
    let id = line.split_whitespace().find(|word| word.starts_with("key_")).unwrap();

    let client = owner.with_key(secret);
    client.get("plans").await.ok();
    client.batch("[]").await.unwrap().ok();
    operator(&["keys", "revoke", id]).await.ok();
    // The API asks Postgres; the edge follows it.
    client.get("plans").await.refused(401, "API_KEY_UNKNOWN");
    eventually("the end of the key", async || {
        let answer = client.batch("[]").await.unwrap();
        if answer.status == 401 { Ok(()) } else { Err(answer.json.to_string()) }
    })
    .await;
    owner.get("plans").await.ok();

    // There are several organizations: one must be named, and must exist.
    up.operator(&["keys", "list"]).await.refused("name one with --organization");
    let nobody = ["keys", "create", "--name", "x", "--organization", "Nobody"];
    up.operator(&nobody).await.refused("no organization \"Nobody\"");
    operator(&["keys", "revoke", "key_01J00000000000000000000000"]).await.refused("found");
    let mistyped = ["keys", "create", "--name", "x", "--scopes", "plan.read"];
    operator(&mistyped).await.refused("no call asks for the scope \"plan.read\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_may_be_cut_off_by_its_reader() {
    let up = shared().await;
    // The reader is gone before anything is written.
    let mut piped = std::process::Command::new("bash");
    piped.args(["-c", r#"set -o pipefail; "$0" "$@" | true"#, env!("CARGO_BIN_EXE_weir")]);
    piped.args(["organizations", "list", "--data"]).arg(up.data());
    assert_eq!(run(piped).await.ok(), "");
    assert!(up.operator(&["failures"]).await.ok().contains("billed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_clock_is_shown_and_not_moved() {
    let up = shared().await;
    assert!(up.operator(&["clock", "show"]).await.ok().ends_with("(real clock)\n"));
    let to = ["clock", "advance", "--to", "2099-01-01T00:00:00Z"];
    up.operator(&to).await.refused("real clock");
    let migrate = ["migrate", "--test-clock", "2099-01-01T00:00:00Z"];
    up.operator(&migrate).await.refused("real clock");
    let said = up.operator(&["migrate"]).await.ok();
    assert!(said.contains("Postgres is up to date") && said.contains("ClickHouse is up to date"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_clock_only_goes_forward_and_stays_where_it_is_over_a_restart() {
    let mut up = Up::at("2026-03-10T12:00:00Z").await;
    let show = async |up: &Up| up.operator(&["clock", "show"]).await.ok();
    assert_eq!(show(&up).await, "2026-03-10T12:00:00Z (test clock)\n");
    up.advance("2026-03-11T00:00:00Z").await;
    let back = ["clock", "advance", "--to", "2026-03-10T23:59:59Z"];
    up.operator(&back).await.refused("2026-03-11");
    up.operator(&["clock", "advance", "--to", "tomorrow"]).await.refused("tomorrow");
    up.advance("2026-03-11T00:00:00Z").await;
    assert_eq!(show(&up).await, "2026-03-11T00:00:00Z (test clock)\n");
    up.kill();
    up.restart().await;
    // Its environment still says the 10th; the deployment knows better.
    assert_eq!(show(&up).await, "2026-03-11T00:00:00Z (test clock)\n");
    let created = up.client();
    let id = created.customer("acme", None).await;
    let customer = created.get(&format!("customers/{id}")).await.ok();
    assert_eq!(customer["customer"]["createdAt"], "2026-03-11T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_printed_the_same_running_killed_and_ended() {
    let environment = [("WEIR_TEST_CLOCK", "2026-03-10T12:00:00Z"), ("WEIR_PARTITIONS", "11")];
    let mut up = Up::with(&environment).await;
    let client = up.client();
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 0, &[(&metric, "1")]).await;
    client.customer("acme", None).await;
    client.subscription("acme", &plan, None).await;
    let events: Vec<String> = (0..300)
        .map(|number| {
            format!(
                r#"{{"transactionId":"t-{number}","externalSubscriptionId":"acme","code":"calls","properties":{{"n": 1.10}}}}"#
            )
        })
        .collect();
    let taken = client.batch(format!("[{}]", events.join(","))).await.unwrap().ok();
    assert_eq!(taken["accepted"], 300);

    let lines = up.operator(&["log", "cat"]).await.ok();
    let read: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut ids: Vec<&str> =
        read.iter().map(|event| event["transactionId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((read.len(), ids.len()), (300, 300));
    let first = &read[0];
    assert_eq!(first["externalSubscriptionId"], "acme");
    assert_eq!(first["timestamp"], "2026-03-10T12:00:00+00:00");
    assert_eq!(first["properties"].to_string(), r#"{"n":1.10}"#);

    let some = up.operator(&["log", "cat", "--partition", "10", "--limit", "2"]).await.ok();
    assert_eq!(some.lines().count(), 2);
    assert!(some.lines().all(|line| line.contains(r#""partition":10"#)), "{some}");
    up.operator(&["log", "cat", "--partition", "11"]).await.refused("no partition 11");
    let mut piped = std::process::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_weir");
    let pipe = format!(r#"{program} log cat --data "$0" | head -n 1"#);
    piped.arg("-c").arg(pipe).arg(up.data());
    let head = run(piped).await;
    assert!(head.err.is_empty() && head.out.lines().count() == 1, "{head:?}");

    up.kill();
    assert_eq!(up.operator(&["log", "cat"]).await.ok(), lines);
    up.operator(&["keys", "list"]).await.refused("no weir is running on");
    up.restart().await;
    assert!(up.terminate().await.success());
    assert_eq!(up.operator(&["log", "cat"]).await.ok(), lines);
    up.operator(&["keys", "list"]).await.refused("no weir is running on");
    let mut other =
        up.command(&["up", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]);
    other.env("WEIR_PARTITIONS", "8");
    run(other).await.refused("the log has 11 partitions and not 8");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_and_what_is_wrong_is_named() {
    let check = |name: &'static str, value: &'static str| {
        let mut command = weir();
        command.arg("check-config").env(name, value);
        run(command)
    };
    let said = check("UNRELATED", "1").await.ok();
    for role in ["ingest", "aggregator", "invoicer", "api"] {
        assert!(said.contains(&format!("{role}: ok")), "{said}");
    }
    check("INGEST__BODY__EVENTS_MAXX", "1").await.refused("events_maxx");
    check("AGGREGATOR__LEASE__SECONDS", "soon").await.refused("LEASE.SECONDS");
    check("AGGREGATOR__LEASE__SECONDS", "1").await.refused("lease");
    check("API__LOAD__CALLS_MAX", "0").await.refused("calls_max");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_directory_goes_before_what_the_environment_says_of_others() {
    let up = shared().await;
    let mut command = up.command(&["organizations", "list"]);
    command.env("DATABASE_URL", "postgres:///nowhere?host=/nonexistent");
    command.env("KAFKA_BROKERS", "127.0.0.1:1").env("CLICKHOUSE_URL", "http://127.0.0.1:1");
    assert!(run(command).await.ok().contains("Default"));
}
