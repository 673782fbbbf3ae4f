//! Writing invoices: as drafts, many at once; then finalizing them.

use super::{Provenance, check_sum};
use crate::billing_failures::{self, Subject};
use crate::columns::{bigint, id, json, position};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use weir_billing::invoice::{Fee, FeeKind, Invoice, InvoiceStatus, InvoiceSubscription};
use weir_ids::{InvoiceId, OrganizationId};

/// Writes new drafts, whole, in three statements however many they are; their usage lines were
/// computed from `provenance`. Errors: `NotDraft`; `Unbalanced`; `Duplicate` when a subscription has an
/// invoice of that instant already (`invoice_subscriptions_due_key`) or one that bills some of the same
/// time (`invoice_subscriptions_base_overlap`, `invoice_subscriptions_usage_overlap`). All or nothing
/// when the caller's transaction ends with the error.
pub async fn insert_many(
    conn: &mut PgConnection,
    invoices: &[Invoice],
    provenance: Option<Provenance>,
) -> Result<(), StoreError> {
    let mut rows = InvoiceColumns::default();
    let mut settled = SettledColumns::default();
    let mut fees = FeeColumns::default();
    for invoice in invoices {
        check_sum(invoice)?;
        rows.push(invoice)?;
        for (place, one) in invoice.subscriptions.iter().enumerate() {
            settled.push(invoice, place, one)?;
        }
        for (place, fee) in invoice.fees.iter().enumerate() {
            fees.push(invoice, place, fee)?;
        }
    }
    rows.insert(&mut *conn, provenance).await?;
    settled.insert(&mut *conn).await?;
    fees.insert(conn).await
}

/// Puts the invoice's fees, total and `updated_at` in the place of those that a draft has. What it
/// settles stays. Errors: `NotDraft`, also when it is not there; `Unbalanced`.
pub async fn replace_fees(conn: &mut PgConnection, invoice: &Invoice) -> Result<(), StoreError> {
    check_sum(invoice)?;
    let result = sqlx::query!(
        "UPDATE invoices
         SET total_minor = $3, currency = $4, updated_at = $5
         WHERE organization_id = $1 AND id = $2 AND status = 'draft'",
        invoice.organization as _,
        invoice.id as _,
        invoice.total.minor,
        invoice.total.currency.code(),
        invoice.updated_at,
    )
    .execute(&mut *conn)
    .await?;
    if result.rows_affected() == 0 {
        return Err(StoreError::NotDraft(invoice.id));
    }
    sqlx::query!(
        "DELETE FROM fees WHERE organization_id = $1 AND invoice_id = $2",
        invoice.organization as _,
        invoice.id as _,
    )
    .execute(&mut *conn)
    .await?;
    let mut fees = FeeColumns::default();
    for (place, fee) in invoice.fees.iter().enumerate() {
        fees.push(invoice, place, fee)?;
    }
    fees.insert(conn).await
}

/// Fixes a draft for ever and gives it the customer's next number, which it returns: no number is
/// left out, whatever crashes. What it failed by before is forgotten. Errors: `NotDraft`, also when it
/// is not there.
pub async fn finalize(
    conn: &mut PgConnection,
    organization: OrganizationId,
    invoice: InvoiceId,
    at: Timestamp,
) -> Result<String, StoreError> {
    let mut finalized = finalize_many(&mut *conn, &[(organization, invoice)], at).await?;
    let (_, number) = finalized.pop().ok_or(StoreError::NotDraft(invoice))?;
    billing_failures::clear(conn, &[(organization, Subject::Draft(invoice))]).await?;
    Ok(number)
}

/// Finalizes those of these invoices that are drafts, and returns their numbers. Of one customer,
/// the one due first gets the lower number.
pub async fn finalize_many(
    conn: &mut PgConnection,
    invoices: &[(OrganizationId, InvoiceId)],
    at: Timestamp,
) -> Result<Vec<(InvoiceId, String)>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<InvoiceId>) =
        invoices.iter().copied().unzip();
    // Customers before invoices, as everywhere: the counter is the customer's.
    sqlx::query!(
        "SELECT id
         FROM customers
         WHERE (organization_id, id) IN (
             SELECT i.organization_id, i.customer_id
             FROM invoices i
             WHERE (i.organization_id, i.id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
         )
         ORDER BY organization_id, id
         FOR UPDATE",
        &organizations as _,
        &ids as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    let rows =
        sqlx::query_file!("src/sql/finalize_invoices.sql", &organizations as _, &ids as _, at)
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(|row| (id(row.id), row.number)).collect())
}

