//! Plans, their versions and charges. A version is never changed once written.

mod versions;

pub use versions::{add_version, cascade, find_version, find_versions};

use crate::columns::{id, unsigned};
use crate::error::touched;
use crate::page::{self, Listed, Source, push_search};
use crate::{Page, PageRequest, StoreError, Timestamp};
use sqlx::types::Uuid;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_billing::plan::{Plan, PlanVersion};
use weir_ids::{OrganizationId, PlanId};

/// Which plans a list shows: those that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanFilter {
    /// Found in name or code, in any case.
    pub text: String,
    /// Archived ones too.
    pub with_deleted: bool,
}

/// How much a plan is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// Subscriptions that are or were on it.
    pub subscriptions: u64,
    pub active_subscriptions: u64,
    /// Customers with such a subscription.
    pub customers: u64,
    /// Draft invoices that settle such a subscription.
    pub draft_invoices: u64,
}

const SOURCE: Source = Source {
    columns: "organization_id, id, code, name, description, invoice_display_name, created_at, \
              updated_at, deleted_at",
    table: "plans",
};

macro_rules! select {
    ($rest:tt, $($arg:expr),+) => {
        sqlx::query_as!(
            Row,
            "SELECT organization_id, id, code, name, description, invoice_display_name,
                 created_at, updated_at, deleted_at
             FROM plans " + $rest,
            $($arg),+
        )
    };
}

/// Writes a new plan with its first version. Errors: `Duplicate` (`plans_code_key`,
/// `charges_code_key`); `Violation` of a charge on a metric that is not there.
pub async fn insert(conn: &mut PgConnection, plan: &Plan) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO plans
             (organization_id, id, code, name, description, invoice_display_name, created_at,
              updated_at, deleted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        plan.organization as _,
        plan.id as _,
        plan.code,
        plan.name,
        plan.description,
        plan.invoice_display_name,
        plan.created_at,
        plan.updated_at,
        plan.deleted_at,
    )
    .execute(&mut *conn)
    .await?;
    add_version(conn, plan.organization, &plan.version).await
}

/// Writes what may change of a plan apart from its versions. Errors: `NotFound`; `Duplicate`
/// (`plans_code_key`).
pub async fn save(conn: &mut PgConnection, plan: &Plan) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE plans
         SET code = $3, name = $4, description = $5, invoice_display_name = $6, updated_at = $7
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        plan.organization as _,
        plan.id as _,
        plan.code,
        plan.name,
        plan.description,
        plan.invoice_display_name,
        plan.updated_at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// The plan with this id in its newest version, also an archived one.
pub async fn find(
    conn: &mut PgConnection,
    organization: OrganizationId,
    plan: PlanId,
) -> Result<Option<Plan>, StoreError> {
    let row = select!("WHERE organization_id = $1 AND id = $2", organization as _, plan as _)
        .fetch_optional(&mut *conn)
        .await?;
    one_with_version(conn, organization, row).await
}

/// Like [`find`], and nobody else changes it before this transaction ends.
pub async fn lock(
    conn: &mut PgConnection,
    organization: OrganizationId,
    plan: PlanId,
) -> Result<Option<Plan>, StoreError> {
    let row =
        select!("WHERE organization_id = $1 AND id = $2 FOR UPDATE", organization as _, plan as _)
            .fetch_optional(&mut *conn)
            .await?;
    one_with_version(conn, organization, row).await
}

/// The plan with this code that is not archived.
pub async fn find_by_code(
    conn: &mut PgConnection,
    organization: OrganizationId,
    code: &str,
) -> Result<Option<Plan>, StoreError> {
    let row = select!(
        "WHERE organization_id = $1 AND code = $2 AND deleted_at IS NULL",
        organization as _,
        code
    )
    .fetch_optional(&mut *conn)
    .await?;
    one_with_version(conn, organization, row).await
}

/// The plans with these ids in their newest versions, also archived ones; ids of none are left out.
pub async fn find_many(
    conn: &mut PgConnection,
    organization: OrganizationId,
    plans: &[PlanId],
) -> Result<BTreeMap<PlanId, Plan>, StoreError> {
    let rows = select!(
        "WHERE organization_id = $1 AND id = ANY($2::uuid[])",
        organization as _,
        plans as _
    )
    .fetch_all(&mut *conn)
    .await?;
    let plans = with_versions(conn, organization, rows).await?;
    Ok(plans.into_iter().map(|plan| (plan.id, plan)).collect())
}

