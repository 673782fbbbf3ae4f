//! What an operator watches: metrics, alerts, dashboards, and that they speak of the same things.

mod grown;
mod promql;

use crate::{
    client::http,
    eventually,
    processes::run,
    up::{Up, shared},
};
use promql::{Names, names};
use serde_json::{Value as Json, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use weir_runtime::Clock;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
/// What Prometheus adds to every metric, or has of its own.
const PROMETHEUS_LABELS: [&str; 3] = ["job", "instance", ""];
const PROMETHEUS_METRICS: [&str; 1] = ["up"];
/// A histogram has no series before its first value, and these need not happen while a test runs:
/// an index that is behind, usage that is computed again.
const RARE: [&str; 2] = ["aggregator_dedup_catch_up_seconds", "aggregator_roll_chunk_seconds"];

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn yaml(path: &str) -> Json {
    let text = fs::read_to_string(repository(path)).unwrap();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn list<'j>(json: &'j Json, name: &str) -> &'j [Json] {
    json[name].as_array().map_or_else(|| panic!("no {name} in {json}"), Vec::as_slice)
}

fn text<'j>(json: &'j Json, name: &str) -> &'j str {
    json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}"))
}

async fn promtool(args: &[&str]) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(repository("deploy/prometheus"));
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("promtool").exists()));
    assert!(found, "promtool is missing: deploy/dev/setup.sh all installs it");
    run(command).await.ok();
}

#[tokio::test]
async fn the_configuration_of_prometheus_is_valid() {
    promtool(&["check", "config", "prometheus.yml", "prometheus-apart.yml"]).await;
}

#[tokio::test]
async fn every_alert_is_told_by_what_it_says() {
    promtool(&["test", "rules", "alerts_test.yml"]).await;
}

/// All alerts, of all groups.
fn alerts() -> Vec<Json> {
    let rules = yaml("deploy/prometheus/alerts.yml");
    list(&rules, "groups").iter().flat_map(|group| list(group, "rules")).cloned().collect()
}

#[test]
fn every_alert_has_a_test_in_which_it_is_told_and_a_chapter_that_says_what_to_do() {
    let tests = yaml("deploy/prometheus/alerts_test.yml");
    let tested = list(&tests, "tests").iter().flat_map(|test| list(test, "alert_rule_test"));
    let told: BTreeSet<&str> = tested
        .filter(|test| !list(test, "exp_alerts").is_empty())
        .map(|test| text(test, "alertname"))
        .collect();
    let mut chapters: BTreeSet<String> = OPERATIONS
        .lines()
        .filter_map(|line| line.strip_prefix("### Weir"))
        .map(|name| format!("Weir{name}"))
        .collect();
    for alert in alerts() {
        let name = text(&alert, "alert");
        assert!(told.contains(name), "no test tells {name}");
        assert!(chapters.remove(name), "no chapter ### {name} in docs/operations.md");
        let annotations = &alert["annotations"];
        assert!(!text(annotations, "summary").is_empty(), "{name}");
        assert!(!text(annotations, "description").is_empty(), "{name}");
        let link = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(text(annotations, "runbook"), link);
        assert!(["page", "ticket"].contains(&text(&alert["labels"], "severity")), "{name}");
    }
    assert!(chapters.is_empty(), "chapters of alerts that don't exist: {chapters:?}");
}

/// Every panel's queries, with where they stand.
fn dashboard_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for entry in fs::read_dir(repository("deploy/grafana/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard, "panels") {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} twice", panel["id"]);
            let place = format!("{}: {}", text(&dashboard, "title"), text(panel, "title"));
            for target in panel["targets"].as_array().into_iter().flatten() {
                queries.push((place.clone(), text(target, "expr").to_owned()));
            }
        }
    }
    assert!(queries.len() > 50, "{} queries", queries.len());
    queries
}

#[tokio::test]
async fn every_query_of_a_dashboard_is_promql() {
    let queries = dashboard_queries();
    let rules: Vec<Json> = (0..)
        .zip(&queries)
        .map(|(number, (_, query))| {
            let query = query.replace("$__rate_interval", "5m");
            json!({ "record": format!("query:{number}"), "expr": query })
        })
        .collect();
    let rules = json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, rules.to_string().as_bytes()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]).await;
}

/// One metric as it is exported.
#[derive(Debug, Default)]
struct Exported {
    kind: String,
    help: String,
    /// Every label with its values.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Reads the text format. Samples of histograms are counted to their metric.
fn exported(body: &str) -> BTreeMap<String, Exported> {
    let mut all: BTreeMap<String, Exported> = BTreeMap::new();
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            help.clone_into(&mut all.entry(name.to_owned()).or_default().help);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            kind.clone_into(&mut all.entry(name.to_owned()).or_default().kind);
        } else if !line.is_empty() {
            let selector = line.rsplit_once(' ').unwrap().0;
            let selector = names(selector).selectors.pop().unwrap();
            let name = owner(&selector.metric, &all);
            let metric = all.entry(name).or_default();
            for matcher in selector.matchers {
                metric.labels.entry(matcher.label).or_default().extend(matcher.values);
            }
        }
    }
    all
}

