//! What each write of a billable metric does.

use super::{KIND, convert::Draft};
use crate::{context::Context, error::OpError};
use weir_billing::metric::BillableMetric;
use weir_ids::BillableMetricId;
use weir_store::{StoreError, Tx, billable_metrics as store};

/// Makes a metric. Errors: `Duplicate` code; `Conflict` for a reused idempotency key.
pub async fn create(ctx: &Context, draft: Draft) -> Result<BillableMetric, OpError> {
    let mut tx = ctx.begin().await?;
    if let Some(made) = ctx.made_before(&mut tx).await? {
        return load(ctx, &mut tx, made).await;
    }
    let metric = BillableMetric {
        id: ctx.clock.new_id(),
        organization: ctx.organization,
        name: draft.name,
        code: draft.code,
        event_code: draft.event_code,
        description: draft.description,
        aggregation: draft.aggregation,
        field_name: draft.field_name,
        expression: draft.expression,
        recurring: draft.recurring,
        rounding: draft.rounding,
        filters: draft.filters,
        group_keys: Vec::new(),
        created_at: ctx.now,
        updated_at: ctx.now,
        deleted_at: None,
    };
    store::insert(&mut tx, &metric).await.map_err(|error| taken(error, &metric))?;
    ctx.commit_made(tx, metric.id.as_u128()).await?;
    Ok(metric)
}

/// Changes a metric. Errors: `NotFound`; `Duplicate` code; `Conflict` when how it counts shall
/// change although a live plan charges by it: bills would change behind its customers' backs.
pub async fn update(
    ctx: &Context,
    id: BillableMetricId,
    change: impl FnOnce(&BillableMetric) -> Result<BillableMetric, OpError>,
) -> Result<BillableMetric, OpError> {
    let mut tx = ctx.begin().await?;
    let metric = store::lock(&mut tx, ctx.organization, id).await?;
    let metric = metric.filter(|metric| metric.deleted_at.is_none());
    let metric = metric.ok_or_else(|| OpError::not_found(KIND, id))?;
    let changed = BillableMetric { updated_at: ctx.now, ..change(&metric)? };
    let kept = counting(&changed) == counting(&metric) && keeps_filters(&metric, &changed);
    if !kept && is_charged(ctx, &mut tx, id).await? {
        let message =
            "a plan charges by the metric: how it counts is fixed, filters are only added";
        return Err(OpError::conflict("METRIC_IN_USE", message));
    }
    store::save(&mut tx, &changed).await.map_err(|error| taken(error, &changed))?;
    tx.commit().await?;
    Ok(changed)
}

/// Deletes a metric. Errors: `NotFound`; `Conflict` when a live plan charges by it.
pub async fn delete(ctx: &Context, id: BillableMetricId) -> Result<(), OpError> {
    let mut tx = ctx.begin().await?;
    let metric = store::lock(&mut tx, ctx.organization, id).await?;
    metric.filter(|metric| metric.deleted_at.is_none()).ok_or(OpError::not_found(KIND, id))?;
    if is_charged(ctx, &mut tx, id).await? {
        let message = "a version of a plan charges by the metric: archive the plan first";
        return Err(OpError::conflict("METRIC_IN_USE", message));
    }
    store::archive(&mut tx, ctx.organization, id, ctx.now).await?;
    Ok(tx.commit().await?)
}

/// The metric, also a deleted one. Errors: `NotFound`.
pub async fn load(
    ctx: &Context,
    tx: &mut Tx,
    id: BillableMetricId,
) -> Result<BillableMetric, OpError> {
    let metric = store::find(tx, ctx.organization, id).await?;
    metric.ok_or_else(|| OpError::not_found(KIND, id))
}

/// What bills would change by behind their customers' backs.
fn counting(metric: &BillableMetric) -> impl PartialEq + '_ {
    let reads = (&metric.event_code, metric.aggregation, &metric.field_name, &metric.expression);
    (reads, metric.recurring, metric.rounding)
}

/// Whether charges still find every key and value that they may have chosen.
fn keeps_filters(before: &BillableMetric, after: &BillableMetric) -> bool {
    before.filters.iter().all(|old| {
        let new = after.filters.iter().find(|new| new.key == old.key);
        new.is_some_and(|new| old.values.iter().all(|value| new.values.contains(value)))
    })
}

/// Whether a live plan, or a subscription that still runs on an archived one, charges by it.
async fn is_charged(ctx: &Context, tx: &mut Tx, id: BillableMetricId) -> Result<bool, OpError> {
    let uses = store::uses(tx, ctx.organization, &[id], ctx.now).await?;
    Ok(uses.get(&id).is_some_and(|uses| uses.plans || uses.active_subscriptions))
}

fn taken(error: StoreError, metric: &BillableMetric) -> OpError {
    if error.is_duplicate_of("billable_metrics_code_key") {
        return OpError::Duplicate { field: "code", value: metric.code.clone() };
    }
    error.into()
}
