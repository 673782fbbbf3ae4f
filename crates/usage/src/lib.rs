//! ClickHouse: raw events, usage by quarters of an hour, and the engine that `weir up` runs itself.
//!
//! The only place with ClickHouse SQL. A chunk of the log is written by [`ClickHouse::insert_chunk`]
//! under a token that makes its repetition harmless; usage of many subscriptions is read at once
//! by [`ClickHouse::usage`]. Values are exact: fixed point with 12 digits, summed in 76.

mod client;
pub mod engine;
mod error;
mod events;
mod insert;
mod migrate;
mod options;
mod rows;
mod totals;

pub use client::ClickHouse;
pub use error::UsageError;
pub use events::{EventCursor, EventFilter, EventPage, StoredId};
pub use insert::Chunk;
pub use options::ClickHouseOptions;
pub use rows::{BUCKET_SECONDS, ConflictRow, EventRow, Latest, UsageRow, UsageValueRow, bucket_of};
pub use totals::{MetricUsage, UsageOverflow, Window};
