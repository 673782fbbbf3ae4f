//! The rule by which partitions are shared, and what an aggregator does about it over time.

use proptest::prelude::*;
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;
use weir_aggregator::balance::{Keeper, Patience, Share, Situation, share};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

const PATIENCE: Patience = Patience {
    orphan_after: Duration::from_secs(60),
    adopted_for: Duration::from_secs(600),
    moves_max: 2,
};

/// Who lives, and who holds each partition: one that lives, one that does not, or nobody.
fn situations() -> impl Strategy<Value = (Vec<&'static str>, Vec<Option<&'static str>>)> {
    let owners = prop::collection::btree_set(prop::sample::select(NAMES[..5].to_vec()), 1..=5);
    let holder = prop::option::weighted(0.8, prop::sample::select(NAMES.to_vec()));
    let held = prop::collection::vec(holder, 1..=40);
    (owners.prop_map(|owners| owners.into_iter().collect()), held)
}

fn shares(owners: &[&'static str], held: &[Option<&'static str>]) -> Vec<(&'static str, Share)> {
    owners.iter().map(|me| (*me, share(Situation { owners, me, held }))).collect()
}

fn count(held: &[Option<&str>], owner: &str) -> usize {
    held.iter().filter(|holder| **holder == Some(owner)).count()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn shares_are_even_and_nobody_claims_what_another_one_does((owners, held) in situations()) {
        let shares = shares(&owners, &held);
        let quotas: Vec<usize> = shares.iter().map(|(_, share)| share.quota).collect();
        prop_assert_eq!(quotas.iter().sum::<usize>(), held.len());
        prop_assert!(quotas.iter().max().unwrap() - quotas.iter().min().unwrap() <= 1);
        let mut claimed = BTreeSet::new();
        for (me, share) in &shares {
            for partition in &share.claim {
                prop_assert_eq!(held[*partition as usize], None);
                prop_assert!(claimed.insert(*partition), "{} is claimed twice", partition);
            }
            for partition in &share.release {
                prop_assert_eq!(held[*partition as usize], Some(*me));
            }
            let after = count(&held, me) + share.claim.len() - share.release.len();
            prop_assert!(after <= share.quota);
            prop_assert!(share.claim.is_empty() || share.release.is_empty());
        }
    }

    #[test]
    fn what_nobody_holds_and_what_is_too_much_moves_and_nothing_else((owners, held) in situations()) {
        let mut held = held;
        let before = held.clone();
        // The leases of those that do not live run out before or after the others move.
        for dead_are_gone in [false, true] {
            if dead_are_gone {
                for holder in &mut held {
                    *holder = holder.filter(|holder| owners.contains(holder));
                }
            }
            for _ in 0..2 {
                for (me, share) in shares(&owners, &held.clone()) {
                    share.claim.iter().for_each(|at| held[*at as usize] = Some(me));
                    share.release.iter().for_each(|at| held[*at as usize] = None);
                }
            }
        }
        let shares = shares(&owners, &held);
        for (me, share) in &shares {
            prop_assert_eq!(count(&held, me), share.quota, "{} of {:?}", me, held);
            prop_assert!(share.claim.is_empty() && share.release.is_empty());
        }
        // Everybody kept what even the smallest share has room for, and of those who had more as
        // many kept one more as may have one.
        let (least, left) = (held.len() / owners.len(), held.len() % owners.len());
        let (mut had_more, mut kept_more) = (0, 0);
        for me in &owners {
            let had = count(&before, me);
            let stayed = before.iter().zip(&held).filter(|(old, new)| **old == Some(*me) && old == new);
            let kept = stayed.count();
            prop_assert!(kept >= had.min(least), "{} kept {} of {}", me, kept, had);
            had_more += usize::from(had > least);
            kept_more += usize::from(kept > least);
        }
        prop_assert_eq!(kept_more, had_more.min(left));
    }
}

