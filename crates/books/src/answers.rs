//! Between the words of `weir_usage` and those of `weir_billing`.

use weir_billing::{
    book::{Span, UsageBook, UsageWindow},
    metric::Aggregation,
    usage::{Latest, UsageTotal},
};
use weir_usage::{Measure, MetricUsage, Window};

/// What counting this way needs to be read.
pub(crate) const fn measure(aggregation: Aggregation) -> Measure {
    match aggregation {
        Aggregation::Count => Measure::Events,
        Aggregation::Sum | Aggregation::Custom => Measure::Total,
        Aggregation::Max => Measure::Greatest,
        Aggregation::UniqueCount => Measure::Distinct,
        Aggregation::Latest => Measure::Latest,
        Aggregation::WeightedSum => Measure::Weighted,
    }
}

pub(crate) fn bounds(window: &UsageWindow) -> Window {
    (window.subscription, window.period.start, window.period.end)
}

pub(crate) fn insert(book: &mut UsageBook, span: Span, usage: MetricUsage) {
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
