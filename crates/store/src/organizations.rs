//! Tenants of the deployment.

use crate::{StoreError, Timestamp, columns::id};
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
