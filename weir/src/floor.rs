//! `weir __floor`: single parts of the pipeline with nothing around them, for the benchmarks. What
//! the whole costs is compared with what its parts cost alone.

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use std::{
    io::{BufRead, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use weir_aggregator::dedup::{Covered, Entry, Index, Rebuild, Seen, judge, new_entries};
use weir_events::{
    EventId, FirstCopy, Format, Position, RecordEvent, RecordHeader, content_hash,
    cut_into_records, encode_record, event_id, parse_batch, partition_of,
};
use weir_ids::OrganizationId;
use weir_log::{Append, EmbeddedLog, EmbeddedOptions, EventLog};
use weir_runtime::{Clock, Shutdown, health, server};

const PARTITIONS: u32 = weir_log::NEW_EMBEDDED_PARTITIONS;
/// The edge's own bound.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Ids that a chunk of a busy partition holds.
const CHUNK_IDS: u64 = 50_000;
/// The aggregator's default: one megabyte of table for a partition.
const TABLE_IDS_MAX: usize = 28_672;

/// One part alone.
#[derive(Debug, clap::Subcommand)]
pub enum FloorCommand {
    /// An edge that parses batches and appends them, and asks nobody anything.
    Edge {
        /// Where the log is.
        dir: PathBuf,
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The index of seen ids, in two steps: filled with fresh ids, then built again. Prints a line of
    /// JSON after each and waits for a line before the next.
    Dedup {
        dir: PathBuf,
        #[arg(long)]
        ids: u64,
    },
}

impl FloorCommand {
    /// Runs it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Edge { dir, listen } => edge(&dir, listen).await,
            Self::Dedup { dir, ids } => {
                tokio::task::spawn_blocking(move || dedup(&dir, ids)).await?
            }
        }
    }
}

struct Edge {
    log: EmbeddedLog,
    clock: Clock,
}

async fn edge(dir: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    server::cancel_on_signals(shutdown.clone())?;
    let log = EmbeddedLog::open(dir, PARTITIONS, EmbeddedOptions::default())?;
    let edge = Arc::new(Edge { log, clock: Clock::real() });
    let app = Router::new()
        .route("/api/billing/v2/events/batch", post(take))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(edge)
        .merge(health::router(Vec::new()));
    server::serve(server::bind(listen).await?, app, shutdown).await
}

async fn take(State(edge): State<Arc<Edge>>, body: Bytes) -> Response {
    match edge.append(&body).await {
        Ok(events) => {
            let answer = format!("{{\"accepted\":{events},\"duplicates\":0}}");
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], answer).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

impl Edge {
    async fn append(&self, body: &[u8]) -> anyhow::Result<usize> {
        let events = parse_batch(body, Format::Json)?.events;
        let organization = OrganizationId::from_u128(1);
        let received_at_us = self.clock.now().timestamp_micros();
        let mut packed: Vec<(u32, RecordEvent<'_>)> = events
            .iter()
            .flatten()
            .map(|event| {
                let id = event_id(organization, &event.transaction_id);
                let event = RecordEvent {
                    transaction_id: &event.transaction_id,
                    external_subscription_id: &event.external_subscription_id,
                    code: &event.code,
                    timestamp_us: event.timestamp_us.unwrap_or(received_at_us),
                    content_hash: content_hash(event),
                    properties: event.properties,
                };
                (partition_of(id, PARTITIONS), event)
            })
            .collect();
        packed.sort_by_key(|(partition, _)| *partition);
        let header = RecordHeader { organization, received_at_us, catalog_version: 0 };
        let mut appends = Vec::new();
        for same in packed.chunk_by(|a, b| a.0 == b.0) {
            let events: Vec<RecordEvent<'_>> = same.iter().map(|(_, event)| *event).collect();
            for run in cut_into_records(&events) {
                let bytes = Bytes::from(encode_record(&header, run));
                appends.push(Append { partition: same[0].0, bytes });
            }
        }
        for outcome in self.log.append(appends).await {
            outcome?;
        }
        Ok(packed.len())
    }
}

fn dedup(dir: &Path, ids: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut index = Index::create(dir, 0, TABLE_IDS_MAX)?;
    let mut from = 0;
    while from < ids {
        let to = ids.min(from + CHUNK_IDS);
        take_up(&mut index, from..to)?;
        from = to;
    }
    let (held, bytes) = (index.reader().ids(), index.reader().memory_bytes());
    anyhow::ensure!(held == ids, "{held} of {ids} ids are in the index");
    told(&format!(
        "{{\"step\":\"fill\",\"seconds\":{:.3},\"memory_bytes\":{bytes}}}",
        begun.elapsed().as_secs_f64()
    ))?;
    drop(index);
    let begun = Instant::now();
    let mut rebuild = Rebuild::start(dir, 0, TABLE_IDS_MAX)?;
    for number in 0..ids {
        let Seen { id, position, content_hash } = seen(number);
        rebuild.add(Entry::new(id, FirstCopy { position, content_hash }))?;
    }
    let index = rebuild.finish(Position::new(ids, 0))?;
    anyhow::ensure!(index.reader().ids() == ids, "the index built again lacks ids");
    let seconds = begun.elapsed().as_secs_f64();
    told(&format!("{{\"step\":\"rebuild\",\"seconds\":{seconds:.3}}}"))
}

/// What the aggregator does with a chunk's ids.
fn take_up(index: &mut Index, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
    let to = Position::new(numbers.end, 0);
    let chunk: Vec<Seen> = numbers.map(seen).collect();
    let ids: Vec<EventId> = chunk.iter().map(|seen| seen.id).collect();
    let verdicts = judge(&chunk, &index.find(&ids)?);
    let covered = Covered { to, events: chunk.len() as u64, newest_us: 0 };
    index.remember(&new_entries(&chunk, &verdicts), covered)?;
    while let Some(merge) = index.due_merge() {
        index.install(merge.run()?)?;
    }
    Ok(())
}

/// An id as spread as a hash, for each number another.
fn seen(number: u64) -> Seen {
    let mix = |seed: u64| {
        let mut bits = number.wrapping_add(seed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let id =
        (u128::from(mix(0x9e37_79b9_7f4a_7c15)) << 64) | u128::from(mix(0x3c6e_f372_fe94_f82a));
    Seen { id: EventId::from_u128(id), position: Position::new(number, 0), content_hash: mix(7) }
}

/// Prints a line and waits for one.
fn told(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("telling how it went")?;
    let mut go_on = String::new();
    std::io::stdin().lock().read_line(&mut go_on).context("waiting for a word")?;
    Ok(())
}
