//! What every role needs around its own work: clock, configuration, logs, metrics, health, shutdown.

pub mod clock;
pub mod config;
pub mod health;
pub mod postgres;
pub mod server;
pub mod telemetry;
pub mod traces;
mod unread;

pub use clock::Clock;
/// Cancelled once, when the process is to end; every task holds a clone and stops in order.
pub use tokio_util::sync::CancellationToken as Shutdown;
