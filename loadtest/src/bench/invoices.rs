//! `invoices`: a run that bills many customers at once: five charges each, two of them with tiers.

use super::{
    BenchArgs, Deployment,
    catalog::{API, EVENT_CODE, PREFIX, make},
    idle::report_parts,
    plan,
    report::Report,
    step,
};
use crate::{
    api::Api,
    body::Subjects,
    cpu::{self, Spent},
    event::Times,
    load::{self, Plan},
    text::grouped,
};
use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

const BUDGET_PER_S: f64 = 2_000.0;
/// Five times as many subscriptions may take so much more memory.
const BUDGET_MEMORY_RATIO: f64 = 1.25;
/// The deployment's clock when it is made, and each month's end.
const CLOCK: &str = "2026-03-01T00:00:00Z";
const MONTHS: [&str; 3] = ["2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z"];
/// Of the subscriptions one in so many runs in the first month already.
const EARLY_ONE_OF: u64 = 5;
/// Events of each subscription, over all months.
const EVENTS: u64 = 9;
const MAKERS: u64 = 8;
const POLL: Duration = Duration::from_millis(5);

/// Nobody but the run that is measured bills.
const ENVIRONMENT: [(&str, &str); 2] =
    [("WEIR_TEST_CLOCK", CLOCK), ("INVOICER__SCHEDULE__INTERVAL_MS", "3600000")];

pub fn run(args: &BenchArgs, report: &mut Report) -> anyhow::Result<()> {
    let count = args.invoice_subscriptions;
    step(&format!("invoices: {} customers, five charges, two with tiers", grouped(count)));
    let mut deployment = Deployment::start(args, &ENVIRONMENT)?;
    create(&mut deployment, count)?;
    let usual = plan(&deployment, count * EVENTS)?;
    let subjects = Subjects { count, ..usual.subjects.clone() };
    // Only from the second month on do all subscriptions take events.
    let times = Times::Spread {
        from_us: micros(MONTHS[0])?,
        to_us: micros(MONTHS[2])?,
        events: count * EVENTS,
    };
    let sent = load::run(&Plan { subjects, times, ..usual })?;
    deployment.wait_until_counted(sent.events)?;

    let few = bill(&mut deployment, MONTHS[0], count.div_ceil(EARLY_ONE_OF))?;
    let many = bill(&mut deployment, MONTHS[1], count)?;
    let again = bill(&mut deployment, MONTHS[2], count)?;
    let best = if again.seconds < many.seconds { &again } else { &many };
    let rate = best.invoices as f64 / best.seconds;
    let note = format!(
        "{} in {:.1} s; CPU-ms an invoice: the run itself {:.2}, {}",
        grouped(best.invoices),
        best.seconds,
        best.own_cpu / best.invoices as f64 * 1e3,
        report_parts(&best.services, best.invoices as f64 / 1e3)
    );
    report.at_least_noted("invoices: a second, in real time", rate, BUDGET_PER_S, &note);
    let megabytes = |run: &Run| run.peak_bytes as f64 / 1e6;
    let note = format!("{:.0} MB / {:.0} MB", megabytes(&many), megabytes(&few));
    let name = format!(
        "invoices: peak memory with {} / with {}",
        grouped(many.invoices),
        grouped(few.invoices)
    );
    report.at_most_noted(&name, megabytes(&many) / megabytes(&few), BUDGET_MEMORY_RATIO, &note);
    deployment.stop()
}

struct Run {
    invoices: u64,
    seconds: f64,
    own_cpu: f64,
    services: Spent,
    peak_bytes: u64,
}

/// Moves the clock to a month's end and bills what falls due.
fn bill(deployment: &mut Deployment, to: &str, wanted: u64) -> anyhow::Result<Run> {
    let before = count_invoices(&mut deployment.api)?;
    let services = deployment.used()?;
    let (own, begun) = (cpu::own(), Instant::now());
    let mut child = deployment.command(&["clock", "advance", "--to", to]).spawn()?;
    let mut peak_bytes = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak_bytes = peak_bytes.max(peak_of(child.id()));
        std::thread::sleep(POLL);
    };
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "clock advance ended with {status}");
    let own_cpu = cpu::own() - own;
    let services = deployment.used()?.since(&services);
    let invoices = count_invoices(&mut deployment.api)? - before;
    ensure!(invoices == wanted, "{invoices} invoices, wanted {wanted}");
    println!("  {} invoices in {seconds:.1} s", grouped(invoices));
    Ok(Run { invoices, seconds, own_cpu, services, peak_bytes })
}

