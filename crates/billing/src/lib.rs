//! Billing rules: what is charged, to whom, for which period. Pure: facts in, decisions out.
//! No clock, no IO, no floats, no hash order.
#![no_std]
#![deny(clippy::float_arithmetic, clippy::cast_possible_truncation, clippy::indexing_slicing)]
extern crate alloc;

pub mod bill;
pub mod book;
pub mod charge;
pub mod check;
pub mod contract;
pub mod customer;
pub mod due;
pub mod error;
mod group;
pub mod invoice;
pub mod line;
pub mod metric;
pub mod period;
pub mod plan;
pub mod price;
pub mod refresh;
pub mod settle;
mod slot;
pub mod subscription;
pub mod true_up;
pub mod usage;

pub use error::BillingError;

/// An instant, in UTC, to the microsecond.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