/// A page of an organization's plans in their newest versions.
pub async fn list(
    conn: &mut PgConnection,
    organization: OrganizationId,
    filter: &PlanFilter,
    request: &PageRequest,
) -> Result<Page<Plan>, StoreError> {
    let conditions = |query: &mut QueryBuilder<Postgres>| {
        query.push("organization_id = ").push_bind(organization);
        push_search(query, &["name", "code"], &filter.text);
        if !filter.with_deleted {
            query.push(" AND deleted_at IS NULL");
        }
    };
    let page = page::list::<Row>(&mut *conn, &SOURCE, request, &conditions).await?;
    let Page { items, total_count, next_cursor } = page;
    let items = with_versions(conn, organization, items).await?;
    Ok(Page { items, total_count, next_cursor })
}

/// Archives a plan: no new subscriptions, the existing ones go on. Errors: `NotFound`, also when
/// archived already.
pub async fn archive(
    conn: &mut PgConnection,
    organization: OrganizationId,
    plan: PlanId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE plans
         SET deleted_at = $3, updated_at = $3
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        organization as _,
        plan as _,
        at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// How much each of these plans is used at `now`.
pub async fn counts(
    conn: &mut PgConnection,
    organization: OrganizationId,
    plans: &[PlanId],
    now: Timestamp,
) -> Result<BTreeMap<PlanId, PlanCounts>, StoreError> {
    sqlx::query_file!("src/sql/plan_counts.sql", organization as _, plans as _, now)
        .fetch_all(conn)
        .await?
        .into_iter()
        .map(|row| {
            let counts = PlanCounts {
                subscriptions: unsigned("subscriptions", row.subscriptions)?,
                active_subscriptions: unsigned("subscriptions", row.active_subscriptions)?,
                customers: unsigned("subscriptions", row.customers)?,
                draft_invoices: unsigned("invoices", row.draft_invoices)?,
            };
            Ok((id(row.id), counts))
        })
        .collect()
}

async fn one_with_version(
    conn: &mut PgConnection,
    organization: OrganizationId,
    row: Option<Row>,
) -> Result<Option<Plan>, StoreError> {
    Ok(with_versions(conn, organization, row.into_iter().collect()).await?.pop())
}

async fn with_versions(
    conn: &mut PgConnection,
    organization: OrganizationId,
    rows: Vec<Row>,
) -> Result<Vec<Plan>, StoreError> {
    let plans: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let newest = sqlx::query!(
        "SELECT DISTINCT ON (plan_id) plan_id, id
         FROM plan_versions
         WHERE organization_id = $1 AND plan_id = ANY($2)
         ORDER BY plan_id, number DESC",
        organization as _,
        &plans,
    )
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<_> = newest.iter().map(|row| (organization, id(row.id))).collect();
    let versions = find_versions(conn, &ids).await?;
    let mut by_plan: BTreeMap<PlanId, PlanVersion> = versions
        .into_values()
        .map(|version| (version.plan, Arc::unwrap_or_clone(version)))
        .collect();
    rows.into_iter()
        .map(|row| {
            let version = by_plan.remove(&id(row.id)).ok_or_else(|| StoreError::Corrupt {
                column: "plan_versions.plan_id",
                value: format!("no version of plan {}", row.id),
            })?;
            Ok(row.read(version))
        })
        .collect()
}

#[derive(sqlx::FromRow)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    code: String,
    name: String,
    description: Option<String>,
    invoice_display_name: Option<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
    deleted_at: Option<Timestamp>,
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
    fn read(self, version: PlanVersion) -> Plan {
        Plan {
            id: id(self.id),
            organization: id(self.organization_id),
            code: self.code,
            name: self.name,
            description: self.description,
            invoice_display_name: self.invoice_display_name,
            version,
            created_at: self.created_at,
            updated_at: self.updated_at,
            deleted_at: self.deleted_at,
        }
    }
}
