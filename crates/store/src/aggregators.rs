//! Which aggregators run, so that they can share the partitions evenly.

use crate::{StoreError, partitions::millis};
use sqlx::PgConnection;
use std::time::Duration;

/// Says that `owner` runs. Returns the owners that said so within `seen_within` (the caller among
/// them), in order of their names; those not heard of for a day are forgotten.
pub async fn heartbeat(
    conn: &mut PgConnection,
    owner: &str,
    seen_within: Duration,
) -> Result<Vec<String>, StoreError> {
    sqlx::query!(
        "INSERT INTO aggregators (owner) VALUES ($1)
         ON CONFLICT (owner) DO UPDATE SET seen_at = clock_timestamp()",
        owner
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM aggregators WHERE seen_at < clock_timestamp() - interval '1 day'")
        .execute(&mut *conn)
        .await?;
    Ok(sqlx::query_scalar!(
        r#"SELECT owner
           FROM aggregators
           WHERE seen_at > clock_timestamp() - $1::bigint * interval '1 millisecond'
           ORDER BY owner COLLATE "C""#,
        millis(seen_within)?,
    )
    .fetch_all(conn)
    .await?)
}

/// Says that `owner` stops. Nothing happens when it was not there.
pub async fn leave(conn: &mut PgConnection, owner: &str) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM aggregators WHERE owner = $1", owner).execute(conn).await?;
    Ok(())
}
