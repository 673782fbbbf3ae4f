//! Drafts whose grace period is over: priced once more from the usage as it is, then numbered.

use crate::{InvoicerDeps, InvoicerError, Report, batch::is_about_a_row, failure, metrics, usage};
use sqlx::{Connection, PgConnection};
use weir_billing::{
    Timestamp,
    invoice::{Invoice, InvoiceStatus},
    refresh::{RefreshFacts, refresh},
};
use weir_ids::{InvoiceId, OrganizationId};
use weir_store::{
    StoreError, billing,
    billing_failures::{self, Failure, Subject},
    invoices,
};

/// Finalizes some drafts due at or before `horizon` whose customers no other invoicer has locked.
/// `None`: there are none.
pub(crate) async fn finalize_batch(
    deps: &InvoicerDeps,
    horizon: Timestamp,
) -> Result<Option<Report>, InvoicerError> {
    let mut tx = deps.pool.begin().await?;
    let due = billing::due_drafts(&mut tx, horizon, deps.config.batch.customers_max).await?;
    if due.is_empty() {
        return Ok(None);
    }
    let mut drafts = invoices::find_many(&mut tx, &due).await?;
    drafts.retain(|draft| matches!(draft.status, InvoiceStatus::Draft { .. }));
    let facts = billing::draft_facts(&mut tx, &drafts).await?;
    let provenance = invoices::provenance_now(&mut tx).await?;
    let books = usage::read(deps, &windows(&drafts), drafts.len()).await?;
    let now = deps.clock.now();
    let mut failures: Vec<Failure> = Vec::new();
    let mut refreshed: Vec<(Invoice, bool)> = Vec::with_capacity(drafts.len());
    for (draft, book) in drafts.into_iter().zip(&books) {
        let (versions, metrics) = (&facts.versions, &facts.metrics);
        match refresh(&draft, RefreshFacts { versions, metrics, usage: book }, now) {
            Ok(fresh) => {
                let changed = fresh.fees != draft.fees;
                refreshed.push((fresh, changed));
            }
            Err(error) => failures.push(failure::of_rules(
                draft.organization,
                Subject::Draft(draft.id),
                draft.due_at,
                &error,
            )),
        }
    }
    let ready = replace(&mut tx, &refreshed, &mut failures).await?;
    invoices::set_provenance(&mut tx, &ready, provenance).await?;
    let finalized = invoices::finalize_many(&mut tx, &ready, now).await?.len();
    let done: Vec<_> = ready.iter().map(|(of, draft)| (*of, Subject::Draft(*draft))).collect();
    billing_failures::clear(&mut tx, &done).await?;
    if !failures.is_empty() {
        billing_failures::record(&mut tx, &failures, deps.config.retry_after()).await?;
    }
    tx.commit().await?;
    metrics::finalized(finalized);
    Ok(Some(Report { created: 0, finalized: finalized as u64, failures, left: 0 }))
}

fn windows(drafts: &[Invoice]) -> Vec<usage::Wanted> {
    let mut wanted = Vec::new();
    for (place, draft) in drafts.iter().enumerate() {
        for settled in &draft.subscriptions {
            wanted.extend(settled.usage.map(|period| usage::Wanted {
                place,
                organization: draft.organization,
                subscription: settled.subscription,
                period,
            }));
        }
    }
    wanted
}

/// Writes the lines that changed; returns the drafts that may be finalized.
async fn replace(
    tx: &mut PgConnection,
    refreshed: &[(Invoice, bool)],
    failures: &mut Vec<Failure>,
) -> Result<Vec<(OrganizationId, InvoiceId)>, InvoicerError> {
    let mut ready = Vec::with_capacity(refreshed.len());
    for (draft, changed) in refreshed {
        match replace_one(tx, draft, *changed).await {
            Ok(()) => ready.push((draft.organization, draft.id)),
            Err(error) if is_about_a_row(&error) => failures.push(failure::of_store(
                draft.organization,
                Subject::Draft(draft.id),
                draft.due_at,
                &error,
            )),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ready)
}

async fn replace_one(
    tx: &mut PgConnection,
    draft: &Invoice,
    changed: bool,
) -> Result<(), StoreError> {
    if !changed {
        return Ok(());
    }
    let mut savepoint = tx.begin().await?;
    match invoices::replace_fees(&mut savepoint, draft).await {
        Ok(()) => Ok(savepoint.commit().await?),
        Err(error) => {
            savepoint.rollback().await?;
            Err(error)
        }
    }
}
