//! Usage of many windows at once, from ClickHouse to the pure crate's books.

use crate::{InvoicerDeps, InvoicerError};
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};
use weir_billing::{
    Timestamp,
    book::{DistinctUnion, Span, UsageBook, UsageWindow},
    usage::{Latest, UsageTotal},
};
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};
use weir_store::{invoices::TrueUpSince, rolls};
use weir_usage::{Generations, LateQuestion, MetricUsage};

/// Receipts are dated by the edge's clocks, the watermark by Postgres': further apart than this they
/// never are. What changed within it is looked at once more, which costs a read and changes nothing.
const CLOCKS_APART: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// Something that some contract, draft or past window needs, by the place of that one in the
/// caller's list.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<Q> {
    pub place: usize,
    pub organization: OrganizationId,
    pub question: Q,
}

/// Under which generation the usage of each organization counts: read once for a batch, so that all
/// of it is read under the same.
pub(crate) struct Reader<'a> {
    deps: &'a InvoicerDeps,
    generations: BTreeMap<OrganizationId, Generations>,
}

/// A bucket of 15 minutes of a metric that has changed since it was billed.
pub(crate) type Changed = (OrganizationId, SubscriptionId, BillableMetricId, Timestamp);

impl<'a> Reader<'a> {
    /// Reads usage of these subscriptions.
    pub(crate) async fn new(
        deps: &'a InvoicerDeps,
        conn: &mut PgConnection,
        subscriptions: &[(OrganizationId, SubscriptionId)],
    ) -> Result<Self, InvoicerError> {
        let mut by_organization: BTreeMap<OrganizationId, Vec<SubscriptionId>> = BTreeMap::new();
        for (organization, subscription) in subscriptions {
            by_organization.entry(*organization).or_default().push(*subscription);
        }
        let mut generations = BTreeMap::new();
        for (organization, subscriptions) in by_organization {
            let rows = rolls::generations(&mut *conn, organization, &subscriptions).await?;
            let rolls::GenerationRows { metrics, subscriptions, cells } = rows;
            generations.insert(organization, Generations { metrics, subscriptions, cells });
        }
        Ok(Self { deps, generations })
    }

    /// The totals of all windows, one book for each of the `places`.
    pub(crate) async fn books(
        &self,
        wanted: &[Wanted<UsageWindow>],
        places: usize,
    ) -> Result<Vec<UsageBook>, InvoicerError> {
        let mut books = vec![UsageBook::new(); places];
        for (organization, wanted) in by_organization(wanted) {
            let windows: Vec<_> = wanted.iter().map(|one| bounds(&one.question)).collect();
            let generations = self.generations_of(organization);
            for answer in self.deps.usage.usage(organization, &windows, &generations).await? {
                let window = answer.as_ref().map_or_else(|over| over.window, |usage| usage.window);
                let Some(one) = wanted.get(window) else { continue };
                let Some(book) = books.get_mut(one.place) else { continue };
                match answer {
                    Ok(usage) => insert(book, one.question.span, usage),
                    Err(over) => book.overflow(over.subscription, over.metric),
                }
            }
        }
        Ok(books)
    }

    /// Counts distinct values over several groups, into the books of the places.
    pub(crate) async fn unions(
        &self,
        wanted: &[Wanted<DistinctUnion>],
        books: &mut [UsageBook],
    ) -> Result<(), InvoicerError> {
        for (organization, wanted) in by_organization(wanted) {
            let questions: Vec<_> = wanted
                .iter()
                .map(|one| weir_usage::DistinctUnion {
                    window: bounds(&one.question.window),
                    metric: one.question.metric,
                    groups: one.question.groups.iter().cloned().collect(),
                })
                .collect();
            let generations = self.generations_of(organization);
            let counts =
                self.deps.usage.distinct_unions(organization, &questions, &generations).await?;
            for (one, count) in wanted.into_iter().zip(counts) {
                if let Some(book) = books.get_mut(one.place) {
                    book.insert_union(one.question.clone(), count);
                }
            }
        }
        Ok(())
    }

    /// What has changed of what these subscriptions have been billed for.
    pub(crate) async fn changed(
        &self,
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
            let generations = self.generations_of(organization);
            let late = self.deps.usage.late_buckets(organization, &questions, &generations).await?;
            let late = late.into_iter();
            changed
                .extend(late.map(|one| (organization, one.subscription, one.metric, one.bucket)));
        }
        Ok(changed)
    }

    fn generations_of(&self, organization: OrganizationId) -> Generations {
        self.generations.get(&organization).cloned().unwrap_or_default()
    }
}

fn by_organization<Q>(wanted: &[Wanted<Q>]) -> BTreeMap<OrganizationId, Vec<&Wanted<Q>>> {
    let mut by_organization: BTreeMap<OrganizationId, Vec<&Wanted<Q>>> = BTreeMap::new();
    for one in wanted {
        by_organization.entry(one.organization).or_default().push(one);
    }
    by_organization
}

fn bounds(window: &UsageWindow) -> weir_usage::Window {
    (window.subscription, window.period.start, window.period.end)
}

fn insert(book: &mut UsageBook, span: Span, usage: MetricUsage) {
    // ClickHouse's own text of a sum: the only reason not to read it is its length.
    let Ok(value_seconds) = usage.value_seconds.parse() else {
        return book.overflow(usage.subscription, usage.metric);
    };
    let total = UsageTotal {
        events: usage.events,
        total: usage.total,
        greatest: usage.greatest,
        latest: usage.latest.map(|latest| Latest {
            timestamp: latest.timestamp,
            received_at: latest.received_at,
            position: latest.position.as_u64(),
            value: latest.value,
        }),
        distinct: usage.distinct,
        value_seconds,
    };
    book.insert((usage.subscription, span), usage.metric, usage.group, total);
}
