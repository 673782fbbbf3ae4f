//! Drafts whose grace period is over: priced once more from the usage as it is, then numbered.

use crate::{InvoicerDeps, InvoicerError, Report, batch::is_about_a_row, failure, metrics};
use sqlx::{Connection, PgConnection};
use weir_billing::{
    Timestamp,
    book::UsageBook,
    invoice::{Invoice, InvoiceStatus},
    refresh::{RefreshFacts, refresh},
    true_up::PendingTrueUp,
};
use weir_books::{Priced, Reader};
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
    let facts = RefreshFacts {
        versions: &facts.versions,
        metrics: &facts.metrics,
        started_at: &facts.started_at,
    };
    let books = books(deps, &mut tx, &drafts, facts).await?;
    let now = deps.clock.now();
    let mut new_id = || deps.clock.new_id::<u128>();
    let mut failures: Vec<Failure> = Vec::new();
    let mut refreshed: Vec<Refreshed> = Vec::with_capacity(drafts.len());
    for (draft, book) in drafts.into_iter().zip(&books) {
        match refresh(&draft, facts, book, now, &mut new_id) {
            Ok((fresh, pending)) => {
                let changed = fresh.fees != draft.fees;
                refreshed.push(Refreshed { draft: fresh, changed, pending });
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

/// A draft priced again.
struct Refreshed {
    draft: Invoice,
    changed: bool,
    /// What of past periods it can't take any more.
    pending: Vec<PendingTrueUp>,
}

/// The usage of the drafts as it is now, a book for each.
async fn books(
    deps: &InvoicerDeps,
    tx: &mut PgConnection,
    drafts: &[Invoice],
    facts: RefreshFacts<'_>,
) -> Result<Vec<UsageBook>, InvoicerError> {
    let of = |draft: &Invoice| {
        let ids = draft.subscriptions.iter().map(|one| one.subscription);
        ids.map(|id| (draft.organization, id)).collect::<Vec<_>>()
    };
    let subscriptions: Vec<_> = drafts.iter().flat_map(of).collect();
    let reader = Reader::new(&deps.usage, tx, &subscriptions).await?;
    let priced: Vec<_> = drafts
        .iter()
        .map(|draft| Priced {
            organization: draft.organization,
            pricings: facts.usage_pricings(draft),
        })
        .collect();
    Ok(reader.books(&priced).await?)
}

/// Writes the lines that changed; returns the drafts that may be finalized.
async fn replace(
    tx: &mut PgConnection,
    refreshed: &[Refreshed],
    failures: &mut Vec<Failure>,
) -> Result<Vec<(OrganizationId, InvoiceId)>, InvoicerError> {
    let mut ready = Vec::with_capacity(refreshed.len());
    for one in refreshed {
        let draft = &one.draft;
        match replace_one(tx, one).await {
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

async fn replace_one(tx: &mut PgConnection, refreshed: &Refreshed) -> Result<(), StoreError> {
    if !refreshed.changed {
        return Ok(());
    }
    let mut savepoint = tx.begin().await?;
    match rewrite(&mut savepoint, refreshed).await {
        Ok(()) => Ok(savepoint.commit().await?),
        Err(error) => {
            savepoint.rollback().await?;
            Err(error)
        }
    }
}

async fn rewrite(conn: &mut PgConnection, refreshed: &Refreshed) -> Result<(), StoreError> {
    let organization = refreshed.draft.organization;
    let pending: Vec<_> = refreshed.pending.iter().map(|one| (organization, *one)).collect();
    invoices::note_pending(conn, &pending).await?;
    invoices::replace_fees(conn, &refreshed.draft).await
}
