//! What each write of a plan does.

use super::{
    KIND,
    convert::{ChargeDraft, Draft, FilterDraft, as_draft},
    filters::unknown,
    load,
};
use crate::{
    context::Context,
    error::{OpError, Violation},
    subscriptions::ops::schedule_pending,
};
use std::collections::{BTreeMap, BTreeSet};
use weir_billing::{
    charge::{Charge, ChargeFilter},
    check::{FieldError, check_charges, check_model},
    metric::BillableMetric,
    plan::{Plan, PlanVersion},
};
use weir_ids::{BillableMetricId, PlanId};
use weir_store::{StoreError, Tx, billable_metrics, plans as store};

/// The longest code that a suffix is put behind: a code has 255 characters at most.
const CODE_BASE_CHARS: usize = 240;

/// Makes a plan with its first version. Errors: `Invalid` charges; `Duplicate` code; `Conflict` for
/// a reused idempotency key.
pub async fn create(ctx: &Context, draft: Draft) -> Result<Plan, OpError> {
    let mut tx = ctx.begin().await?;
    if let Some(made) = ctx.made_before(&mut tx).await? {
        return load(ctx, &mut tx, made).await;
    }
    let id = ctx.clock.new_id();
    let metrics = metrics_of(ctx, &mut tx, &draft.charges).await?;
    let charges = charges(ctx, &draft.charges, &[], &metrics)?;
    let plan = Plan {
        id,
        organization: ctx.organization,
        code: draft.code,
        name: draft.name,
        description: draft.description,
        invoice_display_name: draft.invoice_display_name,
        version: PlanVersion {
            id: ctx.clock.new_id(),
            plan: id,
            number: 1,
            interval: draft.interval,
            amount: draft.amount,
            pay_in_advance: draft.pay_in_advance,
            charges,
            created_at: ctx.now,
        },
        created_at: ctx.now,
        updated_at: ctx.now,
        deleted_at: None,
    };
    store::insert(&mut tx, &plan).await.map_err(|error| taken(error, &plan))?;
    tell_apart(ctx, &mut tx, &plan.version).await?;
    ctx.commit_made(tx, plan.id.as_u128()).await?;
    Ok(plan)
}

