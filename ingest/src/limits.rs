//! How much may be under way at once. Who comes too many is told to come again, never queued:
//! a queue of bodies would be memory without a bound.

use metrics::Gauge;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The requests and the bytes of bodies that may be in memory.
#[derive(Clone)]
pub struct Limits {
    requests: Arc<Semaphore>,
    bytes: Arc<Bytes>,
}

struct Bytes {
    held: AtomicUsize,
    max: usize,
    gauge: Gauge,
}

/// There is no room for more at the moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Limits {
    /// Room for `requests` requests whose bodies have `bytes` bytes together.
    #[must_use]
    pub fn new(requests: usize, bytes: usize, gauge: Gauge) -> Self {
        let requests = Arc::new(Semaphore::new(requests.min(Semaphore::MAX_PERMITS)));
        Self { requests, bytes: Arc::new(Bytes { held: AtomicUsize::new(0), max: bytes, gauge }) }
    }

    /// Takes a request's place; it is given back when the answer is dropped. Errors: all taken.
    pub fn enter(&self) -> Result<Place, Full> {
        let request = self.requests.clone().try_acquire_owned().map_err(|_| Full)?;
        Ok(Place { _request: request, bytes: self.bytes.clone(), held: 0 })
    }
}

/// One request's place and the bytes it holds.
pub struct Place {
    _request: OwnedSemaphorePermit,
    bytes: Arc<Bytes>,
    held: usize,
}

impl Place {
    /// Makes the bytes held at least `bytes`. Errors: they don't fit; what was held stays held.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.held);
        if more == 0 {
            return Ok(());
        }
        let before = self.bytes.held.fetch_add(more, Ordering::AcqRel);
        if before + more > self.bytes.max {
            self.bytes.held.fetch_sub(more, Ordering::AcqRel);
            return Err(Full);
        }
        self.held = bytes;
        self.bytes.show(before + more);
        Ok(())
    }

    /// Gives back all above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.held.saturating_sub(bytes);
        if less > 0 {
            let before = self.bytes.held.fetch_sub(less, Ordering::AcqRel);
            self.held -= less;
            self.bytes.show(before - less);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl Bytes {
    fn show(&self, held: usize) {
        self.gauge.set(held as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let limits = Limits::new(2, 100, Gauge::noop());
        let mut first = limits.enter().unwrap();
        let mut second = limits.enter().unwrap();
        assert_eq!(limits.enter().err(), Some(Full));
        assert_eq!(first.grow_to(60), Ok(()));
        assert_eq!(second.grow_to(41), Err(Full));
        assert_eq!(second.grow_to(40), Ok(()));
        first.shrink_to(50);
        assert_eq!(second.grow_to(50), Ok(()));
        drop(first);
        assert_eq!(second.grow_to(100), Ok(()));
        assert!(limits.enter().is_ok());
    }
}
