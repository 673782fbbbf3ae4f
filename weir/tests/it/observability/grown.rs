//! The roles apart as deploy/compose.yaml and the Helm chart describe them, held against what the
//! program takes.

use super::{list, repository, text, yaml};
use crate::processes::{run, weir};
use serde_json::Value as Json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

/// Roles, with the port of each.
const ROLES: [(&str, &str); 4] =
    [("ingest", "8081"), ("aggregator", "8083"), ("invoicer", "8082"), ("api", "8080")];
const METRICS_PORT: &str = "9464";
/// Read by every process; its help does not name them.
const COMMON: [&str; 3] = ["WEIR_LOG", "WEIR_LOG_FORMAT", "CLICKHOUSE_PASSWORD"];

/// The variables that a command of the program reads, and those that it must have.
async fn variables(command: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut help = weir();
    help.args([command, "--help"]);
    let help = run(help).await.ok();
    let after = |text: &str| text.split([']', '=', '>']).next().unwrap().to_owned();
    let taken = help.split("[env: ").skip(1).map(after).collect();
    let usage = help.lines().find(|line| line.starts_with("Usage:")).unwrap();
    let required = usage.split('<').skip(1).map(after).collect();
    (taken, required)
}

/// Asserts that a role can work with an environment: it has all it needs and nothing that nobody
/// reads, and the settings in it are valid.
async fn check_environment(place: &str, role: &str, environment: &BTreeMap<String, String>) {
    let (taken, required) = variables(role).await;
    let settings = format!("{}__", role.to_uppercase());
    for name in environment.keys() {
        let known = taken.contains(name)
            || COMMON.contains(&name.as_str())
            || name.starts_with(&settings)
            // Used in the values of others.
            || environment.values().any(|value| value.contains(&format!("$({name})")));
        assert!(known, "{place}: weir {role} does not read {name}");
    }
    for name in required {
        assert!(environment.contains_key(&name), "{place}: weir {role} needs {name}");
    }
    let mut check = weir();
    check.arg("check-config").envs(environment);
    assert!(run(check).await.ok().contains("api: ok"), "{place}");
}

fn check_ports(place: &str, role: &str, environment: &BTreeMap<String, String>) {
    let (_, port) = ROLES.into_iter().find(|(name, _)| *name == role).unwrap();
    assert_eq!(environment["LISTEN"], format!("0.0.0.0:{port}"), "{place}");
    assert_eq!(environment["METRICS_LISTEN"], format!("0.0.0.0:{METRICS_PORT}"), "{place}");
}

/// `${NAME:-default}` becomes the default, `${NAME:?…}` a password.
fn interpolated(text: &str) -> String {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').unwrap();
        let default = variable.split_once(":-").map(|(_, default)| default);
        assert!(default.is_some() || variable.contains(":?"), "{variable} has no default");
        out.push_str(default.unwrap_or("secret"));
        out.push_str(rest);
    }
    out
}

/// deploy/compose.yaml with anchors and variables resolved.
fn compose() -> Json {
    let file = fs::read_to_string(repository("deploy/compose.yaml")).unwrap();
    let mut file: serde_yaml_ng::Value = serde_yaml_ng::from_str(&interpolated(&file)).unwrap();
    file.apply_merge().unwrap();
    serde_json::to_value(file).unwrap()
}

fn environment(service: &Json) -> BTreeMap<String, String> {
    let all = service["environment"].as_object().unwrap().iter();
    all.map(|(name, value)| {
        let value = value.as_str().unwrap_or_else(|| panic!("{name} is no text"));
        (name.clone(), value.to_owned())
    })
    .collect()
}

#[tokio::test]
async fn every_service_of_compose_has_the_environment_that_its_role_takes() {
    let compose = compose();
    let services = &compose["services"];
    for (role, _) in ROLES {
        let service = &services[role];
        assert_eq!(service["command"], serde_json::json!([role]));
        let environment = environment(service);
        check_environment(&format!("compose: {role}"), role, &environment).await;
        check_ports(&format!("compose: {role}"), role, &environment);
        let after = service["depends_on"].as_object().unwrap();
        assert_eq!(after["migrate"]["condition"], "service_completed_successfully");
        assert_eq!(after.contains_key("kafka-1"), environment.contains_key("KAFKA_BROKERS"));
    }
    let migrate = environment(&services["migrate"]);
    check_environment("compose: migrate", "migrate", &migrate).await;
    assert!(migrate.contains_key("DATABASE_URL") && migrate.contains_key("CLICKHOUSE_URL"));
    let ingest = &environment(&services["api"])["INGEST_URL"];
    assert_eq!(ingest, "http://ingest:8081");
}

