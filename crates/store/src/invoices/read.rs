//! Reading invoices.

use super::check_sum;
use super::fee_row::FeeRow;
use crate::columns::{id, money, unsigned};
use crate::page::{self, Listed, Source, push_any, push_search};
use crate::{Page, PageRequest, StoreError, Timestamp};
use chrono::NaiveDate;
use sqlx::types::Uuid;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use std::collections::BTreeMap;
use weir_billing::invoice::{Fee, Invoice, InvoiceStatus, InvoiceSubscription, Period};
use weir_ids::{CustomerId, InvoiceId, OrganizationId, SubscriptionId};

/// Which invoices a list shows: those that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InvoiceFilter {
    pub customer: Option<CustomerId>,
    /// Any of them; all when empty.
    pub statuses: Vec<StatusFilter>,
    /// That settle this subscription.
    pub subscription: Option<SubscriptionId>,
    /// That settle a subscription with this external id.
    pub external_subscription_id: Option<String>,
    /// Found in the number, in any case.
    pub text: String,
}

/// A status without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    Draft,
    Finalized,
}

const SOURCE: Source = Source {
    columns: "organization_id, id, customer_id, status, due_at, finalize_at, finalized_at, \
              number, issuing_date, payment_due_date, total_minor, currency, created_at, updated_at",
    table: "invoices",
};

macro_rules! select {
    ($rest:tt, $($arg:expr),+) => {
        sqlx::query_as!(
            Row,
            "SELECT organization_id, id, customer_id, status, due_at, finalize_at, finalized_at,
                 number, issuing_date, payment_due_date, total_minor, currency, created_at,
                 updated_at
             FROM invoices " + $rest,
            $($arg),+
        )
    };
}

/// The invoice with this id.
pub async fn find(
    conn: &mut PgConnection,
    organization: OrganizationId,
    invoice: InvoiceId,
) -> Result<Option<Invoice>, StoreError> {
    Ok(find_many(conn, &[(organization, invoice)]).await?.pop())
}

/// The final invoice with exactly this number.
pub async fn find_by_number(
    conn: &mut PgConnection,
    organization: OrganizationId,
    number: &str,
) -> Result<Option<Invoice>, StoreError> {
    let rows =
        select!("WHERE organization_id = $1 AND number = $2", organization as _, number as _)
            .fetch_all(&mut *conn)
            .await?;
    Ok(whole(conn, rows).await?.pop())
}

/// Like [`find`], and neither the invoice nor its customer is changed by others before this
/// transaction ends.
pub async fn lock(
    conn: &mut PgConnection,
    organization: OrganizationId,
    invoice: InvoiceId,
) -> Result<Option<Invoice>, StoreError> {
    // Customers before invoices, as everywhere.
    sqlx::query!(
        "SELECT c.id
         FROM customers c
         JOIN invoices i ON i.organization_id = c.organization_id AND i.customer_id = c.id
         WHERE i.organization_id = $1 AND i.id = $2
         FOR UPDATE OF c",
        organization as _,
        invoice as _,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let rows = select!(
        "WHERE organization_id = $1 AND id = $2 FOR UPDATE",
        organization as _,
        invoice as _
    )
    .fetch_all(&mut *conn)
    .await?;
    Ok(whole(conn, rows).await?.pop())
}

/// The invoices with these ids, of any organization, in the order in which they were due; ids of
/// none are left out.
pub async fn find_many(
    conn: &mut PgConnection,
    invoices: &[(OrganizationId, InvoiceId)],
) -> Result<Vec<Invoice>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<InvoiceId>) =
        invoices.iter().copied().unzip();
    let rows = select!(
        "WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
         ORDER BY due_at, id",
        &organizations as _,
        &ids as _
    )
    .fetch_all(&mut *conn)
    .await?;
    whole(conn, rows).await
}

/// A page of an organization's invoices, whole.
pub async fn list(
    conn: &mut PgConnection,
    organization: OrganizationId,
    filter: &InvoiceFilter,
    request: &PageRequest,
) -> Result<Page<Invoice>, StoreError> {
    let statuses: Vec<String> = filter
        .statuses
        .iter()
        .map(|status| match status {
            StatusFilter::Draft => "draft".to_owned(),
            StatusFilter::Finalized => "finalized".to_owned(),
        })
        .collect();
    let conditions = |query: &mut QueryBuilder<Postgres>| {
        query.push("organization_id = ").push_bind(organization);
        if let Some(customer) = filter.customer {
            query.push(" AND customer_id = ").push_bind(customer);
        }
        push_any(query, "status", &statuses);
        push_search(query, &["number"], &filter.text);
        if let Some(subscription) = filter.subscription {
            query.push(
                " AND id IN (SELECT l.invoice_id FROM invoice_subscriptions l
                   WHERE l.organization_id = invoices.organization_id AND l.subscription_id = ",
            );
            query.push_bind(subscription).push(")");
        }
        if let Some(external_id) = &filter.external_subscription_id {
            query.push(
                " AND id IN (SELECT l.invoice_id FROM invoice_subscriptions l
                   JOIN subscriptions s
                     ON s.organization_id = l.organization_id AND s.id = l.subscription_id
                   WHERE l.organization_id = invoices.organization_id AND s.external_id = ",
            );
            query.push_bind(external_id.clone()).push(")");
        }
    };
    let page = page::list::<Row>(&mut *conn, &SOURCE, request, &conditions).await?;
    let Page { items, total_count, next_cursor } = page;
    Ok(Page { items: whole(conn, items).await?, total_count, next_cursor })
}

