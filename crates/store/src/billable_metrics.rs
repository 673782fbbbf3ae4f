//! Billable metrics: what usage is counted by.

use crate::columns::{from_word, id, optional_word, word};
use crate::error::touched;
use crate::page::{self, Listed, Source, push_any, push_search};
use crate::{Page, PageRequest, StoreError, Timestamp};
use sqlx::types::{Json, Uuid};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use std::collections::BTreeMap;
use weir_billing::metric::{self, Aggregation, BillableMetric, RoundingFunction, UnitRounding};
use weir_ids::{BillableMetricId, OrganizationId, PlanId};

/// Which metrics a list shows: those that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricFilter {
    /// Any of them; all when empty.
    pub aggregations: Vec<Aggregation>,
    /// Charged by the newest version of this plan.
    pub plan: Option<PlanId>,
    /// Those whose units carry over, or the others; all when absent.
    pub recurring: Option<bool>,
    /// Found in name or code, in any case.
    pub text: String,
    /// Archived ones too.
    pub with_deleted: bool,
}

/// Where a metric is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetricUses {
    /// Charged by a version of a plan that is not archived.
    pub plans: bool,
    /// Charged by a plan that some subscription is or was on.
    pub subscriptions: bool,
    /// The same of a subscription that is active.
    pub active_subscriptions: bool,
    /// On a draft invoice.
    pub draft_invoices: bool,
}

const SOURCE: Source = Source {
    columns: "organization_id, id, name, code, event_code, description, aggregation, field_name, \
              expression, recurring, rounding_function, rounding_precision, filters, group_keys, \
              created_at, updated_at, deleted_at",
    table: "billable_metrics",
};

macro_rules! select {
    ($rest:tt, $($arg:expr),+) => {
        sqlx::query_as!(
            Row,
            r#"SELECT organization_id, id, name, code, event_code, description, aggregation,
                 field_name, expression, recurring, rounding_function, rounding_precision,
                 filters AS "filters: Json<Vec<metric::MetricFilter>>", group_keys,
                 created_at, updated_at, deleted_at
             FROM billable_metrics "# + $rest,
            $($arg),+
        )
    };
}

/// Writes a new metric. Errors: `Duplicate` (`billable_metrics_code_key`).
pub async fn insert(conn: &mut PgConnection, metric: &BillableMetric) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO billable_metrics
             (organization_id, id, name, code, event_code, description, aggregation, field_name,
              expression, recurring, rounding_function, rounding_precision, filters, group_keys,
              created_at, updated_at, deleted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        metric.organization as _,
        metric.id as _,
        metric.name,
        metric.code,
        metric.event_code,
        metric.description,
        word("billable_metrics.aggregation", &metric.aggregation)?,
        metric.field_name,
        metric.expression,
        metric.recurring,
        rounding_function(metric)?,
        metric.rounding.map(|rounding| rounding.precision),
        Json(&metric.filters) as _,
        &metric.group_keys,
        metric.created_at,
        metric.updated_at,
        metric.deleted_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes what may change of a metric, all but its group keys. Errors: `NotFound`; `Duplicate`
/// (`billable_metrics_code_key`).
pub async fn save(conn: &mut PgConnection, metric: &BillableMetric) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE billable_metrics
         SET name = $3, code = $4, event_code = $5, description = $6, aggregation = $7,
             field_name = $8, expression = $9, recurring = $10, rounding_function = $11,
             rounding_precision = $12, filters = $13, updated_at = $14
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        metric.organization as _,
        metric.id as _,
        metric.name,
        metric.code,
        metric.event_code,
        metric.description,
        word("billable_metrics.aggregation", &metric.aggregation)?,
        metric.field_name,
        metric.expression,
        metric.recurring,
        rounding_function(metric)?,
        metric.rounding.map(|rounding| rounding.precision),
        Json(&metric.filters) as _,
        metric.updated_at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// Has the metric's usage told apart by these properties too, for ever. Nothing happens for those
/// that it is told apart by already. Errors: `NotFound`, also when archived.
pub async fn add_group_keys(
    conn: &mut PgConnection,
    organization: OrganizationId,
    metric: BillableMetricId,
    keys: &[String],
) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE billable_metrics
         SET group_keys = ARRAY(
             SELECT DISTINCT key FROM unnest(group_keys || $3::text[]) key ORDER BY key
         )
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        organization as _,
        metric as _,
        keys,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// The codes of the events that the organization's metrics count, each once.
pub async fn event_codes(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT DISTINCT event_code FROM billable_metrics
         WHERE organization_id = $1 AND deleted_at IS NULL
         ORDER BY event_code",
        organization as _,
    )
    .fetch_all(conn)
    .await?)
}

/// The metric with this id, also an archived one.
pub async fn find(
    conn: &mut PgConnection,
    organization: OrganizationId,
    metric: BillableMetricId,
) -> Result<Option<BillableMetric>, StoreError> {
    select!("WHERE organization_id = $1 AND id = $2", organization as _, metric as _)
        .fetch_optional(conn)
        .await?
        .map(Row::read)
        .transpose()
}

