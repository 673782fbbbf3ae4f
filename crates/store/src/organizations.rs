//! Tenants of the deployment.

use crate::columns::{from_word, id, integer, unsigned, word};
use crate::error::touched;
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use weir_ids::OrganizationId;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    pub id: OrganizationId,
    /// Unique in the deployment; 1..=255 characters.
    pub name: String,
    /// What its invoice numbers begin with: `ACM-1A2B`.
    pub document_number_prefix: String,
    pub created_at: Timestamp,
}

/// What becomes of usage that arrives for a period whose invoice is final.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LateEvents {
    /// The difference is a line of the next invoice.
    #[default]
    TrueUp,
    /// It is stored and not billed.
    Ignore,
}

/// What a tenant decides about its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OrganizationSettings {
    /// Events without a known metric or subscription are stored, and count once there is one.
    pub lenient: bool,
    pub late_events: LateEvents,
    /// What the edge takes each second, 1 to 2^31 - 1; none: no bound.
    pub events_per_second_max: Option<u32>,
}

impl Organization {
    /// A new organization. Its prefix is the first three letters of the name (ASCII, upper case;
    /// `ORG` without any) and the last four characters of the id.
    #[must_use]
    pub fn new(id: OrganizationId, name: &str, created_at: Timestamp) -> Self {
        let letters: String = name
            .chars()
            .filter(char::is_ascii_alphabetic)
            .take(3)
            .map(|letter| letter.to_ascii_uppercase())
            .collect();
        let letters = if letters.is_empty() { "ORG" } else { letters.as_str() };
        let text = id.to_string();
        let tail = text.get(text.len().saturating_sub(4)..).unwrap_or_default();
        let document_number_prefix = format!("{letters}-{tail}");
        Self { id, name: name.to_owned(), document_number_prefix, created_at }
    }
}

/// Writes a new organization. Errors: `Duplicate` (`organizations_name_key`).
pub async fn insert(
    conn: &mut PgConnection,
    organization: &Organization,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO organizations (id, name, document_number_prefix, created_at)
         VALUES ($1, $2, $3, $4)",
        organization.id as _,
        organization.name,
        organization.document_number_prefix,
        organization.created_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The organization with this id.
pub async fn find(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<Option<Organization>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, name, document_number_prefix, created_at FROM organizations WHERE id = $1",
        organization as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Organization::from))
}

/// The organization with exactly this name.
pub async fn find_by_name(
    conn: &mut PgConnection,
    name: &str,
) -> Result<Option<Organization>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, name, document_number_prefix, created_at FROM organizations WHERE name = $1",
        name
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Organization::from))
}

/// All organizations, oldest first. For operators: not filtered by any.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Organization>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, name, document_number_prefix, created_at
         FROM organizations
         ORDER BY created_at, id"
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Organization::from).collect())
}

/// Gives an organization another name. Errors: `NotFound`; `Duplicate` (`organizations_name_key`).
pub async fn rename(
    conn: &mut PgConnection,
    organization: OrganizationId,
    name: &str,
) -> Result<(), StoreError> {
    let result =
        sqlx::query!("UPDATE organizations SET name = $2 WHERE id = $1", organization as _, name)
            .execute(conn)
            .await?;
    touched(&result)
}

/// What an organization has decided. Errors: `NotFound`.
pub async fn settings(
    conn: &mut PgConnection,
    organization: OrganizationId,
) -> Result<OrganizationSettings, StoreError> {
    let row = sqlx::query!(
        "SELECT lenient, late_events, events_per_second_max FROM organizations WHERE id = $1",
        organization as _
    )
    .fetch_one(conn)
    .await?;
    let events_per_second_max = row
        .events_per_second_max
        .map(|max| unsigned("organizations.events_per_second_max", max))
        .transpose()?;
    Ok(OrganizationSettings {
        lenient: row.lenient,
        late_events: from_word("organizations.late_events", &row.late_events)?,
        events_per_second_max,
    })
}

/// Writes what an organization has decided. Errors: `NotFound`; `Violation` for a bound of 0.
pub async fn set_settings(
    conn: &mut PgConnection,
    organization: OrganizationId,
    settings: &OrganizationSettings,
) -> Result<(), StoreError> {
    let events_per_second_max = settings
        .events_per_second_max
        .map(|max| integer("organizations.events_per_second_max", max))
        .transpose()?;
    let result = sqlx::query!(
        "UPDATE organizations
         SET lenient = $2, ever_lenient = ever_lenient OR $2, late_events = $3,
             events_per_second_max = $4
         WHERE id = $1",
        organization as _,
        settings.lenient,
        word("organizations.late_events", &settings.late_events)?,
        events_per_second_max,
    )
    .execute(conn)
    .await?;
    touched(&result)
}

struct Row {
    id: Uuid,
    name: String,
    document_number_prefix: String,
    created_at: Timestamp,
}

impl From<Row> for Organization {
    fn from(row: Row) -> Self {
        Self {
            id: id(row.id),
            name: row.name,
            document_number_prefix: row.document_number_prefix,
            created_at: row.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_three_letters_and_the_end_of_the_id() {
        let id = OrganizationId::from_u128(0x1_ABCD);
        let prefix =
            |name| Organization::new(id, name, Timestamp::UNIX_EPOCH).document_number_prefix;
        assert!(id.to_string().ends_with("3AYD"), "{id}");
        assert_eq!(prefix("Acme Corp"), "ACM-3AYD");
        assert_eq!(prefix("4 U"), "U-3AYD");
        assert_eq!(prefix("42"), "ORG-3AYD");
        assert_eq!(prefix("Ünal"), "NAL-3AYD");
    }
}
