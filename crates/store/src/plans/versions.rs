//! Versions of plans and their charges.

use crate::columns::{from_json, from_word, id, integer, json, money, position, unsigned, word};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_billing::charge::Charge;
use weir_billing::plan::PlanVersion;
use weir_ids::{OrganizationId, PlanId, PlanVersionId};

/// Writes a new version of a plan that the caller has locked. Subscriptions stay on theirs; see
/// [`cascade`]. Errors: `Duplicate` (`plan_versions_number_key`, `charges_code_key`);
/// `Violation` of a charge on a metric that is not there.
pub async fn add_version(
    conn: &mut PgConnection,
    organization: OrganizationId,
    version: &PlanVersion,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO plan_versions
             (organization_id, id, plan_id, number, interval, amount_minor, currency,
              pay_in_advance, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        organization as _,
        version.id as _,
        version.plan as _,
        integer("plan_versions.number", version.number)?,
        word("plan_versions.interval", &version.interval)?,
        version.amount.minor,
        version.amount.currency.code(),
        version.pay_in_advance,
        version.created_at,
    )
    .execute(&mut *conn)
    .await?;
    for (place, charge) in version.charges.iter().enumerate() {
        insert_charge(conn, organization, version.id, place, charge).await?;
    }
    Ok(())
}

async fn insert_charge(
    conn: &mut PgConnection,
    organization: OrganizationId,
    version: PlanVersionId,
    place: usize,
    charge: &Charge,
) -> Result<(), StoreError> {
    let model = json("charges.model", &charge.model)?;
    let filters = json("charges.filters", &charge.filters)?;
    sqlx::query!(
        "INSERT INTO charges
             (organization_id, plan_version_id, id, position, code, metric_id,
              invoice_display_name, model, filters, pricing_group_keys)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        organization as _,
        version as _,
        charge.id as _,
        position("charges.position", place)?,
        charge.code,
        charge.metric as _,
        charge.invoice_display_name,
        model,
        filters,
        &charge.pricing_group_keys,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Puts the plan's subscriptions that have not ended by `at` on `version`, from `at` on, or from
/// their start if that is later. Returns how many.
pub async fn cascade(
    conn: &mut PgConnection,
    organization: OrganizationId,
    plan: PlanId,
    version: PlanVersionId,
    at: Timestamp,
) -> Result<u64, StoreError> {
    let result = sqlx::query!(
        "INSERT INTO subscription_plan_versions
             (organization_id, subscription_id, effective_from, plan_version_id)
         SELECT organization_id, id, greatest(started_at, $4), $3
         FROM subscriptions
         WHERE organization_id = $1 AND plan_id = $2 AND (ended_at IS NULL OR ended_at > $4)
         ON CONFLICT (organization_id, subscription_id, effective_from) DO UPDATE
         SET plan_version_id = excluded.plan_version_id",
        organization as _,
        plan as _,
        version as _,
        at,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}

/// The version with this id.
pub async fn find_version(
    conn: &mut PgConnection,
    organization: OrganizationId,
    version: PlanVersionId,
) -> Result<Option<PlanVersion>, StoreError> {
    let found = find_versions(conn, &[(organization, version)]).await?;
    Ok(found.into_values().next().map(Arc::unwrap_or_clone))
}

/// The versions with these ids, of any organization; ids of none are left out.
pub async fn find_versions(
    conn: &mut PgConnection,
    versions: &[(OrganizationId, PlanVersionId)],
) -> Result<BTreeMap<PlanVersionId, Arc<PlanVersion>>, StoreError> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<PlanVersionId>) =
        versions.iter().copied().unzip();
    let rows = sqlx::query_as!(
        VersionRow,
        "SELECT v.id, v.plan_id, v.number, v.interval, v.amount_minor, v.currency,
             v.pay_in_advance, v.created_at
         FROM plan_versions v
         WHERE (v.organization_id, v.id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &ids as _,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut charges = charges(conn, &organizations, &ids).await?;
    rows.into_iter()
        .map(|row| {
            let charges = charges.remove(&row.id).unwrap_or_default();
            row.read(charges).map(|version| (version.id, Arc::new(version)))
        })
        .collect()
}

async fn charges(
    conn: &mut PgConnection,
    organizations: &[OrganizationId],
    versions: &[PlanVersionId],
) -> Result<BTreeMap<Uuid, Vec<Charge>>, StoreError> {
    let rows = sqlx::query!(
        "SELECT c.plan_version_id, c.id, c.code, c.metric_id, c.invoice_display_name, c.model,
             c.filters, c.pricing_group_keys
         FROM charges c
         WHERE (c.organization_id, c.plan_version_id)
             IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
         ORDER BY c.plan_version_id, c.position",
        organizations as _,
        versions as _,
    )
    .fetch_all(conn)
    .await?;
    let mut charges: BTreeMap<Uuid, Vec<Charge>> = BTreeMap::new();
    for row in rows {
        let charge = Charge {
            id: id(row.id),
            code: row.code,
            metric: id(row.metric_id),
            invoice_display_name: row.invoice_display_name,
            model: from_json("charges.model", row.model)?,
            filters: from_json("charges.filters", row.filters)?,
            pricing_group_keys: row.pricing_group_keys,
        };
        charges.entry(row.plan_version_id).or_default().push(charge);
    }
    Ok(charges)
}

struct VersionRow {
    id: Uuid,
    plan_id: Uuid,
    number: i32,
    interval: String,
    amount_minor: i64,
    currency: String,
    pay_in_advance: bool,
    created_at: Timestamp,
}

impl VersionRow {
    fn read(self, charges: Vec<Charge>) -> Result<PlanVersion, StoreError> {
        Ok(PlanVersion {
            id: id(self.id),
            plan: id(self.plan_id),
            number: unsigned("plan_versions.number", self.number)?,
            interval: from_word("plan_versions.interval", &self.interval)?,
            amount: money("plan_versions.amount_minor", self.amount_minor, &self.currency)?,
            pay_in_advance: self.pay_in_advance,
            charges,
            created_at: self.created_at,
        })
    }
}
