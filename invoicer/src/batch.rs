//! A batch of customers, billed in one transaction: load, decide, save.

use crate::{InvoicerDeps, InvoicerError, Report, failure, metrics, true_ups};
use sqlx::{Connection, PgConnection};
use std::{collections::BTreeSet, time::Instant};
use weir_billing::{
    BillingError, Timestamp,
    bill::{Billing, bill, usage_pricings},
    contract::{Agreement, Contract},
    invoice::{Invoice, InvoiceStatus},
    true_up::PendingTrueUp,
};
use weir_books::{Priced, Reader};
use weir_ids::{InvoiceId, OrganizationId, SubscriptionId};
use weir_store::{
    StoreError,
    billing::{self, Horizon},
    billing_failures::{self, Failure, Subject},
    invoices::{self, Provenance},
    subscriptions::{self, NextDue},
};

/// Bills what is due first, within `horizon`, of some customers that no other invoicer has
/// locked. `None`: there are none.
#[tracing::instrument(level = "debug", name = "invoicer.bill_batch", skip_all)]
pub(crate) async fn bill_batch(
    deps: &InvoicerDeps,
    horizon: Horizon,
) -> Result<Option<Report>, InvoicerError> {
    let started = Instant::now();
    let mut tx = deps.pool.begin().await?;
    let customers =
        billing::due_customers(&mut tx, horizon, deps.config.batch.customers_max).await?;
    if customers.is_empty() {
        return Ok(None);
    }
    let loaded = billing::contracts(&mut tx, &customers, horizon).await?;
    let (mut contracts, mut outcome) = only_what_is_due(loaded);
    let provenance = invoices::provenance_now(&mut tx).await?;
    let places = true_ups::places(&mut tx, &contracts).await?;
    let mut subscriptions = subscriptions_of(&contracts);
    subscriptions.extend(places.keys().copied());
    let reader = Reader::new(&deps.usage, &mut tx, &subscriptions).await?;
    let late = true_ups::load(&mut tx, &reader, &places, &mut contracts).await?;
    let priced: Vec<_> = contracts
        .iter()
        .map(|contract| Priced {
            organization: contract.customer.organization,
            pricings: usage_pricings(contract),
        })
        .collect();
    let books = reader.books(&priced).await?;
    let now = deps.clock.now();
    let mut new_id = || deps.clock.new_id::<u128>();
    let mut invoices = Vec::new();
    for ((contract, book), late) in contracts.iter().zip(&books).zip(&late) {
        let billing = bill(contract, book, late, now, &mut new_id);
        outcome.take(contract, billing, &mut invoices);
    }
    let written = write(&mut tx, invoices, provenance, &mut outcome).await?;
    let report = save(deps, &mut tx, outcome, &written, horizon.as_of, now).await?;
    tx.commit().await?;
    metrics::batch_took(started.elapsed());
    metrics::created(written.len());
    Ok(Some(report))
}

/// What a batch comes to besides its invoices.
#[derive(Default)]
struct Outcome {
    dues: Vec<NextDue>,
    billed: Vec<(OrganizationId, Subject)>,
    failures: Vec<Failure>,
    /// What of past periods waits for the next invoice; of those that fail it is not used.
    pending: Vec<(OrganizationId, PendingTrueUp)>,
}

impl Outcome {
    /// Sorts what came of a contract; a subscription moves on only with its invoice.
    fn take(
        &mut self,
        contract: &Contract,
        billing: Billing,
        invoices: &mut Vec<(Invoice, Vec<NextDue>)>,
    ) {
        for (subscription, error) in &billing.failures {
            self.fail(contract, *subscription, error);
        }
        for invoice in billing.invoices {
            let due = |one: &SubscriptionId| {
                contract.agreements.iter().any(|agreement| agreement.subscription.id == *one)
            };
            let settled = invoice.subscriptions.iter().map(|one| one.subscription);
            // Those that have ended are on it with corrections only.
            let dues = settled
                .filter(due)
                .map(|one| next_due(contract, one))
                .collect::<Result<Vec<_>, _>>();
            match dues {
                Ok(dues) => invoices.push((invoice, dues)),
                Err((subscription, error)) => self.fail(contract, subscription, &error),
            }
        }
        let organization = contract.customer.organization;
        self.pending.extend(billing.pending.into_iter().map(|one| (organization, one)));
        for subscription in billing.nothing_due {
            match next_due(contract, subscription) {
                Ok(due) => self.moved(due),
                Err((subscription, error)) => self.fail(contract, subscription, &error),
            }
        }
    }

