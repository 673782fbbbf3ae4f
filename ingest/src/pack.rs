//! Small requests share records: what waits while the log writes becomes one record a partition.
//!
//! A record for each small request would cost the log, the aggregator and the disk many times what
//! its event does. Nobody waits for company: the first to come goes at once, and who comes while the
//! log is busy with it goes together.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use weir_events::{RecordBody, RecordHeader};
use weir_log::{Append, EventLog, LogError};

/// Events of one request and partition.
pub struct Part {
    pub partition: u32,
    pub header: RecordHeader,
    pub body: RecordBody,
}

/// Where a part stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The record.
    pub offset: u64,
    /// The part's first event in it.
    pub first: u16,
}

/// What becomes of a part: where it stands, or why the log did not take it. Closed without an answer:
/// not known.
pub type Landing = oneshot::Receiver<Result<Place, LogError>>;

/// Puts parts together and hands them to the log.
pub struct Packer {
    log: Arc<dyn EventLog>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bounded by the requests and bytes that the edge holds at once.
    waiting: Vec<Waiting>,
    is_writing: bool,
}

struct Waiting {
    part: Part,
    landed: oneshot::Sender<Result<Place, LogError>>,
}

/// A record and who waits for it, with the place of each one's first event.
struct Shared {
    append: Append,
    parts: Vec<(u16, oneshot::Sender<Result<Place, LogError>>)>,
}

impl Packer {
    pub fn new(log: Arc<dyn EventLog>) -> Arc<Self> {
        Arc::new(Self { log, state: Mutex::default() })
    }

    /// Queues the parts of a request. `tracker` waits until they are settled.
    pub fn append(
        self: &Arc<Self>,
        parts: impl Iterator<Item = Part>,
        tracker: &TaskTracker,
    ) -> Vec<Landing> {
        let mut state = self.state.lock();
        let landings = parts
            .map(|part| {
                let (landed, landing) = oneshot::channel();
                state.waiting.push(Waiting { part, landed });
                landing
            })
            .collect();
        let starts = !state.is_writing && !state.waiting.is_empty();
        state.is_writing |= starts;
        drop(state);
        if starts {
            tracker.spawn(Writing(Arc::clone(self)).run());
        }
        landings
    }
}

/// The one that writes. When it ends, whatever ends it, the next request starts another.
struct Writing(Arc<Packer>);

