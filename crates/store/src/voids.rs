//! Events that were voided: they count as if they had never come.

use crate::columns::{id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use std::collections::BTreeMap;
use weir_ids::OrganizationId;

/// A voided event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    pub organization: OrganizationId,
    pub transaction_id: String,
    /// The event's own, as the next two.
    pub external_subscription_id: String,
    pub code: String,
    pub timestamp: Timestamp,
    pub voided_at: Timestamp,
    /// Who did it: 1 to 255 characters.
    pub voided_by: String,
    /// Why: 1 to 1000 characters.
    pub reason: Option<String>,
    /// The first generation without the event; none: its usage is still to be computed again.
    pub generation: Option<u64>,
}

/// Voids an event. One that was voided before stays as it was. True: it was not.
pub async fn insert(conn: &mut PgConnection, void: &Void) -> Result<bool, StoreError> {
    Ok(insert_many(conn, std::slice::from_ref(void)).await? == 1)
}

/// Voids events, each as [`insert`] does; how many were not voided before. Those of one transaction
/// and one `voided_at` are taken out of usage by one roll.
pub async fn insert_many(conn: &mut PgConnection, voids: &[Void]) -> Result<u64, StoreError> {
    let column = |of: fn(&Void) -> &str| voids.iter().map(|void| of(void).to_owned()).collect();
    let organizations: Vec<_> = voids.iter().map(|void| void.organization).collect();
    let ids: Vec<String> = column(|void| &void.transaction_id);
    let external_ids: Vec<String> = column(|void| &void.external_subscription_id);
    let codes: Vec<String> = column(|void| &void.code);
    let timestamps: Vec<_> = voids.iter().map(|void| void.timestamp).collect();
    let voided_at: Vec<_> = voids.iter().map(|void| void.voided_at).collect();
    let voided_by: Vec<String> = column(|void| &void.voided_by);
    let reasons: Vec<_> = voids.iter().map(|void| void.reason.clone()).collect();
    let result = sqlx::query!(
        "INSERT INTO event_voids
             (organization_id, transaction_id, external_subscription_id, code, timestamp,
              voided_at, voided_by, reason)
         SELECT *
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[],
             $6::timestamptz[], $7::text[], $8::text[])
         ON CONFLICT DO NOTHING",
        &organizations as _,
        &ids,
        &external_ids,
        &codes,
        &timestamps,
        &voided_at,
        &voided_by,
        &reasons as _,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected())
}

/// Lets nobody else pass here for the same subscription's name until the transaction ends.
pub async fn lock(
    conn: &mut PgConnection,
    organization: OrganizationId,
    external_subscription_id: &str,
) -> Result<(), StoreError> {
    let name = format!("{organization} {external_subscription_id}");
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name)
        .execute(conn)
        .await?;
    Ok(())
}

/// The voids of those of the events that were voided, by transaction id. Ids of any text.
pub async fn find_many(
    conn: &mut PgConnection,
    organization: OrganizationId,
    transaction_ids: &[String],
) -> Result<BTreeMap<String, Void>, StoreError> {
    // Postgres can't hold the others, so none of them was voided.
    let transaction_ids: Vec<String> =
        transaction_ids.iter().filter(|id| !id.contains('\0')).cloned().collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT organization_id, transaction_id, external_subscription_id, code, timestamp,
             voided_at, voided_by, reason, generation
         FROM event_voids
         WHERE organization_id = $1 AND transaction_id = ANY($2)",
        organization as _,
        &transaction_ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|row| row.read().map(|void| (void.transaction_id.clone(), void))).collect()
}

struct Row {
    organization_id: Uuid,
    transaction_id: String,
    external_subscription_id: String,
    code: String,
    timestamp: Timestamp,
    voided_at: Timestamp,
    voided_by: String,
    reason: Option<String>,
    generation: Option<i64>,
}

impl Row {
    fn read(self) -> Result<Void, StoreError> {
        let generation = self
            .generation
            .map(|generation| unsigned("event_voids.generation", generation))
            .transpose()?;
        Ok(Void {
            organization: id(self.organization_id),
            transaction_id: self.transaction_id,
            external_subscription_id: self.external_subscription_id,
            code: self.code,
            timestamp: self.timestamp,
            voided_at: self.voided_at,
            voided_by: self.voided_by,
            reason: self.reason,
            generation,
        })
    }
}
