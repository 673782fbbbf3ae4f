//! Every file of `scenarios/` through the pure engine: bill what is due, in order of time, until
//! the scenario's end.

use crate::scenario::{ExpectedInvoice, Scenario, SubscriptionSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use weir_billing::{
    Timestamp,
    bill::{bill, usage_pricings},
    book::UsageBook,
    contract::{Agreement, Billed, Contract, EffectiveVersion},
    customer::{Customer, CustomerDetails},
    invoice::{Fee, FeeKind, Invoice, InvoiceStatus},
    subscription::Subscription,
    true_up::LateWindow,
};
use weir_ids::{CustomerId, OrganizationId, PlanId};

#[test]
fn every_scenario_comes_out_as_worked_out_by_hand() {
    let files = files();
    assert!(files.len() >= 12, "found only {} scenarios", files.len());
    let failures: Vec<String> = files.iter().filter_map(|file| check(file)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files = Vec::new();
    for topic in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        if topic.is_dir() {
            files.extend(std::fs::read_dir(topic).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// What differs; with `WEIR_BLESS=1` the file's `expect` is rewritten instead.
fn check(file: &Path) -> Option<String> {
    let scenario = Scenario::read(file);
    let made: Vec<ExpectedInvoice> =
        run(&scenario).iter().map(|invoice| scenario.describe(invoice)).collect();
    let comparable: Vec<ExpectedInvoice> = made
        .iter()
        .enumerate()
        .map(|(at, made)| match scenario.expect.get(at) {
            Some(stated) => made.clone().kept_as_far_as(stated),
            None => made.clone(),
        })
        .collect();
    if comparable == scenario.expect {
        return None;
    }
    if std::env::var_os("WEIR_BLESS").is_some() {
        let text = std::fs::read_to_string(file).unwrap();
        let head = text.split("\nexpect:").next().unwrap();
        std::fs::write(file, format!("{head}\n{}", yaml(&made))).unwrap();
        return None;
    }
    Some(format!("{}: {}\n{}", file.display(), scenario.why, yaml(&made)))
}

fn yaml(invoices: &[ExpectedInvoice]) -> String {
    let mut text = "expect:\n".to_owned();
    let instant = |at: Timestamp| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    for invoice in invoices {
        let _ = writeln!(text, "  - due: {}", instant(invoice.due));
        let _ = writeln!(text, "    issued: {}", invoice.issued.unwrap());
        let _ = writeln!(text, "    pay_by: {}", invoice.pay_by.unwrap());
        let _ = writeln!(text, "    lines:");
        for line in &invoice.lines {
            let _ = writeln!(
                text,
                "      - {{ of: {}, text: {}, units: \"{}\", amount: \"{}\", precise: \"{}\", from: {}, to: {} }}",
                line.of.as_deref().unwrap(),
                line.text,
                line.units.unwrap(),
                line.amount,
                line.precise.unwrap(),
                instant(line.from.unwrap()),
                instant(line.to.unwrap()),
            );
        }
        let _ = writeln!(text, "    total: \"{}\"", invoice.total);
    }
    text
}

/// All invoices due up to the scenario's end.
fn run(scenario: &Scenario) -> Vec<Invoice> {
    let mut customer = customer(scenario);
    let metrics = Arc::new(scenario.metric_terms());
    let mut agreements: Vec<Agreement> =
        scenario.subscriptions.iter().map(|spec| agreement(scenario, spec)).collect();
    let mut invoices: Vec<Invoice> = Vec::new();
    let mut next_id = 0_u128;
    loop {
        let mut due: BTreeMap<Timestamp, Vec<usize>> = BTreeMap::new();
        for (at, agreement) in agreements.iter().enumerate() {
            if let Some(due_at) = agreement.next_due_at(tz(&customer)).unwrap() {
                due.entry(due_at).or_default().push(at);
            }
        }
        let first = due.pop_first().filter(|(due_at, _)| *due_at <= scenario.until);
        let moved =
            scenario.customer.moves.filter(|(_, zone)| customer.details.timezone != Some(*zone));
        if let Some((moves_at, zone)) = moved
            && first.as_ref().is_none_or(|(due_at, _)| *due_at > moves_at)
        {
            for agreement in &mut agreements {
                agreement.planned_due_at = agreement.next_due_at(tz(&customer)).unwrap();
            }
            customer.details.timezone = Some(zone);
            continue;
        }
        let Some((due_at, members)) = first else { return invoices };
        let contract = Contract {
            customer: customer.clone(),
            due_at,
            agreements: members.iter().map(|at| agreements[*at].clone()).collect(),
            metrics: Arc::clone(&metrics),
        };
        let pricings = usage_pricings(&contract);
        let asked: BTreeSet<_> = pricings.iter().flat_map(|pricing| pricing.windows()).collect();
        let mut usage = scenario.usage(&Vec::from_iter(asked), due_at);
        let unions = pricings.iter().flat_map(|pricing| pricing.unions(&usage).unwrap()).collect();
        scenario.count_unions(unions, &mut usage, due_at);
        let late = late_windows(scenario, &contract, &invoices);
        let billing = bill(&contract, &usage, &late, due_at, &mut || {
            next_id += 1;
            next_id
        });
        assert_eq!(billing.failures, []);
        for at in members {
            settle(&mut agreements[at].billed, due_at);
        }
        for invoice in billing.invoices {
            assert!(invoice.adds_up());
            for settled in &invoice.subscriptions {
                let at = agreements
                    .iter()
                    .position(|agreement| agreement.subscription.id == settled.subscription)
                    .unwrap();
                let billed = &mut agreements[at].billed;
                billed.usage_to = settled.usage.map(|usage| usage.end).or(billed.usage_to);
                billed.base_to = settled.base.map(|base| base.end).or(billed.base_to);
            }
            invoices.push(invoice);
        }
    }
}

/// Every window that has been billed of the contract's subscriptions and is final, whether it has
/// changed or not.
fn late_windows(scenario: &Scenario, contract: &Contract, before: &[Invoice]) -> Vec<LateWindow> {
    let final_by_now = |invoice: &&Invoice| match &invoice.status {
        InvoiceStatus::Draft { finalize_at } => *finalize_at <= contract.due_at,
        InvoiceStatus::Finalized { .. } => true,
    };
    let mut windows = Vec::new();
    for settled in before.iter().filter(final_by_now).flat_map(|one| &one.subscriptions) {
        let subscription = settled.subscription;
        let found = contract.agreements.iter().find(|one| one.subscription.id == subscription);
        let (Some(agreement), Some(period)) = (found, settled.usage) else { continue };
        let of_window = |fee: &&Fee| {
            fee.subscription == subscription
                && fee.period == period
                && fee.kind != FeeKind::Subscription
        };
        let version = agreement.versions.iter().map(|one| &one.version);
        let version = version.clone().find(|version| version.id == settled.plan_version).unwrap();
        let mut window = LateWindow {
            subscription,
            started_at: agreement.subscription.started_at,
            period,
            whole_seconds: settled.whole_seconds.unwrap(),
            version: Arc::clone(version),
            metrics: version.charges.iter().map(|charge| charge.metric).collect(),
            billed: before.iter().flat_map(|one| &one.fees).filter(of_window).cloned().collect(),
            usage: UsageBook::new(),
        };
        let pricings = window.pricings(&contract.metrics).unwrap();
        let asked: Vec<_> = pricings.iter().flat_map(|pricing| pricing.windows()).collect();
        let mut usage = scenario.usage(&asked, contract.due_at);
        let unions = pricings.iter().flat_map(|pricing| pricing.unions(&usage).unwrap()).collect();
        scenario.count_unions(unions, &mut usage, contract.due_at);
        window.usage = usage;
        windows.push(window);
    }
    windows
}

fn settle(billed: &mut Billed, due_at: Timestamp) {
    assert!(billed.due_at < Some(due_at), "an instant was due twice");
    billed.due_at = Some(due_at);
}

fn tz(customer: &Customer) -> chrono_tz::Tz {
    customer.details.timezone.unwrap_or_default()
}

fn customer(scenario: &Scenario) -> Customer {
    let spec = &scenario.customer;
    let created_at = chrono::DateTime::UNIX_EPOCH;
    Customer {
        id: CustomerId::from_u128(1),
        organization: OrganizationId::from_u128(1),
        external_id: "customer".into(),
        sequential_id: 1,
        details: CustomerDetails {
            currency: Some(scenario.currency()),
            timezone: spec.timezone,
            invoice_grace_period_days: spec.grace_days,
            net_payment_term_days: spec.net_term_days,
            ..CustomerDetails::default()
        },
        created_at,
        updated_at: created_at,
        deleted_at: None,
    }
}

fn agreement(scenario: &Scenario, spec: &SubscriptionSpec) -> Agreement {
    let version = |(from, version)| EffectiveVersion { from, version };
    Agreement {
        subscription: Subscription {
            id: scenario.subscription_id(&spec.id),
            organization: OrganizationId::from_u128(1),
            customer: CustomerId::from_u128(1),
            plan: PlanId::from_u128(1),
            external_id: spec.id.clone(),
            name: None,
            started_at: spec.start,
            ending_at: spec.ending,
            terminated_at: spec.terminated,
            skip_final_invoice: spec.skip_final,
            created_at: spec.start,
            updated_at: spec.start,
        },
        plan_name: spec.plan.clone(),
        plan_code: spec.plan.clone(),
        versions: scenario.versions(&spec.plan).into_iter().map(version).collect(),
        billed: Billed::default(),
        planned_due_at: None,
    }
}
