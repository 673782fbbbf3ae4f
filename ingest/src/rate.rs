//! How many events a second an organization may send, over all its requests to this process.
//!
//! For each organization one instant is kept: until when what it has sent so far would last at its
//! rate. A request is taken while that is less than the burst ahead, and moves it on by all its
//! events: so a batch larger than the burst can pass, and what follows waits for it.

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use weir_ids::OrganizationId;

/// What may come at once, as a time at the rate: senders collect for a second or less, and one that
/// was held up for a moment may catch up.
const BURST: Duration = Duration::from_secs(2);

/// The organizations that have a rate and send.
#[derive(Default)]
pub struct Rates {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until when what was sent lasts at the organization's rate.
    lasts_until: HashMap<OrganizationId, Instant>,
    sweep_at: usize,
}

/// Entries below which none is looked for that can go.
const SWEPT_ENTRIES: usize = 1_024;

/// It has sent too much: how long to wait until more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFast {
    pub wait: Duration,
}

impl TooFast {
    /// The wait in whole seconds, rounded up.
    #[must_use]
    pub fn wait_s(self) -> u64 {
        self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0)
    }
}

impl Rates {
    /// Whether an organization may send at all at `now`. Errors: how long it has to wait.
    pub fn check(&self, organization: OrganizationId, now: Instant) -> Result<(), TooFast> {
        let lasts_until = self.state.lock().lasts_until.get(&organization).copied();
        lasts_until.map_or(Ok(()), |until| within_burst(until, now))
    }

    /// Takes `events` of an organization that may send `rate` a second (at least one).
    /// Errors: how long it has to wait; nothing is taken.
    pub fn take(
        &self,
        organization: OrganizationId,
        rate: u32,
        events: usize,
        now: Instant,
    ) -> Result<(), TooFast> {
        let mut state = self.state.lock();
        let known = state.lasts_until.get(&organization).copied();
        let from = known.map_or(now, |until| until.max(now));
        within_burst(from, now)?;
        let nanos = (events as u64).saturating_mul(1_000_000_000) / u64::from(rate.max(1));
        state.lasts_until.insert(organization, from + Duration::from_nanos(nanos));
        state.sweep(now);
        Ok(())
    }
}

impl State {
    /// Lets go of the organizations that have been silent long enough to be like new.
    fn sweep(&mut self, now: Instant) {
        if self.lasts_until.len() > self.sweep_at.max(SWEPT_ENTRIES) {
            self.lasts_until.retain(|_, until| *until > now);
            self.sweep_at = 2 * self.lasts_until.len();
        }
    }
}

fn within_burst(until: Instant, now: Instant) -> Result<(), TooFast> {
    let ahead = until.saturating_duration_since(now);
    if ahead < BURST {
        return Ok(());
    }
    // At the burst's end exactly nothing is taken yet: a wait of no time would not end.
    Err(TooFast { wait: (ahead - BURST).max(Duration::from_millis(1)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: OrganizationId = OrganizationId::from_u128(1);
    const GLOBEX: OrganizationId = OrganizationId::from_u128(2);

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn two_seconds_worth_may_come_at_once_and_then_the_rate_holds() {
        let (rates, start) = (Rates::default(), Instant::now());
        let take = |at: f64| rates.take(ACME, 100, 50, start + seconds(at));
        for _ in 0..4 {
            assert_eq!(take(0.0), Ok(()));
        }
        assert_eq!(take(0.0).unwrap_err().wait_s(), 1);
        assert_eq!(rates.check(ACME, start).unwrap_err().wait_s(), 1);
        // Half a second is 50 events.
        let mut taken = 0;
        for step in 1..=1_000 {
            taken += usize::from(take(f64::from(step) / 100.0).is_ok()) * 50;
        }
        assert!((950..=1_050).contains(&taken), "{taken} events in ten seconds");
    }

    #[test]
    fn a_large_batch_passes_and_what_follows_waits_for_it() {
        let (rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.take(ACME, 10, 10_000, start), Ok(()));
        let refused = rates.take(ACME, 10, 1, start + seconds(1.0)).unwrap_err();
        assert_eq!(refused.wait_s(), 997);
        assert!(rates.take(ACME, 10, 1, start + seconds(998.0)).is_err());
        assert_eq!(rates.take(ACME, 10, 1, start + seconds(998.1)), Ok(()));
    }

    #[test]
    fn what_is_refused_costs_nothing_and_others_are_not_touched() {
        let (rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.take(ACME, 1, 2, start), Ok(()));
        for _ in 0..100 {
            assert!(rates.take(ACME, 1, 50, start).is_err());
        }
        assert_eq!(rates.take(GLOBEX, 1, 1, start), Ok(()));
        assert_eq!(rates.check(GLOBEX, start), Ok(()));
        assert_eq!(rates.take(ACME, 1, 1, start + seconds(0.1)), Ok(()));
    }

    #[test]
    fn who_is_silent_takes_no_memory() {
        let (rates, start) = (Rates::default(), Instant::now());
        for number in 0..10_000_u32 {
            let organization = OrganizationId::from_u128(number.into());
            rates.take(organization, 1, 1, start + seconds(f64::from(number))).unwrap();
        }
        let held = rates.state.lock().lasts_until.len();
        assert!(held <= SWEPT_ENTRIES + 1, "{held}");
    }
}
