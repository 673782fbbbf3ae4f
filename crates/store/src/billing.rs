//! What the invoicer loads: who is due, with everything that decides what is owed. Thousands of
//! subscriptions in a handful of statements.

use crate::columns::{from_json, from_word, id, unsigned};
use crate::{StoreError, Timestamp, customers, plans, subscriptions};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_billing::contract::{Agreement, Billed, Contract, EffectiveVersion, MetricTerms};
use weir_billing::invoice::Invoice;
use weir_billing::metric::UnitRounding;
use weir_billing::plan::PlanVersion;
use weir_ids::{
    BillableMetricId, CustomerId, InvoiceId, OrganizationId, PlanId, PlanVersionId, SubscriptionId,
};

/// A customer with something due, locked by the transaction that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueCustomer {
    pub organization: OrganizationId,
    pub customer: CustomerId,
}

/// How far may be billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// What is due at or before this.
    pub as_of: Timestamp,
    /// Of that, what was known to be due before this real instant; none: all of it.
    pub known_before: Option<Timestamp>,
}

impl From<Timestamp> for Horizon {
    fn from(as_of: Timestamp) -> Self {
        Self { as_of, known_before: None }
    }
}

/// What drafts are made anew from.
#[derive(Debug, Clone, Default)]
pub struct DraftFacts {
    pub versions: BTreeMap<PlanVersionId, Arc<PlanVersion>>,
    pub metrics: BTreeMap<BillableMetricId, MetricTerms>,
    /// When their subscriptions began.
    pub started_at: BTreeMap<SubscriptionId, Timestamp>,
}

/// Customers with a subscription due within `horizon`, longest due first, at most `limit`
/// subscriptions; those of whom something is due that was not known before the horizon wait with all
/// of it, since what is due at one instant shares an invoice. Those that failed a while ago
/// (`billing_failures`) are passed over; organizations whose usage is about to change by a roll or a
/// void wait (`rolls::unsettled`).
/// They are locked until the transaction ends; those that another one has locked are left out.
/// Read what is due of them by [`contracts`], in a later statement of the same transaction: it may
/// have been billed between this statement's start and its lock.
pub async fn due_customers(
    conn: &mut PgConnection,
    horizon: impl Into<Horizon>,
    limit: u32,
) -> Result<Vec<DueCustomer>, StoreError> {
    let Horizon { as_of, known_before } = horizon.into();
    // One row per subscription: DISTINCT can't be locked.
    let rows = sqlx::query!(
        "SELECT c.organization_id, c.id
         FROM subscription_dues s
         JOIN customers c ON c.organization_id = s.organization_id AND c.id = s.customer_id
         WHERE s.next_due_at <= $1
           AND ($3::timestamptz IS NULL OR (s.organization_id, s.customer_id) NOT IN (
               SELECT o.organization_id, o.customer_id
               FROM subscription_dues o
               WHERE o.next_due_at <= $1 AND o.set_at > $3
           ))
           AND s.organization_id NOT IN (SELECT u.organization_id FROM unsettled_organizations u)
           AND NOT EXISTS (
               SELECT FROM billing_failures f
               WHERE f.organization_id = s.organization_id AND f.subject_id = s.subscription_id
                 AND f.retry_at > clock_timestamp()
           )
         ORDER BY s.next_due_at, s.organization_id, s.customer_id
         LIMIT $2
         FOR UPDATE OF c SKIP LOCKED",
        as_of,
        i64::from(limit),
        known_before as _,
    )
    .fetch_all(conn)
    .await?;
    let mut seen = BTreeSet::new();
    Ok(rows
        .into_iter()
        .map(|row| DueCustomer { organization: id(row.organization_id), customer: id(row.id) })
        .filter(|customer| seen.insert(*customer))
        .collect())
}

