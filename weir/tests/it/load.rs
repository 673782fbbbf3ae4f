//! Concurrent senders that keep books of what they were answered.

use crate::{client::Client, eventually};
use serde_json::{Value as Json, json};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};
use tokio::task::JoinHandle;

const SENDERS: usize = 4;
const BATCH: usize = 50;
/// How long a sender waits before it sends again what was not taken.
const PAUSE: Duration = Duration::from_millis(20);

/// Events to be sent, and what was said of each.
#[derive(Clone)]
pub struct Load {
    subscription: String,
    /// When they happened; none: when they are received.
    at: Option<String>,
    books: Arc<Mutex<Books>>,
}

#[derive(Default)]
struct Books {
    /// Batches that nobody is sending, as ranges of event numbers.
    waiting: VecDeque<(usize, usize)>,
    /// Batches that were answered for good.
    settled: usize,
    events: usize,
    extra: Vec<(String, u64)>,
    accepted: HashMap<String, usize>,
    unexpected: Vec<String>,
}

/// Senders at work.
pub struct Sending {
    tasks: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
}

impl Load {
    /// Events `load-0`, `load-1`, … of the code `tokens`, for one subscription.
    pub fn new(subscription: &str, events: usize) -> Self {
        let subscription = subscription.to_owned();
        let load = Self { subscription, at: None, books: Arc::default() };
        load.add(events);
        load
    }

    /// The same with a timestamp for the events.
    pub fn at(self, at: &str) -> Self {
        Self { at: Some(at.to_owned()), ..self }
    }

    /// One more event, that the test sends itself.
    pub fn extra_event(&self, id: &str, units: u64) -> String {
        self.books.lock().unwrap().extra.push((id.to_owned(), units));
        self.event(id, units).to_string()
    }

    /// More events to be sent.
    pub fn add(&self, events: usize) {
        let mut books = self.books.lock().unwrap();
        let from = books.events;
        books.events += events;
        let to = books.events;
        books.waiting.extend((from..to).step_by(BATCH).map(|start| (start, to.min(start + BATCH))));
    }

    /// Everything shall be sent once more.
    pub fn again(&self) {
        let mut books = self.books.lock().unwrap();
        let events = books.events;
        books.settled = 0;
        books.waiting =
            (0..events).step_by(BATCH).map(|start| (start, events.min(start + BATCH))).collect();
    }

    /// The ids of all events, sorted.
    pub fn ids(&self) -> Vec<String> {
        let books = self.books.lock().unwrap();
        let extra = books.extra.iter().map(|(id, _)| id.clone());
        let mut ids: Vec<String> = (0..books.events).map(id).chain(extra).collect();
        ids.sort_unstable();
        ids
    }

    /// What the events come to: units of a sum, and their number.
    pub fn total(&self) -> (u64, u64) {
        let books = self.books.lock().unwrap();
        let extra = books.extra.iter().map(|(_, units)| *units);
        let units = (0..books.events).map(value).chain(extra).sum();
        (units, (books.events + books.extra.len()) as u64)
    }

    /// Batches that were answered.
    pub fn settled(&self) -> usize {
        self.books.lock().unwrap().settled
    }

    /// How many events were answered `accepted`, and how often the most accepted one was.
    pub fn accepted(&self) -> (usize, usize) {
        let books = self.books.lock().unwrap();
        (books.accepted.len(), books.accepted.values().copied().max().unwrap_or(0))
    }

    /// Waits until so many batches are settled.
    pub async fn wait_for(&self, batches: usize) {
        eventually("answers to the senders", async || match self.settled() {
            settled if settled >= batches => Ok(()),
            settled => Err(format!("{settled} of {batches} batches; {:?}", self.unexpected())),
        })
        .await;
    }

    /// Whatever else than accepted, duplicate, retry or silence a sender got.
    pub fn unexpected(&self) -> Vec<String> {
        self.books.lock().unwrap().unexpected.clone()
    }

    /// Sends what waits, by several senders at once. A sender who loses the connection gives up;
    /// a `stubborn` one sends again.
    pub fn start(&self, client: &Client, stubborn: bool) -> Sending {
        let done = Arc::new(AtomicBool::new(false));
        let tasks = (0..SENDERS)
            .map(|_| tokio::spawn(self.clone().send(client.clone(), stubborn, done.clone())))
            .collect();
        Sending { tasks, done }
    }

    /// Sends all that waits.
    pub async fn finish(&self, client: &Client) {
        self.start(client, true).until_all_is_sent().await;
    }

    async fn send(self, client: Client, stubborn: bool, done: Arc<AtomicBool>) {
        loop {
            let next = self.books.lock().unwrap().waiting.pop_front();
            let Some((from, to)) = next else {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let answer = client.batch(self.body(from, to)).await;
            let heard = answer.is_ok();
            let settled = answer.is_ok_and(|answer| self.enter(answer.status, &answer.json));
            if settled {
                self.books.lock().unwrap().settled += 1;
                continue;
            }
            self.books.lock().unwrap().waiting.push_back((from, to));
            if !heard && !stubborn {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn body(&self, from: usize, to: usize) -> String {
        let events = (from..to).map(|number| self.event(&id(number), value(number)));
        json!({ "events": events.collect::<Vec<_>>() }).to_string()
    }

    fn event(&self, id: &str, units: u64) -> Json {
        json!({
            "transactionId": id,
            "externalSubscriptionId": self.subscription,
            "code": "tokens",
            "timestamp": self.at,
            "properties": { "n": units },
        })
    }

    /// Notes the verdicts. False: some of it must be sent again.
    fn enter(&self, status: u16, answer: &Json) -> bool {
        let mut books = self.books.lock().unwrap();
        if status != 200 {
            if status != 503 {
                books.unexpected.push(format!("{status}: {answer}"));
            }
            return false;
        }
        let mut settled = true;
        for verdict in answer["verdicts"].as_array().unwrap() {
            let id = verdict["transactionId"].as_str().unwrap_or_default();
            match verdict["status"].as_str() {
                Some("accepted") => *books.accepted.entry(id.to_owned()).or_default() += 1,
                Some("duplicate") => {}
                Some("retry") => settled = false,
                _ => books.unexpected.push(verdict.to_string()),
            }
        }
        settled
    }
}

impl Sending {
    /// Waits until nothing waits any more.
    pub async fn until_all_is_sent(self) {
        self.done.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

fn id(number: usize) -> String {
    format!("load-{number}")
}

fn value(number: usize) -> u64 {
    number as u64 % 7 + 1
}
