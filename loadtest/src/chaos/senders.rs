//! Senders at a steady rate that never give up: what is not answered is sent again.

use super::books::{Books, Copy, Said};
use crate::{
    connection::{Answer, Connection, Head, Protocol, Target},
    event::TimeWriter,
};
use anyhow::Context;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Senders at once; the last one uses the last door.
const SENDERS: u64 = 4;
/// Events of a request. Every eighth request holds one event.
const BATCH: u64 = 50;
const SINGLE_OF: u64 = 8;
/// Events of a request when everything is sent once more.
const LARGE_BATCH: usize = 1_000;
/// A sender that hears nothing for so long asks somebody else: a connection to who has died.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// What the senders shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// New events at the rate.
    Steady,
    /// Only what still waits.
    Finish,
    Stop,
}

/// The books, to be looked into by senders and by the judge.
#[derive(Clone)]
pub struct Shared {
    books: Arc<Mutex<Books>>,
    mode: Arc<AtomicU8>,
    requests: Arc<AtomicU64>,
}

impl Shared {
    pub fn new(books: Books) -> Self {
        Self {
            books: Arc::new(Mutex::new(books)),
            mode: Arc::new(AtomicU8::new(Mode::Steady as u8)),
            requests: Arc::default(),
        }
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u8
    }
}

/// Where events are taken, and how often.
#[derive(Clone)]
pub struct Doors {
    /// `http://host:port`, one or more.
    pub urls: Vec<String>,
    pub key: String,
    /// Copies a second, all senders together.
    pub rate: u64,
}

/// Sends until told to stop; on a thread of its own.
pub fn run(shared: &Shared, doors: &Doors) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begun = Instant::now();
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| tokio::spawn(send(shared.clone(), doors.clone(), number, begun)))
            .collect();
        for sender in senders {
            sender.await.context("a sender panicked")??;
        }
        Ok(())
    })
}

/// One sender's connection.
struct Line {
    target: Target,
    batch: Head,
    single: Head,
    connection: Option<Connection>,
}

async fn send(shared: Shared, doors: Doors, number: u64, begun: Instant) -> anyhow::Result<()> {
    let door = if number + 1 == SENDERS { doors.urls.last() } else { doors.urls.first() };
    let mut line = Line::new(door.context("a door")?, &doors.key)?;
    let mut times = TimeWriter::new();
    while !shared.is(Mode::Stop) {
        let copies = if shared.is(Mode::Finish) {
            shared.books().take_waiting(LARGE_BATCH)
        } else {
            let request = shared.requests.fetch_add(1, Ordering::Relaxed);
            let due = Duration::from_secs_f64((request * BATCH) as f64 / doors.rate as f64);
            tokio::time::sleep_until((begun + due).into()).await;
            let count = if request.is_multiple_of(SINGLE_OF) { 1 } else { BATCH };
            shared.books().take(count as usize)
        };
        if copies.is_empty() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let heard = line.ask(&shared, &copies, &mut times).await;
        let taken = heard.is_some_and(|answer| enter(&shared, &copies, &answer));
        if !taken {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

impl Line {
    fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        let target = Target::parse(url)?;
        let headers = [
            (header::CONTENT_TYPE, "application/json".to_owned()),
            (header::AUTHORIZATION, format!("Bearer {key}")),
        ];
        let head = |path| Head::new(&target, Protocol::Http1, Method::POST, path, &headers);
        let batch = head("/api/billing/v2/events/batch")?;
        let single = head("/api/billing/v2/events")?;
        Ok(Self { target, batch, single, connection: None })
    }

    /// The answer; none where nothing was heard, and then the copies wait again.
    async fn ask(
        &mut self,
        shared: &Shared,
        copies: &[Copy],
        times: &mut TimeWriter,
    ) -> Option<Answer> {
        let body = body(shared, copies, times);
        let head = if copies.len() == 1 { &self.single } else { &self.batch };
        let (target, held) = (&self.target, self.connection.take());
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, async {
            let mut connection = match held {
                Some(connection) => connection,
                None => Connection::open(target, Protocol::Http1).await?,
            };
            let answer = connection.send(head, body).await?;
            anyhow::Ok((connection, answer))
        });
        if let Ok(Ok((connection, answer))) = asked.await {
            self.connection = Some(connection);
            return Some(answer);
        }
        let mut books = shared.books();
        copies.iter().for_each(|copy| books.enter(*copy, Said::Nothing, String::new));
        None
    }
}

fn body(shared: &Shared, copies: &[Copy], times: &mut TimeWriter) -> Bytes {
    let story = shared.books().story;
    let mut out = String::with_capacity(copies.len() * 160);
    let many = copies.len() > 1;
    out.push_str(if many { "{\"events\":[" } else { "" });
    for (place, copy) in copies.iter().enumerate() {
        out.push_str(if place > 0 { "," } else { "" });
        let event = match copy.lie {
            None => story.event(copy.number),
            Some(variant) => story.other(copy.number, variant),
        };
        event.write(times, &mut out);
    }
    out.push_str(if many { "]}" } else { "" });
    out.into()
}

/// Notes the verdicts. False: it was not the time.
fn enter(shared: &Shared, copies: &[Copy], answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let mut books = shared.books();
    let not_now =
        matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    let verdicts: Vec<&Value> = match json["verdicts"].as_array() {
        Some(verdicts) => verdicts.iter().collect(),
        None => vec![&json],
    };
    let fits = !not_now && verdicts.len() == copies.len();
    for (place, copy) in copies.iter().enumerate() {
        let verdict = verdicts.get(place).filter(|_| fits);
        let said = match verdict.and_then(|verdict| verdict["status"].as_str()) {
            Some("accepted") => Said::Accepted,
            Some("duplicate") => Said::Duplicate,
            Some("conflict") => Said::Conflict,
            Some("retry") => Said::Nothing,
            _ if not_now => Said::Nothing,
            _ => Said::Other,
        };
        books.enter(*copy, said, || match verdict {
            Some(verdict) => verdict.to_string(),
            None => format!("{} {}", answer.status, text.chars().take(300).collect::<String>()),
        });
    }
    fits
}
