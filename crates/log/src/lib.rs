//! The event log: one trait, and its two places: a local log in the data directory, and Kafka.
//!
//! A record is bytes here. What is in it, who sent it and whether it was seen before is not this
//! crate's business: it keeps records in order, says when they are durable, and gives them back.

mod config;
mod embedded;
mod error;
mod event_log;
mod kafka;
mod metrics;

pub use config::{ConfigError, LogConfig, PARTITIONS_MAX};
pub use embedded::{EmbeddedLog, EmbeddedOptions, NEW_EMBEDDED_PARTITIONS};
pub use error::LogError;
pub use event_log::{Append, EventLog, Stored};
pub use kafka::{ClientProperties, KafkaLog, KafkaOptions};
