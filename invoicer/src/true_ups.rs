//! Past periods that late events or voids have changed: loaded for the invoices that correct them.

use crate::InvoicerError;
use sqlx::PgConnection;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use weir_billing::{
    Timestamp,
    book::UsageBook,
    contract::{Contract, MetricTerms},
    invoice::{Fee, Period},
    refresh::seconds,
    true_up::LateWindow,
};
use weir_books::{Priced, Reader};
use weir_ids::{BillableMetricId, OrganizationId, PlanVersionId, SubscriptionId};
use weir_store::{
    billing,
    invoices::{self, PastWindow, TrueUpSince},
    plans,
};
use weir_usage::LateQuestion;

/// Receipts are dated by the edge's clocks, the watermark by Postgres': further apart than this they
/// never are. What changed within it is looked at once more, which costs a read and changes nothing.
const CLOCKS_APART: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// The subscriptions to ask about, each with the place of the contract that has its corrections.
pub(crate) type Places = BTreeMap<(OrganizationId, SubscriptionId), usize>;

/// A bucket of 15 minutes of a metric that has changed since it was billed.
type Changed = (OrganizationId, SubscriptionId, BillableMetricId, Timestamp);

/// The past windows of the subscriptions at these places that have changed since they were billed,
/// one list for each contract, and the metrics that price them besides the contracts' own. A fixed
/// number of statements, whatever has changed.
pub(crate) async fn load(
    conn: &mut PgConnection,
    reader: &Reader<'_>,
    place_of: &Places,
    contracts: &mut [Contract],
) -> Result<Vec<Vec<LateWindow>>, InvoicerError> {
    let mut late = vec![Vec::new(); contracts.len()];
    if place_of.is_empty() {
        return Ok(late);
    }
    let asked: Vec<_> = place_of.keys().copied().collect();
    let mut since = invoices::true_up_since(conn, &asked).await?;
    // One that has ended may be on an invoice of this instant already, made before the contract's
    // others could be billed: there is one invoice of it for an instant.
    since.retain(|one| {
        let place = place_of.get(&(one.organization, one.subscription));
        let contract = place.and_then(|place| contracts.get(*place));
        contract.is_some_and(|contract| one.due_at < contract.due_at)
    });
    let changed: Vec<_> = changed(reader, &since).await?.into_iter().collect();
    let asked: Vec<_> = since.iter().map(|one| (one.organization, one.subscription)).collect();
    let past = invoices::past_windows(conn, &asked, &changed).await?;
    if past.is_empty() {
        return Ok(late);
    }
    let metrics = metrics(conn, &past, contracts).await?;
    for (organization, window) in windows(conn, reader, past, &metrics).await? {
        let place = place_of.get(&(organization, window.subscription));
        if let Some(late) = place.and_then(|place| late.get_mut(*place)) {
            late.push(window);
        }
    }
    for contract in contracts {
        contract.metrics = Arc::clone(&metrics);
    }
    Ok(late)
}

/// What has changed of what these subscriptions have been billed for.
async fn changed(
    reader: &Reader<'_>,
    since: &[TrueUpSince],
) -> Result<BTreeSet<Changed>, InvoicerError> {
    let mut by_organization: BTreeMap<OrganizationId, Vec<LateQuestion>> = BTreeMap::new();
    for one in since {
        let corrected_to = one.corrected_to.map(|at| at - CLOCKS_APART);
        by_organization.entry(one.organization).or_default().push(LateQuestion {
            subscription: one.subscription,
            before: one.usage_to,
            changed_after: corrected_to.unwrap_or(Timestamp::UNIX_EPOCH),
        });
    }
    let mut changed = BTreeSet::new();
    for (organization, questions) in by_organization {
        let late = reader.late_buckets(organization, &questions).await?.into_iter();
        changed.extend(late.map(|one| (organization, one.subscription, one.metric, one.bucket)));
    }
    Ok(changed)
}

