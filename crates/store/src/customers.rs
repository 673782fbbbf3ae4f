//! Customers: who is billed.

use crate::columns::{id, parsed, unsigned};
use crate::error::touched;
use crate::page::{self, Listed, Source, push_any, push_search};
use crate::{Page, PageRequest, StoreError, Timestamp};
use sqlx::types::Uuid;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use std::collections::BTreeMap;
use weir_billing::customer::{Customer, CustomerDetails};
use weir_ids::{CustomerId, OrganizationId};
use weir_money::Currency;

/// Which customers a list shows: those that meet every condition given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomerFilter {
    /// ISO 3166-1 alpha-2, any of them; all when empty.
    pub countries: Vec<String>,
    /// Any of them; all when empty.
    pub currencies: Vec<Currency>,
    /// Found in a name, the external id or the e-mail address, in any case.
    pub text: String,
    /// Archived ones too.
    pub with_deleted: bool,
}

const SOURCE: Source = Source {
    columns: "organization_id, id, external_id, sequential_id, name, firstname, lastname, email, \
              phone, url, legal_name, legal_number, tax_identification_number, address_line1, \
              address_line2, city, state, zipcode, country, currency, timezone, \
              invoice_grace_period_days, net_payment_term_days, created_at, updated_at, deleted_at",
    table: "customers",
};

macro_rules! select {
    ($rest:tt, $($arg:expr),+) => {
        sqlx::query_as!(
            Row,
            "SELECT organization_id, id, external_id, sequential_id, name, firstname, lastname,
                 email, phone, url, legal_name, legal_number, tax_identification_number,
                 address_line1, address_line2, city, state, zipcode, country, currency, timezone,
                 invoice_grace_period_days, net_payment_term_days, created_at, updated_at,
                 deleted_at
             FROM customers " + $rest,
            $($arg),+
        )
    };
}

/// Writes a new customer and gives it the organization's next `sequential_id`, whatever the
/// argument says; returns it with that. Errors: `Duplicate` (`customers_external_id_key`);
/// `NotFound` without the organization.
pub async fn insert(conn: &mut PgConnection, customer: Customer) -> Result<Customer, StoreError> {
    let details = &customer.details;
    let sequential_id = sqlx::query_scalar!(
        "WITH counter AS (
             UPDATE organizations
             SET customer_sequence = customer_sequence + 1
             WHERE id = $1
             RETURNING customer_sequence
         )
         INSERT INTO customers
             (organization_id, id, external_id, sequential_id, name, firstname, lastname, email,
              phone, url, legal_name, legal_number, tax_identification_number, address_line1,
              address_line2, city, state, zipcode, country, currency, timezone,
              invoice_grace_period_days, net_payment_term_days, created_at, updated_at, deleted_at)
         SELECT $1, $2, $3, customer_sequence, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
             $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25
         FROM counter
         RETURNING sequential_id",
        customer.organization as _,
        customer.id as _,
        customer.external_id,
        details.name,
        details.firstname,
        details.lastname,
        details.email,
        details.phone,
        details.url,
        details.legal_name,
        details.legal_number,
        details.tax_identification_number,
        details.address_line1,
        details.address_line2,
        details.city,
        details.state,
        details.zipcode,
        details.country,
        details.currency.as_ref().map(Currency::code),
        details.timezone.map(chrono_tz::Tz::name),
        details.invoice_grace_period_days.map(i32::from),
        details.net_payment_term_days.map(i32::from),
        customer.created_at,
        customer.updated_at,
        customer.deleted_at,
    )
    .fetch_one(conn)
    .await?;
    Ok(Customer { sequential_id: unsigned("customers.sequential_id", sequential_id)?, ..customer })
}

/// Writes what may change of a customer. Errors: `NotFound`; `Duplicate`
/// (`customers_external_id_key`).
pub async fn save(conn: &mut PgConnection, customer: &Customer) -> Result<(), StoreError> {
    let details = &customer.details;
    let result = sqlx::query!(
        "UPDATE customers
         SET external_id = $3, name = $4, firstname = $5, lastname = $6, email = $7, phone = $8,
             url = $9, legal_name = $10, legal_number = $11, tax_identification_number = $12,
             address_line1 = $13, address_line2 = $14, city = $15, state = $16, zipcode = $17,
             country = $18, currency = $19, timezone = $20, invoice_grace_period_days = $21,
             net_payment_term_days = $22, updated_at = $23
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        customer.organization as _,
        customer.id as _,
        customer.external_id,
        details.name,
        details.firstname,
        details.lastname,
        details.email,
        details.phone,
        details.url,
        details.legal_name,
        details.legal_number,
        details.tax_identification_number,
        details.address_line1,
        details.address_line2,
        details.city,
        details.state,
        details.zipcode,
        details.country,
        details.currency.as_ref().map(Currency::code),
        details.timezone.map(chrono_tz::Tz::name),
        details.invoice_grace_period_days.map(i32::from),
        details.net_payment_term_days.map(i32::from),
        customer.updated_at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// The customer with this id, also an archived one.
pub async fn find(
    conn: &mut PgConnection,
    organization: OrganizationId,
    customer: CustomerId,
) -> Result<Option<Customer>, StoreError> {
    select!("WHERE organization_id = $1 AND id = $2", organization as _, customer as _)
        .fetch_optional(conn)
        .await?
        .map(Row::read)
        .transpose()
}

/// Like [`find`], and nobody else changes it, bills it or finalizes its invoices before this
/// transaction ends.
pub async fn lock(
    conn: &mut PgConnection,
    organization: OrganizationId,
    customer: CustomerId,
) -> Result<Option<Customer>, StoreError> {
    select!("WHERE organization_id = $1 AND id = $2 FOR UPDATE", organization as _, customer as _)
        .fetch_optional(conn)
        .await?
        .map(Row::read)
        .transpose()
}

/// The customer with this external id that is not archived.
pub async fn find_by_external_id(
    conn: &mut PgConnection,
    organization: OrganizationId,
    external_id: &str,
) -> Result<Option<Customer>, StoreError> {
    select!(
        "WHERE organization_id = $1 AND external_id = $2 AND deleted_at IS NULL",
        organization as _,
        external_id
    )
    .fetch_optional(conn)
    .await?
    .map(Row::read)
    .transpose()
}

/// The customers with these ids, also archived ones; ids of none are left out.
pub async fn find_many(
    conn: &mut PgConnection,
    organization: OrganizationId,
    customers: &[CustomerId],
) -> Result<BTreeMap<CustomerId, Customer>, StoreError> {
    let keys: Vec<_> = customers.iter().map(|customer| (organization, *customer)).collect();
    find_all(conn, &keys).await
}

/// The customers with these ids, of any organization.
pub(crate) async fn find_all(
    conn: &mut PgConnection,
    customers: &[(OrganizationId, CustomerId)],
) -> Result<BTreeMap<CustomerId, Customer>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<CustomerId>) =
        customers.iter().copied().unzip();
    let rows = select!(
        "WHERE (organization_id, id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &ids as _
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| row.read().map(|customer| (customer.id, customer))).collect()
}

