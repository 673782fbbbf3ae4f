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
    /// What a row is grouped by to tell its window.
    pub(crate) key: &'static str,
    /// When the row's window ends, in seconds with 6 digits.
    pub(crate) end: String,
    joined: bool,
}

impl RowsOf {
    /// The place of the window whose key has this name.
    pub(crate) fn place_of(&self, key: &str) -> String {
        if self.joined {
            return key.to_owned();
        }
        format!("transform({key}, subscriptions, range(length(subscriptions)), toUInt64(0))")
    }
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

    /// The rows of `table` that lie in a window and count. Organization, subscriptions and the span
    /// of all windows find the granules.
    ///
    /// Where no subscription has two windows, a row's subscription tells its window: that costs half
    /// of what [`Bounds::joined_rows_of`] does, most of it for the plan.
    pub(crate) fn rows_of(&self, table: &str, organization: OrganizationId) -> RowsOf {
        let one_end = all_equal(&self.exact_ends);
        let each_once: BTreeSet<u128> = self.subscriptions.iter().copied().collect();
        if each_once.len() < self.subscriptions.len() || !one_end {
            return self.joined_rows_of(table, organization);
        }
        let mut lists = Lists::default();
        lists.uuids("subscriptions", self.subscriptions.iter().copied());
        // Left to itself ClickHouse would read every column of the conditions for whole granules.
        let mut from = format!(
            "FROM {table} AS rows
            PREWHERE {whose} AND rows.subscription_id IN subscriptions
            WHERE {effective}",
            whose = self.whose(organization),
            effective = self.effective.condition(&mut lists),
        );
        if !all_equal(&self.starts) {
            lists.numbers("starts", "UInt32", &self.starts);
            from.push_str(
                "
                AND toUInt32(rows.bucket)
                    >= transform(rows.subscription_id, subscriptions, starts, toUInt32(0))",
            );
        }
        let end = self.exact_ends.first().map_or("0", String::as_str);
        let end = format!("toDecimal64({}, 6)", lists::quoted(end));
        RowsOf { lists, from, key: "rows.subscription_id", end, joined: false }
    }

    /// The same for any windows, each row with its window's place, `window`. The join tells the
    /// windows of one subscription apart.
    pub(crate) fn joined_rows_of(&self, table: &str, organization: OrganizationId) -> RowsOf {
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
            WHERE {whose}
                AND {effective}
                AND subscription_id IN (SELECT arrayJoin(subscriptions))
                AND bucket >= start_at
                AND bucket < end_at",
            whose = self.whose(organization),
            effective = self.effective.condition(&mut lists),
        );
        let end = "windows.end_exact".to_owned();
        RowsOf { lists, from, key: "windows.window", end, joined: true }
    }

    /// What a row of any window is: of the organization, and within the span of all windows.
    fn whose(&self, organization: OrganizationId) -> String {
        format!(
            "rows.organization_id = {organization}
                AND rows.bucket >= toDateTime({first}, 'UTC')
                AND rows.bucket < toDateTime({last}, 'UTC')",
            organization = lists::uuid(organization.as_u128()),
            first = self.starts.iter().min().copied().unwrap_or(0),
            last = self.ends.iter().max().copied().unwrap_or(0),
        )
    }
}

fn all_equal<T: PartialEq>(items: &[T]) -> bool {
    items.windows(2).all(|pair| matches!(pair, [one, next] if one == next))
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
