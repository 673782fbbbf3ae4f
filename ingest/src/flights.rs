//! Appends on their way, and the wait for one of them.

use crate::recent::{FlightId, RecentIds};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;
use weir_events::EventId;

/// The flights that are open. A request opens one for all it claims in one round and ends it when
/// each claim is settled or released.
#[derive(Default)]
pub struct Flights {
    next: AtomicU64,
    /// Most flights nobody waits for: what waiters are told by is made by the first of them.
    open: Mutex<HashMap<FlightId, Option<CancellationToken>>>,
}

impl Flights {
    /// Opens a flight; it ends when the guard is dropped, also when the request's task panics.
    pub fn open<'f>(&'f self, recent: &'f RecentIds) -> Flight<'f> {
        let id = FlightId(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.lock().insert(id, None);
        Flight { flights: self, recent, id, claimed: Vec::new() }
    }

    /// Waits until the flight has ended. At once when it has ended already.
    pub async fn ended(&self, id: FlightId) {
        let end = self.open.lock().get_mut(&id).map(|end| end.get_or_insert_default().clone());
        if let Some(end) = end {
            end.cancelled().await;
        }
    }
}

/// One open flight with the claims that are not settled.
pub struct Flight<'f> {
    flights: &'f Flights,
    recent: &'f RecentIds,
    /// What other requests wait for.
    pub id: FlightId,
    claimed: Vec<(u32, EventId)>,
}

impl Flight<'_> {
    /// Notes a claim, so that it is released if the flight ends without settling it.
    pub fn note(&mut self, partition: u32, id: EventId) {
        self.claimed.push((partition, id));
    }

    /// Every claim has been settled or released.
    pub fn landed(mut self) {
        self.claimed.clear();
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        for (partition, id) in self.claimed.drain(..) {
            self.recent.release(partition, self.id, std::iter::once(id));
        }
        let end = self.flights.open.lock().remove(&self.id);
        if let Some(waiters) = end.flatten() {
            waiters.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recent::{Keep, Seen};

    #[tokio::test]
    async fn a_dropped_flight_releases_its_claims_and_wakes_who_waits() {
        let (flights, recent) = (Flights::default(), RecentIds::new(1, Keep::Newest { ids: 10 }));
        let mut flight = flights.open(&recent);
        recent.claim(0, flight.id, std::iter::once((EventId(1), ())), |(), seen| {
            assert_eq!(seen, Seen::New);
        });
        flight.note(0, EventId(1));
        let id = flight.id;
        let waiting = || async {
            flights.ended(id).await;
            recent.in_flight()
        };
        let (first, second, ()) = tokio::join!(waiting(), waiting(), async { drop(flight) });
        assert_eq!((first, second), (0, 0), "who waited finds the claim gone");
        flights.ended(id).await;
    }
}
