//! `loadtest chaos`: real processes under a steady load, one after the other struck; then a recount.
//!
//! What counts as failure: an event that was answered `accepted` or `duplicate` and is not stored,
//! rolled up and billed exactly once with its first content; a repeat that is answered otherwise; a
//! conflicting copy that is neither refused nor listed; an answer that tells a sender to give up; a
//! process that does not come back.

mod books;
mod catalog;
mod dice;
mod disk;
mod faults;
mod house;
mod recount;
mod senders;
mod story;

use crate::{api::Api, text::grouped};
use anyhow::{Context, ensure};
use books::Books;
use chrono::{DateTime, Utc};
use disk::Disk;
use faults::{Blow, Fault, Schedule};
use house::House;
use recount::Recount;
use senders::{Doors, Mode, Shared};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};
use story::Story;

/// The deployment's clock stands still here until everything is recounted.
const CLOCK: &str = "2026-03-10T12:00:00Z";
/// Since when the subscriptions run, and the first instant after the month that is billed.
const MONTH: [&str; 2] = ["2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"];
const SUBSCRIPTIONS: u64 = 20;
/// How long the senders may take to get rid of what waits when nothing is wrong any more.
const FINISH_PATIENCE: Duration = Duration::from_secs(180);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Which deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogKind {
    /// `weir up`
    Embedded,
    /// Every role a process of its own, with a broker, a ClickHouse engine and a Postgres.
    Kafka,
}

/// Options of `loadtest chaos`.
#[derive(Debug, Clone, clap::Args)]
pub struct ChaosArgs {
    /// How long faults happen.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Chooses the faults and the events; another one each time when absent.
    #[arg(long)]
    pub seed: Option<u64>,
    #[arg(long, value_enum, default_value_t = LogKind::Embedded)]
    pub log: LogKind,
    /// Events a second.
    #[arg(long, default_value_t = 500)]
    pub rate: u64,
    /// Seconds from one fault to the next; later when the last one is not healed by then.
    #[arg(long, default_value_t = 4)]
    pub every: u64,
    /// Only these faults, such as `kill:engine,pause:postgres`.
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<String>,
    /// The program; the `weir` beside this one when absent.
    #[arg(long)]
    pub weir: Option<PathBuf>,
    /// The script that runs a broker.
    #[arg(long, default_value = "deploy/dev/kafka.sh")]
    pub kafka: PathBuf,
    /// Keep the deployment's directory, with the logs of its processes.
    #[arg(long)]
    pub keep: bool,
}

/// Faults that happened, and how many of each.
type Survived = BTreeMap<Fault, u64>;

/// Runs it and prints what came of it. Answers whether nothing differs.
///
/// Everything that it starts dies with the calling thread. Errors: a process that does not come
/// (back), or an API that does not answer when nothing is wrong.
pub fn run(args: &ChaosArgs) -> anyhow::Result<bool> {
    ensure!(args.rate > 0, "a rate of at least one event a second");
    let seed = args.seed.unwrap_or_else(|| crate::load::now_us().unsigned_abs() % 1_000_000);
    let kinds = kinds(args)?;
    println!(
        "chaos: seed {seed}, {:?} log, {} events/s, a fault every {} s for {} s",
        args.log, args.rate, args.every, args.seconds
    );
    let with_disk = kinds.iter().any(|fault| fault.blow == Blow::Fill);
    let mut house = House::start(args, CLOCK, with_disk)?;
    house.operator(&["organizations", "create", "Chaos"])?;
    let create = ["keys", "create", "--name", "chaos", "--organization", "Chaos"];
    let key = house.operator(&create)?.trim().to_owned();
    let doors = house.doors()?;
    let mut api = Api::new(doors.last().context("an api")?, Some(&key))?;
    catalog::create(&mut api, SUBSCRIPTIONS, MONTH[0])?;

    let story = Story {
        seed,
        subscriptions: SUBSCRIPTIONS,
        from_us: micros(MONTH[0])?,
        to_us: micros(CLOCK)?,
    };
    let shared = Shared::new(Books::new(story, args.log == LogKind::Embedded));
    let doors = Doors { urls: doors, key, rate: args.rate };
    let survived = std::thread::scope(|scope| {
        let sending = scope.spawn(|| senders::run(&shared, &doors));
        let survived = strike(args, &mut house, Schedule::new(seed, kinds), &shared)
            .and_then(|survived| finish(&mut house, &shared).map(|()| survived));
        shared.set(Mode::Stop);
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the senders panicked"))?;
        sent.and(survived)
    })?;
    // The first client's connection has not survived.
    let mut api = Api::new(doors.urls.last().context("an api")?, Some(&doors.key))?;
    let recount = recount(&mut house, &mut api, &shared)?;
    Ok(report(&survived, &house, &shared, &recount))
}

