//! How far a recount is, on standard error, for those who watch.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A line that says how far it is; nothing where nobody watches.
pub struct Progress(ProgressBar);

impl Progress {
    /// Errors: none but a broken template.
    pub fn start() -> anyhow::Result<Self> {
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("{spinner} {msg} ({elapsed})")?);
        bar.enable_steady_tick(Duration::from_millis(100));
        Ok(Self(bar))
    }

    /// So many events, up to this partition.
    pub fn counted(&self, partition: u32, partitions: usize, events: u64) {
        let at = partition + 1;
        self.0.set_message(format!("{events} events counted, partition {at} of {partitions}"));
    }

    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
