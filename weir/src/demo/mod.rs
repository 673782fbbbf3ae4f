//! `weir demo`: a real trace becomes right invoices, through a crash.

mod client;
mod deployment;
mod report;
mod trace;

use anyhow::{Context, ensure};
use client::{Client, Verdicts};
use deployment::Deployment;
pub use deployment::free_address;
use indicatif::{ProgressBar, ProgressStyle};
use report::Row;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use trace::{CUSTOMERS, Request, Usage, WHOLE};

/// Events a request carries.
const BATCH: usize = 250;
/// Requests on their way when the deployment is killed.
const BATCHES_IN_FLIGHT: usize = 8;
const CLOCK_START: &str = "2023-11-17T00:00:00Z";
const CLOCK_END: &str = "2023-12-02T00:00:00Z";

/// Bill a real trace of LLM requests, kill everything in the middle, and check every invoice.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Which event log to run on.
    #[arg(long, value_enum, default_value_t = LogKind::Embedded, env = "WEIR_DEMO_LOG")]
    log: LogKind,
    /// The trace to bill.
    #[arg(long, default_value = "data/llm_inference_conv_2023.csv")]
    trace: PathBuf,
    /// Where the deployment lives; a temporary directory, removed at the end, when absent.
    #[arg(long)]
    data: Option<PathBuf>,
}

/// The event logs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogKind {
    /// One process with all roles.
    Embedded,
    /// A local Kafka, the roles as separate processes.
    Kafka,
}

/// Runs the demo. Errors: anything that doesn't match.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let requests = trace::read(&args.trace)?;
    println!(
        "The trace: {} LLM requests of one hour (Azure, 2023), spread over {CUSTOMERS} customers.",
        report::grouped(requests.len() as u64)
    );
    let mut deployment = Deployment::new(args.log, args.data)?;
    step("Starting weir with a test clock that stands at 2023-11-17");
    deployment.start(Some(CLOCK_START)).await?;
    let client = deployment.client()?;
    step("Creating 3 metrics, 1 plan, 50 customers and their subscriptions through the API");
    create_catalog(&client).await?;

    let events: Vec<Value> =
        requests.iter().enumerate().map(|(n, request)| event(n, request)).collect();
    let half = events.len() / 2 / BATCH * BATCH;
    step("Posting the first half of the events, then kill -9 of the whole process group");
    let before = post(&client, &events[..half]).await?;
    let in_flight = start_posting(&deployment, &events[half..])?;
    // The first answer shows that the others are in the middle of it.
    while !in_flight.iter().any(JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    deployment.kill()?;
    let in_flight = finish_posting(in_flight).await?;

    step("Starting it again on the same data");
    deployment.start(None).await?;
    let client = deployment.client()?;
    step("Posting every event again, as a sender does that can't know what arrived");
    let after = post(&client, &events).await?;

    step("Moving the clock to 2 December: November is billed");
    deployment.advance_clock(CLOCK_END).await?;
    let rows = read_invoices(&client, &requests).await?;
    report::print_table(&rows);
    check(&rows, before, in_flight, after)?;
    println!("\nAll right, in {:.1} s, through one crash.", begun.elapsed().as_secs_f32());
    deployment.finish().await
}

fn step(what: &str) {
    println!("• {what}");
}

fn event(n: usize, request: &Request) -> Value {
    json!({
        "transactionId": format!("request-{n}"),
        "externalSubscriptionId": format!("sub-{}", n % CUSTOMERS),
        "code": "llm_request",
        "timestamp": request.timestamp,
        "properties": { "input_tokens": request.input_tokens, "output_tokens": request.output_tokens },
    })
}

async fn create_catalog(client: &Client) -> anyhow::Result<()> {
    let mut charges = Vec::new();
    for (code, field, charge) in charges_by_metric() {
        let metric = json!({
            "code": code,
            "name": code.replace('_', " "),
            "eventCode": "llm_request",
            "aggregationType": if field.is_some() { "SUM_AGG" } else { "COUNT_AGG" },
            "fieldName": field,
        });
        let id = client.create("billable-metrics", "billableMetric", metric).await?;
        let mut charge = charge;
        charge["billableMetricId"] = json!(id);
        charges.push(charge);
    }
    let plan = json!({
        "code": "llm", "name": "LLM API", "interval": "MONTHLY",
        "amountCents": 2000, "amountCurrency": "USD", "payInAdvance": false, "charges": charges,
    });
    let plan = client.create("plans", "plan", plan).await?;
    for n in 0..CUSTOMERS {
        let customer = json!({
            "externalId": format!("customer-{n}"), "name": format!("Customer {n}"), "currency": "USD",
        });
        let customer = client.create("customers", "customer", customer).await?;
        let subscription = json!({
            "customerId": customer, "planId": plan, "externalId": format!("sub-{n}"),
            "billingTime": "CALENDAR", "subscriptionAt": "2023-11-01T00:00:00Z",
        });
        client.create("subscriptions", "subscription", subscription).await?;
    }
    Ok(())
}

