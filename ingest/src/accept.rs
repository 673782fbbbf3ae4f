//! The way of a request's events: judge, claim their ids, append, settle, answer.
//!
//! No verdict `accepted` is given before the log has said that the event is durable. A copy of an
//! event that is on its way waits for how that fares; if it fails, the copy takes its place.

use crate::Edge;
use crate::judge::{Candidate, Circumstances, Judged, judge};
use crate::pack::{Part, Place};
use crate::recent::{FlightId, Seen};
use crate::refresh::{AwaitedCodes, Stale};
use crate::verdict::{RetryCause, Verdict};
use bytes::Bytes;
use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use weir_events::{
    EventId, Parsed, Position, RECORD_BODY_BYTES_MAX, RecordBody, RecordHeader, cut_into_records,
    encode_record,
};
use weir_ids::OrganizationId;
use weir_log::{Append, LogError};

/// How often a copy looks again after the flight it waited for has ended without success. Each
/// failure is a failed append of another request: then the log is down, and the sender is told.
const ROUNDS_MAX: usize = 4;

/// A request of this many events or fewer shares its records: by itself it would leave most partitions
/// a record of one or two.
const SMALL_EVENTS: usize = 16;

/// Which of the claimed events a record holds, and where in the log they are.
type Outcome = (Range<usize>, Result<Place, LogError>);

/// A candidate's number, with its partition in front: sorting groups by partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    partition: u32,
    candidate: u32,
}

/// What one request brings into its rounds.
struct Batch<'e> {
    header: RecordHeader,
    candidates: Vec<Candidate<'e>>,
}

impl Edge {
    /// A verdict for each event, in order.
    #[tracing::instrument(level = "debug", name = "ingest.accept", skip_all, fields(events = parsed.events.len()))]
    pub(crate) async fn accept(
        &self,
        organization: OrganizationId,
        parsed: &Parsed<'_>,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(parsed.events.len());
        let batch = self.judged(organization, parsed, &mut verdicts).await;
        let mut pending: Vec<Key> = (0_u32..)
            .zip(&batch.candidates)
            .map(|(candidate, it)| Key { partition: it.partition, candidate })
            .collect();
        pending.sort_unstable();
        for _ in 0..ROUNDS_MAX {
            if pending.is_empty() {
                break;
            }
            pending = self.round(&batch, &pending, &mut verdicts).await;
        }
        // Who is still pending keeps the verdict `Retry` that judging gave it.
        verdicts
    }

