//! The lines of an invoice beside what they should be.

use super::recount::{Note, Noted, Recount};
use std::collections::BTreeSet;
use weir_billing::{
    invoice::{FeeKind, Period},
    line::UsageLine,
};
use weir_ids::{ChargeId, FeeId, SubscriptionId};
use weir_money::{Money, Quantity};
use weir_store::invoices::AuditLine;

/// Ids that are shown of the events behind a difference.
const IDS_SHOWN: usize = 10;

/// A line and what it should be.
#[derive(Debug, Clone)]
pub struct Compared {
    /// None: the invoice lacks the line.
    pub fee: Option<FeeId>,
    pub subscription: SubscriptionId,
    pub external_subscription_id: String,
    pub charge_code: String,
    pub name: String,
    pub true_up: bool,
    pub period: Period,
    pub then: Worth,
    /// Or why it can't be priced.
    pub now: Result<Worth, String>,
    /// Empty where there is no difference.
    pub late: Events,
    pub voided: Events,
}

/// What a line is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worth {
    pub units: Quantity,
    pub events: i64,
    pub amount: Money,
}

/// Events of a line's metric and period.
#[derive(Debug, Clone, Default)]
pub struct Events {
    pub count: usize,
    /// The first of them.
    pub ids: Vec<String>,
}

impl Compared {
    /// Whether the line is what it should be.
    pub fn is_equal(&self) -> bool {
        self.now.as_ref().is_ok_and(|now| *now == self.then)
    }
}

/// Every usage line of the invoice, and those that it should have and lacks.
pub fn compare(lines: &[AuditLine], recount: &Recount) -> Vec<Compared> {
    let mut all = Vec::with_capacity(lines.len());
    let mut seen: BTreeSet<(SubscriptionId, Bounds, ChargeId)> = BTreeSet::new();
    for line in lines {
        let pricing = line.pricing();
        let fresh = pricing.lines(&recount.book(&pricing)).map_err(|error| error.to_string());
        let now = fresh.as_ref().map_err(Clone::clone).and_then(|fresh| should_be(line, fresh));
        all.push(compared(line, Some(line.fee.id), &line.fee.name, worth_of(line), now, recount));
        let key = (line.fee.subscription, bounds(line.fee.period), line.slot.charge);
        if matches!(line.fee.kind, FeeKind::Charge { .. }) && seen.insert(key) {
            let there = || lines.iter().filter(|other| is_beside(line, other));
            let fresh = fresh.unwrap_or_default().into_iter().filter(UsageLine::is_billed);
            for lacking in fresh.filter(|fresh| !there().any(|other| other.slot == fresh.slot)) {
                let zero = Money::zero(lacking.amount.currency);
                let then = Worth { units: Quantity::ZERO, events: 0, amount: zero };
                let now = Ok(worth(&lacking));
                all.push(compared(line, None, &lacking.name, then, now, recount));
            }
        }
    }
    all
}

type Bounds = (weir_billing::Timestamp, weir_billing::Timestamp);

fn bounds(period: Period) -> Bounds {
    (period.start, period.end)
}

/// Whether both bill the same charge of the same window for the first time.
fn is_beside(line: &AuditLine, other: &AuditLine) -> bool {
    matches!(other.fee.kind, FeeKind::Charge { .. })
        && other.fee.subscription == line.fee.subscription
        && other.fee.period == line.fee.period
        && other.slot.charge == line.slot.charge
}

/// What the events come to for the line, less what was billed of it before.
fn should_be(line: &AuditLine, fresh: &[UsageLine]) -> Result<Worth, String> {
    let zero = Money::zero(line.fee.amount.currency);
    let none = Worth { units: Quantity::ZERO, events: 0, amount: zero };
    let found = fresh.iter().find(|fresh| fresh.slot == line.slot);
    let mut now = found.map_or(none, worth);
    for before in &line.before {
        let events = match before.kind {
            FeeKind::Charge { events, .. } => i64::try_from(events).unwrap_or(i64::MAX),
            FeeKind::TrueUp { events, .. } => events,
            FeeKind::Subscription => 0,
        };
        let units = now.units.checked_sub(before.units).ok_or("units beyond 38 digits")?;
        let amount = now.amount.checked_sub(before.amount).map_err(|error| error.to_string())?;
        now = Worth { units, events: now.events.saturating_sub(events), amount };
    }
    Ok(now)
}

fn worth(line: &UsageLine) -> Worth {
    let events = i64::try_from(line.events).unwrap_or(i64::MAX);
    Worth { units: line.units, events, amount: line.amount }
}

fn worth_of(line: &AuditLine) -> Worth {
    let events = match line.fee.kind {
        FeeKind::Charge { events, .. } => i64::try_from(events).unwrap_or(i64::MAX),
        FeeKind::TrueUp { events, .. } => events,
        FeeKind::Subscription => 0,
    };
    Worth { units: line.fee.units, events, amount: line.fee.amount }
}

fn compared(
    line: &AuditLine,
    fee: Option<FeeId>,
    name: &str,
    then: Worth,
    now: Result<Worth, String>,
    recount: &Recount,
) -> Compared {
    let mut compared = Compared {
        fee,
        subscription: line.fee.subscription,
        external_subscription_id: line.external_subscription_id.clone(),
        charge_code: line.charge.code.clone(),
        name: name.to_owned(),
        true_up: matches!(line.fee.kind, FeeKind::TrueUp { .. }),
        period: line.fee.period,
        then,
        now,
        late: Events::default(),
        voided: Events::default(),
    };
    if !compared.is_equal() {
        for noted in recount.noted.iter().filter(|noted| concerns(noted, line)) {
            let events = match noted.note {
                Note::Late => &mut compared.late,
                Note::Voided => &mut compared.voided,
            };
            events.count += 1;
            if events.ids.len() < IDS_SHOWN {
                events.ids.push(noted.transaction_id.clone());
            }
        }
    }
    compared
}

fn concerns(noted: &Noted, line: &AuditLine) -> bool {
    // What carries over may have come at any time before.
    let from = if line.terms.recurring { line.started_at } else { line.fee.period.start };
    noted.subscription == line.fee.subscription
        && noted.metrics.contains(&line.slot.metric)
        && from <= noted.timestamp
        && noted.timestamp < line.fee.period.end
}
