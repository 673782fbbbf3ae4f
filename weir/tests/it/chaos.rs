//! The short form of `loadtest chaos`: everything that can break breaks once, under load.
//!
//! `cargo run -p weir-loadtest -- chaos --seconds 3600` is the long one.

use crate::up::PLACES;
use std::path::{Path, PathBuf};
use weir_loadtest::chaos::{self, ChaosArgs, LogKind};

/// The faults of a seed are always the same; the moment in the work that each hits is not.
const SEED: u64 = 7;
/// It weighs as much as two of `weir up`.
const APART_PLACES: u32 = 2;

/// Every event is counted once, whatever happened meanwhile.
async fn survives(args: ChaosArgs) {
    // What it starts dies with the thread that started it, and so with this process.
    let (told, outcome) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || told.send(chaos::run(&args)));
    let nothing_differs = outcome.await.expect("it ran to its end").unwrap();
    assert!(nothing_differs, "it printed what differs");
}

fn args(log: LogKind, seconds: u64, every: u64) -> ChaosArgs {
    ChaosArgs {
        seconds,
        seed: Some(SEED),
        log,
        rate: 400,
        every,
        faults: Vec::new(),
        weir: Some(PathBuf::from(env!("CARGO_BIN_EXE_weir"))),
        kafka: Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/kafka.sh"),
        keep: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weir_up_whose_parts_die_pause_and_run_out_of_disk_counts_every_event_once() {
    let _place = PLACES.acquire().await.unwrap();
    survives(args(LogKind::Embedded, 35, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_services_apart_that_die_pause_and_run_out_of_disk_count_every_event_once() {
    let _places = PLACES.acquire_many(APART_PLACES).await.unwrap();
    survives(args(LogKind::Kafka, 60, 2)).await;
}