#[test]
fn compose_has_three_brokers_that_lose_nothing_with_one_of_them() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let roles = environment(&services["ingest"]);
    let brokers: Vec<&str> = roles["KAFKA_BROKERS"].split(',').collect();
    assert_eq!(brokers.len(), 3);
    for broker in brokers {
        let (name, port) = broker.split_once(':').unwrap();
        let settings = environment(&services[name]);
        assert_eq!(settings["KAFKA_ADVERTISED_LISTENERS"], format!("PLAINTEXT://{broker}"));
        assert!(settings["KAFKA_LISTENERS"].contains(&format!("PLAINTEXT://:{port}")));
        let voter = format!("{}@{name}:9093", settings["KAFKA_NODE_ID"]);
        assert!(settings["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(',').any(|one| one == voter));
        assert_eq!(settings["KAFKA_DEFAULT_REPLICATION_FACTOR"], "3");
        assert_eq!(settings["KAFKA_MIN_INSYNC_REPLICAS"], "2");
        assert_eq!(settings["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"], "false");
        assert_eq!(list(&services[name], "volumes").len(), 1, "{name} forgets");
    }
}

#[test]
fn compose_has_three_clickhouse_servers_that_each_hold_everything() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let configs = &compose["configs"];
    let durable = text(&configs["clickhouse-durable"], "content");
    assert!(durable.contains("<fsync_after_insert>1<"), "{durable}");
    let cluster = text(&configs["clickhouse-cluster"], "content");
    let servers: Vec<&String> =
        services.keys().filter(|name| name.starts_with("clickhouse")).collect();
    assert_eq!(servers.len(), 3, "of two none may be lost");
    for name in &servers {
        let service = &services[*name];
        let settings = environment(service);
        let (own, id) = (&settings["CLICKHOUSE_SELF"], &settings["CLICKHOUSE_SERVER_ID"]);
        assert_eq!((text(service, "hostname"), own), (name.as_str(), *name));
        for told in [
            format!("<host>{name}</host>\n          <port>9000</port>"),
            format!("<node><host>{name}</host><port>9181</port></node>"),
            format!("<server><id>{id}</id><hostname>{name}</hostname><port>9234</port></server>"),
        ] {
            assert_eq!(cluster.matches(&told).count(), 1, "{told}");
        }
        let sources: Vec<&str> =
            list(service, "configs").iter().map(|one| text(one, "source")).collect();
        assert_eq!(sources, ["clickhouse-durable", "clickhouse-cluster"]);
        assert_eq!(list(service, "volumes").len(), 1, "{name} forgets");
        let migrate = &services["migrate"]["depends_on"];
        assert_eq!(
            migrate[name.as_str()]["condition"],
            "service_healthy",
            "tables are made on all"
        );
    }
    assert_eq!(cluster.matches("<host>").count(), 2 * servers.len());
    assert_eq!(cluster.matches("<shard>").count(), 1);
    for role in ["migrate", "aggregator", "invoicer", "api", "operator"] {
        let settings = environment(&services[role]);
        let name = &settings["CLICKHOUSE_CLUSTER"];
        assert!(cluster.contains(&format!("<{name}>")), "{role}: {name}");
        let server = settings["CLICKHOUSE_URL"].trim_start_matches("http://");
        let server = server.trim_end_matches(":8123");
        assert!(servers.iter().any(|name| *name == server), "{role}: {server}");
    }
}

#[test]
fn compose_names_only_what_is_there() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    for (name, service) in services {
        let depends = service["depends_on"].as_object();
        for other in depends.into_iter().flat_map(|map| map.keys()) {
            assert!(services.contains_key(other), "{name} depends on {other}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(path) => assert!(repository("deploy").join(path).exists(), "{name}: {path}"),
                None if source.starts_with('/') => {}
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: {source}"),
            }
        }
    }
    let scraped = yaml("deploy/prometheus/prometheus-apart.yml");
    for (role, _) in ROLES {
        let job = list(&scraped, "scrape_configs").iter().find(|job| {
            job["job_name"] == format!("weir-{role}")
                && job["dns_sd_configs"][0]["names"][0] == role
        });
        let job = job.unwrap_or_else(|| panic!("{role} is not scraped"));
        assert_eq!(job["dns_sd_configs"][0]["port"].to_string(), METRICS_PORT);
    }
}

