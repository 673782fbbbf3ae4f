//! Exact money and usage arithmetic: currencies, amounts, unit prices, quantities, rounding, splitting.
//!
//! Nothing here rounds unless its name says so, nothing wraps, and nothing passes through a float.
#![no_std]
#![deny(clippy::float_arithmetic, clippy::cast_possible_truncation, clippy::indexing_slicing)]
extern crate alloc;

mod allocate;
mod amount;
mod currency;
mod digits;
mod error;
mod money;
mod quantity;
mod rate;

pub use allocate::allocate;
pub use amount::{Amount, Rounding, Share};
pub use currency::Currency;
pub use error::{MoneyError, QuantityError};
pub use money::Money;
pub use quantity::Quantity;
pub use rate::Rate;