    fn moved(&mut self, due: NextDue) {
        self.billed.push((due.organization, Subject::Subscription(due.subscription)));
        self.dues.push(due);
    }

    fn fail(&mut self, contract: &Contract, subscription: SubscriptionId, error: &BillingError) {
        self.failures.push(failure::of_rules(
            contract.customer.organization,
            Subject::Subscription(subscription),
            contract.due_at,
            error,
        ));
    }
}

/// The stored due instants are hints: a change of the customer's zone moves them. Keeps what is
/// really due at the contract's instant and puts the others' right.
fn only_what_is_due(loaded: Vec<Contract>) -> (Vec<Contract>, Outcome) {
    let mut outcome = Outcome::default();
    let mut contracts = Vec::with_capacity(loaded.len());
    for mut contract in loaded {
        let (tz, due_at) = (contract.tz(), contract.due_at);
        let mut due = Vec::with_capacity(contract.agreements.len());
        for agreement in std::mem::take(&mut contract.agreements) {
            match agreement.next_due_at(tz) {
                Ok(Some(at)) if at == due_at => due.push(agreement),
                Ok(at) => outcome.dues.push(due_of(&agreement, at)),
                Err(error) => outcome.fail(&contract, agreement.subscription.id, &error),
            }
        }
        if !due.is_empty() {
            contracts.push(Contract { agreements: due, ..contract });
        }
    }
    (contracts, outcome)
}

fn due_of(agreement: &Agreement, at: Option<Timestamp>) -> NextDue {
    let subscription = &agreement.subscription;
    NextDue { organization: subscription.organization, subscription: subscription.id, at }
}

/// When a subscription is due next, once this contract is billed.
fn next_due(
    contract: &Contract,
    subscription: SubscriptionId,
) -> Result<NextDue, (SubscriptionId, BillingError)> {
    let found = contract.agreements.iter().find(|one| one.subscription.id == subscription);
    let agreement = found.ok_or((subscription, BillingError::NoPlanVersion(subscription)))?;
    let mut billed = agreement.clone();
    billed.billed.due_at = Some(contract.due_at);
    let at = billed.next_due_at(contract.tz()).map_err(|error| (subscription, error))?;
    Ok(due_of(agreement, at))
}

fn subscriptions_of(contracts: &[Contract]) -> Vec<(OrganizationId, SubscriptionId)> {
    let of = |contract: &Contract| {
        let organization = contract.customer.organization;
        let ids = contract.agreements.iter().map(|one| one.subscription.id);
        ids.map(|id| (organization, id)).collect::<Vec<_>>()
    };
    contracts.iter().flat_map(of).collect()
}

