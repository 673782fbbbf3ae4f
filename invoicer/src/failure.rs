//! What could not be billed: counted, logged once per attempt, and written where operators look.

use crate::metrics;
use weir_billing::{BillingError, Timestamp};
use weir_ids::OrganizationId;
use weir_store::{
    StoreError,
    billing_failures::{Failure, Subject},
};

/// A subject that the rules can't bill.
pub(crate) fn of_rules(
    organization: OrganizationId,
    subject: Subject,
    due_at: Timestamp,
    error: &BillingError,
) -> Failure {
    let reason = metrics::reason(error);
    noted(Failure {
        organization,
        subject,
        due_at,
        reason: reason.to_owned(),
        message: error.to_string(),
    })
}

/// A subject whose invoice the database refused.
pub(crate) fn of_store(
    organization: OrganizationId,
    subject: Subject,
    due_at: Timestamp,
    error: &StoreError,
) -> Failure {
    let reason = metrics::REFUSED_BY_STORE.to_owned();
    noted(Failure { organization, subject, due_at, reason, message: error.to_string() })
}

fn noted(failure: Failure) -> Failure {
    metrics::failed(&failure.reason);
    tracing::error!(
        organization.id = %failure.organization,
        subject = ?failure.subject,
        due_at = %failure.due_at,
        reason = failure.reason,
        message = failure.message,
        "cannot be billed"
    );
    failure
}