/// What is due of these customers at the earliest instant within `horizon`: one contract each, by
/// that instant; what is due later comes with the next call, after this is billed. Customers
/// without anything due are left out.
pub async fn contracts(
    conn: &mut PgConnection,
    customers: &[DueCustomer],
    horizon: impl Into<Horizon>,
) -> Result<Vec<Contract>, StoreError> {
    let keys: Vec<_> = customers.iter().map(|due| (due.organization, due.customer)).collect();
    let due = due_subscriptions(conn, &keys, horizon.into()).await?;
    let mut due_at: BTreeMap<SubscriptionId, Timestamp> = BTreeMap::new();
    let mut wanted = Vec::with_capacity(due.len());
    for row in &due {
        let subscription = id(row.subscription_id);
        due_at.insert(subscription, row.due_at);
        wanted.push((id(row.organization_id), subscription));
    }
    let agreements = agreements(conn, &wanted).await?;
    let metrics = Arc::new(metrics_of(conn, &agreements).await?);
    let mut customers = customers::find_all(conn, &keys).await?;

    let mut grouped: BTreeMap<(Timestamp, CustomerId), Vec<Agreement>> = BTreeMap::new();
    for agreement in agreements {
        let customer = agreement.subscription.customer;
        if let Some(at) = due_at.get(&agreement.subscription.id) {
            grouped.entry((*at, customer)).or_default().push(agreement);
        }
    }
    Ok(grouped
        .into_iter()
        .filter_map(|((due_at, customer), agreements)| {
            let customer = customers.remove(&customer)?;
            Some(Contract { customer, due_at, agreements, metrics: Arc::clone(&metrics) })
        })
        .collect())
}

/// These subscriptions with their plan's versions and what of them is billed, in the order asked
/// for; ids of none are left out.
pub async fn agreements(
    conn: &mut PgConnection,
    wanted: &[(OrganizationId, SubscriptionId)],
) -> Result<Vec<Agreement>, StoreError> {
    let mut found = subscriptions::find_all(conn, wanted).await?;
    let mut versions = effective_versions(conn, wanted).await?;
    let billed = billed(conn, wanted).await?;
    let planned = planned(conn, wanted).await?;
    let plans: Vec<(OrganizationId, PlanId)> =
        found.values().map(|one| (one.organization, one.plan)).collect();
    let names = plan_names(conn, &plans).await?;
    Ok(wanted
        .iter()
        .filter_map(|(_, wanted)| {
            let subscription = found.remove(wanted)?;
            let (plan_name, plan_code) = names.get(&subscription.plan).cloned()?;
            Some(Agreement {
                plan_name,
                plan_code,
                versions: versions.remove(wanted).unwrap_or_default(),
                billed: billed.get(wanted).copied().unwrap_or_default(),
                planned_due_at: planned.get(wanted).copied(),
                subscription,
            })
        })
        .collect())
}

/// What metrics are called and how they count, of any organization; ids of none are left out.
pub async fn metric_terms(
    conn: &mut PgConnection,
    metrics: &[(OrganizationId, BillableMetricId)],
) -> Result<BTreeMap<BillableMetricId, MetricTerms>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<BillableMetricId>) =
        metrics.iter().copied().unzip();
    sqlx::query!(
        "SELECT id, name, aggregation, recurring, rounding_function, rounding_precision, filters
         FROM billable_metrics
         WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        let function = row.rounding_function.as_deref();
        let function = function.map(|word| from_word("billable_metrics.rounding_function", word));
        let rounding = function
            .transpose()?
            .zip(row.rounding_precision)
            .map(|(function, precision)| UnitRounding { function, precision });
        let terms = MetricTerms {
            name: row.name,
            aggregation: from_word("billable_metrics.aggregation", &row.aggregation)?,
            recurring: row.recurring,
            rounding,
            filters: from_json("billable_metrics.filters", row.filters)?,
        };
        Ok((id(row.id), terms))
    })
    .collect()
}

/// Drafts whose time to be finalized is at or before `as_of`, longest due first, at most `limit`.
/// Their customers are locked until the transaction ends; those that another one has locked are
/// left out. Read them by `invoices::find_many` in a later statement of the same transaction: one
/// may have become final between this statement's start and its lock.
pub async fn due_drafts(
    conn: &mut PgConnection,
    as_of: Timestamp,
    limit: u32,
) -> Result<Vec<(OrganizationId, InvoiceId)>, StoreError> {
    let rows = sqlx::query!(
        "SELECT i.organization_id, i.id
         FROM invoices i
         JOIN customers c ON c.organization_id = i.organization_id AND c.id = i.customer_id
         WHERE i.status = 'draft' AND i.finalize_at <= $1
           AND i.organization_id NOT IN (SELECT u.organization_id FROM unsettled_organizations u)
           AND NOT EXISTS (
               SELECT FROM billing_failures f
               WHERE f.organization_id = i.organization_id AND f.subject_id = i.id
                 AND f.retry_at > clock_timestamp()
           )
         ORDER BY i.finalize_at, i.due_at, i.id
         LIMIT $2
         FOR UPDATE OF c SKIP LOCKED",
        as_of,
        i64::from(limit),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (id(row.organization_id), id(row.id))).collect())
}

