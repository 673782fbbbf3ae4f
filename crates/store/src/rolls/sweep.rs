//! What rolls have replaced, to be deleted from ClickHouse.

use super::{RollKind, RollState, schedule::with_kinds};
use crate::StoreError;
use crate::columns::{bigint, from_word, id, unsigned};
use sqlx::PgConnection;
use weir_ids::OrganizationId;

/// Rows that nobody reads any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Superseded {
    /// All rows of what the roll computed, in generations before its own.
    Replaced { generation: u64, organization: OrganizationId, kind: RollKind },
    /// All rows of the generation itself: its roll was abandoned.
    Abandoned { generation: u64, organization: OrganizationId },
}

impl Superseded {
    /// The roll's generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        match self {
            Self::Replaced { generation, .. } | Self::Abandoned { generation, .. } => *generation,
        }
    }
}

/// What one call returns at most.
const SWEPT_MAX: i64 = 100;

/// What may be deleted: what was replaced an hour ago or longer, so that no reader that asked
/// before the switch still wants it. Oldest first. Errors: `Corrupt`; nothing is deleted by guess.
pub async fn superseded(conn: &mut PgConnection) -> Result<Vec<Superseded>, StoreError> {
    let rolls = sqlx::query!(
        "SELECT generation, organization_id, kind, metric_id, state
         FROM usage_rolls
         WHERE state IN ('done', 'abandoned') AND swept_at IS NULL
           AND ended_at < clock_timestamp() - interval '1 hour'
         ORDER BY ended_at
         LIMIT $1",
        SWEPT_MAX,
    )
    .fetch_all(&mut *conn)
    .await?;
    with_kinds(conn, rolls, |roll| (roll.generation, &roll.kind, roll.metric_id))
        .await?
        .into_iter()
        .map(|(roll, kind)| {
            let organization = id(roll.organization_id);
            let generation = unsigned("usage_rolls.generation", roll.generation)?;
            match from_word("usage_rolls.state", &roll.state)? {
                RollState::Done => Ok(Superseded::Replaced { generation, organization, kind }),
                RollState::Abandoned => Ok(Superseded::Abandoned { generation, organization }),
                RollState::Waiting | RollState::Rolling => {
                    Err(StoreError::Corrupt { column: "usage_rolls.state", value: roll.state })
                }
            }
        })
        .collect()
}

/// Says that what the roll replaced is deleted.
pub async fn mark_deleted(conn: &mut PgConnection, generation: u64) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE usage_rolls
         SET swept_at = clock_timestamp()
         WHERE generation = $1 AND swept_at IS NULL",
        bigint("usage_rolls.generation", generation)?,
    )
    .execute(conn)
    .await?;
    Ok(())
}
