//! Pages of a list: from the request's `pagination` and `sort` to what the store takes.

use crate::error::{OpError, Violation};
use weir_proto::v2;
use weir_store::{Cursor, LIMIT_DEFAULT, LIMIT_MAX, PageRequest};

/// The most rows that `skip` leaves out: beyond that a cursor is the cheaper way.
const SKIP_MAX: u64 = 100_000;

/// Which page of a list in the order of creation is wanted; newest first unless `sort` says else.
pub fn page_request(
    pagination: Option<&v2::Pagination>,
    sort: Option<&v2::Sort>,
) -> Result<PageRequest, OpError> {
    let absent = v2::Pagination::default();
    let pagination = pagination.unwrap_or(&absent);
    let cursor = pagination.cursor.as_deref().filter(|text| !text.is_empty());
    let cursor = cursor.map(Cursor::parse).transpose();
    let cursor = cursor.map_err(|error| cursor_invalid(error.to_string()))?;
    Ok(PageRequest {
        limit: limit(pagination)?,
        cursor,
        skip: skip(pagination)?,
        ascending: ascending(sort)?,
    })
}

/// Rows of a page.
pub fn limit(pagination: &v2::Pagination) -> Result<u32, OpError> {
    match u32::try_from(pagination.limit) {
        Ok(0) => Ok(LIMIT_DEFAULT),
        Ok(limit) if limit <= LIMIT_MAX => Ok(limit),
        _ => Err(OpError::invalid("pagination.limit", format!("must be at most {LIMIT_MAX}"))),
    }
}

/// A cursor that no list has given out.
pub fn cursor_invalid(message: impl Into<String>) -> OpError {
    OpError::OutOfRange(Violation::new("pagination.cursor", message))
}

fn skip(pagination: &v2::Pagination) -> Result<u32, OpError> {
    let skip = pagination.skip.unwrap_or(0);
    if skip > 0 && pagination.cursor.is_some() {
        return Err(OpError::invalid("pagination.skip", "can't stand beside a cursor"));
    }
    let too_far =
        || OpError::invalid("pagination.skip", format!("must be at most {SKIP_MAX}: use a cursor"));
    if skip > SKIP_MAX {
        return Err(too_far());
    }
    u32::try_from(skip).map_err(|_| too_far())
}

fn ascending(sort: Option<&v2::Sort>) -> Result<bool, OpError> {
    match sort.map_or(&[][..], |sort| &sort.rules) {
        [] => Ok(false),
        [rule] => Ok(rule.created_at() == v2::SortDirection::Ascending),
        _ => Err(OpError::invalid("sort.rules", "takes one rule")),
    }
}

/// Whether a list shall hold more than its rows' own fields.
pub fn is_full(view: v2::View) -> bool {
    view == v2::View::Full
}
