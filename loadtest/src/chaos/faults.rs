//! What is done to the processes, and in which order: a seed says it all.

use super::dice::Dice;
use anyhow::bail;
use std::{fmt, str::FromStr, time::Duration};

/// A process, or what several need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// All of `weir up`.
    Up,
    Ingest,
    Aggregator,
    Aggregator2,
    Invoicer,
    Api,
    Broker,
    Engine,
    Postgres,
    /// The disk that the log writes to.
    Disk,
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blow {
    /// SIGKILL, and a start.
    Kill,
    /// SIGSTOP, and SIGCONT: it says nothing, but its connections stand.
    Pause,
    /// SIGTERM, and a start.
    End,
    /// No byte is left, and then all are again.
    Fill,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    pub blow: Blow,
    pub part: Part,
}

/// A fault and how long it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub fault: Fault,
    pub lasts: Duration,
}

/// What can happen to a `weir up`.
pub const EMBEDDED: [&str; 8] = [
    "kill:up",
    "kill:engine",
    "kill:postgres",
    "fill:disk",
    "pause:engine",
    "pause:postgres",
    "pause:up",
    "end:up",
];

/// What can happen to roles apart.
pub const APART: [&str; 17] = [
    "kill:ingest",
    "kill:aggregator",
    "kill:aggregator-2",
    "kill:invoicer",
    "kill:api",
    "kill:broker",
    "kill:engine",
    "kill:postgres",
    "fill:disk",
    "pause:aggregator",
    "pause:broker",
    "pause:engine",
    "pause:postgres",
    "end:aggregator-2",
    "end:broker",
    "end:engine",
    "end:postgres",
];

const PARTS: [(Part, &str); 10] = [
    (Part::Up, "up"),
    (Part::Ingest, "ingest"),
    (Part::Aggregator, "aggregator"),
    (Part::Aggregator2, "aggregator-2"),
    (Part::Invoicer, "invoicer"),
    (Part::Api, "api"),
    (Part::Broker, "broker"),
    (Part::Engine, "engine"),
    (Part::Postgres, "postgres"),
    (Part::Disk, "disk"),
];

const BLOWS: [(Blow, &str); 4] =
    [(Blow::Kill, "kill"), (Blow::Pause, "pause"), (Blow::End, "end"), (Blow::Fill, "fill")];

/// An aggregator that is paused for longer than its lease is not the owner any more afterwards.
const BEYOND_A_LEASE: Duration = Duration::from_millis(8_000);
/// The shortest and the longest time that anything else lasts.
const LASTS_MS: (u64, u64) = (200, 3_000);

impl Part {
    pub fn name(self) -> &'static str {
        PARTS.iter().find(|(part, _)| *part == self).map_or("", |(_, name)| *name)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blow = BLOWS.iter().find(|(blow, _)| *blow == self.blow).map_or("", |(_, name)| *name);
        write!(f, "{blow}:{}", self.part.name())
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let known = APART.iter().chain(&EMBEDDED).any(|known| *known == text);
        let parsed = text.split_once(':').and_then(|(blow, part)| {
            let blow = BLOWS.iter().find(|(_, name)| *name == blow)?.0;
            let part = PARTS.iter().find(|(_, name)| *name == part)?.0;
            Some(Self { blow, part })
        });
        match parsed.filter(|_| known) {
            Some(fault) => Ok(fault),
            None => {
                bail!("{text} is no fault: {}", [&EMBEDDED[..], &APART[..]].concat().join(", "))
            }
        }
    }
}

/// Faults without end: each kind once in random order, then again in another.
pub struct Schedule {
    dice: Dice,
    kinds: Vec<Fault>,
    left: Vec<Fault>,
}

impl Schedule {
    /// The same faults for the same seed.
    pub fn new(seed: u64, kinds: Vec<Fault>) -> Self {
        Self { dice: Dice::new(seed), kinds, left: Vec::new() }
    }

    /// The next one; none where there are no kinds.
    pub fn next(&mut self) -> Option<Planned> {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
            for place in (1..self.left.len()).rev() {
                let other = self.dice.below(place as u64 + 1) as usize;
                self.left.swap(place, other);
            }
        }
        let fault = self.left.pop()?;
        let span = LASTS_MS.1 - LASTS_MS.0;
        let lasts = Duration::from_millis(LASTS_MS.0 + self.dice.below(span));
        let beyond = fault == Fault { blow: Blow::Pause, part: Part::Aggregator };
        Some(Planned { fault, lasts: if beyond { BEYOND_A_LEASE } else { lasts } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn kinds(names: &[&str]) -> Vec<Fault> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_fault_is_read_as_it_is_written() {
        for name in EMBEDDED.iter().chain(&APART) {
            assert_eq!(name.parse::<Fault>().unwrap().to_string(), *name);
        }
        for wrong in ["", "kill", "kill:disk", "fill:broker", "hug:broker", "kill:broker "] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_faults_and_every_kind_comes_before_one_comes_again() {
        let plan = |seed| {
            let mut schedule = Schedule::new(seed, kinds(&APART));
            (0..APART.len() * 2).map_while(|_| schedule.next()).collect::<Vec<_>>()
        };
        let plan_of_7 = plan(7);
        assert_eq!(plan_of_7, plan(7));
        assert_ne!(plan_of_7, plan(8));
        for round in plan_of_7.chunks(APART.len()) {
            let distinct: BTreeSet<Fault> = round.iter().map(|planned| planned.fault).collect();
            assert_eq!(distinct.len(), APART.len());
        }
        assert!(Schedule::new(1, Vec::new()).next().is_none());
    }
}