/// The plan versions and metrics that these drafts were priced with.
pub async fn draft_facts(
    conn: &mut PgConnection,
    drafts: &[Invoice],
) -> Result<DraftFacts, StoreError> {
    let settled: BTreeSet<(OrganizationId, PlanVersionId)> = drafts
        .iter()
        .flat_map(|draft| {
            draft.subscriptions.iter().map(|one| (draft.organization, one.plan_version))
        })
        .collect();
    let organizations: BTreeMap<PlanVersionId, OrganizationId> =
        settled.iter().map(|(organization, version)| (*version, *organization)).collect();
    let settled: Vec<_> = settled.into_iter().collect();
    let versions = plans::find_versions(conn, &settled).await?;
    let charged: BTreeSet<(OrganizationId, BillableMetricId)> = versions
        .values()
        .filter_map(|version| Some((*organizations.get(&version.id)?, version)))
        .flat_map(|(organization, version)| {
            version.charges.iter().map(move |charge| (organization, charge.metric))
        })
        .collect();
    let metrics = metric_terms(conn, &charged.into_iter().collect::<Vec<_>>()).await?;
    let subscriptions: Vec<(OrganizationId, SubscriptionId)> = drafts
        .iter()
        .flat_map(|draft| {
            draft.subscriptions.iter().map(|one| (draft.organization, one.subscription))
        })
        .collect();
    let subscriptions = subscriptions::find_all(conn, &subscriptions).await?;
    let started_at = subscriptions.into_values().map(|one| (one.id, one.started_at)).collect();
    Ok(DraftFacts { versions, metrics, started_at })
}

/// The next instant after `after` at which a subscription is to be billed or a draft to be
/// finalized. None: nothing is planned.
pub async fn next_due(
    conn: &mut PgConnection,
    after: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT least(
             (SELECT min(next_due_at) FROM subscription_dues WHERE next_due_at > $1),
             (SELECT min(finalize_at) FROM invoices WHERE status = 'draft' AND finalize_at > $1)
         )",
        after
    )
    .fetch_one(conn)
    .await?)
}

/// How many subscriptions and drafts are due at or before `as_of`, without those that failed a
/// while ago.
pub async fn count_due(conn: &mut PgConnection, as_of: Timestamp) -> Result<u64, StoreError> {
    let due = sqlx::query_scalar!(
        r#"SELECT (
               SELECT count(*) FROM subscription_dues s
               WHERE s.next_due_at <= $1 AND NOT EXISTS (
                   SELECT FROM billing_failures f
                   WHERE f.organization_id = s.organization_id AND f.subject_id = s.subscription_id
                     AND f.retry_at > clock_timestamp()
               )
           ) + (
               SELECT count(*) FROM invoices i
               WHERE i.status = 'draft' AND i.finalize_at <= $1 AND NOT EXISTS (
                   SELECT FROM billing_failures f
                   WHERE f.organization_id = i.organization_id AND f.subject_id = i.id
                     AND f.retry_at > clock_timestamp()
               )
           ) AS "due!""#,
        as_of
    )
    .fetch_one(conn)
    .await?;
    unsigned("subscriptions", due)
}

struct DueRow {
    organization_id: Uuid,
    subscription_id: Uuid,
    due_at: Timestamp,
}

