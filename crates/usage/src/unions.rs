//! Distinct values over several groups: a value that lies in two of them counts once.

use crate::{
    ClickHouse, Generations, UsageError, Window,
    error::during,
    windows::{Bounds, WINDOWS_MAX},
};
use clickhouse::Row;
use serde::Deserialize;
use weir_ids::{BillableMetricId, OrganizationId};

/// The groups of a metric whose values are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistinctUnion {
    pub window: Window,
    pub metric: BillableMetricId,
    /// As in [`MetricUsage::group`](crate::MetricUsage::group).
    pub groups: Vec<String>,
}

#[derive(Row, Deserialize)]
struct CountWire {
    window: u64,
    distinct: u64,
}

fn sql(bounds: &Bounds, organization: OrganizationId, questions: &[DistinctUnion]) -> String {
    let mut rows = bounds.joined_rows_of("usage_values", organization);
    let flat = || {
        questions.iter().enumerate().flat_map(|(place, question)| {
            question.groups.iter().map(move |group| (place, question.metric, group))
        })
    };
    rows.lists.numbers("places", "UInt64", flat().map(|(place, _, _)| place));
    rows.lists.uuids("place_metrics", flat().map(|(_, metric, _)| metric.as_u128()));
    rows.lists.texts("place_groups", flat().map(|(_, _, group)| group));
    format!(
        "{lists}SELECT
            window,
            countIf(added = 1) AS distinct
        FROM (
            SELECT
                window,
                tupleElement(max(rows.last), 'added') AS added
            {from}
                AND (window, metric_id, rows.`group`) IN (
                    SELECT item.1, item.2, item.3
                    FROM (SELECT arrayJoin(arrayZip(places, place_metrics, place_groups)) AS item))
            GROUP BY window, rows.value
        )
        GROUP BY window",
        lists = rows.lists.clause(),
        from = rows.from,
    )
}

impl ClickHouse {
    /// For each question the number of values whose last operation in any of its groups is `add`, in
    /// the order of the questions.
    ///
    /// Errors: `OutOfRange` for windows outside 1970 to 2106; `Unavailable`, `Refused`.
    pub async fn distinct_unions(
        &self,
        organization: OrganizationId,
        questions: &[DistinctUnion],
        generations: &Generations,
    ) -> Result<Vec<u64>, UsageError> {
        self.catch_up(&["usage_values"]).await?;
        let mut counts = Vec::with_capacity(questions.len());
        for questions in questions.chunks(WINDOWS_MAX) {
            let windows: Vec<_> = questions.iter().map(|question| question.window).collect();
            let bounds = Bounds::of(&windows, generations)?;
            let query = self.ask(&sql(&bounds, organization, questions));
            let found: Vec<CountWire> =
                query.fetch_all().await.map_err(during("read distinct values"))?;
            let mut of_page = vec![0; questions.len()];
            for row in found {
                let place = usize::try_from(row.window).ok();
                let place = place.and_then(|place| of_page.get_mut(place));
                let unknown =
                    || UsageError::Unreadable { field: "window", value: row.window.to_string() };
                *place.ok_or_else(unknown)? = row.distinct;
            }
            counts.extend(of_page);
        }
        Ok(counts)
    }
}
