//! The way of a request's events: judge, claim their ids, append, settle, answer.
//!
//! No verdict `accepted` is given before the log has said that the event is durable. A copy of an
//! event that is on its way waits for how that fares; if it fails, the copy takes its place.

use crate::Edge;
use crate::judge::{Candidate, Circumstances, Judged, judge};
use crate::recent::{FlightId, Seen};
use crate::refresh::Stale;
use crate::refusal::Refusal;
use crate::verdict::Verdict;
use bytes::Bytes;
use std::error::Error;
use std::ops::Range;
use std::time::Instant;
use weir_events::{EventId, RecordHeader, Rejection, WireEvent, cut_into_records, encode_record};
use weir_ids::OrganizationId;
use weir_log::{Append, LogError};

/// How often a copy looks again after the flight it waited for has ended without success. Each
/// failure is a failed append of another request: then the log is down, and the sender is told.
const ROUNDS_MAX: usize = 4;

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
    /// A verdict for each event, in order. Errors: the whole request can't be taken now.
    pub(crate) async fn accept(
        &self,
        organization: OrganizationId,
        events: &[Result<WireEvent<'_>, Rejection>],
    ) -> Result<Vec<Verdict>, Refusal> {
        let mut verdicts = Vec::with_capacity(events.len());
        let batch = self.judged(organization, events, &mut verdicts).await;
        if self.recent.is_full_for(batch.candidates.len()) {
            self.forget_covered(0..self.log.partitions());
            if self.recent.is_full_for(batch.candidates.len()) {
                let retry_after_s = self.config.load.retry_after_s;
                return Err(Refusal::AggregatorBehind { retry_after_s });
            }
        }
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
        Ok(verdicts)
    }

    async fn judged<'e>(
        &self,
        organization: OrganizationId,
        events: &'e [Result<WireEvent<'_>, Rejection>],
        verdicts: &mut Vec<Verdict>,
    ) -> Batch<'e> {
        let asked = tokio::time::Instant::now();
        let received_at_us = self.clock.now().timestamp_micros();
        let at = Circumstances { organization, partitions: self.log.partitions(), received_at_us };
        let mut snapshot = self.catalog.snapshot();
        let mut judged: Judged<'e> = judge(&snapshot, at, events, verdicts);
        if !judged.doubtful.is_empty() {
            match self.refresher.after(asked).await {
                Ok(fresh) if fresh.version == snapshot.version => {}
                Ok(fresh) => {
                    judged = judge(&fresh, at, events, verdicts);
                    snapshot = fresh;
                }
                // What is unknown may exist: only a catalog that answers can refuse for good.
                Err(Stale) => {
                    judged.doubtful.iter().for_each(|slot| verdicts[*slot] = Verdict::Retry);
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
                Seen::InFlight(other) => waiting.push((key, other)),
            });
            self.drop_known(batch, own, &mut claimed, from, verdicts);
        }
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
    /// knows get their verdict and are no claims any more.
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
    ) {
        let (Some(known), Some(first)) = (&self.known, claimed.get(from)) else { return };
        let partition = first.partition;
        let ids: Vec<EventId> = claimed[from..].iter().map(|key| batch.of(*key).id).collect();
        let found = may_block(ids.len(), || known.find(partition, &ids)).unwrap_or_else(|error| {
            tracing::warn!(partition, %error, "the index of ids does not answer");
            Vec::new()
        });
        let mut kept = from;
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
                }
                // No answer: without it nobody knows whether the event is new.
                None => {}
            }
            self.recent.release(partition, own, std::iter::once(ids[index]));
        }
        claimed.truncate(kept);
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
        let (packed, appends) = self.pack(batch, claimed);
        let began = Instant::now();
        let outcomes = self.log.append(appends).await;
        self.metrics.append_seconds.record(began.elapsed().as_secs_f64());
        let mut failed = Vec::new();
        let mut first_error: Option<LogError> = None;
        for (range, outcome) in packed.into_iter().zip(outcomes) {
            let keys = &claimed[range];
            let partition = keys[0].partition;
            match outcome {
                Ok(offset) => {
                    let events = keys.iter().map(|key| {
                        let it = batch.of(*key);
                        (it.id, it.event.content_hash)
                    });
                    self.recent.settle(partition, flight, offset, events);
                    keys.iter().for_each(|key| {
                        verdicts[batch.of(*key).slot] = Verdict::Accepted;
                    });
                }
                // Also where the log can't say whether it has the record: then a later copy is
                // appended again, and the aggregator counts one of the two.
                Err(error) => {
                    let ids = keys.iter().map(|key| batch.of(*key).id);
                    self.recent.release(partition, flight, ids);
                    self.metrics.append_failed(&error);
                    failed.push(partition);
                    first_error.get_or_insert(error);
                }
            }
        }
        let touched = claimed.chunk_by(|a, b| a.partition == b.partition);
        self.forget_covered(touched.map(|group| group[0].partition));
        if let Some(error) = first_error {
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(records = failed.len(), %error, cause, "the log did not take records");
        }
        failed
    }

    /// One or more records for each partition, and which of `claimed` each holds.
    fn pack(&self, batch: &Batch<'_>, claimed: &[Key]) -> (Vec<Range<usize>>, Vec<Append>) {
        let (mut packed, mut appends) = (Vec::new(), Vec::new());
        let mut events = Vec::with_capacity(claimed.len());
        let mut from = 0;
        for group in claimed.chunk_by(|a, b| a.partition == b.partition) {
            events.clear();
            events.extend(group.iter().map(|key| batch.of(*key).event));
            for run in cut_into_records(&events) {
                let bytes = Bytes::from(encode_record(&batch.header, run));
                appends.push(Append { partition: group[0].partition, bytes });
                packed.push(from..from + run.len());
                from += run.len();
            }
        }
        (packed, appends)
    }

    /// Lets go of the recent ids that the aggregator's index holds by now.
    fn forget_covered(&self, partitions: impl Iterator<Item = u32>) {
        if let Some(known) = &self.known {
            partitions.for_each(|partition| {
                self.recent.forget_covered(partition, known.covered_to(partition));
            });
        }
    }
}

impl<'e> Batch<'e> {
    fn of(&self, key: Key) -> &Candidate<'e> {
        &self.candidates[key.candidate as usize]
    }
}

/// Ids from which on a look into the index may take long enough to hold up others on this thread:
/// each that is found reads a page, from the disk at the worst.
const MANY_IDS: usize = 64;

fn may_block<T>(ids: usize, work: impl FnOnce() -> T) -> T {
    let flavor = tokio::runtime::Handle::current().runtime_flavor();
    if ids >= MANY_IDS && flavor == tokio::runtime::RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}