    async fn judged<'e>(
        &self,
        organization: OrganizationId,
        parsed: &'e Parsed<'_>,
        verdicts: &mut Vec<Verdict>,
    ) -> Batch<'e> {
        let asked = tokio::time::Instant::now();
        let received_at_us = self.clock.now().timestamp_micros();
        let at = Circumstances {
            organization,
            partitions: self.log.partitions(),
            received_at_us,
            window_us: self.config.window_us(),
        };
        let mut snapshot = self.catalog.snapshot();
        let mut judged: Judged<'e> =
            judge(&snapshot, &AwaitedCodes::default(), at, parsed, verdicts);
        if !judged.doubtful.is_empty() {
            match self.refresher.all_after(organization, asked).await {
                Ok((fresh, none)) if fresh.version == snapshot.version && none.is_empty() => {}
                Ok((fresh, awaited)) => {
                    judged = judge(&fresh, &awaited, at, parsed, verdicts);
                    snapshot = fresh;
                }
                // What is unknown may exist: only a catalog that answers can refuse for good.
                Err(Stale) => {
                    let retry = || Verdict::Retry(RetryCause::Catalog);
                    judged.doubtful.iter().for_each(|slot| verdicts[*slot] = retry());
                }
            }
        }
        let header =
            RecordHeader { organization, received_at_us, catalog_version: snapshot.version };
        Batch { header, candidates: judged.candidates }
    }

    /// Claims, appends and settles what is new. Answers the copies whose first has not landed, or
    /// has only now: they are asked for again in the next round.
    async fn round(
        &self,
        batch: &Batch<'_>,
        pending: &[Key],
        verdicts: &mut [Verdict],
    ) -> Vec<Key> {
        let mut flight = self.flights.open(&self.recent);
        let own = flight.id;
        let mut claimed: Vec<Key> = Vec::with_capacity(pending.len());
        let mut waiting: Vec<(Key, FlightId)> = Vec::new();
        let mut known: Vec<(EventId, u64)> = Vec::new();
        for group in pending.chunk_by(|a, b| a.partition == b.partition) {
            let (partition, from) = (group[0].partition, claimed.len());
            let asked = group.iter().map(|key| (batch.of(*key).id, *key));
            self.recent.claim(partition, own, asked, |key, seen| match seen {
                Seen::New => {
                    flight.note(partition, batch.of(key).id);
                    claimed.push(key);
                }
                Seen::Durable { content_hash } => {
                    let copy = batch.of(key);
                    verdicts[copy.slot] = Verdict::of_copy(content_hash, copy.event.content_hash);
                }
                Seen::InFlight(other) if self.guards.copies_wait => waiting.push((key, other)),
                Seen::InFlight(_) => verdicts[batch.of(key).slot] = Verdict::Duplicate,
            });
            known.extend(self.drop_known(batch, own, &mut claimed, from, verdicts));
        }
        answer_known(batch, own, known, &mut waiting, verdicts);
        let failed = self.append(batch, own, &claimed, verdicts).await;
        flight.landed();
        let mut again = Vec::new();
        for (key, other) in waiting {
            if other != own {
                self.flights.ended(other).await;
            } else if failed.contains(&key.partition) {
                // Its first copy stands in this request and fails with it.
                continue;
            }
            again.push(key);
        }
        again
    }

    /// Asks the aggregator's index, where it is there, for the claims from `from` on. Those it
    /// knows get their verdict and are no claims any more; they are answered, with the hash of the
    /// first copy's content.
    ///
    /// The order matters: first the recent ids, then the index. An id leaves the recent ids only
    /// when the index holds it, so one of the two always knows.
    fn drop_known(
        &self,
        batch: &Batch<'_>,
        own: FlightId,
        claimed: &mut Vec<Key>,
        from: usize,
        verdicts: &mut [Verdict],
    ) -> Vec<(EventId, u64)> {
        let (Some(known), Some(first)) = (&self.known, claimed.get(from)) else {
            return Vec::new();
        };
        let partition = first.partition;
        let ids: Vec<EventId> = claimed[from..].iter().map(|key| batch.of(*key).id).collect();
        let suspects = known.suspects(partition, &ids);
        if suspects == 0 {
            return Vec::new();
        }
        let found = may_block(suspects, || known.find(partition, &ids)).unwrap_or_else(|error| {
            tracing::warn!(partition, %error, "the index of ids does not answer");
            Vec::new()
        });
        let (mut kept, mut dropped) = (from, Vec::new());
        for index in 0..ids.len() {
            let key = claimed[from + index];
            match found.get(index) {
                Some(None) => {
                    claimed[kept] = key;
                    kept += 1;
                    continue;
                }
                Some(Some(first)) => {
                    let copy = batch.of(key);
                    verdicts[copy.slot] =
                        Verdict::of_copy(first.content_hash, copy.event.content_hash);
                    dropped.push((ids[index], first.content_hash));
                }
                // No answer: without it nobody knows whether the event is new.
                None => verdicts[batch.of(key).slot] = Verdict::Retry(RetryCause::Index),
            }
            self.recent.release(partition, own, std::iter::once(ids[index]));
        }
        claimed.truncate(kept);
        dropped
    }

    /// Appends the claimed events and settles or releases each claim. Answers the partitions that
    /// failed.
    async fn append(
        &self,
        batch: &Batch<'_>,
        flight: FlightId,
        claimed: &[Key],
        verdicts: &mut [Verdict],
    ) -> Vec<u32> {
        if claimed.is_empty() {
            return Vec::new();
        }
        let began = Instant::now();
        let outcomes = if batch.is_small(claimed) {
            self.append_together(batch, claimed).await
        } else {
            self.append_alone(batch, claimed).await
        };
        self.metrics.append_seconds.record(began.elapsed().as_secs_f64());
        let mut failed = Vec::new();
        let mut first_error: Option<LogError> = None;
        for (range, outcome) in outcomes {
            let keys = &claimed[range];
            let partition = keys[0].partition;
            match outcome {
                Ok(place) => {
                    let events = keys.iter().map(|key| {
                        let it = batch.of(*key);
                        (it.id, it.event.content_hash)
                    });
                    let covered_to = self.covered_to(partition);
                    let forgotten =
                        self.recent.settle(partition, flight, place, events, covered_to);
                    self.metrics.forgotten_ids.increment(forgotten as u64);
                    keys.iter().for_each(|key| {
                        verdicts[batch.of(*key).slot] = Verdict::Accepted;
                    });
                }
                // Also where the log can't say whether it has the record: then a later copy is
                // appended again, and the aggregator counts one of the two.
                Err(error) => {
                    let ids = keys.iter().map(|key| batch.of(*key).id);
                    if self.guards.failed_claims_go {
                        self.recent.release(partition, flight, ids);
                    }
                    self.metrics.append_failed(&error);
                    failed.push(partition);
                    first_error.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first_error {
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(records = failed.len(), %error, cause, "the log did not take records");
        }
        failed
    }

    /// One or more records for each partition; which of `claimed` each holds, and how it fared.
    async fn append_alone(&self, batch: &Batch<'_>, claimed: &[Key]) -> Vec<Outcome> {
        let (mut ranges, mut appends) = (Vec::new(), Vec::new());
        let mut events = Vec::with_capacity(claimed.len());
        let mut from = 0;
        for group in claimed.chunk_by(|a, b| a.partition == b.partition) {
            events.clear();
            events.extend(group.iter().map(|key| batch.of(*key).event));
            for run in cut_into_records(&events) {
                let bytes = Bytes::from(encode_record(&batch.header, run));
                appends.push(Append { partition: group[0].partition, bytes });
                ranges.push(from..from + run.len());
                from += run.len();
            }
        }
        let outcomes = self.log.append(appends).await.into_iter();
        let at_start = |offset| Place { offset, first: 0 };
        ranges.into_iter().zip(outcomes.map(|outcome| outcome.map(at_start))).collect()
    }

    /// The same in records that are shared with other requests.
    async fn append_together(&self, batch: &Batch<'_>, claimed: &[Key]) -> Vec<Outcome> {
        let groups = || claimed.chunk_by(|a, b| a.partition == b.partition);
        let parts = groups().map(|group| {
            let mut body = RecordBody::default();
            group.iter().for_each(|key| body.push(&batch.of(*key).event));
            Part { partition: group[0].partition, header: batch.header, body }
        });
        let landings = self.packer.append(parts, &self.tasks);
        let mut outcomes = Vec::with_capacity(landings.len());
        let mut from = 0;
        for (group, landing) in groups().zip(landings) {
            let outcome =
                landing.await.unwrap_or_else(|lost| Err(LogError::Unknown(Arc::new(lost))));
            outcomes.push((from..from + group.len(), outcome));
            from += group.len();
        }
        outcomes
    }

    /// Where the aggregator's index ends: what stands before that is in it.
    fn covered_to(&self, partition: u32) -> Position {
        self.known.as_ref().map_or(Position::ZERO, |known| known.covered_to(partition))
    }
}

impl<'e> Batch<'e> {
    fn of(&self, key: Key) -> &Candidate<'e> {
        &self.candidates[key.candidate as usize]
    }

    /// Whether these may share records: sixteen large events of one partition would not fit into one.
    fn is_small(&self, claimed: &[Key]) -> bool {
        let bytes = || claimed.iter().map(|key| self.of(*key).event.encoded_bytes()).sum::<usize>();
        claimed.len() <= SMALL_EVENTS && bytes() <= RECORD_BODY_BYTES_MAX
    }
}

/// Gives the further copies in a request of what the index knows their verdict: none of them would
/// ever land, and each round would tell only the first.
fn answer_known(
    batch: &Batch<'_>,
    own: FlightId,
    mut known: Vec<(EventId, u64)>,
    waiting: &mut Vec<(Key, FlightId)>,
    verdicts: &mut [Verdict],
) {
    if known.is_empty() {
        return;
    }
    known.sort_unstable();
    waiting.retain(|(key, flight)| {
        let copy = batch.of(*key);
        match known.binary_search_by_key(&copy.id, |(id, _)| *id) {
            Ok(at) if *flight == own => {
                verdicts[copy.slot] = Verdict::of_copy(known[at].1, copy.event.content_hash);
                false
            }
            _ => true,
        }
    });
}

/// Ids from which on a look into the index may take long enough to hold up others on this thread: it
/// reads a page for each, from the disk at the worst. Making room for others costs as much as some
/// pages that are in memory.
const MANY_IDS: usize = 16;

fn may_block<T>(ids: usize, work: impl FnOnce() -> T) -> T {
    let flavor = tokio::runtime::Handle::current().runtime_flavor();
    if ids >= MANY_IDS && flavor == tokio::runtime::RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
