//! Latencies of a run.

use std::{fmt, time::Duration};

/// Durations, kept one by one: four bytes each, so millions are a few megabytes.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    /// Adds one; beyond an hour it counts as that.
    pub fn add(&mut self, duration: Duration) {
        self.micros.push(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds all of another.
    pub fn join(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// The least duration that so many per mille don't exceed; zero of none.
    pub fn per_mille(&mut self, share: usize) -> Duration {
        self.micros.sort_unstable();
        let rank = (self.micros.len() * share).div_ceil(1_000).max(1);
        let micros = self.micros.get(rank - 1).copied().unwrap_or(0);
        Duration::from_micros(u64::from(micros))
    }

    /// Median, 99th percentile and greatest.
    pub fn summary(&mut self) -> Summary {
        Summary { p50: self.per_mille(500), p99: self.per_mille(990), max: self.per_mille(1_000) }
    }
}

/// What is shown of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms", ms(self.p50), ms(self.p99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.per_mille(500), Duration::ZERO);
        (1..=200).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let summary = latencies.summary();
        assert_eq!(summary.p50, Duration::from_millis(100));
        assert_eq!(summary.p99, Duration::from_millis(198));
        assert_eq!(summary.max, Duration::from_millis(200));
        assert_eq!(summary.to_string(), "p50 100.0 ms, p99 198.0 ms");
    }
}