/// A page of an organization's customers.
pub async fn list(
    conn: &mut PgConnection,
    organization: OrganizationId,
    filter: &CustomerFilter,
    request: &PageRequest,
) -> Result<Page<Customer>, StoreError> {
    let currencies: Vec<String> =
        filter.currencies.iter().map(|currency| currency.code().to_owned()).collect();
    let conditions = |query: &mut QueryBuilder<Postgres>| {
        query.push("organization_id = ").push_bind(organization);
        push_any(query, "country", &filter.countries);
        push_any(query, "currency", &currencies);
        let searched = ["name", "firstname", "lastname", "legal_name", "external_id", "email"];
        push_search(query, &searched, &filter.text);
        if !filter.with_deleted {
            query.push(" AND deleted_at IS NULL");
        }
    };
    page::list::<Row>(conn, &SOURCE, request, &conditions).await?.try_map(Row::read)
}

/// Archives a customer; its external id is free again. Errors: `NotFound`, also when archived
/// already.
pub async fn archive(
    conn: &mut PgConnection,
    organization: OrganizationId,
    customer: CustomerId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query!(
        "UPDATE customers
         SET deleted_at = $3, updated_at = $3
         WHERE organization_id = $1 AND id = $2 AND deleted_at IS NULL",
        organization as _,
        customer as _,
        at,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

/// How many subscriptions of each of these customers are active at `now`; 0 is left out.
pub async fn active_subscriptions(
    conn: &mut PgConnection,
    organization: OrganizationId,
    customers: &[CustomerId],
    now: Timestamp,
) -> Result<BTreeMap<CustomerId, u64>, StoreError> {
    sqlx::query!(
        r#"SELECT customer_id, count(*) AS "active!"
           FROM subscriptions
           WHERE organization_id = $1 AND customer_id = ANY($2::uuid[]) AND started_at <= $3
             AND (ended_at IS NULL OR ended_at > $3)
           GROUP BY customer_id"#,
        organization as _,
        customers as _,
        now,
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| Ok((id(row.customer_id), unsigned("subscriptions", row.active)?)))
    .collect()
}

#[derive(sqlx::FromRow)]
struct Row {
    organization_id: Uuid,
    id: Uuid,
    external_id: String,
    sequential_id: i64,
    name: Option<String>,
    firstname: Option<String>,
    lastname: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    url: Option<String>,
    legal_name: Option<String>,
    legal_number: Option<String>,
    tax_identification_number: Option<String>,
    address_line1: Option<String>,
    address_line2: Option<String>,
    city: Option<String>,
    state: Option<String>,
    zipcode: Option<String>,
    country: Option<String>,
    currency: Option<String>,
    timezone: Option<String>,
    invoice_grace_period_days: Option<i32>,
    net_payment_term_days: Option<i32>,
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
    fn read(self) -> Result<Customer, StoreError> {
        let days = |column, days: Option<i32>| days.map(|days| unsigned(column, days)).transpose();
        Ok(Customer {
            id: id(self.id),
            organization: id(self.organization_id),
            external_id: self.external_id,
            sequential_id: unsigned("customers.sequential_id", self.sequential_id)?,
            details: CustomerDetails {
                name: self.name,
                firstname: self.firstname,
                lastname: self.lastname,
                email: self.email,
                phone: self.phone,
                url: self.url,
                legal_name: self.legal_name,
                legal_number: self.legal_number,
                tax_identification_number: self.tax_identification_number,
                address_line1: self.address_line1,
                address_line2: self.address_line2,
                city: self.city,
                state: self.state,
                zipcode: self.zipcode,
                country: self.country,
                currency: self
                    .currency
                    .map(|code| parsed("customers.currency", &code))
                    .transpose()?,
                timezone: self
                    .timezone
                    .map(|name| parsed("customers.timezone", &name))
                    .transpose()?,
                invoice_grace_period_days: days(
                    "customers.invoice_grace_period_days",
                    self.invoice_grace_period_days,
                )?,
                net_payment_term_days: days(
                    "customers.net_payment_term_days",
                    self.net_payment_term_days,
                )?,
            },
            created_at: self.created_at,
            updated_at: self.updated_at,
            deleted_at: self.deleted_at,
        })
    }
}
