//! How full the disk under the data directory is: a full one stops the log, and with it ingest.

use metrics::{Unit, describe_gauge, gauge};
use std::{path::PathBuf, time::Duration};
use weir_runtime::Shutdown;

const FREE_BYTES: &str = "weir_data_free_bytes";
const CAPACITY_BYTES: &str = "weir_data_capacity_bytes";
/// Finer than Prometheus looks, and one system call.
const INTERVAL: Duration = Duration::from_secs(10);

/// Gives the metrics their help texts; call once the recorder is installed.
pub fn describe_metrics() {
    describe_gauge!(
        FREE_BYTES,
        Unit::Bytes,
        "Bytes that can still be written to the disk of the data directory"
    );
    describe_gauge!(CAPACITY_BYTES, Unit::Bytes, "Size of the disk of the data directory");
}

/// Measures until shutdown.
pub async fn watch(data: PathBuf, shutdown: Shutdown) {
    loop {
        match rustix::fs::statvfs(&data) {
            Ok(disk) => {
                gauge!(FREE_BYTES).set((disk.f_bavail * disk.f_frsize) as f64);
                gauge!(CAPACITY_BYTES).set((disk.f_blocks * disk.f_frsize) as f64);
            }
            Err(error) => tracing::warn!(%error, "can't see how full the disk is"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