/// The most that a process has had in memory; 0 when it has ended.
fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes * 1_024)
}

fn count_invoices(api: &mut Api) -> anyhow::Result<u64> {
    let listed: Value =
        serde_json::from_str(&api.get(&format!("{API}/invoices?pagination.limit=1"))?)?;
    let count = &listed["totalCount"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok());
    count.with_context(|| format!("no totalCount in {listed}"))
}

fn micros(text: &str) -> anyhow::Result<i64> {
    let at: DateTime<Utc> = text.parse().map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
    Ok(at.timestamp_micros())
}

fn create(deployment: &mut Deployment, count: u64) -> anyhow::Result<()> {
    let range = |from: u64, to: Option<u64>, unit: &str, flat: &str| {
        let (from, to) = (from.to_string(), to.map(|to| to.to_string()));
        json!({ "fromValue": from, "toValue": to, "perUnitAmount": unit, "flatAmount": flat })
    };
    let tiers = json!([range(0, Some(1_000), "0.002", "0.50"), range(1_001, None, "0.001", "0")]);
    let metrics = [
        ("calls", "COUNT_AGG", None, "STANDARD", json!({ "amount": "0.001" })),
        ("peak", "MAX_AGG", Some("input_tokens"), "STANDARD", json!({ "amount": "0.0001" })),
        ("models", "UNIQUE_COUNT_AGG", Some("model"), "STANDARD", json!({ "amount": "1" })),
        (
            "input",
            "SUM_AGG",
            Some("input_tokens"),
            "GRADUATED",
            json!({ "graduatedRanges": tiers }),
        ),
        ("output", "SUM_AGG", Some("output_tokens"), "VOLUME", json!({ "volumeRanges": tiers })),
    ];
    let mut charges = Vec::new();
    for (code, aggregation, field, model, properties) in metrics {
        let metric = json!({
            "code": code, "name": code, "eventCode": EVENT_CODE, "fieldName": field,
            "aggregationType": aggregation,
        });
        let id = make(&mut deployment.api, "billable-metrics", "billableMetric", &metric)?;
        charges.push(json!({
            "billableMetricId": id, "chargeModel": model, "properties": properties,
        }));
    }
    let plan = json!({
        "code": "llm", "name": "LLM API", "interval": "MONTHLY", "amountCents": 2_000,
        "amountCurrency": "USD", "payInAdvance": false, "charges": charges,
    });
    let plan = make(&mut deployment.api, "plans", "plan", &plan)?;
    let deployment = &*deployment;
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS)
            .map(|maker| {
                let plan = &plan;
                scope.spawn(move || {
                    let mut api = deployment.client()?;
                    (maker..count)
                        .step_by(MAKERS as usize)
                        .try_for_each(|number| subscribe(&mut api, plan, number))
                })
            })
            .collect();
        makers.into_iter().try_for_each(|maker| {
            maker.join().map_err(|_| anyhow::anyhow!("a maker of customers panicked"))?
        })
    })
}

/// A customer of its own for each, so that each gets an invoice.
fn subscribe(api: &mut Api, plan: &str, number: u64) -> anyhow::Result<()> {
    let name = format!("{PREFIX}{number:06}");
    let customer = json!({ "externalId": name, "currency": "USD" });
    let customer = make(api, "customers", "customer", &customer)?;
    let start = if number.is_multiple_of(EARLY_ONE_OF) { CLOCK } else { MONTHS[0] };
    let body = json!({
        "customerId": customer, "planId": plan, "externalId": name,
        "billingTime": "CALENDAR", "subscriptionAt": start,
    });
    make(api, "subscriptions", "subscription", &body).map(drop)
}
