//! Windows: a subscription and a span of time each, as a query takes many of them at once.

use crate::{
    UsageError,
    generations::{Effective, Generations},
    lists::{self, Lists},
    rows,
};
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;
use weir_ids::{OrganizationId, SubscriptionId};

/// A subscription and a half-open span of time, `[start, end)`, read by whole buckets: one that the
/// span only touches counts. Periods are cut at midnights, which are bounds of buckets; where a
/// subscription starts or ends within one, its other events are not this subscription's.
pub type Window = (SubscriptionId, DateTime<Utc>, DateTime<Utc>);

/// The most windows of one query: its text is 200 KB then, and it takes a twentieth of a second.
pub(crate) const WINDOWS_MAX: usize = 2_000;

/// Windows as the lists that a query takes.
#[derive(Debug)]
pub(crate) struct Bounds {
    subscriptions: Vec<u128>,
    starts: Vec<u32>,
    ends: Vec<u32>,
    /// In seconds with 6 digits, as text: what is read by whole buckets still ends at an instant.
    exact_ends: Vec<String>,
    effective: Effective,
}

/// A table's rows that lie in windows and count: the beginning and the middle of a query.
pub(crate) struct RowsOf {
    /// `WITH …`: the lists that the rest names. A query may add its own.
    pub(crate) lists: Lists,
    /// `FROM … WHERE …`; further conditions may follow.
    pub(crate) from: String,
}

impl Bounds {
    pub(crate) fn of(windows: &[Window], generations: &Generations) -> Result<Self, UsageError> {
        let asked: BTreeSet<_> = windows.iter().map(|(subscription, _, _)| *subscription).collect();
        let effective = Effective::of(generations, &asked);
        let (mut subscriptions, mut exact_ends) = (Vec::new(), Vec::new());
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for (subscription, start, end) in windows {
            subscriptions.push(subscription.as_u128());
            starts.push(rows::seconds("start", rows::bucket_of(*start))?);
            // A bucket begins at a whole second: it begins before `end` if before the second after it.
            let fraction = u32::from(end.timestamp_subsec_nanos() > 0);
            ends.push(rows::seconds("end", *end)?.saturating_add(fraction));
            exact_ends.push(format!("{}.{:06}", end.timestamp(), end.timestamp_subsec_micros()));
        }
        Ok(Self { subscriptions, starts, ends, exact_ends, effective })
    }

    /// The rows of `table` that lie in a window and count, each with the window's place, `window`,
    /// and its end, `end_exact`. Three things find the granules: organization, `IN` the
    /// subscriptions, and the span of all windows. The join tells the windows of one subscription apart.
    pub(crate) fn rows_of(&self, table: &str, organization: OrganizationId) -> RowsOf {
        let mut lists = Lists::default();
        lists.uuids("subscriptions", self.subscriptions.iter().copied());
        lists.numbers("starts", "UInt32", &self.starts);
        lists.numbers("ends", "UInt32", &self.ends);
        lists.texts("exact_ends", &self.exact_ends);
        let from = format!(
            "FROM {table} AS rows
            INNER JOIN (
                SELECT
                    arrayJoin(arrayZip(
                        range(length(subscriptions)), subscriptions, starts, ends, exact_ends)) AS item,
                    toUInt64(item.1) AS window,
                    item.2 AS subscription_id,
                    toDateTime(item.3, 'UTC') AS start_at,
                    toDateTime(item.4, 'UTC') AS end_at,
                    toDecimal64(item.5, 6) AS end_exact
            ) AS windows USING (subscription_id)
            WHERE organization_id = {organization}
                AND subscription_id IN (SELECT arrayJoin(subscriptions))
                AND bucket >= toDateTime({first}, 'UTC')
                AND bucket < toDateTime({last}, 'UTC')
                AND bucket >= start_at
                AND bucket < end_at
                AND {effective} ",
            organization = lists::uuid(organization.as_u128()),
            first = self.starts.iter().min().copied().unwrap_or(0),
            last = self.ends.iter().max().copied().unwrap_or(0),
            effective = self.effective.condition(&mut lists),
        );
        RowsOf { lists, from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_every_bucket_that_it_touches() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let subscription = SubscriptionId::from_u128(1);
        let seconds = |text: &str| u32::try_from(at(text).timestamp()).unwrap();
        for (start, end, first, before, exact) in [
            ("10:00:00", "10:15:00", "10:00:00", "10:15:00", ".000000"),
            ("10:07:33", "10:15:00.000001", "10:00:00", "10:15:01", ".000001"),
        ] {
            let day = |time: &str| format!("2026-03-01T{time}Z");
            let window = (subscription, at(&day(start)), at(&day(end)));
            let bounds = Bounds::of(&[window], &Generations::default()).unwrap();
            assert_eq!(bounds.starts, [seconds(&day(first))], "{start}");
            assert_eq!(bounds.ends, [seconds(&day(before))], "{end}");
            let whole = at(&day("10:15:00")).timestamp();
            assert_eq!(bounds.exact_ends, [format!("{whole}{exact}")], "{end}");
        }
    }
}
