//! The usage event: its wire form and checks, its identity, and the log record it travels in.
//!
//! Values in, values out: no clock, no files, no sockets. What is accepted here is what every
//! later stage may rely on; what is refused is refused by the name of its field.

mod content;
mod expression;
mod group;
mod identity;
mod json;
mod known;
mod property;
mod record;
mod rejection;
mod timestamp;
mod wire;

pub use content::content_hash;
pub use expression::{
    EXPRESSION_CHARS_MAX, EXPRESSION_DEPTH_MAX, EvaluationError, EventFields, Expression,
    ExpressionError, ExpressionFault, ExpressionValue,
};
pub use group::{Dimension, GROUP_VALUE_CHARS_MAX, group_of, too_long_for_group};
pub use identity::{EventId, Position, event_id, partition_of};
pub use known::{FirstCopy, KnownIds, KnownIdsError};
pub use property::{Properties, PropertyReader, distinct_of, property, value_of};
pub use record::{
    RECORD_BODY_BYTES_MAX, RECORD_EVENTS_MAX, Record, RecordBody, RecordError, RecordEvent,
    RecordEvents, RecordHeader, cut_into_records, decode_record, encode_record, events_in_record,
};
pub use rejection::{BodyError, Reason, Rejection};
pub use weir_money::{Quantity, QuantityError};
pub use wire::{
    BATCH_EVENTS_MAX, EVENT_BYTES_MAX, Format, NAME_CHARS_MAX, PROPERTIES_DEPTH_MAX, Parsed,
    WireEvent, parse_batch, parse_one, parse_single,
};