#[derive(Default)]
struct InvoiceColumns {
    organization_id: Vec<Uuid>,
    id: Vec<Uuid>,
    customer_id: Vec<Uuid>,
    due_at: Vec<Timestamp>,
    finalize_at: Vec<Timestamp>,
    issuing_date: Vec<chrono::NaiveDate>,
    payment_due_date: Vec<chrono::NaiveDate>,
    total_minor: Vec<i64>,
    currency: Vec<String>,
    created_at: Vec<Timestamp>,
    updated_at: Vec<Timestamp>,
}

impl InvoiceColumns {
    fn push(&mut self, invoice: &Invoice) -> Result<(), StoreError> {
        let InvoiceStatus::Draft { finalize_at } = &invoice.status else {
            return Err(StoreError::NotDraft(invoice.id));
        };
        self.organization_id.push(uuid(invoice.organization.as_u128()));
        self.id.push(uuid(invoice.id.as_u128()));
        self.customer_id.push(uuid(invoice.customer.as_u128()));
        self.due_at.push(invoice.due_at);
        self.finalize_at.push(*finalize_at);
        self.issuing_date.push(invoice.issuing_date);
        self.payment_due_date.push(invoice.payment_due_date);
        self.total_minor.push(invoice.total.minor);
        self.currency.push(invoice.total.currency.code().to_owned());
        self.created_at.push(invoice.created_at);
        self.updated_at.push(invoice.updated_at);
        Ok(())
    }

