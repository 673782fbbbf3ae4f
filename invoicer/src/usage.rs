//! Usage of many windows at once, from ClickHouse to the pure crate's totals.

use crate::{InvoicerDeps, InvoicerError};
use std::collections::BTreeMap;
use weir_billing::{bill::UsageBook, invoice::Period, usage::UsageTotal};
use weir_ids::{OrganizationId, SubscriptionId};
use weir_usage::{MetricUsage, UsageOverflow};

/// A window that some contract or draft needs, by the place of that one in the caller's list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub place: usize,
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    pub period: Period,
}

/// The totals of all windows, one book for each of the `places`.
pub(crate) async fn read(
    deps: &InvoicerDeps,
    wanted: &[Wanted],
    places: usize,
) -> Result<Vec<UsageBook>, InvoicerError> {
    let mut books = vec![UsageBook::new(); places];
    let mut by_organization: BTreeMap<OrganizationId, Vec<&Wanted>> = BTreeMap::new();
    for one in wanted {
        by_organization.entry(one.organization).or_default().push(one);
    }
    for (organization, wanted) in by_organization {
        let windows: Vec<_> =
            wanted.iter().map(|one| (one.subscription, one.period.start, one.period.end)).collect();
        for answer in deps.usage.usage(organization, &windows).await? {
            let (window, total) = total(answer);
            if let Some(book) = wanted.get(window).and_then(|one| books.get_mut(one.place)) {
                book.insert((total.subscription, total.metric), total);
            }
        }
    }
    Ok(books)
}

fn total(answer: Result<MetricUsage, UsageOverflow>) -> (usize, UsageTotal) {
    match answer {
        Ok(usage) => {
            let total = UsageTotal {
                subscription: usage.subscription,
                metric: usage.metric,
                events: usage.events,
                total: Some(usage.total),
                greatest: usage.greatest,
                latest: usage.latest,
                distinct: usage.distinct,
            };
            (usage.window, total)
        }
        Err(overflow) => {
            let none = UsageTotal::none(overflow.subscription, overflow.metric);
            (overflow.window, UsageTotal { total: None, ..none })
        }
    }
}
