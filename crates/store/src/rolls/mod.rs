//! Rolls: usage that is computed again from raw events, under a new generation.
//!
//! A roll waits, rolls and is done; at most one of an organization rolls. All three steps change
//! the catalog and so happen under the lock of its version. From the version in which a roll
//! starts, live chunks write its generation too. The owner of a partition notes how far it was when
//! its first such chunk was opened (or when it takes the roll up, if that is sooner): the roll
//! computes what came before, in chunks whose bounds are recorded, so that after a crash exactly
//! they are written again. With the last partition the roll is done, and readers take its
//! generation.

mod cells;
mod read;
mod schedule;
mod sweep;
mod work;

pub use cells::external_ids;
pub use read::{
    Adopted, GenerationRows, PartitionProgress, RollProgress, RollSubject, adopted, generations,
    progress, unsettled,
};
pub use schedule::{rolling, start_due};
pub use sweep::{Superseded, mark_deleted, superseded};
pub(crate) use work::take_up_at;
pub use work::{PartitionRoll, RollChunk, finish_chunk, open_chunk, take_up};

use crate::Timestamp;
use weir_ids::{BillableMetricId, OrganizationId, SubscriptionId};

/// What a roll computes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollKind {
    /// All of a metric, under its rolling definition.
    Metric { metric: BillableMetricId },
    /// All metrics of these subscriptions.
    Subscriptions { subscriptions: Vec<RolledSubscription> },
    /// All metrics of these cells of 15 minutes, without the events voided up to the roll's
    /// generation.
    Cells { cells: Vec<(SubscriptionId, Timestamp)> },
}

/// A subscription and the name by which events call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledSubscription {
    pub id: SubscriptionId,
    pub external_id: String,
}

/// A roll that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roll {
    pub generation: u64,
    pub organization: OrganizationId,
    pub kind: RollKind,
    /// The catalog version from which live chunks write the generation too.
    pub takes_hold_in: u64,
}

/// How far a roll is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollState {
    /// Behind another one of the organization.
    Waiting,
    Rolling,
    /// Readers take its generation.
    Done,
    /// The metric is gone: there is nothing more to do, and nobody reads what was written.
    Abandoned,
}
