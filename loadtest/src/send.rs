//! `loadtest send`: load on any server that runs, and what it costs.

use crate::{
    body::Subjects,
    connection::{Protocol, Target},
    cpu::{self, Spent},
    event::Times,
    format::Format,
    load::{self, Encoding, Outcome, Plan},
    text::{columns, grouped},
};
use anyhow::ensure;

/// Options of `loadtest send`.
#[derive(Debug, clap::Args)]
pub struct SendArgs {
    /// The server, `http://host:port`; a path is put in front of the format's own.
    #[arg(long)]
    target: String,
    /// Path of the requests, where it is not the format's usual one.
    #[arg(long)]
    path: Option<String>,
    /// Sent as `Authorization: Bearer KEY`.
    #[arg(long, env = "LOADTEST_KEY", hide_env_values = true)]
    key: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Weir)]
    format: Format,
    /// Version of HTTP; 2 by prior knowledge.
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    http: Protocol,
    #[arg(long, value_enum, default_value_t = Encoding::Identity)]
    encoding: Encoding,
    /// Events of a request.
    #[arg(long, default_value_t = 1_000)]
    batch: usize,
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Requests under way on each connection; more than one needs HTTP/2.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Events in all, rounded up to whole batches.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Events a second; as fast as they are taken when absent.
    #[arg(long)]
    rate: Option<f64>,
    /// External ids of subscriptions are this and a number of six digits.
    #[arg(long, default_value = "sub-")]
    subscription_prefix: String,
    /// How many subscriptions there are.
    #[arg(long, default_value_t = 1_000)]
    subscriptions: u64,
    /// The events' code or type.
    #[arg(long, default_value = "llm_request")]
    code: String,
    /// Makes the ids: the same number sends the same events again. Another each time when absent.
    #[arg(long)]
    run: Option<u64>,
    /// Processes whose processor time is accounted, with their children.
    #[arg(long = "pid", num_args = 1..)]
    pids: Vec<u32>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// Sends and prints. Errors: those of the load, or a process that does not run.
pub fn run(args: &SendArgs) -> anyhow::Result<()> {
    ensure!(args.batch > 0 && args.connections > 0 && args.streams > 0, "at least one of each");
    let plan = Plan {
        target: Target::parse(&args.target)?,
        path: args.path.clone(),
        key: args.key.clone(),
        format: args.format,
        protocol: args.http,
        encoding: args.encoding,
        batch: args.batch,
        connections: args.connections,
        streams: args.streams,
        threads: args.threads,
        events: args.events,
        rate: args.rate,
        subjects: Subjects {
            prefix: args.subscription_prefix.clone(),
            count: args.subscriptions,
            code: args.code.clone(),
        },
        run: args.run.unwrap_or_else(|| load::now_us().unsigned_abs()),
        times: Times::Now,
    };
    let before = cpu::used(&args.pids)?;
    let mut outcome = load::run(&plan)?;
    let spent = cpu::used(&args.pids)?.since(&before);
    if args.json {
        println!("{}", json(&mut outcome, &spent));
    } else {
        print!("{}", report(&mut outcome, &spent));
    }
    Ok(())
}

/// Processor seconds for a million of so many events.
pub fn per_million(seconds: f64, events: u64) -> f64 {
    seconds * 1e6 / events.max(1) as f64
}

/// What a person reads.
pub fn report(outcome: &mut Outcome, spent: &Spent) -> String {
    let events = outcome.events;
    let mut rows = vec![vec!["process".into(), "CPU-s".into(), "a million events".into()]];
    let mut row = |name: &str, seconds: f64| {
        let million = format!("{:.2}", per_million(seconds, events));
        rows.push(vec![name.to_owned(), format!("{seconds:.2}"), million]);
    };
    spent.parts.iter().for_each(|(name, seconds)| row(name, *seconds));
    row("(generator)", outcome.own_cpu);
    format!(
        "  {} events in {} requests, {} sent again; {} events/s; {}\n{}",
        grouped(events),
        grouped(outcome.requests as u64),
        grouped(outcome.retries),
        grouped(outcome.rate() as u64),
        outcome.latencies.summary(),
        columns(&rows)
    )
}

fn json(outcome: &mut Outcome, spent: &Spent) -> serde_json::Value {
    let events = outcome.events;
    let latency = outcome.latencies.summary();
    let by_process: serde_json::Map<_, _> = spent
        .parts
        .iter()
        .map(|(name, seconds)| (name.clone(), per_million(*seconds, events).into()))
        .collect();
    serde_json::json!({
        "events": events,
        "requests": outcome.requests,
        "retries": outcome.retries,
        "events_per_s": outcome.rate(),
        "latency_ms": {
            "p50": latency.p50.as_secs_f64() * 1e3,
            "p99": latency.p99.as_secs_f64() * 1e3,
            "max": latency.max.as_secs_f64() * 1e3,
        },
        "cpu_s_per_million": by_process,
        "generator_cpu_s_per_million": per_million(outcome.own_cpu, events),
    })
}