const CHART: &str = "deploy/helm/weir";

fn templates() -> Vec<(String, String)> {
    let files = fs::read_dir(repository(CHART).join("templates")).unwrap().flatten();
    files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, fs::read_to_string(file.path()).unwrap())
        })
        .collect()
}

#[test]
fn the_chart_uses_every_value_and_no_other() {
    let chart = yaml(&format!("{CHART}/Chart.yaml"));
    assert_eq!(text(&chart, "appVersion"), env!("CARGO_PKG_VERSION"));
    let values = yaml(&format!("{CHART}/values.yaml"));
    let templates = templates();
    let mut used = BTreeSet::new();
    for (file, template) in &templates {
        let open = template.matches("{{").count();
        assert_eq!(open, template.matches("}}").count(), "{file}: unbalanced braces");
        for path in template.split(".Values.").skip(1) {
            let end = path.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
            let path = path[..end.unwrap_or(path.len())].trim_end_matches('.');
            let found = path.split('.').try_fold(&values, |at, name| at.get(name));
            assert!(found.is_some(), "{file}: values.yaml has no {path}");
            used.insert(path.split('.').take(2).collect::<Vec<_>>().join("."));
        }
    }
    for (name, value) in values.as_object().unwrap() {
        let inner = value.as_object().filter(|map| !map.is_empty());
        let Some(inner) = inner else {
            assert!(used.contains(name), "{name} is not used");
            continue;
        };
        for key in inner.keys() {
            // Taken by the role's name in `weir.env.common`.
            let by_name = key == "env" || used.contains(name);
            assert!(by_name || used.contains(&format!("{name}.{key}")), "{name}.{key} is not used");
        }
    }
    for link in ["files/alerts.yml", "files/dashboards/ingest.json"] {
        assert!(repository(CHART).join(link).exists(), "{link} leads nowhere");
    }
}

/// Debian has no Helm, so this looks at what a rendered chart says only where Helm is there.
#[tokio::test]
async fn where_helm_is_there_the_rendered_chart_has_the_environments_that_the_roles_take() {
    if Command::new("helm").arg("version").output().is_err() {
        eprintln!("no helm: the chart was not rendered");
        return;
    }
    let helm = |args: &[&str]| {
        let mut helm = Command::new("helm");
        helm.args(args).current_dir(repository(CHART));
        run(helm)
    };
    helm(&["lint", "--strict", ".", "--kube-version", "1.31.0"]).await.ok();
    let all_on =
        "monitoring.podMonitor=true,monitoring.prometheusRule=true,monitoring.dashboards=true";
    let template = ["template", "weir", ".", "--kube-version", "1.31.0", "--set"];
    let elsewhere = "kafka.enabled=false,kafka.brokers=k:9092,clickhouse.enabled=false,\
                     clickhouse.url=http://c:8123,postgres.enabled=false";
    for set in [all_on, "clickhouse.replicas=1", elsewhere] {
        let rendered = helm(&[&template[..], &[set]].concat()).await.ok();
        let mut roles = BTreeSet::new();
        for document in serde_yaml_ng::Deserializer::from_str(&rendered) {
            let document: Json = serde::Deserialize::deserialize(document).unwrap();
            let pod = &document["spec"]["template"]["spec"];
            let Some(container) = pod["containers"].get(0) else { continue };
            let role = text(container, "name");
            if role != "migrate" && !ROLES.iter().any(|(name, _)| *name == role) {
                continue;
            }
            let value = |one: &Json| one["value"].as_str().unwrap_or("given").to_owned();
            let environment: BTreeMap<String, String> = list(container, "env")
                .iter()
                .map(|one| (text(one, "name").to_owned(), value(one)))
                .collect();
            let place = format!("helm ({set}): {role}");
            check_environment(&place, role, &environment).await;
            if role != "migrate" {
                check_ports(&place, role, &environment);
            }
            assert_eq!(pod["enableServiceLinks"], false, "{place}");
            roles.insert(role.to_owned());
        }
        assert_eq!(roles.len(), 5, "{roles:?}");
    }
}
