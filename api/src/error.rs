//! The only table of errors: what went wrong, as gRPC and as HTTP.

use crate::request_id;
use http::StatusCode;
use std::{collections::HashMap, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// Whose reasons these are, in `ErrorInfo.domain`.
pub const DOMAIN: &str = "weir";

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the JSON request: `charges[0].properties.amount`.
    pub field: String,
    pub message: String,
}

impl Violation {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// A field, or a value of it, that the reference has and we don't have yet.
    pub fn unsupported(field: impl Into<String>) -> Self {
        Self::new(field, "not supported yet")
    }
}

/// Why a request was not done. Nothing of it was written.
#[derive(Debug, thiserror::Error)]
pub enum OpError {
    /// Fields that can't be taken as they are.
    #[error("{}", summary(.0))]
    Invalid(Vec<Violation>),
    /// A cursor or a page that does not exist.
    #[error("{}: {}", .0.field, .0.message)]
    OutOfRange(Violation),
    #[error("{message}")]
    Unauthenticated { reason: &'static str, message: &'static str },
    /// The key lacks this scope.
    #[error("the API key lacks the scope {scope}")]
    Denied { scope: String },
    /// No such entity, or one of another organization.
    #[error("no {kind} {id}")]
    NotFound { kind: &'static str, id: String },
    #[error("{field} {value:?} is taken")]
    Duplicate { field: &'static str, value: String },
    /// The entities are in a state that forbids it.
    #[error("{message}")]
    Conflict { reason: &'static str, message: String },
    /// Too much at once.
    #[error("{message}")]
    Limited { message: &'static str },
    #[error("took too long; nothing was promised, look before trying again")]
    TooSlow,
    /// Try again.
    #[error("{message}")]
    Unavailable { message: String },
    /// A defect or a broken database: the text is for the log only.
    #[error("internal: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl OpError {
    /// One field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, message)])
    }

    pub fn unsupported(field: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::unsupported(field)])
    }

    pub fn not_found(kind: &'static str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }

    pub fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict { reason, message: message.into() }
    }

    pub fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(error.into())
    }

    /// The gRPC code. The HTTP code follows from it: [`http_status`].
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::OutOfRange(_) => Code::OutOfRange,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::Denied { .. } => Code::PermissionDenied,
            Self::NotFound { .. } => Code::NotFound,
            Self::Duplicate { .. } => Code::AlreadyExists,
            Self::Conflict { .. } => Code::FailedPrecondition,
            Self::Limited { .. } => Code::ResourceExhausted,
            Self::TooSlow => Code::DeadlineExceeded,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }

    /// The stable, documented reason in `ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid(violations) => {
                let unsupported = Violation::unsupported("").message;
                match violations.iter().all(|violation| violation.message == unsupported) {
                    true => "NOT_SUPPORTED_YET",
                    false => "FIELD_INVALID",
                }
            }
            Self::OutOfRange(_) => "CURSOR_INVALID",
            Self::Unauthenticated { reason, .. } | Self::Conflict { reason, .. } => reason,
            Self::Denied { .. } => "SCOPE_MISSING",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Duplicate { .. } => "ALREADY_EXISTS",
            Self::Limited { .. } => "TOO_MANY_REQUESTS",
            Self::TooSlow => "DEADLINE_EXCEEDED",
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn violations(&self) -> Vec<Violation> {
        match self {
            Self::Invalid(violations) => violations.clone(),
            Self::OutOfRange(violation) => vec![violation.clone()],
            Self::Duplicate { field, .. } => vec![Violation::new(*field, "is taken")],
            _ => Vec::new(),
        }
    }
}

fn summary(violations: &[Violation]) -> String {
    match violations {
        [] => "the request is invalid".to_owned(),
        [one] => format!("{}: {}", one.field, one.message),
        [first, rest @ ..] => {
            format!("{}: {} (and {} more)", first.field, first.message, rest.len())
        }
    }
}

impl From<OpError> for Status {
    fn from(error: OpError) -> Self {
        let message = match &error {
            OpError::Internal(source) => {
                tracing::error!(error = %source, "a request failed");
                "something is broken on our side; the request id finds it in the log".to_owned()
            }
            other => other.to_string(),
        };
        let mut details = details(error.reason());
        if let OpError::Denied { scope } = &error {
            let metadata = HashMap::from([("scope".to_owned(), scope.clone())]);
            details.set_error_info(error.reason(), DOMAIN, metadata);
        }
        let violations = error.violations();
        if !violations.is_empty() {
            let violations = violations.into_iter();
            details.set_bad_request(
                violations
                    .map(|one| FieldViolation::new(one.field, one.message))
                    .collect::<Vec<_>>(),
            );
        }
        if matches!(error, OpError::Limited { .. } | OpError::Unavailable { .. }) {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Status::with_error_details(error.code(), message, details)
    }
}

/// What `Retry-After` and `RetryInfo` say. A second: most such states end within it.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Details that hold the reason and, within a request, its id. Directly for errors that no
/// operation makes: an unknown route.
#[must_use]
pub fn details(reason: &str) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, HashMap::new());
    if let Some(id) = request_id::current() {
        details.set_request_info(id, "");
    }
    details
}

/// The HTTP status of a gRPC code.
#[must_use]
pub const fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

impl From<weir_store::StoreError> for OpError {
    /// What the operations did not expect of the store and so did not name themselves.
    fn from(error: weir_store::StoreError) -> Self {
        use weir_store::StoreError;
        match error {
            error if error.is_retryable() => {
                tracing::warn!(error = %error, source = ?std::error::Error::source(&error), "store");
                Self::Unavailable { message: "the database does not answer: try again".to_owned() }
            }
            StoreError::NotDraft(invoice) => {
                Self::conflict("INVOICE_NOT_DRAFT", format!("invoice {invoice} is final"))
            }
            other => {
                let source = std::error::Error::source(&other).map(ToString::to_string);
                Self::internal(format!("{other}: {}", source.unwrap_or_default()))
            }
        }
    }
}

impl From<weir_usage::UsageError> for OpError {
    fn from(error: weir_usage::UsageError) -> Self {
        match error {
            weir_usage::UsageError::Cursor(_) => {
                Self::OutOfRange(Violation::new("pagination.cursor", "not a cursor of this list"))
            }
            error if error.is_retryable() => {
                tracing::warn!(error = %error, "usage");
                Self::Unavailable { message: "usage does not answer: try again".to_owned() }
            }
            other => Self::internal(other),
        }
    }
}

impl From<weir_billing::BillingError> for OpError {
    /// The facts can't be billed: the caller's data, told by name.
    fn from(error: weir_billing::BillingError) -> Self {
        Self::conflict("NOT_BILLABLE", error.to_string())
    }
}