    async fn insert(
        self,
        conn: &mut PgConnection,
        provenance: Option<Provenance>,
    ) -> Result<(), StoreError> {
        let version = provenance.map(|provenance| provenance.catalog_version);
        let column = "invoices.usage_catalog_version";
        sqlx::query!(
            "INSERT INTO invoices
                 (organization_id, id, customer_id, due_at, finalize_at, issuing_date,
                  payment_due_date, total_minor, currency, created_at, updated_at, status,
                  usage_catalog_version, usage_watermark, true_up_watermark)
             SELECT *, 'draft', $12::bigint, $13::timestamptz, $13
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::timestamptz[],
                 $6::date[], $7::date[], $8::bigint[], $9::text[], $10::timestamptz[],
                 $11::timestamptz[])",
            &self.organization_id,
            &self.id,
            &self.customer_id,
            &self.due_at,
            &self.finalize_at,
            &self.issuing_date,
            &self.payment_due_date,
            &self.total_minor,
            &self.currency,
            &self.created_at,
            &self.updated_at,
            version.map(|version| bigint(column, version)).transpose()?,
            provenance.and_then(|provenance| provenance.watermark),
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct SettledColumns {
    organization_id: Vec<Uuid>,
    invoice_id: Vec<Uuid>,
    subscription_id: Vec<Uuid>,
    position: Vec<i32>,
    due_at: Vec<Timestamp>,
    base_start: Vec<Option<Timestamp>>,
    base_end: Vec<Option<Timestamp>>,
    usage_start: Vec<Option<Timestamp>>,
    usage_end: Vec<Option<Timestamp>>,
    whole_seconds: Vec<Option<i64>>,
    plan_version_id: Vec<Uuid>,
}

impl SettledColumns {
    fn push(
        &mut self,
        invoice: &Invoice,
        place: usize,
        one: &InvoiceSubscription,
    ) -> Result<(), StoreError> {
        self.organization_id.push(uuid(invoice.organization.as_u128()));
        self.invoice_id.push(uuid(invoice.id.as_u128()));
        self.subscription_id.push(uuid(one.subscription.as_u128()));
        self.position.push(position("invoice_subscriptions.position", place)?);
        self.due_at.push(invoice.due_at);
        self.base_start.push(one.base.map(|period| period.start));
        self.base_end.push(one.base.map(|period| period.end));
        self.usage_start.push(one.usage.map(|period| period.start));
        self.usage_end.push(one.usage.map(|period| period.end));
        let column = "invoice_subscriptions.whole_seconds";
        let whole_seconds = one.whole_seconds.map(|seconds| bigint(column, seconds)).transpose()?;
        self.whole_seconds.push(whole_seconds);
        self.plan_version_id.push(uuid(one.plan_version.as_u128()));
        Ok(())
    }

    async fn insert(self, conn: &mut PgConnection) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO invoice_subscriptions
                 (organization_id, invoice_id, subscription_id, position, due_at, base_start,
                  base_end, usage_start, usage_end, plan_version_id, whole_seconds)
             SELECT *
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::timestamptz[],
                 $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[],
                 $10::uuid[], $11::bigint[])",
            &self.organization_id,
            &self.invoice_id,
            &self.subscription_id,
            &self.position,
            &self.due_at,
            &self.base_start as _,
            &self.base_end as _,
            &self.usage_start as _,
            &self.usage_end as _,
            &self.plan_version_id,
            &self.whole_seconds as _,
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct FeeColumns {
    organization_id: Vec<Uuid>,
    id: Vec<Uuid>,
    invoice_id: Vec<Uuid>,
    subscription_id: Vec<Uuid>,
    position: Vec<i32>,
    kind: Vec<String>,
    charge_id: Vec<Option<Uuid>>,
    metric_id: Vec<Option<Uuid>>,
    events: Vec<Option<i64>>,
    filter_id: Vec<Option<Uuid>>,
    group_values: Vec<Option<serde_json::Value>>,
    corrects_fee_id: Vec<Option<Uuid>>,
    name: Vec<String>,
    code: Vec<String>,
    period_start: Vec<Timestamp>,
    period_end: Vec<Timestamp>,
    units: Vec<String>,
    precise_amount: Vec<String>,
    amount_minor: Vec<i64>,
    currency: Vec<String>,
}

impl FeeColumns {
    fn push(&mut self, invoice: &Invoice, place: usize, fee: &Fee) -> Result<(), StoreError> {
        let (kind, slot, events) = match &fee.kind {
            FeeKind::Subscription => ("subscription", None, None),
            FeeKind::Charge { slot, events } => {
                ("charge", Some(slot), Some(bigint("fees.events", *events)?))
            }
            FeeKind::TrueUp { slot, events, .. } => ("true_up", Some(slot), Some(*events)),
        };
        let corrects = match &fee.kind {
            FeeKind::TrueUp { corrects, .. } => *corrects,
            FeeKind::Subscription | FeeKind::Charge { .. } => None,
        };
        let group = slot.map(|slot| &slot.group).filter(|group| !group.is_empty());
        let group = group.map(|group| json("fees.group_values", group)).transpose()?;
        let filter = slot.and_then(|slot| slot.filter);
        self.organization_id.push(uuid(invoice.organization.as_u128()));
        self.id.push(uuid(fee.id.as_u128()));
        self.invoice_id.push(uuid(invoice.id.as_u128()));
        self.subscription_id.push(uuid(fee.subscription.as_u128()));
        self.position.push(position("fees.position", place)?);
        self.kind.push(kind.to_owned());
        self.charge_id.push(slot.map(|slot| uuid(slot.charge.as_u128())));
        self.metric_id.push(slot.map(|slot| uuid(slot.metric.as_u128())));
        self.filter_id.push(filter.map(|filter| uuid(filter.as_u128())));
        self.group_values.push(group);
        self.corrects_fee_id.push(corrects.map(|fee| uuid(fee.as_u128())));
        self.events.push(events);
        self.name.push(fee.name.clone());
        self.code.push(fee.code.clone());
        self.period_start.push(fee.period.start);
        self.period_end.push(fee.period.end);
        // As text: these have more digits than any number type that the driver knows.
        self.units.push(fee.units.to_string());
        self.precise_amount.push(fee.precise.to_string());
        self.amount_minor.push(fee.amount.minor);
        self.currency.push(fee.amount.currency.code().to_owned());
        Ok(())
    }

    async fn insert(self, conn: &mut PgConnection) -> Result<(), StoreError> {
        sqlx::query_file!(
            "src/sql/insert_fees.sql",
            &self.organization_id,
            &self.id,
            &self.invoice_id,
            &self.subscription_id,
            &self.position,
            &self.kind,
            &self.charge_id as _,
            &self.metric_id as _,
            &self.events as _,
            &self.name,
            &self.code,
            &self.period_start,
            &self.period_end,
            &self.units,
            &self.precise_amount,
            &self.amount_minor,
            &self.currency,
            &self.filter_id as _,
            &self.group_values as _,
            &self.corrects_fee_id as _,
        )
        .execute(conn)
        .await?;
        Ok(())
    }
}

fn uuid(bits: u128) -> Uuid {
    Uuid::from_u128(bits)
}
