//! The catalog as the hot path reads it: keys, metrics, subscriptions and settings in memory, kept
//! fresh.
//!
//! Postgres is the truth. Each change there raises the catalog's version; [`Catalog`] follows it
//! and hands out [`Snapshot`]s, each of exactly one version.

mod follow;
mod measure;
mod snapshot;
mod targets;

pub use follow::{Catalog, CatalogError};
pub use measure::{Measured, Unmeasurable};
pub use snapshot::{ApiKey, Metric, OrganizationSettings, Snapshot, Span};
pub use targets::Targets;
pub use weir_store::catalog::Aggregation;
