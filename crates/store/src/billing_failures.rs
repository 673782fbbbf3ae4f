//! Subscriptions and drafts that could not be billed: seen by operators, passed over by the
//! invoicer until it is time to try again.

use crate::columns::{id, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::PgConnection;
use sqlx::types::Uuid;
use std::time::Duration;
use weir_ids::{CustomerId, InvoiceId, OrganizationId, SubscriptionId};

/// What could not be billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Subscription(SubscriptionId),
    Draft(InvoiceId),
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub organization: OrganizationId,
    pub subject: Subject,
    /// When it was due.
    pub due_at: Timestamp,
    /// A word of a closed set.
    pub reason: String,
    /// The error's text.
    pub message: String,
}

/// What is not billed yet, over all attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRecord {
    pub failure: Failure,
    pub attempts: u64,
    /// Real time, as the next two.
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub retry_at: Timestamp,
}

impl Subject {
    const fn word(self) -> &'static str {
        match self {
            Self::Subscription(_) => "subscription",
            Self::Draft(_) => "draft",
        }
    }

    fn uuid(self) -> Uuid {
        Uuid::from_u128(match self {
            Self::Subscription(subscription) => subscription.as_u128(),
            Self::Draft(invoice) => invoice.as_u128(),
        })
    }
}

/// Writes attempts that failed; they are passed over for `retry_after`, by the database's clock.
/// Each subject at most once in a call.
pub async fn record(
    conn: &mut PgConnection,
    failures: &[Failure],
    retry_after: Duration,
) -> Result<(), StoreError> {
    let organizations: Vec<_> = failures.iter().map(|failure| failure.organization).collect();
    let words: Vec<String> =
        failures.iter().map(|failure| failure.subject.word().to_owned()).collect();
    let subjects: Vec<Uuid> = failures.iter().map(|failure| failure.subject.uuid()).collect();
    let due_at: Vec<Timestamp> = failures.iter().map(|failure| failure.due_at).collect();
    let reasons: Vec<String> = failures.iter().map(|failure| failure.reason.clone()).collect();
    let messages: Vec<String> = failures.iter().map(|failure| failure.message.clone()).collect();
    let retry_ms = i64::try_from(retry_after.as_millis()).unwrap_or(i64::MAX);
    sqlx::query!(
        "INSERT INTO billing_failures
             (organization_id, subject, subject_id, due_at, reason, message, retry_at)
         SELECT *, clock_timestamp() + $7::bigint * interval '1 millisecond'
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[])
         ON CONFLICT (organization_id, subject_id) DO UPDATE
         SET due_at = EXCLUDED.due_at, reason = EXCLUDED.reason, message = EXCLUDED.message,
             attempts = billing_failures.attempts + 1, last_at = clock_timestamp(),
             retry_at = EXCLUDED.retry_at",
        &organizations as _,
        &words,
        &subjects,
        &due_at,
        &reasons,
        &messages,
        retry_ms,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets what has been billed meanwhile; most never failed.
pub async fn clear(
    conn: &mut PgConnection,
    billed: &[(OrganizationId, Subject)],
) -> Result<(), StoreError> {
    let organizations: Vec<_> = billed.iter().map(|(organization, _)| *organization).collect();
    let subjects: Vec<Uuid> = billed.iter().map(|(_, subject)| subject.uuid()).collect();
    sqlx::query!(
        "DELETE FROM billing_failures
         WHERE (organization_id, subject_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &subjects,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets what ended subscriptions of these customers failed by, but for those that still do: what was
/// left of them were corrections, and their customers have just been billed. One whose customer is
/// billed no more stays: nobody corrects it but an operator.
pub async fn clear_ended(
    conn: &mut PgConnection,
    billed: &[(OrganizationId, CustomerId)],
    failing: &[Failure],
) -> Result<(), StoreError> {
    let (organizations, customers): (Vec<OrganizationId>, Vec<CustomerId>) =
        billed.iter().copied().unzip();
    let failing: Vec<Uuid> = failing.iter().map(|failure| failure.subject.uuid()).collect();
    sqlx::query!(
        "DELETE FROM billing_failures f
         USING subscription_dues d
         WHERE f.subject = 'subscription' AND f.subject_id <> ALL($3)
           AND d.organization_id = f.organization_id AND d.subscription_id = f.subject_id
           AND d.next_due_at IS NULL
           AND (d.organization_id, d.customer_id)
               IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        &organizations as _,
        &customers as _,
        &failing,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets everything that failed be tried again at once: an operator asks for it.
pub async fn retry_now(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE billing_failures SET retry_at = clock_timestamp()
         WHERE retry_at > clock_timestamp()"
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Everything that could not be billed, longest first. For operators: of all organizations.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<FailureRecord>, StoreError> {
    let rows = sqlx::query!(
        "SELECT organization_id, subject, subject_id, due_at, reason, message, attempts, first_at,
             last_at, retry_at
         FROM billing_failures
         ORDER BY first_at, subject_id"
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let subject = match row.subject.as_str() {
                "draft" => Subject::Draft(id(row.subject_id)),
                _ => Subject::Subscription(id(row.subject_id)),
            };
            Ok(FailureRecord {
                failure: Failure {
                    organization: id(row.organization_id),
                    subject,
                    due_at: row.due_at,
                    reason: row.reason,
                    message: row.message,
                },
                attempts: unsigned("billing_failures.attempts", row.attempts)?,
                first_at: row.first_at,
                last_at: row.last_at,
                retry_at: row.retry_at,
            })
        })
        .collect()
}
