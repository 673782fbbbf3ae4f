//! ClickHouse: raw events, usage by quarters of an hour, and the engine that `weir up` runs itself.
//!
//! The only place with ClickHouse SQL. A chunk of the log is written by [`ClickHouse::insert_chunk`]
//! under a token that makes its repetition harmless; usage of many subscriptions is read at once
//! by [`ClickHouse::usage`]. Values are exact: fixed point with 12 digits, summed in 76.

mod client;
mod cluster;
pub mod engine;
mod error;
mod event_block;
mod events;
mod generations;
mod insert;
mod late;
mod lists;
mod measures;
mod migrate;
mod options;
mod range;
mod raw;
mod retention;
mod rows;
mod superseded;
mod totals;
mod unions;
mod verify;
mod windows;

pub use client::ClickHouse;
pub use error::UsageError;
pub use event_block::{EventBlock, NewEvent};
pub use events::{EventCursor, EventFilter, EventPage, StoredId, Unmatched};
pub use generations::Generations;
pub use insert::Chunk;
pub use late::{LateBucket, LateQuestion};
pub use measures::{Measure, Measures};
#[doc(hidden)]
pub use migrate::statements_for_cluster;
pub use options::ClickHouseOptions;
pub use range::{EventRange, RangedEvent};
pub use raw::{RAW_EVENTS_MAX, RawScope};
pub use rows::{
    BUCKET_SECONDS, ConflictRow, EventRow, Latest, UsageRow, UsageValueRow, bucket_of,
    storable_micros,
};
pub use superseded::{Superseded, SupersededScope};
pub use totals::{MetricUsage, UsageOverflow};
pub use unions::DistinctUnion;
pub use verify::ChunkRange;
pub use windows::Window;