/// The histogram that a name belongs to, or the name.
fn owner(name: &str, all: &BTreeMap<String, Exported>) -> String {
    let stem = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
    let histogram = |stem: &&str| all.get(*stem).is_some_and(|metric| metric.kind == "histogram");
    stem.filter(histogram).unwrap_or(name).to_owned()
}

/// What a `weir up` exports that has taken an event, made an invoice, and answered calls.
async fn exported_by(up: &Up) -> BTreeMap<String, Exported> {
    let client = up.organization(&format!("Watched {}", rand::random::<u32>())).await;
    let metric = client.metric("calls", "calls", None).await;
    let plan = client.plan("pro", 100, &[(&metric, "0.01")]).await;
    client.customer("acme", None).await;
    // Periods that have ended are billed at once, by the invoicer in the same process.
    let start = Clock::real().now() - chrono::Days::new(70);
    client.subscription("acme", &plan, Some(&start.to_rfc3339())).await;
    let event = r#"{"transactionId":"t-1","externalSubscriptionId":"acme","code":"calls"}"#;
    assert_eq!(client.event(event).await.json["status"], "accepted");
    client.wait_for_usage("acme", "calls", "1", 1).await;
    let http = http();
    eventually("metrics of a chunk and an invoice", async || {
        let answer = http.get(up.metrics_url()).send().await.map_err(|error| error.to_string())?;
        let all = exported(&answer.text().await.map_err(|error| error.to_string())?);
        let last = ["invoicer_batch_duration_seconds", "aggregator_insert_seconds"];
        match last.iter().find(|name| !all.contains_key(**name)) {
            Some(missing) => Err(format!("no {missing}")),
            None => Ok(all),
        }
    })
    .await
}

/// What is wrong with a query, given what is exported.
fn complaints(query: &Names, all: &BTreeMap<String, Exported>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = PROMETHEUS_LABELS.into();
    for selector in &query.selectors {
        if PROMETHEUS_METRICS.contains(&selector.metric.as_str()) {
            continue;
        }
        let Some(metric) = all.get(&owner(&selector.metric, all)) else {
            wrong.push(format!("{} is not exported", selector.metric));
            continue;
        };
        labels.extend(metric.labels.keys().map(String::as_str));
        for matcher in &selector.matchers {
            let values = metric.labels.get(&matcher.label);
            // The codes of calls come with the calls; other labels have all their values at once.
            let unknown = matcher.values.iter().find(|value| {
                values.is_none_or(|all| matcher.label != "code" && !all.contains(*value))
            });
            let label = &matcher.label;
            wrong.extend(unknown.map(|value| format!("{}: no {label}={value}", selector.metric)));
        }
    }
    let grouping = query.grouping.iter().filter(|label| !labels.contains(label.as_str()));
    wrong.extend(grouping.map(|label| format!("nothing has the label {label}")));
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_and_alerts_ask_for_metrics_that_a_running_weir_exports() {
    let all = exported_by(shared().await).await;
    let mut queries = dashboard_queries();
    let rules = alerts();
    let rules =
        rules.iter().map(|rule| (text(rule, "alert").to_owned(), text(rule, "expr").to_owned()));
    queries.extend(rules);
    let wrong: Vec<String> = queries
        .iter()
        .flat_map(|(place, query)| {
            complaints(&names(query), &all)
                .into_iter()
                .map(move |wrong| format!("{place}: {wrong}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The table of metrics in docs/operations.md: name, kind and labels.
fn documented() -> BTreeMap<&'static str, (&'static str, BTreeSet<&'static str>)> {
    let rows = OPERATIONS.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.filter_map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (name, kind, labels) = (cells.next()?, cells.next()?, cells.next()?);
        let is_kind = ["counter", "gauge", "histogram"].contains(&kind);
        let labels = labels.split([',', ' ']).filter(|label| !label.is_empty()).collect();
        is_kind.then_some((name.trim_matches('`'), (kind, labels)))
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exported_metric_has_a_help_text_and_stands_in_the_operators_table() {
    let all = exported_by(shared().await).await;
    let mut documented = documented();
    for (name, metric) in &all {
        assert!(!metric.help.is_empty(), "{name} has no help text");
        let (kind, labels) = documented.remove(name.as_str()).unwrap_or_else(|| {
            panic!("{name} is not in the table of docs/operations.md");
        });
        assert_eq!(kind, metric.kind, "{name}");
        let exported: BTreeSet<&str> =
            metric.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
        assert_eq!(labels, exported, "labels of {name}");
        for forbidden in ["organization", "id", "url", "customer", "path"] {
            assert!(!exported.contains(forbidden), "{name} has the open label {forbidden}");
        }
    }
    documented.retain(|name, _| !RARE.contains(name));
    assert!(documented.is_empty(), "documented and not exported: {:?}", documented.keys());
}