/// Of each customer those subscriptions that are due first, together.
async fn due_subscriptions(
    conn: &mut PgConnection,
    customers: &[(OrganizationId, CustomerId)],
    horizon: Horizon,
) -> Result<Vec<DueRow>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<CustomerId>) =
        customers.iter().copied().unzip();
    Ok(sqlx::query_as!(
        DueRow,
        r#"SELECT organization_id AS "organization_id!", subscription_id AS "subscription_id!",
               next_due_at AS "due_at!"
           FROM (
               SELECT d.organization_id, d.subscription_id, d.next_due_at,
                   min(d.next_due_at) OVER (PARTITION BY d.organization_id, d.customer_id) AS first
               FROM subscriptions s
               JOIN subscription_dues d
                   ON d.organization_id = s.organization_id AND d.subscription_id = s.id
               WHERE d.next_due_at <= $3
                 AND ($4::timestamptz IS NULL OR d.set_at <= $4)
                 AND (s.organization_id, s.customer_id)
                     IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
                 AND NOT EXISTS (
                     SELECT FROM billing_failures f
                     WHERE f.organization_id = s.organization_id AND f.subject_id = s.id
                       AND f.retry_at > clock_timestamp()
                 )
           ) due
           WHERE next_due_at = first"#,
        &organizations as _,
        &ids as _,
        horizon.as_of,
        horizon.known_before as _,
    )
    .fetch_all(conn)
    .await?)
}

async fn effective_versions(
    conn: &mut PgConnection,
    subscriptions: &[(OrganizationId, SubscriptionId)],
) -> Result<BTreeMap<SubscriptionId, Vec<EffectiveVersion>>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        subscriptions.iter().copied().unzip();
    let rows = sqlx::query!(
        "SELECT organization_id, subscription_id, effective_from, plan_version_id
         FROM subscription_plan_versions
         WHERE (organization_id, subscription_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
         ORDER BY subscription_id, effective_from",
        &organizations as _,
        &ids as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    let wanted: BTreeSet<(OrganizationId, PlanVersionId)> =
        rows.iter().map(|row| (id(row.organization_id), id(row.plan_version_id))).collect();
    let versions = plans::find_versions(conn, &wanted.into_iter().collect::<Vec<_>>()).await?;
    let mut effective: BTreeMap<SubscriptionId, Vec<EffectiveVersion>> = BTreeMap::new();
    for row in rows {
        if let Some(version) = versions.get(&id(row.plan_version_id)) {
            effective
                .entry(id(row.subscription_id))
                .or_default()
                .push(EffectiveVersion { from: row.effective_from, version: Arc::clone(version) });
        }
    }
    Ok(effective)
}

async fn billed(
    conn: &mut PgConnection,
    subscriptions: &[(OrganizationId, SubscriptionId)],
) -> Result<BTreeMap<SubscriptionId, Billed>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        subscriptions.iter().copied().unzip();
    let rows = sqlx::query!(
        "SELECT subscription_id, max(due_at) AS due_at, max(usage_end) AS usage_to,
             max(base_end) AS base_to
         FROM invoice_subscriptions
         WHERE (organization_id, subscription_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
         GROUP BY organization_id, subscription_id",
        &organizations as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let billed =
                Billed { due_at: row.due_at, usage_to: row.usage_to, base_to: row.base_to };
            (id(row.subscription_id), billed)
        })
        .collect())
}

async fn planned(
    conn: &mut PgConnection,
    subscriptions: &[(OrganizationId, SubscriptionId)],
) -> Result<BTreeMap<SubscriptionId, Timestamp>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        subscriptions.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"SELECT subscription_id, next_due_at AS "next_due_at!"
           FROM subscription_dues
           WHERE (organization_id, subscription_id)
                   IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
             AND next_due_at IS NOT NULL"#,
        &organizations as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (id(row.subscription_id), row.next_due_at)).collect())
}

/// What the base fee's line is called, and the plan's code.
async fn plan_names(
    conn: &mut PgConnection,
    plans: &[(OrganizationId, PlanId)],
) -> Result<BTreeMap<PlanId, (String, String)>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<PlanId>) = plans.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"SELECT id, coalesce(nullif(invoice_display_name, ''), name) AS "name!", code
           FROM plans
           WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))"#,
        &organizations as _,
        &ids as _,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (id(row.id), (row.name, row.code))).collect())
}

async fn metrics_of(
    conn: &mut PgConnection,
    agreements: &[Agreement],
) -> Result<BTreeMap<BillableMetricId, MetricTerms>, StoreError> {
    let charged: BTreeSet<(OrganizationId, BillableMetricId)> = agreements
        .iter()
        .flat_map(|agreement| {
            let organization = agreement.subscription.organization;
            let charges = agreement.versions.iter().flat_map(|one| &one.version.charges);
            charges.map(move |charge| (organization, charge.metric))
        })
        .collect();
    metric_terms(conn, &charged.into_iter().collect::<Vec<_>>()).await
}
