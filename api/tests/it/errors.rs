//! The table of errors: each has its codes, and its reason is documented.

use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use weir_api::error::{OpError, Violation, http_status};

const DOCUMENT: &str = include_str!("../../../docs/api.md");

fn table() -> Vec<(OpError, Code, u16)> {
    let invalid = || Violation::new("name", "is required");
    vec![
        (OpError::Invalid(vec![invalid()]), Code::InvalidArgument, 400),
        (OpError::unsupported("taxCodes"), Code::InvalidArgument, 400),
        (OpError::OutOfRange(invalid()), Code::OutOfRange, 400),
        (
            OpError::Unauthenticated { reason: "API_KEY_MISSING", message: "x" },
            Code::Unauthenticated,
            401,
        ),
        (OpError::Denied { scope: "plans.write".to_owned() }, Code::PermissionDenied, 403),
        (OpError::not_found("plan", "x"), Code::NotFound, 404),
        (OpError::Duplicate { field: "code", value: "x".to_owned() }, Code::AlreadyExists, 409),
        (OpError::conflict("PLAN_IN_USE", "x"), Code::FailedPrecondition, 409),
        (OpError::Limited { message: "x" }, Code::ResourceExhausted, 429),
        (OpError::internal("secret"), Code::Internal, 500),
        (OpError::Unavailable { message: "x".to_owned() }, Code::Unavailable, 503),
        (OpError::TooSlow, Code::DeadlineExceeded, 504),
    ]
}

#[test]
fn every_error_has_its_codes_and_a_documented_reason() {
    for (error, code, http) in table() {
        let reason = error.reason();
        let retry = matches!(error, OpError::Limited { .. } | OpError::Unavailable { .. });
        let status = Status::from(error);
        assert_eq!((status.code(), http_status(status.code()).as_u16()), (code, http), "{reason}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "weir"));
        assert!(DOCUMENT.contains(&format!("`{reason}`")), "{reason} is not in docs/api.md");
        assert_eq!(status.get_details_retry_info().is_some(), retry, "{reason}");
    }
}

#[test]
fn the_text_of_an_internal_error_stays_inside() {
    let status = Status::from(OpError::internal("password=hunter2"));
    assert!(!status.message().contains("hunter2"));
    assert_eq!(http_status(Code::Unknown), StatusCode::INTERNAL_SERVER_ERROR);
}

/// Reasons are literals, so the sources name them all.
#[test]
fn every_reason_in_the_sources_is_documented() {
    let mut files = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut found = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for word in text.split('"').skip(1).step_by(2) {
            let is_reason = word.contains('_')
                && !word.starts_with('_')
                && !word.ends_with('_')
                && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
                && !["TZ_", "TIMEZONE_", "CLICKHOUSE_", "METRICS_", "DATABASE_", "INGEST_"]
                    .iter()
                    .any(|prefix| word.starts_with(prefix));
            if is_reason {
                found += 1;
                assert!(DOCUMENT.contains(&format!("`{word}`")), "{word} of {}", path.display());
            }
        }
    }
    assert!(found > 15, "only {found} reasons found");
}
