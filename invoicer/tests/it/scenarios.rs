//! Every file of `scenarios/` through the whole invoicer: stored, counted, billed by moving the
//! clock, and read back.

use crate::{
    scenario::{EventSpec, ExpectedInvoice, Scenario},
    world::{Used, World, at},
};
use sqlx::PgPool;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use weir_billing::{
    Timestamp,
    customer::{Customer, CustomerDetails},
    invoice::Invoice,
    metric::BillableMetric,
    plan::Plan,
    subscription::Subscription,
};
use weir_ids::BillableMetricId;
use weir_invoicer::advance_clock;
use weir_store::{customers, plans};

#[sqlx::test(migrations = "../migrations/postgres")]
async fn scenarios_of_charges_currencies_and_numbers_come_out_the_same(pool: PgPool) {
    check(pool, &["charges", "currencies", "numbers", "metrics"]).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn scenarios_of_periods_come_out_the_same(pool: PgPool) {
    check(pool, &["periods"]).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn scenarios_of_plans_and_invoices_come_out_the_same(pool: PgPool) {
    check(pool, &["plans", "invoices"]).await;
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn scenarios_of_late_events_come_out_the_same(pool: PgPool) {
    check(pool, &["late"]).await;
}

#[test]
fn no_topic_is_left_out() {
    let topics = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut topics: Vec<String> = topics.map(|name| name.into_string().unwrap()).collect();
    topics.sort();
    let known =
        ["charges", "currencies", "invoices", "late", "metrics", "numbers", "periods", "plans"];
    assert_eq!(topics, known);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

/// All scenarios of the topics in one deployment, a customer each, while the clock moves once from
/// the first start to the last end.
async fn check(pool: PgPool, topics: &[&str]) {
    let mut files: Vec<PathBuf> = Vec::new();
    for topic in topics {
        let entries = std::fs::read_dir(root().join(topic)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    let world = World::on_test_clock(pool, at("2026-01-01T00:00:00Z")).await;
    let mut cases = Vec::new();
    for file in &files {
        cases.push(Case::store(&world, file).await);
    }
    let mut changes: Vec<(Timestamp, Change)> = cases.iter().flat_map(Case::changes).collect();
    changes.sort_by_key(|(when, _)| *when);
    for (when, change) in changes {
        advance_clock(&world.deps, when, &mut |_| {}).await.unwrap();
        change.make(&world, when).await;
    }
    let end = cases.iter().map(|case| case.scenario.until).max().unwrap();
    advance_clock(&world.deps, end, &mut |_| {}).await.unwrap();
    let invoices = world.invoices().await;
    for case in &cases {
        case.compare(&invoices);
    }
}

/// What happens while the clock moves.
enum Change<'a> {
    CustomerMoves(Box<Customer>),
    Arrives(Used<'a>),
    Voided(Used<'a>),
}

impl Change<'_> {
    async fn make(&self, world: &World, when: Timestamp) {
        match self {
            Self::CustomerMoves(customer) => {
                let mut conn = world.pool.acquire().await.unwrap();
                customers::save(&mut conn, customer).await.unwrap();
            }
            Self::Arrives(used) => world.used_as(used).await,
            Self::Voided(used) => world.void_cell(used, when).await,
        }
    }
}

/// A scenario as it is stored.
struct Case {
    file: PathBuf,
    scenario: Scenario,
    customer: Customer,
    subscriptions: Vec<Subscription>,
    metrics: BTreeMap<String, BillableMetricId>,
}

impl Case {
    async fn store(world: &World, file: &Path) -> Self {
        let scenario = Scenario::read(file);
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut metrics: BTreeMap<String, BillableMetricId> = BTreeMap::new();
        for (metric, spec) in &scenario.metrics {
            let code = format!("{name}-{metric}");
            let change = |metric| BillableMetric {
                expression: spec.expression.clone(),
                recurring: spec.recurring,
                rounding: spec.rounding(),
                filters: spec.filters(),
                ..metric
            };
            let id = world.metric_with(&code, metric, spec.aggregation, change).await;
            metrics.insert(metric.clone(), id);
        }
        let details = CustomerDetails {
            timezone: scenario.customer.timezone,
            invoice_grace_period_days: scenario.customer.grace_days,
            net_payment_term_days: scenario.customer.net_term_days,
            ..CustomerDetails::default()
        };
        let customer = world.customer(&name, details).await;
        let mut plans: BTreeMap<&str, Plan> = BTreeMap::new();
        for plan in scenario.plans.keys() {
            plans.insert(plan, store_plan(world, &scenario, &name, plan, &metrics).await);
        }
        let mut subscriptions = Vec::new();
        for spec in &scenario.subscriptions {
            let plan = &plans[spec.plan.as_str()];
            let external_id = format!("{name}-{}", spec.id);
            let subscription = Subscription {
                ending_at: spec.ending,
                terminated_at: spec.terminated,
                skip_final_invoice: spec.skip_final,
                ..world.unsaved(&customer, plan, &external_id, spec.start)
            };
            world.save_new(&customer, plan, &subscription).await;
            subscriptions.push(subscription);
        }
        for (plan, stored) in &plans {
            store_edits(world, &scenario, plan, stored, &metrics).await;
        }
        let case = Self { file: file.to_owned(), scenario, customer, subscriptions, metrics };
        for event in case.scenario.events.iter().filter(|event| event.arrives.is_none()) {
            if let Some(used) = case.used(event) {
                world.used_as(&used).await;
            }
        }
        case
    }

    fn changes(&self) -> Vec<(Timestamp, Change<'_>)> {
        let mut changes = Vec::new();
        if let Some((when, zone)) = self.scenario.customer.moves {
            let mut customer = self.customer.clone();
            customer.details.timezone = Some(zone);
            changes.push((when, Change::CustomerMoves(Box::new(customer))));
        }
        for event in &self.scenario.events {
            let used = || self.used(event).unwrap();
            changes.extend(event.arrives.map(|when| (when, Change::Arrives(used()))));
            changes.extend(event.voided.map(|when| (when, Change::Voided(used()))));
        }
        changes
    }

    /// Only events of the subscription's life are its own: the edge and the aggregator see to that.
    fn used<'a>(&self, event: &'a EventSpec) -> Option<Used<'a>> {
        let place = self.scenario.subscriptions.iter().position(|one| one.id == event.subscription);
        let subscription = &self.subscriptions[place.unwrap()];
        let ended = subscription.end().is_some_and(|end| end <= event.at);
        if event.at < subscription.started_at || ended {
            return None;
        }
        let metric = self.metrics[&event.metric];
        Some(Used {
            arrives: event.arrives.unwrap_or(event.at),
            times: event.times,
            removed: event.remove,
            group: self.scenario.group(event),
            ..Used::new(subscription.id, metric, event.at, &event.value)
        })
    }

    fn compare(&self, invoices: &[Invoice]) {
        let made: Vec<ExpectedInvoice> = invoices
            .iter()
            .filter(|invoice| invoice.customer == self.customer.id)
            .filter(|invoice| invoice.due_at <= self.scenario.until)
            .map(|invoice| self.scenario.describe(&self.with_known_ids(invoice)))
            .zip(self.scenario.expect.iter().map(Some).chain(std::iter::repeat(None)))
            .map(|(made, stated)| match stated {
                Some(stated) => ExpectedInvoice {
                    // A finalized invoice says when it became final, not when it was to.
                    finalize: stated.finalize,
                    ..made.kept_as_far_as(stated)
                },
                None => made,
            })
            .collect();
        assert_eq!(made, self.scenario.expect, "{}: {}", self.file.display(), self.scenario.why);
    }

    /// The scenario knows its subscriptions by the ids of their places.
    fn with_known_ids(&self, invoice: &Invoice) -> Invoice {
        let mut invoice = invoice.clone();
        for fee in &mut invoice.fees {
            let place = self.subscriptions.iter().position(|one| one.id == fee.subscription);
            let spec = &self.scenario.subscriptions[place.unwrap()];
            fee.subscription = self.scenario.subscription_id(&spec.id);
        }
        invoice
    }
}

/// The plan with its first version; the edits come when the subscriptions are there.
async fn store_plan(
    world: &World,
    scenario: &Scenario,
    name: &str,
    plan: &str,
    metrics: &BTreeMap<String, BillableMetricId>,
) -> Plan {
    let first = &scenario.plans[plan][0];
    let charges = stored_charges(world, scenario, &first.charges, metrics);
    let amount = scenario.money(&first.amount);
    world.plan_named(&format!("{name}-{plan}"), plan, amount, first.in_advance, charges).await
}

fn stored_charges(
    world: &World,
    scenario: &Scenario,
    specs: &[crate::scenario::ChargeSpec],
    metrics: &BTreeMap<String, BillableMetricId>,
) -> Vec<weir_billing::charge::Charge> {
    let mut charges = scenario.charges(specs);
    for (charge, spec) in charges.iter_mut().zip(specs) {
        charge.id = world.deps.clock.new_id();
        charge.metric = metrics[&spec.metric];
        for filter in &mut charge.filters {
            filter.id = world.deps.clock.new_id();
        }
    }
    charges
}

async fn store_edits(
    world: &World,
    scenario: &Scenario,
    plan: &str,
    stored: &Plan,
    metrics: &BTreeMap<String, BillableMetricId>,
) {
    let mut conn = world.pool.acquire().await.unwrap();
    for (number, spec) in (2..).zip(&scenario.plans[plan][1..]) {
        let from = spec.from.unwrap();
        let mut charges = stored_charges(world, scenario, &spec.charges, metrics);
        // A changed plan keeps the ids of its charges.
        for (charge, before) in charges.iter_mut().zip(&stored.version.charges) {
            charge.id = before.id;
        }
        let version = weir_billing::plan::PlanVersion {
            id: world.deps.clock.new_id(),
            number,
            amount: scenario.money(&spec.amount),
            pay_in_advance: spec.in_advance,
            charges,
            created_at: from,
            ..stored.version.clone()
        };
        plans::add_version(&mut conn, world.organization, &version).await.unwrap();
        let (organization, id) = (world.organization, stored.id);
        plans::cascade(&mut conn, organization, id, version.id, from).await.unwrap();
    }
}