/// Changes a plan; what costs something else becomes a new version. With `cascade` its
/// subscriptions take the newest version from their next period on.
/// Errors: `NotFound`; `Invalid` charges; `Duplicate` code; `Conflict` when the currency of a plan
/// with subscriptions shall change.
pub async fn update(
    ctx: &Context,
    id: PlanId,
    cascade: bool,
    change: impl FnOnce(&Plan) -> Result<Draft, OpError>,
) -> Result<Plan, OpError> {
    let mut tx = ctx.begin().await?;
    let plan = lock(ctx, &mut tx, id).await?;
    let draft = change(&plan)?;
    if draft.amount.currency != plan.version.amount.currency {
        let counts = store::counts(&mut tx, ctx.organization, &[id], ctx.now).await?;
        if counts.get(&id).is_some_and(|counts| counts.subscriptions > 0) {
            let message = "the plan has subscriptions, whose customers are billed in its currency";
            return Err(OpError::conflict("PLAN_IN_USE", message));
        }
    }
    let before = as_draft(&plan);
    let version = match priced(&draft) == priced(&before) {
        true => plan.version.clone(),
        false => next_version(ctx, &mut tx, &plan, &draft).await?,
    };
    let changed = Plan {
        code: draft.code,
        name: draft.name,
        description: draft.description,
        invoice_display_name: draft.invoice_display_name,
        version,
        updated_at: ctx.now,
        ..plan.clone()
    };
    store::save(&mut tx, &changed).await.map_err(|error| taken(error, &changed))?;
    if changed.version.id != plan.version.id {
        store::add_version(&mut tx, ctx.organization, &changed.version).await?;
        tell_apart(ctx, &mut tx, &changed.version).await?;
    }
    if cascade {
        store::cascade(&mut tx, ctx.organization, id, changed.version.id, ctx.now).await?;
        schedule_pending(ctx, &mut tx, &changed.code).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

/// Archives a plan. Errors: `NotFound`, also when it is archived already.
pub async fn archive(ctx: &Context, id: PlanId) -> Result<(), OpError> {
    let mut tx = ctx.begin().await?;
    lock(ctx, &mut tx, id).await?;
    store::archive(&mut tx, ctx.organization, id, ctx.now).await?;
    Ok(tx.commit().await?)
}

async fn lock(ctx: &Context, tx: &mut Tx, id: PlanId) -> Result<Plan, OpError> {
    let plan = store::lock(tx, ctx.organization, id).await?;
    plan.filter(|plan| plan.deleted_at.is_none()).ok_or_else(|| OpError::not_found(KIND, id))
}

/// What of a plan belongs to its version.
fn priced(draft: &Draft) -> impl PartialEq + '_ {
    (draft.interval, draft.amount, draft.pay_in_advance, &draft.charges)
}

async fn next_version(
    ctx: &Context,
    tx: &mut Tx,
    plan: &Plan,
    draft: &Draft,
) -> Result<PlanVersion, OpError> {
    let metrics = metrics_of(ctx, tx, &draft.charges).await?;
    Ok(PlanVersion {
        id: ctx.clock.new_id(),
        plan: plan.id,
        number: plan.version.number + 1,
        interval: draft.interval,
        amount: draft.amount,
        pay_in_advance: draft.pay_in_advance,
        charges: charges(ctx, &draft.charges, &plan.version.charges, &metrics)?,
        created_at: ctx.now,
    })
}

/// The live metrics that the charges name, locked: none of them is deleted before the plan counts
/// by it. In the order of their ids, so that two plans at once don't wait for each other.
async fn metrics_of(
    ctx: &Context,
    tx: &mut Tx,
    drafts: &[ChargeDraft],
) -> Result<Vec<BillableMetric>, OpError> {
    let ids: BTreeSet<BillableMetricId> = drafts.iter().map(|draft| draft.metric).collect();
    let mut metrics = Vec::with_capacity(ids.len());
    for id in ids {
        let metric = billable_metrics::lock(tx, ctx.organization, id).await?;
        metrics.extend(metric.filter(|metric| metric.deleted_at.is_none()));
    }
    Ok(metrics)
}

/// The charges of a version: those with an id keep it and, unless they say otherwise, their code.
/// Errors: `Invalid`, naming each field.
fn charges(
    ctx: &Context,
    drafts: &[ChargeDraft],
    before: &[Charge],
    metrics: &[BillableMetric],
) -> Result<Vec<Charge>, OpError> {
    let mut faults = Vec::new();
    let mut ids = BTreeSet::new();
    let old = |draft: &ChargeDraft| before.iter().find(|charge| Some(charge.id) == draft.id);
    let known = |draft: &ChargeDraft| {
        draft.code.clone().or_else(|| old(draft).map(|charge| charge.code.clone()))
    };
    let mut codes: BTreeSet<String> = drafts.iter().filter_map(known).collect();
    let mut charges = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts.iter().enumerate() {
        let mut fault = |field, message| {
            faults.push(Violation::new(format!("charges[{at}].{field}"), message));
        };
        if draft.id.is_some() && old(draft).is_none() {
            fault("id", "no charge of this plan");
        }
        if draft.id.is_some_and(|id| !ids.insert(id)) {
            fault("id", "is given twice");
        }
        let Some(metric) = metrics.iter().find(|metric| metric.id == draft.metric) else {
            fault("billableMetricId", "no such billable metric");
            continue;
        };
        charges.push(Charge {
            id: draft.id.unwrap_or_else(|| ctx.clock.new_id()),
            code: known(draft).unwrap_or_else(|| free_code(&metric.code, &mut codes)),
            metric: draft.metric,
            invoice_display_name: draft.invoice_display_name.clone(),
            model: draft.model.clone(),
            filters: filters(ctx, draft, old(draft)),
            pricing_group_keys: draft.pricing_group_keys.clone(),
        });
        faults.extend(unknown(&draft.filters, metric, &format!("charges[{at}]")));
    }
    if faults.is_empty() {
        // Only with every charge there do the places in the checks' paths fit the request.
        let found = check_charges(&charges).into_iter().chain(check_filters(&charges));
        faults.extend(found.map(|error| Violation::new(error.field, error.message)));
    }
    if faults.is_empty() { Ok(charges) } else { Err(OpError::Invalid(faults)) }
}

fn check_filters(charges: &[Charge]) -> Vec<FieldError> {
    let mut found = Vec::new();
    for (at, charge) in charges.iter().enumerate() {
        for (number, filter) in charge.filters.iter().enumerate() {
            let path = format!("charges[{at}].filters[{number}]");
            found.extend(check_model(&filter.model, &path));
        }
    }
    found
}

/// The filters of a charge. One with the values that it had keeps its id, which says how old it is.
fn filters(ctx: &Context, draft: &ChargeDraft, before: Option<&Charge>) -> Vec<ChargeFilter> {
    let old = |filter: &FilterDraft| {
        let mut before = before.into_iter().flat_map(|charge| &charge.filters);
        before.find(|old| old.values == filter.values).map(|old| old.id)
    };
    let one = |filter: &FilterDraft| ChargeFilter {
        id: old(filter).unwrap_or_else(|| ctx.clock.new_id()),
        values: filter.values.clone(),
        invoice_display_name: filter.invoice_display_name.clone(),
        model: filter.model.clone(),
        pricing_group_keys: filter.pricing_group_keys.clone(),
    };
    draft.filters.iter().map(one).collect()
}

/// Has the usage of each metric told apart by what these charges group by. In the order of the
/// metrics' ids, like [`metrics_of`].
async fn tell_apart(ctx: &Context, tx: &mut Tx, version: &PlanVersion) -> Result<(), OpError> {
    let mut wanted: BTreeMap<BillableMetricId, BTreeSet<&String>> = BTreeMap::new();
    for charge in &version.charges {
        let of_filters = charge.filters.iter().flat_map(|filter| &filter.pricing_group_keys);
        let keys = charge.pricing_group_keys.iter().chain(of_filters);
        wanted.entry(charge.metric).or_default().extend(keys);
    }
    wanted.retain(|_, keys| !keys.is_empty());
    for (metric, keys) in wanted {
        let keys: Vec<String> = keys.into_iter().cloned().collect();
        billable_metrics::add_group_keys(tx, ctx.organization, metric, &keys).await?;
    }
    Ok(())
}

/// `calls`, or `calls_2`, `calls_3` … when it is taken.
fn free_code(metric: &str, codes: &mut BTreeSet<String>) -> String {
    let base: String = metric.chars().take(CODE_BASE_CHARS).collect();
    let mut code = base.clone();
    let mut number = 1_u32;
    while !codes.insert(code.clone()) {
        number += 1;
        code = format!("{base}_{number}");
    }
    code
}

fn taken(error: StoreError, plan: &Plan) -> OpError {
    if error.is_duplicate_of("plans_code_key") {
        return OpError::Duplicate { field: "code", value: plan.code.clone() };
    }
    error.into()
}