async fn whole(conn: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Invoice>, StoreError> {
    let organizations: Vec<Uuid> = rows.iter().map(|row| row.organization_id).collect();
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let mut settled = settled(conn, &organizations, &ids).await?;
    let mut fees = fees(conn, &organizations, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let settled = settled.remove(&row.id).unwrap_or_default();
            let fees = fees.remove(&row.id).unwrap_or_default();
            let invoice = row.read(settled, fees)?;
            check_sum(&invoice)?;
            Ok(invoice)
        })
        .collect()
}

async fn settled(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    invoices: &[Uuid],
) -> Result<BTreeMap<Uuid, Vec<InvoiceSubscription>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT invoice_id, subscription_id, base_start, base_end, usage_start, usage_end,
             whole_seconds, plan_version_id
         FROM invoice_subscriptions
         WHERE (organization_id, invoice_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
         ORDER BY invoice_id, position",
        organizations,
        invoices,
    )
    .fetch_all(conn)
    .await?;
    let mut settled: BTreeMap<Uuid, Vec<InvoiceSubscription>> = BTreeMap::new();
    let period = |start: Option<Timestamp>, end: Option<Timestamp>| {
        start.zip(end).map(|(start, end)| Period { start, end })
    };
    for row in rows {
        let column = "invoice_subscriptions.whole_seconds";
        let whole_seconds =
            row.whole_seconds.map(|seconds| unsigned(column, seconds)).transpose()?;
        settled.entry(row.invoice_id).or_default().push(InvoiceSubscription {
            subscription: id(row.subscription_id),
            base: period(row.base_start, row.base_end),
            usage: period(row.usage_start, row.usage_end),
            whole_seconds,
            plan_version: id(row.plan_version_id),
        });
    }
    Ok(settled)
}

async fn fees(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    invoices: &[Uuid],
) -> Result<BTreeMap<Uuid, Vec<Fee>>, StoreError> {
    let rows = sqlx::query_as!(
        FeeRow,
        r#"SELECT id, invoice_id, subscription_id, kind, charge_id, metric_id, filter_id,
               group_values, events, corrects_fee_id, name, code, period_start, period_end, units::text AS "units!",
               precise_amount::text AS "precise_amount!", amount_minor, currency
           FROM fees
           WHERE (organization_id, invoice_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
           ORDER BY invoice_id, position"#,
        organizations,
        invoices,
    )
    .fetch_all(conn)
    .await?;
    let mut fees: BTreeMap<Uuid, Vec<Fee>> = BTreeMap::new();
    for row in rows {
        fees.entry(row.invoice_id).or_default().push(row.read()?);
    }
    Ok(fees)
}

#[derive(sqlx::FromRow)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    customer_id: Uuid,
    status: String,
    due_at: Timestamp,
    finalize_at: Timestamp,
    finalized_at: Option<Timestamp>,
    number: Option<String>,
    issuing_date: NaiveDate,
    payment_due_date: NaiveDate,
    total_minor: i64,
    currency: String,
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

impl Row {
    fn read(
        self,
        subscriptions: Vec<InvoiceSubscription>,
        fees: Vec<Fee>,
    ) -> Result<Invoice, StoreError> {
        let status = match (self.status.as_str(), self.number, self.finalized_at) {
            ("draft", None, None) => InvoiceStatus::Draft { finalize_at: self.finalize_at },
            ("finalized", Some(number), Some(at)) => InvoiceStatus::Finalized { number, at },
            _ => {
                return Err(StoreError::Corrupt { column: "invoices.status", value: self.status });
            }
        };
        Ok(Invoice {
            id: id(self.id),
            organization: id(self.organization_id),
            customer: id(self.customer_id),
            status,
            due_at: self.due_at,
            issuing_date: self.issuing_date,
            payment_due_date: self.payment_due_date,
            total: money("invoices.total_minor", self.total_minor, &self.currency)?,
            subscriptions,
            fees,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
