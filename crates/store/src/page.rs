//! Pages of a list in a stable order: by creation, then id.

use crate::{StoreError, Timestamp};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike};
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};
use std::fmt;

/// Items of a page when the request doesn't say.
pub const LIMIT_DEFAULT: u32 = 20;
/// Items of a page at most.
pub const LIMIT_MAX: u32 = 1_000;

/// Some items of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Items of all pages.
    pub total_count: u64,
    /// Where the next page begins; none on the last page.
    pub next_cursor: Option<String>,
}

/// Which items of a list are wanted. Newest first unless `ascending`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Clamped to 1..=1000.
    pub limit: u32,
    pub cursor: Option<Cursor>,
    /// Items to leave out, counted from the cursor or the beginning.
    pub skip: u32,
    pub ascending: bool,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: LIMIT_DEFAULT, cursor: None, skip: 0, ascending: false }
    }
}

/// The last item of a page: the next one begins behind it. Clients keep it as an opaque text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    created_at: Timestamp,
    id: Uuid,
}

/// A text that no list has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this list")]
pub struct CursorError;

impl Cursor {
    /// Reads a cursor as [`Page::next_cursor`] gave it.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (time, id) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        let created_at =
            DateTime::from_timestamp_micros(i64::from_be_bytes(*time)).ok_or(CursorError)?;
        // Postgres' calendar is shorter than an i64.
        if !(0..=9_999).contains(&created_at.year()) {
            return Err(CursorError);
        }
        Ok(Self { created_at, id: Uuid::from_slice(id).map_err(|_| CursorError)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.created_at.timestamp_micros().to_be_bytes();
        f.write_str(&URL_SAFE_NO_PAD.encode([&time[..], self.id.as_bytes()].concat()))
    }
}

impl<T> Page<T> {
    /// The same page with each item made into something else. Errors: the first item's that fails.
    pub fn try_map<U, E>(self, make: impl FnMut(T) -> Result<U, E>) -> Result<Page<U>, E> {
        let items = self.items.into_iter().map(make).collect::<Result<_, _>>()?;
        Ok(Page { items, total_count: self.total_count, next_cursor: self.next_cursor })
    }
}

/// A row that can stand in a list.
pub(crate) trait Listed: for<'r> FromRow<'r, PgRow> + Send + Unpin {
    fn created_at(&self) -> Timestamp;
    fn id(&self) -> Uuid;
}

/// What a list is read from.
pub(crate) struct Source {
    pub columns: &'static str,
    pub table: &'static str,
}

/// Reads one page. `filter` appends the conditions, at least the organization's.
pub(crate) async fn list<R: Listed>(
    conn: &mut PgConnection,
    source: &Source,
    request: &PageRequest,
    filter: &(dyn Fn(&mut QueryBuilder<Postgres>) + Sync),
) -> Result<Page<R>, StoreError> {
    let Source { columns, table } = source;
    let mut count = QueryBuilder::new(format!("SELECT count(*) FROM {table} WHERE "));
    filter(&mut count);
    let total: i64 = count.build_query_scalar().fetch_one(&mut *conn).await?;

    let limit = request.limit.clamp(1, LIMIT_MAX);
    let mut query = QueryBuilder::new(format!("SELECT {columns} FROM {table} WHERE "));
    filter(&mut query);
    if let Some(cursor) = &request.cursor {
        let behind = if request.ascending { ">" } else { "<" };
        query.push(format!(" AND ({table}.created_at, {table}.id) {behind} ("));
        query.push_bind(cursor.created_at).push(", ").push_bind(cursor.id).push(")");
    }
    let direction = if request.ascending { "ASC" } else { "DESC" };
    query.push(format!(" ORDER BY {table}.created_at {direction}, {table}.id {direction} LIMIT "));
    // One more than wanted tells whether there is a next page.
    query.push_bind(i64::from(limit) + 1);
    query.push(" OFFSET ").push_bind(i64::from(request.skip));
    let mut items: Vec<R> = query.build_query_as().fetch_all(&mut *conn).await?;

    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next_cursor = items
        .last()
        .filter(|_| more)
        .map(|last| Cursor { created_at: last.created_at(), id: last.id() }.to_string());
    Ok(Page { items, total_count: u64::try_from(total).unwrap_or(0), next_cursor })
}

/// Appends "one of `columns` contains `text`", in any case.
pub(crate) fn push_search(query: &mut QueryBuilder<Postgres>, columns: &[&str], text: &str) {
    if text.is_empty() {
        return;
    }
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    let pattern = format!("%{escaped}%");
    query.push(" AND (");
    for (place, column) in columns.iter().enumerate() {
        query.push(if place == 0 { "" } else { " OR " });
        query.push(column).push(" ILIKE ").push_bind(pattern.clone());
    }
    query.push(")");
}

/// Appends "`column` is one of `values`", unless there are none.
pub(crate) fn push_any(query: &mut QueryBuilder<Postgres>, column: &str, values: &[String]) {
    if !values.is_empty() {
        query.push(" AND ").push(column).push(" = ANY(").push_bind(values.to_vec()).push(")");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_form() {
        let cursor = Cursor {
            created_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
            id: Uuid::from_u128(u128::MAX - 5),
        };
        assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
    }

    #[test]
    fn other_texts_are_no_cursors() {
        for text in ["", "abc", "!", "AAAAAAAAAAA", &"A".repeat(33), &"f".repeat(32)] {
            assert_eq!(Cursor::parse(text), Err(CursorError), "{text}");
        }
    }
}
