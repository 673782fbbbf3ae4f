//! Who holds which partitions: every aggregator that lives as many as every other, give or take one.
//!
//! [`share`] is the rule: pure, and the same for all who see the same. Nobody is told what to do:
//! each aggregator shows in Postgres that it lives, looks at who holds what, lets go of what is
//! above its share between two chunks, and claims what is free up to its share. Whatever they see
//! and when, the lease alone says who may write; a wrong view costs a pause and never an event.

use std::time::Duration;
use tokio::time::Instant;

/// Who lives and who holds what, as one aggregator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation<'a> {
    /// Those that showed lately that they live; `me` is one of them, named or not.
    pub owners: &'a [&'a str],
    pub me: &'a str,
    /// By partition; `None`: nobody holds it, or on a lease that has run out.
    pub held: &'a [Option<&'a str>],
}

/// What an aggregator is to do about its partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// How many it may hold.
    pub quota: usize,
    /// Free ones that are its own to claim; no other aggregator has the same one in its list.
    pub claim: Vec<u32>,
    /// Held ones that are above its share.
    pub release: Vec<u32>,
}

/// Divides the partitions: 8 between 3 aggregators are 3, 3 and 2.
///
/// The larger shares go to those that hold most, so that as few partitions as possible move. One
/// that is held by an aggregator that does not live is nobody's before its lease has run out.
#[must_use]
pub fn share(situation: Situation<'_>) -> Share {
    let Situation { owners, me, held } = situation;
    let mut owners: Vec<&str> = owners.iter().copied().chain([me]).collect();
    owners.sort_unstable();
    owners.dedup();
    let holds: Vec<usize> = owners
        .iter()
        .map(|owner| held.iter().filter(|holder| **holder == Some(*owner)).count())
        .collect();
    let quotas = quotas(&holds, held.len());
    let short = |at: usize| quotas[at].saturating_sub(holds[at]);
    let place = owners.iter().position(|owner| *owner == me).unwrap_or(0);
    let before_me: usize = (0..place).map(short).sum();
    Share {
        quota: quotas[place],
        claim: held_by(held, None).skip(before_me).take(short(place)).collect(),
        release: held_by(held, Some(me)).skip(quotas[place]).collect(),
    }
}

fn held_by<'a>(held: &'a [Option<&str>], owner: Option<&'a str>) -> impl Iterator<Item = u32> {
    (0..).zip(held).filter(move |(_, holder)| **holder == owner).map(|(partition, _)| partition)
}

/// The share of each owner: equal, and what is left over to those that hold most.
fn quotas(holds: &[usize], partitions: usize) -> Vec<usize> {
    let (least, left) = (partitions / holds.len(), partitions % holds.len());
    let mut by_holding: Vec<usize> = (0..holds.len()).collect();
    // Stable: of equals the first by name.
    by_holding.sort_by_key(|at| std::cmp::Reverse(holds[*at]));
    let mut quotas = vec![least; holds.len()];
    for at in by_holding.into_iter().take(left) {
        quotas[at] += 1;
    }
    quotas
}

/// The times and bounds of balancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a partition must be free before somebody takes it beyond its share.
    pub orphan_after: Duration,
    /// How long such a one is kept although it is too many.
    pub adopted_for: Duration,
    /// Partitions that may be on the way between two owners at once.
    pub moves_max: usize,
}

/// What one aggregator remembers between two looks at the situation.
#[derive(Debug)]
pub struct Keeper {
    patience: Patience,
    free_since: Vec<Option<Instant>>,
    adopted_at: Vec<Option<Instant>>,
}

impl Keeper {
    /// Of so many partitions, none of them seen yet.
    #[must_use]
    pub fn new(partitions: usize, patience: Patience) -> Self {
        Self { patience, free_since: vec![None; partitions], adopted_at: vec![None; partitions] }
    }

    /// Which partitions to hold from here on, by partition. `settling`: those that are held or
    /// about to be and whose index is not ready.
    ///
    /// Moves are few at a time, so that each partition waits for one rebuild of an index and not
    /// for those of all that move. A partition that its rightful owner does not take, because its
    /// disk is full or the like, goes to others after a while.
    pub fn wanted(&mut self, situation: Situation<'_>, settling: usize, now: Instant) -> Vec<bool> {
        let Situation { me, held, .. } = situation;
        self.watch(held, me, now);
        let Share { mut claim, mut release, .. } = share(situation);
        let alone = situation.owners.iter().all(|owner| *owner == me);
        let free = held.iter().filter(|holder| holder.is_none()).count();
        if !alone {
            claim.truncate(self.patience.moves_max.saturating_sub(settling));
        }
        let kept = |partition: u32| {
            let adopted_at = self.adopted_at.get(partition as usize).copied().flatten();
            adopted_at.is_some_and(|at| now.duration_since(at) < self.patience.adopted_for)
        };
        let adopted = held_by(held, Some(me)).filter(|partition| kept(*partition)).count();
        let surplus = release.len().saturating_sub(adopted);
        release.retain(|partition| !kept(*partition));
        release.truncate(surplus.min(self.patience.moves_max.saturating_sub(free)));
        let mut wanted: Vec<bool> = held.iter().map(|holder| *holder == Some(me)).collect();
        self.adopt(&mut wanted, now);
        for (partitions, hold) in [(claim, true), (release, false)] {
            for partition in partitions {
                if let Some(slot) = wanted.get_mut(partition as usize) {
                    *slot = hold;
                }
            }
        }
        wanted
    }

    fn watch(&mut self, held: &[Option<&str>], me: &str, now: Instant) {
        let memory = self.free_since.iter_mut().zip(&mut self.adopted_at);
        for (holder, (free_since, adopted_at)) in held.iter().zip(memory) {
            match holder {
                None => *free_since = free_since.or(Some(now)),
                Some(_) => *free_since = None,
            }
            if holder.is_some_and(|holder| holder != me) {
                *adopted_at = None;
            }
        }
    }

    fn adopt(&mut self, wanted: &mut [bool], now: Instant) {
        let memory = self.free_since.iter().zip(&mut self.adopted_at);
        for (wanted, (free_since, adopted_at)) in wanted.iter_mut().zip(memory) {
            let orphan = free_since
                .is_some_and(|since| now.duration_since(since) >= self.patience.orphan_after);
            if orphan && !*wanted {
                *wanted = true;
                *adopted_at = Some(now);
            }
        }
    }
}