fn kinds(args: &ChaosArgs) -> anyhow::Result<Vec<Fault>> {
    let all: &[&str] = match args.log {
        LogKind::Embedded => &faults::EMBEDDED,
        LogKind::Kafka => &faults::APART,
    };
    let named: Vec<&str> = match args.faults.as_slice() {
        [] => all.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut kinds = Vec::new();
    for name in named {
        ensure!(all.contains(&name), "no fault {name} here: {}", all.join(", "));
        kinds.push(name.parse::<Fault>()?);
    }
    if kinds.iter().any(|fault| fault.blow == Blow::Fill) && !Disk::is_possible() {
        println!("  skipped: fill:disk, because a small disk can't be mounted (root can)");
        kinds.retain(|fault| fault.blow != Blow::Fill);
    }
    Ok(kinds)
}

fn micros(text: &str) -> anyhow::Result<i64> {
    let at: DateTime<Utc> = text.parse().map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
    Ok(at.timestamp_micros())
}

/// One fault after the other until the time is over.
fn strike(
    args: &ChaosArgs,
    house: &mut House,
    mut schedule: Schedule,
    shared: &Shared,
) -> anyhow::Result<Survived> {
    let begun = Instant::now();
    let (end, every) = (Duration::from_secs(args.seconds), Duration::from_secs(args.every));
    let mut survived = Survived::new();
    let mut due = every;
    while due < end {
        let Some(planned) = schedule.next() else {
            std::thread::sleep(end.saturating_sub(begun.elapsed()));
            break;
        };
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let struck = Instant::now();
        house.strike(planned).with_context(|| format!("after {}", planned.fault))?;
        *survived.entry(planned.fault).or_default() += 1;
        let books = shared.books();
        println!(
            "  {:>4.0} s  {:<20} {:.1} s, all ready after {:.1} s; {} events answered, {} copies wait",
            begun.elapsed().as_secs_f64(),
            planned.fault.to_string(),
            planned.lasts.as_secs_f64(),
            struck.elapsed().as_secs_f64(),
            grouped(books.counts.settled),
            grouped(books.waiting() as u64),
        );
        drop(books);
        due = (due + every).max(begun.elapsed() + every / 4);
    }
    Ok(survived)
}

/// Nothing new comes, nothing goes wrong any more, and everything is sent once more.
fn finish(house: &mut House, shared: &Shared) -> anyhow::Result<()> {
    shared.set(Mode::Finish);
    house.mend()?;
    for again in [true, false] {
        let deadline = Instant::now() + FINISH_PATIENCE;
        while !shared.books().at_rest() {
            ensure!(
                Instant::now() < deadline,
                "{} copies are not taken although nothing is wrong any more",
                shared.books().waiting()
            );
            std::thread::sleep(LOOK_AGAIN);
        }
        if again {
            shared.books().again();
        }
    }
    Ok(())
}

fn recount(house: &mut House, api: &mut Api, shared: &Shared) -> anyhow::Result<Recount> {
    let mut recount = Recount::default();
    let books = shared.books();
    recount::of_usage(api, &books, &mut recount)?;
    house.operator(&["clock", "advance", "--to", MONTH[1]])?;
    recount::of_events(api, &books, &mut recount)?;
    recount::of_conflicts(&mut house.clickhouse()?, &books, &mut recount)?;
    recount::of_invoices(api, &books, &mut recount)?;
    Ok(recount)
}

/// Prints the end. True: nothing differs.
fn report(survived: &Survived, house: &House, shared: &Shared, recount: &Recount) -> bool {
    let books = shared.books();
    let faults: Vec<String> =
        survived.iter().map(|(fault, times)| format!("{fault} {times}")).collect();
    println!("faults survived: {} ({})", survived.values().sum::<u64>(), faults.join(", "));
    for words in &house.collapsed {
        println!("  started again, ended by itself: {words}");
    }
    let counts = books.counts;
    println!(
        "sent: {} events, {} repeats, {} conflicting copies; {} copies again after an outage",
        grouped(books.events()),
        grouped(counts.repeats),
        grouped(counts.lies),
        grouped(counts.again)
    );
    println!(
        "accepted {}, stored {}, rolled up {}, billed {}; conflicts taken by an edge {}, ids listed {}",
        grouped(counts.settled),
        grouped(recount.stored),
        grouped(recount.rolled_up),
        grouped(recount.billed),
        grouped(counts.lies_accepted),
        grouped(recount.listed_conflicts)
    );
    let mut differences = recount.differences.clone();
    let unsettled = books.unsettled();
    if !unsettled.is_empty() {
        differences.push(format!("{} never answered: {}", unsettled.len(), unsettled.join(" ")));
    }
    let (remarks, count) = books.remarks();
    if count > 0 {
        differences.push(format!("{count} answers that must not be: {}", remarks.join("; ")));
    }
    let sums = [recount.stored, recount.rolled_up, recount.billed];
    if differences.is_empty() && sums.iter().any(|sum| *sum != counts.settled) {
        differences.push("the sums differ".to_owned());
    }
    if differences.is_empty() {
        println!("nothing differs");
    }
    for difference in &differences {
        println!("DIFFERS: {difference}");
    }
    differences.is_empty()
}
