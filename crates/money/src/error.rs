//! What can go wrong with money and quantities.

use crate::Currency;
use alloc::string::String;

/// Why an operation on money has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// No ISO 4217 code of a currency with a minor unit.
    #[error("{0:?} is not an ISO 4217 currency code")]
    UnknownCurrency(String),
    /// Two currencies in one sum.
    #[error("{left} and {right} cannot be added")]
    CurrencyMismatch { left: Currency, right: Currency },
    /// A result beyond 2^53 minor units.
    #[error("the amount is beyond 2^53 minor units of {0}")]
    OutOfRange(Currency),
    /// An exact result that needs more than 256 bits or 64 digits after the point.
    #[error("the exact amount has too many digits")]
    TooManyDigits,
    /// A text that is no decimal number.
    #[error("{0:?} is not a decimal number")]
    NotANumber(String),
    /// A unit price below zero.
    #[error("must not be negative")]
    NegativeRate,
    /// A share of nothing, or weights that are all zero.
    #[error("cannot be shared out: the whole is zero")]
    EmptyWhole,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not in the syntax of a JSON number.
    #[error("not a number")]
    NotANumber,
    /// More digits than are kept; nothing is ever rounded away.
    #[error("more than 16 digits before or 12 digits after the point")]
    TooManyDigits,
}