impl Writing {
    async fn run(self) {
        loop {
            let waiting = {
                let mut state = self.0.state.lock();
                if state.waiting.is_empty() {
                    state.is_writing = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let (appends, parts): (Vec<_>, Vec<_>) =
                put_together(waiting).into_iter().map(|one| (one.append, one.parts)).unzip();
            let outcomes = self.0.log.append(appends).await;
            for (parts, outcome) in parts.into_iter().zip(outcomes) {
                for (first, landed) in parts {
                    // Nobody waits where a request's work panicked.
                    let _ = landed.send(outcome.clone().map(|offset| Place { offset, first }));
                }
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        // At its end in order another one may be writing already. When it panicked, who waits is told
        // that nothing is known.
        if std::thread::panicking() {
            state.is_writing = false;
            state.waiting.clear();
        }
    }
}

/// As few records as there can be, each of one organization and partition, parts in their order.
fn put_together(mut waiting: Vec<Waiting>) -> Vec<Shared> {
    let key = |waiting: &Waiting| (waiting.part.partition, waiting.part.header.organization);
    waiting.sort_by_key(key);
    let mut records = Vec::new();
    let mut waiting = waiting.into_iter().peekable();
    while let Some(first) = waiting.next() {
        let belongs = key(&first);
        let Part { partition, mut header, mut body } = first.part;
        let mut parts = vec![(0, first.landed)];
        while let Some(next) =
            waiting.next_if(|next| key(next) == belongs && body.has_room_for(&next.part.body))
        {
            // A record holds no more events than a place can count.
            parts.push((u16::try_from(body.len()).unwrap_or(u16::MAX), next.landed));
            body.append(&next.part.body);
            // Who reads it must know the newest catalog that one of them was judged by.
            let newer = next.part.header;
            header.catalog_version = header.catalog_version.max(newer.catalog_version);
            header.received_at_us = header.received_at_us.max(newer.received_at_us);
        }
        let bytes = Bytes::from(body.encode(&header));
        records.push(Shared { append: Append { partition, bytes }, parts });
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;
    use weir_events::{RECORD_BODY_BYTES_MAX, RecordEvent, decode_record};
    use weir_ids::OrganizationId;
    use weir_log::Stored;

    fn waiting(organization: u128, partition: u32, version: u64, properties: &str) -> Waiting {
        let mut body = RecordBody::default();
        body.push(&RecordEvent {
            transaction_id: "t",
            external_subscription_id: "s",
            code: "c",
            timestamp_us: 1,
            content_hash: version,
            properties,
        });
        let header = RecordHeader {
            organization: OrganizationId::from_u128(organization),
            received_at_us: 100 + i64::try_from(version).unwrap(),
            catalog_version: version,
        };
        Waiting { part: Part { partition, header, body }, landed: oneshot::channel().0 }
    }

    /// Takes everything at once, or panics once before.
    #[derive(Default)]
    struct Quick {
        panics: AtomicBool,
    }

    #[async_trait::async_trait]
    impl EventLog for Quick {
        fn partitions(&self) -> u32 {
            1
        }

        async fn append(&self, records: Vec<Append>) -> Vec<Result<u64, LogError>> {
            assert!(!self.panics.swap(false, Ordering::Relaxed), "as told");
            vec![Ok(0); records.len()]
        }

        async fn end(&self, _: u32) -> Result<u64, LogError> {
            Ok(0)
        }

        async fn start(&self, _: u32) -> Result<u64, LogError> {
            Ok(0)
        }

        async fn read(
            &self,
            _: u32,
            _: u64,
            _: usize,
            _: Duration,
        ) -> Result<Vec<Stored>, LogError> {
            Ok(Vec::new())
        }

        async fn ready(&self) -> Result<(), LogError> {
            Ok(())
        }

        async fn release(&self, _: u32, _: u64) {}
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_comes_when_the_writing_ends_is_written_too() {
        let (packer, tracker) = (Packer::new(Arc::new(Quick::default())), TaskTracker::new());
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (packer, tracker) = (Arc::clone(&packer), tracker.clone());
            senders.spawn(async move {
                for _ in 0..4_000 {
                    let part = waiting(1, 0, 1, "{}").part;
                    for landing in packer.append(std::iter::once(part), &tracker) {
                        landing.await.unwrap().unwrap();
                    }
                }
            });
        }
        senders.join_all().await;
    }

    #[tokio::test]
    async fn after_a_panic_the_next_one_is_written() {
        let log = Quick { panics: AtomicBool::new(true) };
        let (packer, tracker) = (Packer::new(Arc::new(log)), TaskTracker::new());
        let mut told = Vec::new();
        for _ in 0..2 {
            let part = waiting(1, 0, 1, "{}").part;
            for landing in packer.append(std::iter::once(part), &tracker) {
                told.push(landing.await.is_ok());
            }
            tracker.close();
            tracker.wait().await;
            tracker.reopen();
        }
        assert_eq!(told, [false, true]);
    }

    #[test]
    fn parts_of_an_organization_and_partition_become_one_record() {
        let parts = vec![
            waiting(1, 0, 5, "{}"),
            waiting(2, 0, 6, "{}"),
            waiting(1, 1, 7, "{}"),
            waiting(1, 0, 4, "{}"),
            waiting(1, 0, 9, "{}"),
        ];
        let mut told = Vec::new();
        for Shared { append, parts } in put_together(parts) {
            let record = decode_record(&append.bytes).unwrap();
            let firsts: Vec<u16> = parts.iter().map(|(first, _)| *first).collect();
            let contents: Vec<u64> = record.events().map(|event| event.content_hash).collect();
            let header = record.header;
            told.push((append.partition, header.organization.as_u128(), header.catalog_version));
            assert_eq!(header.received_at_us, 100 + header.catalog_version as i64);
            let expected: (&[u16], &[u64]) = match told.last() {
                Some((0, 1, 9)) => (&[0, 1, 2], &[5, 4, 9]),
                Some((0, 2, 6)) => (&[0], &[6]),
                Some((1, 1, 7)) => (&[0], &[7]),
                other => panic!("{other:?}"),
            };
            assert_eq!((&*firsts, &*contents), expected);
        }
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn a_full_record_is_followed_by_another() {
        let large = "x".repeat(RECORD_BODY_BYTES_MAX / 3);
        let parts = (0..5).map(|version| waiting(1, 0, version, &large)).collect();
        let records = put_together(parts);
        let lengths: Vec<usize> = records.iter().map(|record| record.parts.len()).collect();
        assert_eq!(lengths, [2, 2, 1]);
        let firsts = records.iter().flat_map(|record| record.parts.iter().map(|(first, _)| *first));
        assert_eq!(firsts.collect::<Vec<_>>(), [0, 1, 0, 1, 0]);
    }
}