/// Writes the invoices, all at once; where the database refuses one, one by one, so that it holds
/// up no other. Returns those that are written.
async fn write(
    tx: &mut PgConnection,
    invoices: Vec<(Invoice, Vec<NextDue>)>,
    provenance: Provenance,
    outcome: &mut Outcome,
) -> Result<Vec<Invoice>, InvoicerError> {
    let (invoices, dues): (Vec<Invoice>, Vec<Vec<NextDue>>) = invoices.into_iter().unzip();
    let refused = match insert(tx, &invoices, provenance).await {
        Ok(()) => {
            dues.into_iter().flatten().for_each(|due| outcome.moved(due));
            return Ok(invoices);
        }
        Err(error) if is_about_a_row(&error) => error,
        Err(error) => return Err(error.into()),
    };
    tracing::warn!(error = %refused, invoices = invoices.len(), "batch refused, writing one by one");
    let mut written = Vec::with_capacity(invoices.len());
    for (invoice, dues) in invoices.into_iter().zip(dues) {
        match insert(tx, std::slice::from_ref(&invoice), provenance).await {
            Ok(()) => {
                dues.into_iter().for_each(|due| outcome.moved(due));
                written.push(invoice);
            }
            Err(error) if is_about_a_row(&error) => {
                outcome.failures.extend(dues.into_iter().map(|due| {
                    let subject = Subject::Subscription(due.subscription);
                    failure::of_store(due.organization, subject, invoice.due_at, &error)
                }));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

/// Under a savepoint, so that a refusal leaves the transaction usable.
async fn insert(
    tx: &mut PgConnection,
    invoices: &[Invoice],
    provenance: Provenance,
) -> Result<(), StoreError> {
    if invoices.is_empty() {
        return Ok(());
    }
    let mut savepoint = tx.begin().await?;
    match invoices::insert_many(&mut savepoint, invoices, Some(provenance)).await {
        Ok(()) => Ok(savepoint.commit().await?),
        Err(error) => {
            savepoint.rollback().await?;
            Err(error)
        }
    }
}

/// Whether another invoice may fare better: not so when the database is away.
pub(crate) fn is_about_a_row(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Duplicate { .. }
            | StoreError::Violation { .. }
            | StoreError::OutOfRange { .. }
            | StoreError::Unbalanced { .. }
    )
}

/// Numbers for those without a grace period, and everything else the batch changes.
async fn save(
    deps: &InvoicerDeps,
    tx: &mut PgConnection,
    outcome: Outcome,
    written: &[Invoice],
    horizon: Timestamp,
    now: Timestamp,
) -> Result<Report, InvoicerError> {
    let ready = |invoice: &&Invoice| match &invoice.status {
        InvoiceStatus::Draft { finalize_at } => *finalize_at <= horizon,
        InvoiceStatus::Finalized { .. } => false,
    };
    let ready: Vec<(OrganizationId, InvoiceId)> =
        written.iter().filter(ready).map(|one| (one.organization, one.id)).collect();
    let mut finalized = 0;
    if !ready.is_empty() {
        finalized = invoices::finalize_many(tx, &ready, now).await?.len();
        metrics::finalized(finalized);
    }
    let Outcome { dues, billed, mut failures, pending } = outcome;
    settle_pending(tx, written, pending).await?;
    if !dues.is_empty() {
        subscriptions::set_next_due(tx, &dues).await?;
    }
    if !billed.is_empty() {
        billing_failures::clear(tx, &billed).await?;
    }
    // One subscription may fail in several currencies, and is recorded once.
    let mut recorded = BTreeSet::new();
    failures.retain(|failure| recorded.insert((failure.organization, failure.subject)));
    if !written.is_empty() {
        let customers: BTreeSet<_> =
            written.iter().map(|invoice| (invoice.organization, invoice.customer)).collect();
        let customers: Vec<_> = customers.into_iter().collect();
        billing_failures::clear_ended(tx, &customers, &failures).await?;
    }
    if !failures.is_empty() {
        billing_failures::record(tx, &failures, deps.config.retry_after()).await?;
    }
    Ok(Report { created: written.len() as u64, finalized: finalized as u64, failures, left: 0 })
}

/// Puts what waits of the subscriptions on these invoices in the place of what waited before.
async fn settle_pending(
    tx: &mut PgConnection,
    written: &[Invoice],
    pending: Vec<(OrganizationId, PendingTrueUp)>,
) -> Result<(), StoreError> {
    let settled: BTreeSet<(OrganizationId, SubscriptionId)> = written
        .iter()
        .flat_map(|invoice| {
            invoice.subscriptions.iter().map(|one| (invoice.organization, one.subscription))
        })
        .collect();
    let pending: Vec<_> = pending
        .into_iter()
        .filter(|(organization, one)| settled.contains(&(*organization, one.subscription)))
        .collect();
    invoices::replace_pending(tx, &settled.into_iter().collect::<Vec<_>>(), &pending).await
}
