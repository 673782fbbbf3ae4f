//! Subscriptions: who is billed by which plan from when.

use crate::billing_failures::{self, Subject};
use crate::columns::id;
use crate::error::touched;
use crate::page::{self, Listed, Source, push_search};
use crate::{Page, PageRequest, StoreError, Timestamp};
use sqlx::types::Uuid;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use std::collections::BTreeMap;
use weir_billing::subscription::{Subscription, SubscriptionStatus};
use weir_ids::{CustomerId, OrganizationId, SubscriptionId};

/// Which subscriptions a list shows: those that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionFilter {
    pub external_customer_id: Option<String>,
    pub plan_code: Option<String>,
    /// Any of them, as of `now`; all when empty.
    pub statuses: Vec<SubscriptionStatus>,
    /// Found in name or external id, in any case.
    pub text: String,
    pub now: Timestamp,
}

const SOURCE: Source = Source {
    columns: "organization_id, id, customer_id, plan_id, external_id, name, started_at, \
              ending_at, terminated_at, skip_final_invoice, created_at, updated_at",
    table: "subscriptions",
};

macro_rules! select {
    ($rest:tt, $($arg:expr),+) => {
        sqlx::query_as!(
            Row,
            "SELECT organization_id, id, customer_id, plan_id, external_id, name, started_at,
                 ending_at, terminated_at, skip_final_invoice, created_at, updated_at
             FROM subscriptions " + $rest,
            $($arg),+
        )
    };
}

/// Writes a new subscription and the plan version it begins with: the plan's newest, or its first
/// when it starts before the plan was made. `next_due_at` is when its first invoice is due.
/// Errors: `Duplicate` (`subscriptions_external_id_overlap`: another one has the external id at
/// the same time); `Violation` of a customer or plan that is not there.
pub async fn insert(
    conn: &mut PgConnection,
    subscription: &Subscription,
    next_due_at: Option<Timestamp>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO subscriptions
             (organization_id, id, customer_id, plan_id, external_id, name, started_at, ending_at,
              terminated_at, skip_final_invoice, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        subscription.organization as _,
        subscription.id as _,
        subscription.customer as _,
        subscription.plan as _,
        subscription.external_id,
        subscription.name,
        subscription.started_at,
        subscription.ending_at,
        subscription.terminated_at,
        subscription.skip_final_invoice,
        subscription.created_at,
        subscription.updated_at,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO subscription_dues (organization_id, subscription_id, customer_id, next_due_at)
         VALUES ($1, $2, $3, $4)",
        subscription.organization as _,
        subscription.id as _,
        subscription.customer as _,
        next_due_at,
    )
    .execute(&mut *conn)
    .await?;
    let result = sqlx::query!(
        "INSERT INTO subscription_plan_versions
             (organization_id, subscription_id, effective_from, plan_version_id)
         SELECT p.organization_id, $2, $4, v.id
         FROM plans p
         JOIN plan_versions v ON v.organization_id = p.organization_id AND v.plan_id = p.id
         WHERE p.organization_id = $1 AND p.id = $3
         ORDER BY CASE WHEN p.created_at > $4 THEN v.number ELSE -v.number END
         LIMIT 1",
        subscription.organization as _,
        subscription.id as _,
        subscription.plan as _,
        subscription.started_at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// Writes what may change of a subscription: name, end, termination and, before it has begun, its
/// start and external id. When the next invoice is due is said apart, by [`set_next_due`].
/// Errors: `NotFound`; `Duplicate` (`subscriptions_external_id_overlap`).
pub async fn save(conn: &mut PgConnection, subscription: &Subscription) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE subscriptions
         SET external_id = $3, name = $4, started_at = $5, ending_at = $6, terminated_at = $7,
             skip_final_invoice = $8, updated_at = $9
         WHERE organization_id = $1 AND id = $2",
        subscription.organization as _,
        subscription.id as _,
        subscription.external_id,
        subscription.name,
        subscription.started_at,
        subscription.ending_at,
        subscription.terminated_at,
        subscription.skip_final_invoice,
        subscription.updated_at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// When the next invoice of a subscription is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextDue {
    pub organization: OrganizationId,
    pub subscription: SubscriptionId,
    /// None when nothing more will be due.
    pub at: Option<Timestamp>,
}

/// Writes when the next invoices are due, of any number of subscriptions; of what is due sooner than
/// was known also since when, in real time. Of what is not due any more it is forgotten by what it
/// failed before. Errors: `NotFound` when one of them is not there.
pub async fn set_next_due(conn: &mut PgConnection, dues: &[NextDue]) -> Result<(), StoreError> {
    let organizations: Vec<_> = dues.iter().map(|due| due.organization).collect();
    let subscriptions: Vec<_> = dues.iter().map(|due| due.subscription).collect();
    let at: Vec<Option<Timestamp>> = dues.iter().map(|due| due.at).collect();
    let result = sqlx::query!(
        "UPDATE subscription_dues s
         SET next_due_at = d.at,
             set_at = CASE
                 WHEN d.at < s.next_due_at OR s.next_due_at IS NULL THEN clock_timestamp()
                 ELSE s.set_at
             END
         FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS d (organization_id, id, at)
         WHERE s.organization_id = d.organization_id AND s.subscription_id = d.id",
        &organizations as _,
        &subscriptions as _,
        &at as _,
    )
    .execute(&mut *conn)
    .await?;
    if result.rows_affected() != dues.len() as u64 {
        return Err(StoreError::NotFound);
    }
    let over = dues.iter().filter(|due| due.at.is_none());
    let over: Vec<_> =
        over.map(|due| (due.organization, Subject::Subscription(due.subscription))).collect();
    if over.is_empty() { Ok(()) } else { billing_failures::clear(conn, &over).await }
}

/// The subscription with this id, whatever its status.
pub async fn find(
    conn: &mut PgConnection,
    organization: OrganizationId,
    subscription: SubscriptionId,
) -> Result<Option<Subscription>, StoreError> {
    let row =
        select!("WHERE organization_id = $1 AND id = $2", organization as _, subscription as _)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(Subscription::from))
}

