//! The recount, event by event: accepted = stored = rolled up = billed.

use super::{
    books::{Books, Total},
    catalog::{API, CALLS, PEAK, PEOPLE, UNITS},
    story::{Event, external_id, hundredths},
};
use crate::api::Api;
use anyhow::Context;
use chrono::DateTime;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// How long what is in the log may take to be in the usage of the last subscription.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Ids that a line names.
const IDS_MAX: usize = 20;
/// Events of a page.
const PAGE: u32 = 1_000;

/// What was found, and what differs.
#[derive(Debug, Default)]
pub struct Recount {
    pub stored: u64,
    pub rolled_up: u64,
    pub billed: u64,
    pub listed_conflicts: u64,
    pub differences: Vec<String>,
}

impl Recount {
    fn differs(&mut self, what: impl Into<String>) {
        self.differences.push(what.into());
    }

    fn differ(&mut self, what: &str, ids: &[String]) {
        if !ids.is_empty() {
            let some = ids.iter().take(IDS_MAX).cloned().collect::<Vec<_>>().join(" ");
            self.differs(format!("{}: {what}: {some}", ids.len()));
        }
    }
}

/// What one charge says of one subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counted {
    units: BTreeMap<String, i128>,
    events: u64,
}

impl From<&Total> for Counted {
    fn from(total: &Total) -> Self {
        let whole = |number: u64| i128::from(number) * 100;
        let units = [
            (CALLS, whole(total.events)),
            (UNITS, total.sum),
            (PEAK, total.max),
            (PEOPLE, whole(total.distinct)),
        ];
        let units = units.into_iter().map(|(code, units)| (code.to_owned(), units)).collect();
        Self { units, events: total.events }
    }
}