/// The places of those that are due, where they have been billed usage, and of those of the same
/// customers that have ended.
pub(crate) async fn places(
    conn: &mut PgConnection,
    contracts: &[Contract],
) -> Result<Places, InvoicerError> {
    let mut places = BTreeMap::new();
    let mut customers = BTreeMap::new();
    for (place, contract) in contracts.iter().enumerate() {
        let organization = contract.customer.organization;
        customers.insert((organization, contract.customer.id), place);
        for one in contract.agreements.iter().filter(|one| one.billed.usage_to.is_some()) {
            places.insert((organization, one.subscription.id), place);
        }
    }
    let asked: Vec<_> = customers.keys().copied().collect();
    for (organization, subscription, customer) in
        invoices::ended_subscriptions(conn, &asked).await?
    {
        if let Some(place) = customers.get(&(organization, customer)) {
            places.insert((organization, subscription), *place);
        }
    }
    Ok(places)
}

/// Those of the contracts, and those of the past windows' versions that they lack.
async fn metrics(
    conn: &mut PgConnection,
    past: &[PastWindow],
    contracts: &[Contract],
) -> Result<Arc<BTreeMap<BillableMetricId, MetricTerms>>, InvoicerError> {
    let Some(contract) = contracts.first() else { return Ok(Arc::default()) };
    // All contracts of a batch share one map.
    let known = &contract.metrics;
    let missing: BTreeSet<_> = past
        .iter()
        .filter(|window| !known.contains_key(&window.metric))
        .map(|window| (window.organization, window.metric))
        .collect();
    if missing.is_empty() {
        return Ok(Arc::clone(known));
    }
    let mut all = BTreeMap::clone(known);
    all.extend(billing::metric_terms(conn, &missing.into_iter().collect::<Vec<_>>()).await?);
    Ok(Arc::new(all))
}

/// The past windows with what was billed of them and their usage as it is now.
async fn windows(
    conn: &mut PgConnection,
    reader: &Reader<'_>,
    past: Vec<PastWindow>,
    metrics: &BTreeMap<BillableMetricId, MetricTerms>,
) -> Result<Vec<(OrganizationId, LateWindow)>, InvoicerError> {
    let ids: BTreeSet<(OrganizationId, PlanVersionId)> =
        past.iter().map(|window| (window.organization, window.plan_version)).collect();
    let versions = plans::find_versions(conn, &ids.into_iter().collect::<Vec<_>>()).await?;
    let mut billed: BTreeMap<(SubscriptionId, Period), Vec<Fee>> = BTreeMap::new();
    for fee in invoices::billed_lines(conn, &past).await? {
        billed.entry((fee.subscription, fee.period)).or_default().push(fee);
    }
    let mut organizations = Vec::new();
    let mut windows: Vec<LateWindow> = Vec::new();
    // Ordered by window: those of one follow each other.
    for one in past {
        match windows.last_mut() {
            Some(last) if (last.subscription, last.period) == (one.subscription, one.period) => {
                last.metrics.insert(one.metric);
            }
            _ => {
                let Some(version) = versions.get(&one.plan_version) else { continue };
                organizations.push(one.organization);
                windows.push(LateWindow {
                    subscription: one.subscription,
                    started_at: one.started_at,
                    period: one.period,
                    whole_seconds: one.whole_seconds.unwrap_or_else(|| seconds(one.period)),
                    version: Arc::clone(version),
                    metrics: BTreeSet::from([one.metric]),
                    billed: billed.remove(&(one.subscription, one.period)).unwrap_or_default(),
                    usage: UsageBook::new(),
                });
            }
        }
    }
    read_usage(reader, &organizations, &mut windows, metrics).await?;
    Ok(organizations.into_iter().zip(windows).collect())
}

async fn read_usage(
    reader: &Reader<'_>,
    organizations: &[OrganizationId],
    windows: &mut [LateWindow],
    metrics: &BTreeMap<BillableMetricId, MetricTerms>,
) -> Result<(), InvoicerError> {
    let priced: Vec<_> = windows
        .iter()
        .zip(organizations)
        .map(|(window, organization)| Priced {
            organization: *organization,
            // A metric that is missing fails its subscription when it is billed.
            pricings: window.pricings(metrics).unwrap_or_default(),
        })
        .collect();
    let books = reader.books(&priced).await?;
    for (window, book) in windows.iter_mut().zip(books) {
        window.usage = book;
    }
    Ok(())
}