/// Like [`find`], and nobody else changes it before this transaction ends. Lock its customer first.
pub async fn lock(
    conn: &mut PgConnection,
    organization: OrganizationId,
    subscription: SubscriptionId,
) -> Result<Option<Subscription>, StoreError> {
    let row = select!(
        "WHERE organization_id = $1 AND id = $2 FOR UPDATE",
        organization as _,
        subscription as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Subscription::from))
}

/// The subscription with this external id that is active at `now`, else the next one to start.
pub async fn find_live_by_external_id(
    conn: &mut PgConnection,
    organization: OrganizationId,
    external_id: &str,
    now: Timestamp,
) -> Result<Option<Subscription>, StoreError> {
    let row = select!(
        "WHERE organization_id = $1 AND external_id = $2 AND (ended_at IS NULL OR ended_at > $3)
         ORDER BY started_at, id
         LIMIT 1",
        organization as _,
        external_id,
        now
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Subscription::from))
}

/// The subscriptions with these ids; ids of none are left out.
pub async fn find_many(
    conn: &mut PgConnection,
    organization: OrganizationId,
    subscriptions: &[SubscriptionId],
) -> Result<BTreeMap<SubscriptionId, Subscription>, StoreError> {
    let keys: Vec<_> = subscriptions.iter().map(|one| (organization, *one)).collect();
    find_all(conn, &keys).await
}

/// The subscriptions with these ids, of any organization.
pub(crate) async fn find_all(
    conn: &mut PgConnection,
    subscriptions: &[(OrganizationId, SubscriptionId)],
) -> Result<BTreeMap<SubscriptionId, Subscription>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<SubscriptionId>) =
        subscriptions.iter().copied().unzip();
    let rows = select!(
        "WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &ids as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Subscription::from).map(|one| (one.id, one)).collect())
}

/// All subscriptions of a customer, oldest start first.
pub async fn of_customer(
    conn: &mut PgConnection,
    organization: OrganizationId,
    customer: CustomerId,
) -> Result<Vec<Subscription>, StoreError> {
    let rows = select!(
        "WHERE organization_id = $1 AND customer_id = $2 ORDER BY started_at, created_at, id",
        organization as _,
        customer as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Subscription::from).collect())
}

/// A page of an organization's subscriptions.
pub async fn list(
    conn: &mut PgConnection,
    organization: OrganizationId,
    filter: &SubscriptionFilter,
    request: &PageRequest,
) -> Result<Page<Subscription>, StoreError> {
    let conditions = |query: &mut QueryBuilder<Postgres>| {
        query.push("organization_id = ").push_bind(organization);
        push_search(query, &["name", "external_id"], &filter.text);
        if let Some(external_id) = &filter.external_customer_id {
            query.push(
                " AND customer_id IN (SELECT c.id FROM customers c
                   WHERE c.organization_id = subscriptions.organization_id AND c.external_id = ",
            );
            query.push_bind(external_id.clone()).push(")");
        }
        if let Some(code) = &filter.plan_code {
            query.push(
                " AND plan_id IN (SELECT p.id FROM plans p
                   WHERE p.organization_id = subscriptions.organization_id AND p.code = ",
            );
            query.push_bind(code.clone()).push(")");
        }
        push_statuses(query, &filter.statuses, filter.now);
    };
    let page = page::list::<Row>(conn, &SOURCE, request, &conditions).await?;
    page.try_map(|row| Ok(Subscription::from(row)))
}

/// The same rule as [`Subscription::status`].
fn push_statuses(
    query: &mut QueryBuilder<Postgres>,
    statuses: &[SubscriptionStatus],
    now: Timestamp,
) {
    if statuses.is_empty() {
        return;
    }
    query.push(" AND CASE WHEN ended_at <= ").push_bind(now);
    query.push(" THEN 'terminated' WHEN started_at > ").push_bind(now);
    query.push(" THEN 'pending' ELSE 'active' END = ANY(");
    let words: Vec<&'static str> = statuses
        .iter()
        .map(|status| match status {
            SubscriptionStatus::Pending => "pending",
            SubscriptionStatus::Active => "active",
            SubscriptionStatus::Terminated => "terminated",
        })
        .collect();
    query.push_bind(words).push(")");
}

#[derive(sqlx::FromRow)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    customer_id: Uuid,
    plan_id: Uuid,
    external_id: String,
    name: Option<String>,
    started_at: Timestamp,
    ending_at: Option<Timestamp>,
    terminated_at: Option<Timestamp>,
    skip_final_invoice: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Listed for Row {
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn id(&self) -> Uuid {
        self.id
    }
}

impl From<Row> for Subscription {
    fn from(row: Row) -> Self {
        Self {
            id: id(row.id),
            organization: id(row.organization_id),
            customer: id(row.customer_id),
            plan: id(row.plan_id),
            external_id: row.external_id,
            name: row.name,
            started_at: row.started_at,
            ending_at: row.ending_at,
            terminated_at: row.terminated_at,
            skip_final_invoice: row.skip_final_invoice,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}
