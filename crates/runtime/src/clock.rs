//! The one source of time and of new ids.
//!
//! A deployment runs on the machine's clock, or on a test clock that stands still until it is moved.

use chrono::{DateTime, TimeZone, Utc};
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time, to the microsecond. Clones share one test time.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Microseconds since the epoch; `REAL` for the machine's clock.
    test_us: Arc<AtomicI64>,
}

const REAL: i64 = i64::MIN;

/// The last id's milliseconds << 16 | counter, so that ids made in one process ascend.
static LAST_ID: AtomicU64 = AtomicU64::new(0);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn real() -> Self {
        Self { test_us: Arc::new(AtomicI64::new(REAL)) }
    }

    /// A clock that stands still at `at`.
    #[must_use]
    pub fn test(at: DateTime<Utc>) -> Self {
        Self { test_us: Arc::new(AtomicI64::new(at.timestamp_micros())) }
    }

    /// Whether this is a test clock.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.test_us.load(Ordering::Acquire) != REAL
    }

    /// Moves a test clock; turns a real clock into a test clock.
    pub fn set(&self, at: DateTime<Utc>) {
        self.test_us.store(at.timestamp_micros(), Ordering::Release);
    }

    /// The present instant, cut to the microsecond.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let us = match self.test_us.load(Ordering::Acquire) {
            REAL => machine_us(),
            test => test,
        };
        Utc.timestamp_micros(us).single().unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// A new id: 48 bits of the machine's milliseconds, a 16-bit counter, 64 random bits.
    /// Ids made by one process ascend, also within a millisecond and on a test clock.
    #[must_use]
    pub fn new_id<I: From<u128>>(&self) -> I {
        let millis = u64::try_from(machine_us() / 1_000).unwrap_or(0) << 16;
        let next = LAST_ID
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(millis.max(last + 1)))
            .map_or(millis, |last| millis.max(last + 1));
        I::from((u128::from(next) << 64) | u128::from(rand::random::<u64>()))
    }
}

fn machine_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_clock_stands_still_until_it_is_moved_for_all_clones() {
        let start = Utc.with_ymd_and_hms(2023, 11, 17, 0, 0, 0).unwrap();
        let clock = Clock::test(start);
        let clone = clock.clone();
        assert_eq!(clock.now(), start);
        let later = start + chrono::Duration::days(15);
        clone.set(later);
        assert_eq!(clock.now(), later);
        assert!(clock.is_test() && !Clock::real().is_test());
    }

    #[test]
    fn ids_ascend() {
        let clock = Clock::real();
        let ids: Vec<u128> = (0..100_000).map(|_| clock.new_id()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
