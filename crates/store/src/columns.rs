//! Between columns and domain values. A value that does not fit is an error on either way.

use crate::StoreError;
use sqlx::types::Uuid;
use std::fmt::Display;
use std::str::FromStr;
use weir_money::{Currency, Money};

/// The id in a `uuid` column.
pub(crate) fn id<I: From<u128>>(uuid: Uuid) -> I {
    I::from(uuid.as_u128())
}

/// A count, position or version for a `bigint` column.
pub(crate) fn bigint(column: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange { column, value: value.to_string() })
}

/// A count or number for an `integer` column.
pub(crate) fn integer(column: &'static str, value: u32) -> Result<i32, StoreError> {
    i32::try_from(value).map_err(|_| StoreError::OutOfRange { column, value: value.to_string() })
}

/// A place in a list for an `integer` column.
pub(crate) fn position(column: &'static str, index: usize) -> Result<i32, StoreError> {
    i32::try_from(index).map_err(|_| StoreError::OutOfRange { column, value: index.to_string() })
}

/// What an integer column holds, as an unsigned number.
pub(crate) fn unsigned<N, U>(column: &'static str, value: N) -> Result<U, StoreError>
where
    N: Copy + Display,
    U: TryFrom<N>,
{
    U::try_from(value).map_err(|_| StoreError::Corrupt { column, value: value.to_string() })
}

/// What a text column holds: a number, a time zone, a currency.
pub(crate) fn parsed<T: FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { column, value: text.to_owned() })
}

/// A pair of columns, minor units and currency.
pub(crate) fn money(column: &'static str, minor: i64, currency: &str) -> Result<Money, StoreError> {
    Money::new(minor, parsed::<Currency>(column, currency)?)
        .map_err(|_| StoreError::Corrupt { column, value: minor.to_string() })
}

/// An enum written in snake case, as serde writes it.
pub(crate) fn word<T: serde::Serialize>(
    column: &'static str,
    value: &T,
) -> Result<String, StoreError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => Ok(text),
        other => Err(StoreError::OutOfRange { column, value: format!("{other:?}") }),
    }
}

/// Like [`word`], of what may be absent.
pub(crate) fn optional_word<T: serde::Serialize>(
    column: &'static str,
    value: Option<&T>,
) -> Result<Option<String>, StoreError> {
    value.map(|value| word(column, value)).transpose()
}

/// An enum read from its snake case word.
pub(crate) fn from_word<T: serde::de::DeserializeOwned>(
    column: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| StoreError::Corrupt { column, value: text.to_owned() })
}

/// A value for a `jsonb` column.
pub(crate) fn json<T: serde::Serialize>(
    column: &'static str,
    value: &T,
) -> Result<serde_json::Value, StoreError> {
    serde_json::to_value(value)
        .map_err(|error| StoreError::OutOfRange { column, value: error.to_string() })
}

/// What a `jsonb` column holds. By way of a `Value`: with numbers of any length, a tagged enum can't
/// be read directly.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(
    column: &'static str,
    value: serde_json::Value,
) -> Result<T, StoreError> {
    let text = value.to_string();
    serde_json::from_value(value).map_err(|_| StoreError::Corrupt { column, value: text })
}