/// Code, field and charge of each metric.
fn charges_by_metric() -> [(&'static str, Option<&'static str>, Value); 3] {
    let standard =
        |amount: &str| json!({ "chargeModel": "STANDARD", "properties": { "amount": amount } });
    let graduated = json!({
        "chargeModel": "GRADUATED",
        "properties": { "graduatedRanges": [
            { "fromValue": "0", "toValue": "100", "perUnitAmount": "0", "flatAmount": "0" },
            { "fromValue": "101", "perUnitAmount": "0.001", "flatAmount": "0" },
        ] },
    });
    [
        ("input_tokens", Some("input_tokens"), standard("0.0000025")),
        ("output_tokens", Some("output_tokens"), standard("0.00001")),
        ("requests", None, graduated),
    ]
}

async fn post(client: &Client, events: &[Value]) -> anyhow::Result<Verdicts> {
    let bar = ProgressBar::new(events.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "  {bar:40} {human_pos}/{human_len} events, {per_sec}",
    )?);
    let mut sum = Verdicts::default();
    for batch in events.chunks(BATCH) {
        let verdicts = client.events(batch).await.context("posting events")?;
        sum.accepted += verdicts.accepted;
        sum.duplicates += verdicts.duplicates;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    println!("  {} accepted, {} duplicates", sum.accepted, sum.duplicates);
    Ok(sum)
}

/// Batches on their way while the deployment is killed; none is waited for.
fn start_posting(
    deployment: &Deployment,
    events: &[Value],
) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<Verdicts>>>> {
    let batches = events.chunks(BATCH).take(BATCHES_IN_FLIGHT);
    batches
        .map(|batch| {
            let (client, batch) = (deployment.client()?, batch.to_vec());
            Ok(tokio::spawn(async move { client.events(&batch).await }))
        })
        .collect()
}

/// What was answered before the end; an error means that the sender knows nothing.
async fn finish_posting(
    posting: Vec<JoinHandle<anyhow::Result<Verdicts>>>,
) -> anyhow::Result<Verdicts> {
    let (mut sum, mut unanswered) = (Verdicts::default(), 0);
    for batch in posting {
        match batch.await? {
            Ok(verdicts) => sum.accepted += verdicts.accepted,
            Err(_killed) => unanswered += BATCH,
        }
    }
    println!("  killed: {} more accepted, {unanswered} events without an answer", sum.accepted);
    Ok(sum)
}

async fn read_invoices(client: &Client, requests: &[Request]) -> anyhow::Result<Vec<Row>> {
    let expected = trace::usage_by_customer(requests);
    let mut rows = Vec::new();
    for listed in client.list("invoices/list", "VIEW_BASIC").await? {
        let id = listed["id"].as_str().context("an invoice has an id")?;
        let invoice = client.get(&format!("invoices/{id}")).await?["invoice"].clone();
        let external =
            invoice["customer"]["externalId"].as_str().context("an invoice has a customer")?;
        let n: usize = external.trim_start_matches("customer-").parse()?;
        ensure!(n < CUSTOMERS, "unknown customer {external}");
        rows.push((n, Row::read(&invoice, external.to_owned(), expected[n])?));
    }
    rows.sort_by_key(|(n, _)| *n);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn check(
    rows: &[Row],
    before: Verdicts,
    in_flight: Verdicts,
    after: Verdicts,
) -> anyhow::Result<()> {
    println!("\nChecks");
    let usage = rows.iter().fold(Usage::default(), |sum, row| sum + row.usage);
    report::check("invoices", rows.len(), CUSTOMERS)?;
    report::check("events billed", usage.requests, WHOLE.requests)?;
    report::check("input tokens billed", usage.input_tokens, WHOLE.input_tokens)?;
    report::check("output tokens billed", usage.output_tokens, WHOLE.output_tokens)?;
    report::check(
        "accepted + duplicates on re-posting",
        after.accepted + after.duplicates,
        WHOLE.requests,
    )?;
    let answered = before.accepted + in_flight.accepted;
    ensure!(
        after.duplicates >= answered,
        "{answered} events were accepted before the crash, but only {} are known after it",
        after.duplicates
    );
    println!("  ✓ all {answered} events accepted before the crash answer duplicate after it");
    let same_usage = rows.iter().filter(|row| row.usage == row.expected_usage).count();
    report::check("invoices whose units equal the trace's", same_usage, CUSTOMERS)?;
    let same_total = rows.iter().filter(|row| row.total_cents == row.expected_cents).count();
    report::check(
        "invoices whose total equals the one reckoned from the trace",
        same_total,
        CUSTOMERS,
    )?;
    Ok(())
}