/// Like [`find`], and nobody else changes it before this transaction ends.
pub async fn lock(
    conn: &mut PgConnection,
    organization: OrganizationId,
    metric: BillableMetricId,
) -> Result<Option<BillableMetric>, StoreError> {
    select!("WHERE organization_id = $1 AND id = $2 FOR UPDATE", organization as _, metric as _)
        .fetch_optional(conn)
        .await?
        .map(Row::read)
        .transpose()
}

/// The metrics with these ids, also archived ones; ids of none are left out.
pub async fn find_many(
    conn: &mut PgConnection,
    organization: OrganizationId,
    metrics: &[BillableMetricId],
) -> Result<BTreeMap<BillableMetricId, BillableMetric>, StoreError> {
    let rows = select!(
        "WHERE organization_id = $1 AND id = ANY($2::uuid[])",
        organization as _,
        metrics as _
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| row.read().map(|metric| (metric.id, metric))).collect()
}

/// The metric with this code that is not archived.
pub async fn find_by_code(
    conn: &mut PgConnection,
    organization: OrganizationId,
    code: &str,
) -> Result<Option<BillableMetric>, StoreError> {
    select!(
        "WHERE organization_id = $1 AND code = $2 AND deleted_at IS NULL",
        organization as _,
        code
    )
    .fetch_optional(conn)
    .await?
    .map(Row::read)
    .transpose()
}

/// A page of an organization's metrics.
pub async fn list(
    conn: &mut PgConnection,
    organization: OrganizationId,
    filter: &MetricFilter,
    request: &PageRequest,
) -> Result<Page<BillableMetric>, StoreError> {
    let aggregations = filter
        .aggregations
        .iter()
        .map(|aggregation| word("billable_metrics.aggregation", aggregation))
        .collect::<Result<Vec<_>, _>>()?;
    let conditions = |query: &mut QueryBuilder<Postgres>| {
        query.push("organization_id = ").push_bind(organization);
        push_any(query, "aggregation", &aggregations);
        push_search(query, &["name", "code"], &filter.text);
        if !filter.with_deleted {
            query.push(" AND deleted_at IS NULL");
        }
        if let Some(recurring) = filter.recurring {
            query.push(" AND recurring = ").push_bind(recurring);
        }
        if let Some(plan) = filter.plan {
            query.push(
                " AND id IN (SELECT c.metric_id FROM charges c
                   WHERE c.organization_id = billable_metrics.organization_id
                     AND c.plan_version_id = (SELECT v.id FROM plan_versions v
                       WHERE v.organization_id = billable_metrics.organization_id AND v.plan_id = ",
            );
            query.push_bind(plan).push(" ORDER BY v.number DESC LIMIT 1))");
        }
    };
    page::list::<Row>(conn, &SOURCE, request, &conditions).await?.try_map(Row::read)
}

/// Archives a metric: no new events count for it. Errors: `NotFound`, also when archived already.
pub async fn archive(
    conn: &mut PgConnection,
    organization: OrganizationId,
    metric: BillableMetricId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE billable_metrics
         SET deleted_at = $3, updated_at = $3
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        organization as _,
        metric as _,
        at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// Where each of these metrics is used at `now`.
pub async fn uses(
    conn: &mut PgConnection,
    organization: OrganizationId,
    metrics: &[BillableMetricId],
    now: Timestamp,
) -> Result<BTreeMap<BillableMetricId, MetricUses>, StoreError> {
    let rows = sqlx::query_file!("src/sql/metric_uses.sql", organization as _, metrics as _, now)
        .fetch_all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let uses = MetricUses {
                plans: row.plans,
                subscriptions: row.subscriptions,
                active_subscriptions: row.active_subscriptions,
                draft_invoices: row.draft_invoices,
            };
            (id(row.id), uses)
        })
        .collect())
}

fn rounding_function(metric: &BillableMetric) -> Result<Option<String>, StoreError> {
    let function = metric.rounding.map(|rounding| rounding.function);
    optional_word("billable_metrics.rounding_function", function.as_ref())
}

#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub name: String,
    pub code: String,
    pub event_code: String,
    pub description: Option<String>,
    pub aggregation: String,
    pub field_name: Option<String>,
    pub expression: Option<String>,
    pub recurring: bool,
    pub rounding_function: Option<String>,
    pub rounding_precision: Option<i32>,
    pub filters: Json<Vec<metric::MetricFilter>>,
    pub group_keys: Vec<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

impl Listed for Row {
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn id(&self) -> Uuid {
        self.id
    }
}

impl Row {
    pub(crate) fn read(self) -> Result<BillableMetric, StoreError> {
        let rounding = match (&self.rounding_function, self.rounding_precision) {
            (Some(function), Some(precision)) => {
                let column = "billable_metrics.rounding_function";
                let function: RoundingFunction = from_word(column, function)?;
                Some(UnitRounding { function, precision })
            }
            (None, _) | (_, None) => None,
        };
        Ok(BillableMetric {
            id: id(self.id),
            organization: id(self.organization_id),
            name: self.name,
            code: self.code,
            event_code: self.event_code,
            description: self.description,
            aggregation: from_word("billable_metrics.aggregation", &self.aggregation)?,
            field_name: self.field_name,
            expression: self.expression,
            recurring: self.recurring,
            rounding,
            filters: self.filters.0,
            group_keys: self.group_keys,
            created_at: self.created_at,
            updated_at: self.updated_at,
            deleted_at: self.deleted_at,
        })
    }
}