/// Compares what is rolled up with the books, while the period still runs.
pub fn of_usage(api: &mut Api, books: &Books, recount: &mut Recount) -> anyhow::Result<()> {
    let totals = books.totals();
    let deadline = Instant::now() + PATIENCE;
    for (subscription, total) in &totals {
        let wanted = Counted::from(total);
        let found = loop {
            let found = usage(api, *subscription)?;
            if found == wanted || Instant::now() > deadline {
                break found;
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        recount.rolled_up += found.events;
        if found != wanted {
            let name = external_id(*subscription);
            recount.differs(format!("rolled up for {name}: {found:?}, wanted {wanted:?}"));
        }
    }
    Ok(())
}

fn usage(api: &mut Api, subscription: u64) -> anyhow::Result<Counted> {
    let name = external_id(subscription);
    let path = format!("{API}/customers/{name}/subscriptions/external:{name}/usage");
    let answer: Value = serde_json::from_str(&api.get(&path)?)?;
    let charges = answer["customerUsage"]["chargesUsage"].as_array().context("no charges")?;
    let mut counted = Counted::default();
    for charge in charges {
        let code = charge["billableMetric"]["code"].as_str().context("no code")?;
        counted.units.insert(code.to_owned(), units(charge)?);
        if code == CALLS {
            counted.events = charge["eventsCount"].as_u64().unwrap_or(0);
        }
    }
    Ok(counted)
}

fn units(json: &Value) -> anyhow::Result<i128> {
    let text = json["units"].as_str().context("no units")?;
    hundredths(text).with_context(|| format!("{text} is not in hundredths"))
}

/// Every event is stored once, with the content that came first. For after the bill, which waits
/// until everything has been written: usage may be ahead of the events.
pub fn of_events(api: &mut Api, books: &Books, recount: &mut Recount) -> anyhow::Result<()> {
    let mut seen = vec![0_u32; books.events() as usize];
    let (mut strange, mut changed) = (Vec::new(), Vec::new());
    for subscription in 0..books.story.subscriptions {
        let mut cursor = String::new();
        loop {
            let filter =
                format!("filter.part.externalSubscriptionId={}", external_id(subscription));
            let path = format!("{API}/events?{filter}&pagination.limit={PAGE}{cursor}");
            let page: Value = serde_json::from_str(&api.get(&path)?)?;
            for item in page["items"].as_array().context("no items")? {
                recount.stored += 1;
                let id = item["transactionId"].as_str().unwrap_or_default();
                let number = id.strip_prefix("chaos-").and_then(|number| number.parse().ok());
                let number = number.filter(|number: &u64| *number < books.events());
                let Some(number) = number else {
                    strange.push(id.to_owned());
                    continue;
                };
                seen[number as usize] += 1;
                if !is_meant(item, &books.story.event(number)) {
                    changed.push(id.to_owned());
                }
            }
            match page["nextPageCursor"].as_str() {
                Some(next) => cursor = format!("&pagination.cursor={next}"),
                None => break,
            }
        }
    }
    let named = |wanted: &dyn Fn(u32) -> bool| -> Vec<String> {
        let numbers = (0_u64..).zip(&seen).filter(|(_, times)| wanted(**times));
        numbers.map(|(number, _)| books.story.event(number).id).collect()
    };
    recount.differ("accepted and not stored", &named(&|times| times == 0));
    recount.differ("stored more than once", &named(&|times| times > 1));
    recount.differ("stored with other content than the first copy's", &changed);
    recount.differ("stored and never sent", &strange);
    Ok(())
}

fn is_meant(item: &Value, event: &Event) -> bool {
    let text = |name: &str| item[name].as_str().unwrap_or_default();
    let at = DateTime::parse_from_rfc3339(text("timestamp"));
    text("externalSubscriptionId") == external_id(event.subscription)
        && at.is_ok_and(|at| at.timestamp_micros() == event.at_us)
        && hundredths(&item["payload"]["n"].to_string()) == Some(i128::from(event.hundredths))
        && item["payload"]["who"] == format!("w{}", event.who)
}

/// Compares the invoices of the ended period with the books: one each.
pub fn of_invoices(api: &mut Api, books: &Books, recount: &mut Recount) -> anyhow::Result<()> {
    for (subscription, total) in books.totals() {
        let (name, wanted) = (external_id(subscription), Counted::from(&total));
        let path = format!("{API}/customers/{name}/invoices?pagination.limit=100");
        let listed: Value = serde_json::from_str(&api.get(&path)?)?;
        let listed = listed["items"].as_array().context("no items")?;
        if listed.len() != 1 {
            recount.differs(format!("{} invoices of {name}", listed.len()));
        }
        for item in listed {
            let id = item["id"].as_str().context("no id")?;
            let invoice: Value = serde_json::from_str(&api.get(&format!("{API}/invoices/{id}"))?)?;
            let mut counted = Counted::default();
            for fee in invoice["invoice"]["fees"].as_array().context("no fees")? {
                let code = fee["itemCode"].as_str().context("no code")?;
                counted.units.insert(code.to_owned(), units(fee)?);
                if code == CALLS {
                    let events = fee["eventsCount"].as_str().and_then(|text| text.parse().ok());
                    counted.events = events.unwrap_or(0);
                }
            }
            recount.billed += counted.events;
            // The plan's base fee has no usage.
            counted.units.retain(|code, _| wanted.units.contains_key(code));
            if counted != wanted {
                recount.differs(format!("billed to {name}: {counted:?}, wanted {wanted:?}"));
            }
        }
    }
    Ok(())
}

/// Every conflicting copy that an edge took is listed, and nothing else is. For after the bill.
pub fn of_conflicts(
    clickhouse: &mut Api,
    books: &Books,
    recount: &mut Recount,
) -> anyhow::Result<()> {
    let query = "SELECT DISTINCT transaction_id FROM conflicts FORMAT TSV";
    let listed: BTreeSet<String> = clickhouse.ask("/", query)?.lines().map(str::to_owned).collect();
    recount.listed_conflicts = listed.len() as u64;
    let missing: Vec<String> = books.must_be_listed().difference(&listed).cloned().collect();
    recount.differ("conflicts that were taken and are not listed", &missing);
    let invented: Vec<String> = listed.difference(&books.may_be_listed()).cloned().collect();
    recount.differ("listed as conflicts without one having been sent", &invented);
    Ok(())
}
