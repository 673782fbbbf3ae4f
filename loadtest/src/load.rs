//! The generator: prepared batches over kept-alive connections, as fast as they are taken or at a
//! given rate.

use crate::{
    body::{Body, Stamp, Subjects},
    connection::{Answer, Connection, Head, Protocol, Target},
    cpu,
    event::{Ids, Times},
    format::Format,
    latency::Latencies,
};
use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinSet;

/// How often a batch is sent again that the server can't take now.
const RETRIES_MAX: u32 = 120;
/// The longest wait before it is.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// A load.
#[derive(Debug, Clone)]
pub struct Plan {
    pub target: Target,
    /// The format's own, unless given.
    pub path: Option<String>,
    pub key: Option<String>,
    pub format: Format,
    pub protocol: Protocol,
    pub encoding: Encoding,
    pub batch: usize,
    pub connections: usize,
    /// Requests under way on each connection.
    pub streams: usize,
    pub threads: usize,
    pub events: u64,
    /// Events a second; as fast as they are taken when absent.
    pub rate: Option<f64>,
    pub subjects: Subjects,
    pub run: u64,
    pub times: Times,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub events: u64,
    pub requests: usize,
    /// Requests that were answered "not now" and sent again.
    pub retries: u64,
    pub elapsed: Duration,
    /// Of a request; at a given rate, from when it was due.
    pub latencies: Latencies,
    /// Processor seconds of the generator.
    pub own_cpu: f64,
}

impl Outcome {
    /// Events a second of real time.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// What the workers share.
struct Shared {
    plan: Plan,
    head: Head,
    started: Instant,
    next_batch: AtomicU64,
    retries: AtomicU64,
}

/// Sends all events. Errors: no connection, or an answer that is neither success nor "not now".
pub fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let own_before = cpu::own();
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        head: head(plan)?,
        started: Instant::now(),
        next_batch: AtomicU64::new(0),
        retries: AtomicU64::new(0),
    });
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let latencies = std::thread::scope(|scope| {
        let shared = &shared;
        let spawned: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(shared, thread, threads))).collect();
        let mut all = Latencies::default();
        for thread in spawned {
            match thread.join() {
                Ok(latencies) => all.join(latencies?),
                Err(_) => bail!("a generator's thread panicked"),
            }
        }
        Ok(all)
    })?;
    Ok(Outcome {
        // Whole batches are sent.
        events: latencies.len() as u64 * plan.batch as u64,
        requests: latencies.len(),
        retries: shared.retries.load(Ordering::Relaxed),
        elapsed: shared.started.elapsed(),
        latencies,
        own_cpu: cpu::own() - own_before,
    })
}

fn head(plan: &Plan) -> anyhow::Result<Head> {
    let content_type = plan.format.content_type(plan.batch).to_owned();
    let mut headers = vec![(header::CONTENT_TYPE, content_type)];
    if let Some(key) = &plan.key {
        headers.push((header::AUTHORIZATION, format!("Bearer {key}")));
    }
    match plan.encoding {
        Encoding::Identity => {}
        Encoding::Gzip => headers.push((header::CONTENT_ENCODING, "gzip".to_owned())),
        Encoding::Zstd => headers.push((header::CONTENT_ENCODING, "zstd".to_owned())),
    }
    let path = plan.path.as_deref().unwrap_or_else(|| plan.format.path(plan.batch));
    Head::new(&plan.target, plan.protocol, Method::POST, path, &headers)
}

/// One thread: its share of the connections on a runtime of its own, so that nothing crosses
/// threads but the number of the next batch.
fn work(shared: &Arc<Shared>, thread: usize, threads: usize) -> anyhow::Result<Latencies> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let plan = &shared.plan;
    runtime.block_on(async {
        let mut workers = JoinSet::new();
        for connection in (thread..plan.connections).step_by(threads) {
            let first = Connection::open(&plan.target, plan.protocol).await?;
            let variant = |stream: usize| (connection * plan.streams + stream) as u64;
            for stream in 1..plan.streams {
                let shared = Arc::clone(shared);
                workers.spawn(send_batches(shared, first.share()?, variant(stream)));
            }
            workers.spawn(send_batches(Arc::clone(shared), first, variant(0)));
        }
        let mut all = Latencies::default();
        while let Some(done) = workers.join_next().await {
            all.join(done??);
        }
        Ok(all)
    })
}

async fn send_batches(
    shared: Arc<Shared>,
    mut connection: Connection,
    variant: u64,
) -> anyhow::Result<Latencies> {
    let plan = &shared.plan;
    let batch = plan.batch as u64;
    let batches = plan.events.div_ceil(batch);
    let mut body = Body::new(plan.format, &plan.subjects, plan.batch, variant);
    let ids = Ids::new(plan.run);
    let mut latencies = Latencies::default();
    loop {
        let number = shared.next_batch.fetch_add(1, Ordering::Relaxed);
        if number >= batches {
            return Ok(latencies);
        }
        let begun = match plan.rate {
            None => Instant::now(),
            Some(rate) => {
                let due = Duration::from_secs_f64((number * batch) as f64 / rate);
                tokio::time::sleep_until((shared.started + due).into()).await;
                shared.started + due
            }
        };
        let first = number * batch;
        body.stamp(Stamp { ids, times: plan.times, first, now_us: now_us() });
        send_until_taken(&shared, &mut connection, &mut body).await?;
        latencies.add(begun.elapsed());
    }
}

async fn send_until_taken(
    shared: &Shared,
    connection: &mut Connection,
    body: &mut Body,
) -> anyhow::Result<()> {
    let plan = &shared.plan;
    for _ in 0..RETRIES_MAX {
        let plain = body.take();
        let wire = compress(plan.encoding, &plain)?;
        let answer = connection.send(&shared.head, wire).await?;
        body.give_back(plain);
        match answer.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                shared.retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(retry_after(&answer)).await;
            }
            status => return plan.format.check(plan.batch, status, &answer.body),
        }
    }
    bail!("a batch was not taken after {RETRIES_MAX} tries")
}

fn retry_after(answer: &Answer) -> Duration {
    let value = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = value.and_then(|text| text.parse().ok()).unwrap_or(1);
    Duration::from_secs(seconds).min(RETRY_WAIT_MAX)
}

fn compress(encoding: Encoding, plain: &Bytes) -> anyhow::Result<Bytes> {
    Ok(match encoding {
        Encoding::Identity => plain.clone(),
        Encoding::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(plain)?;
            encoder.finish()?.into()
        }
        Encoding::Zstd => zstd::bulk::compress(plain, 1).context("zstd")?.into(),
    })
}

/// Unix microseconds. The generator is no part of the system whose clock can be moved.
pub fn now_us() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn compressed_bodies_read_back_the_same() {
        let plain = Bytes::from("abc".repeat(1_000));
        assert_eq!(compress(Encoding::Identity, &plain).unwrap(), plain);
        let gzip = compress(Encoding::Gzip, &plain).unwrap();
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, plain);
        let zstd = compress(Encoding::Zstd, &plain).unwrap();
        assert_eq!(zstd::bulk::decompress(&zstd, 10_000).unwrap(), plain);
        assert!(gzip.len() < 100 && zstd.len() < 100);
    }
}
