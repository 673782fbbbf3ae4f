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
    let result = sqlx::query!(
        "INSERT INTO event_voids
             (organization_id, transaction_id, external_subscription_id, code, timestamp,
              voided_at, voided_by, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT DO NOTHING",
        void.organization as _,
        void.transaction_id,
        void.external_subscription_id,
        void.code,
        void.timestamp,
        void.voided_at,
        void.voided_by,
        void.reason,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The voids of those of the events that were voided, by transaction id.
pub async fn find_many(
    conn: &mut PgConnection,
    organization: OrganizationId,
    transaction_ids: &[String],
) -> Result<BTreeMap<String, Void>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT organization_id, transaction_id, external_subscription_id, code, timestamp,
             voided_at, voided_by, reason, generation
         FROM event_voids
         WHERE organization_id = $1 AND transaction_id = ANY($2)",
        organization as _,
        transaction_ids,
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