#[test]
fn eight_partitions_are_divided_and_divided_again() {
    let owners = |names: &'static str| -> Vec<&'static str> { names.split(' ').collect() };
    let held = |text: &'static str| -> Vec<Option<&'static str>> {
        text.split(' ').map(|holder| (holder != "-").then_some(holder)).collect()
    };
    // Who lives, who holds what, what `b` claims and releases.
    for (names, holders, claim, release) in [
        ("b", "- - - - - - - -", vec![0, 1, 2, 3, 4, 5, 6, 7], vec![]),
        ("a b", "- - - - - - - -", vec![4, 5, 6, 7], vec![]),
        ("a b", "b b b b b b b b", vec![], vec![4, 5, 6, 7]),
        ("a b", "a a a a a a a a", vec![], vec![]),
        ("a b", "b b b b a a a a", vec![], vec![]),
        ("a b c", "b b b b a a a a", vec![], vec![3]),
        // `x` is dead, and its lease still runs.
        ("a b", "x x x x b b b b", vec![], vec![]),
        ("b", "x x x x b b b b", vec![], vec![]),
        ("b", "- - - - b b b b", vec![0, 1, 2, 3], vec![]),
    ] {
        let (owners, held) = (owners(names), held(holders));
        let share = share(Situation { owners: &owners, me: "b", held: &held });
        assert_eq!((share.claim, share.release), (claim, release), "{names}: {holders}");
    }
}

fn wanted(keeper: &mut Keeper, owners: &[&str], held: &[Option<&str>], now: Instant) -> String {
    let situation = Situation { owners, me: "b", held };
    let wanted = keeper.wanted(situation, 0, now);
    wanted.iter().map(|wanted| if *wanted { 'b' } else { '-' }).collect()
}

#[test]
fn partitions_move_two_at_a_time() {
    let (now, all) = (Instant::now(), [Some("b"); 8]);
    let mut keeper = Keeper::new(8, PATIENCE);
    assert_eq!(wanted(&mut keeper, &["b"], &all, now), "bbbbbbbb");
    assert_eq!(wanted(&mut keeper, &["a", "b"], &all, now), "bbbb--bb");
    // What was let go waits for the other: nothing more is, until it is taken.
    let mut held = all;
    held[4..6].fill(None);
    assert_eq!(wanted(&mut keeper, &["a", "b"], &held, now), "bbbb--bb");
    held[4..6].fill(Some("a"));
    assert_eq!(wanted(&mut keeper, &["a", "b"], &held, now), "bbbb----");
}

#[test]
fn one_alone_takes_all_at_once_and_one_of_two_a_few_at_a_time() {
    let (now, free) = (Instant::now(), [None; 8]);
    assert_eq!(wanted(&mut Keeper::new(8, PATIENCE), &["b"], &free, now), "bbbbbbbb");
    assert_eq!(wanted(&mut Keeper::new(8, PATIENCE), &["a", "b"], &free, now), "----bb--");
    let situation = Situation { owners: &["a", "b"], me: "b", held: &free };
    let wanted = Keeper::new(8, PATIENCE).wanted(situation, 2, now);
    assert_eq!(wanted, [false; 8], "two are not ready yet");
}

#[test]
fn a_partition_that_its_owner_does_not_take_goes_to_another_for_a_while() {
    let (start, mut keeper) = (Instant::now(), Keeper::new(2, PATIENCE));
    let later = |seconds| start + Duration::from_secs(seconds);
    let free = [None, Some("b")];
    assert_eq!(wanted(&mut keeper, &["a", "b"], &free, start), "-b", "it is for `a`");
    assert_eq!(wanted(&mut keeper, &["a", "b"], &free, later(59)), "-b");
    assert_eq!(wanted(&mut keeper, &["a", "b"], &free, later(60)), "bb");
    let both = [Some("b"); 2];
    assert_eq!(wanted(&mut keeper, &["a", "b"], &both, later(61)), "bb", "not released at once");
    assert_eq!(wanted(&mut keeper, &["a", "b"], &both, later(659)), "bb");
    assert_eq!(wanted(&mut keeper, &["a", "b"], &both, later(660)), "b-", "`a` may try again");
    // One that was free for a moment only is no orphan.
    let mut keeper = Keeper::new(2, PATIENCE);
    wanted(&mut keeper, &["a", "b"], &free, start);
    wanted(&mut keeper, &["a", "b"], &[Some("a"), Some("b")], later(30));
    assert_eq!(wanted(&mut keeper, &["a", "b"], &free, later(61)), "-b");
}
