//! The catalog as the hot path reads it: keys, metrics and subscriptions in memory, kept fresh.
//!
//! Postgres is the truth. Each change there raises the catalog's version; [`Catalog`] follows it
//! and hands out [`Snapshot`]s, each of exactly one version.

mod follow;
mod snapshot;

pub use follow::{Catalog, CatalogError};
pub use snapshot::{ApiKey, Metric, Snapshot, Span};
pub use weir_store::catalog::Aggregation;
