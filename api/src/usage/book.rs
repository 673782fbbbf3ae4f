//! Usage from ClickHouse, as the pure crate prices it.

use crate::{context::Context, error::OpError};
use std::collections::BTreeSet;
use weir_billing::{
    book::{DistinctUnion, Span, UsageBook, UsageWindow},
    line::Pricing,
    usage::{Latest, UsageTotal},
};
use weir_ids::SubscriptionId;
use weir_store::{Tx, rolls};
use weir_usage::{Generations, MetricUsage, UsageError, Window};

/// Under which generations the usage that these prices need counts: those of finished rolls.
pub async fn generations(
    ctx: &Context,
    tx: &mut Tx,
    pricings: &[Pricing<'_>],
) -> Result<Generations, OpError> {
    let subscriptions: BTreeSet<SubscriptionId> =
        pricings.iter().map(|pricing| pricing.subscription).collect();
    let subscriptions: Vec<SubscriptionId> = subscriptions.into_iter().collect();
    let rows = rolls::generations(tx, ctx.organization, &subscriptions).await?;
    let rolls::GenerationRows { metrics, subscriptions, cells } = rows;
    Ok(Generations { metrics, subscriptions, cells })
}

/// The usage that these prices need, as it is now.
pub async fn read(
    ctx: &Context,
    generations: &Generations,
    pricings: &[Pricing<'_>],
) -> Result<UsageBook, OpError> {
    let windows: BTreeSet<UsageWindow> =
        pricings.iter().flat_map(|pricing| pricing.windows()).collect();
    let windows: Vec<UsageWindow> = windows.into_iter().collect();
    let mut book = UsageBook::new();
    let asked: Vec<Window> = windows.iter().map(asked).collect();
    for answer in ctx.usage.usage(ctx.organization, &asked, generations).await? {
        match answer {
            Ok(usage) => {
                let span = windows.get(usage.window).map_or(Span::Window, |window| window.span);
                let total = total(&usage)?;
                book.insert((usage.subscription, span), usage.metric, usage.group, total);
            }
            // Only what it is needed for can't be billed, which pricing finds out.
            Err(over) => book.overflow(over.subscription, over.metric),
        }
    }
    // A group that can't be read is met again when it is priced.
    let unions = pricings.iter().flat_map(|pricing| pricing.unions(&book).unwrap_or_default());
    let unions: Vec<DistinctUnion> = unions.collect();
    let questions: Vec<_> = unions.iter().map(question).collect();
    if !questions.is_empty() {
        let counts = ctx.usage.distinct_unions(ctx.organization, &questions, generations).await?;
        for (union, count) in unions.into_iter().zip(counts) {
            book.insert_union(union, count);
        }
    }
    Ok(book)
}

fn asked(window: &UsageWindow) -> Window {
    (window.subscription, window.period.start, window.period.end)
}

fn question(union: &DistinctUnion) -> weir_usage::DistinctUnion {
    weir_usage::DistinctUnion {
        window: asked(&union.window),
        metric: union.metric,
        groups: union.groups.iter().cloned().collect(),
    }
}

fn total(usage: &MetricUsage) -> Result<UsageTotal, OpError> {
    let value_seconds = usage.value_seconds.parse().map_err(|_| {
        let value = usage.value_seconds.clone();
        OpError::from(UsageError::Unreadable { field: "value_seconds", value })
    })?;
    let latest = usage.latest.map(|latest| Latest {
        timestamp: latest.timestamp,
        received_at: latest.received_at,
        position: latest.position.as_u64(),
        value: latest.value,
    });
    Ok(UsageTotal {
        events: usage.events,
        total: usage.total,
        greatest: usage.greatest,
        latest,
        distinct: usage.distinct,
        value_seconds,
    })
}
