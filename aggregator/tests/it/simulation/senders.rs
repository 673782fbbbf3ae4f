//! Who sends events, what they were told, and what they send again.
//!
//! A sender sends an event until it has a verdict on it; some give up before that. What a verdict
//! promises of the log is checked when it is heard, what it promises of usage at the end.

use super::{START_US, catalog::CODES, dice::Dice};
use std::collections::{BTreeMap, BTreeSet};
use weir_events::{RecordEvent, property};

/// One form of a transaction's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copy {
    pub transaction: u64,
    /// 0 is what is sent first; every other number is another content.
    pub content: u64,
}

/// The content of an event that no edge takes.
const BROKEN: u64 = 9;
/// More than what shares records with other requests.
const LARGE_EVENTS: u64 = 20;

#[derive(Default)]
pub struct Senders {
    transactions: u64,
    pub posted: BTreeSet<Copy>,
    pub accepted: BTreeSet<Copy>,
    /// Transactions of which some copy got a verdict that says it is in the log.
    pub told: BTreeSet<u64>,
    /// Requests that will be sent again.
    again: Vec<Vec<Copy>>,
}

impl Senders {
    /// The next request: one that is sent again, or new events, repeats and other contents.
    pub fn request(&mut self, dice: &mut Dice) -> Vec<Copy> {
        if !self.again.is_empty() && dice.chance(60) {
            let at = dice.pick(self.again.len());
            return self.again.swap_remove(at);
        }
        let count = if dice.chance(3) { LARGE_EVENTS } else { 1 + dice.roll(4) };
        (0..count).map(|_| self.copy(dice)).collect()
    }

    /// What is left to be sent when all faults are over.
    pub fn last_request(&mut self) -> Option<Vec<Copy>> {
        self.again.pop()
    }

    /// Requests that have no verdict yet.
    pub fn waiting(&self) -> usize {
        self.again.len()
    }

    fn copy(&mut self, dice: &mut Dice) -> Copy {
        if self.transactions > 0 && dice.chance(30) {
            // Mostly of what is still on its way.
            let back = if dice.chance(60) { self.transactions.min(8) } else { self.transactions };
            let transaction = self.transactions - 1 - dice.roll(back);
            let content = if dice.chance(30) { 1 + dice.roll(3) } else { 0 };
            return Copy { transaction, content };
        }
        self.transactions += 1;
        let content = if dice.chance(3) { BROKEN } else { 0 };
        Copy { transaction: self.transactions - 1, content }
    }

    pub fn send_again(&mut self, request: Vec<Copy>) {
        if !request.is_empty() {
            self.again.push(request);
        }
    }

    /// Hears a verdict on a copy; `durable` are the copies that the log holds now.
    pub fn hear(&mut self, copy: Copy, word: &str, durable: &BTreeSet<Copy>) {
        let transaction = copy.transaction;
        match word {
            "accepted" => {
                assert!(durable.contains(&copy), "{copy:?} is accepted and not in the log");
                self.accepted.insert(copy);
                self.told.insert(transaction);
            }
            "duplicate" => {
                assert!(durable.contains(&copy), "{copy:?} is a duplicate of nothing in the log");
                self.told.insert(transaction);
            }
            "conflict" => {
                let all = Copy { transaction, content: 0 }..=Copy { transaction, content: BROKEN };
                let other = durable.range(all).any(|first| *first != copy);
                assert!(other, "{copy:?} is in conflict with nothing in the log");
                self.told.insert(transaction);
            }
            "rejected" => assert!(copy.content == BROKEN, "{copy:?} is rejected"),
            other => panic!("the verdict on {copy:?} is {other}"),
        }
    }

    /// Compares what senders were told with what is counted: for each transaction the contents, and
    /// the copies that are listed as conflicts.
    pub fn compare(&self, counted: &BTreeMap<u64, Vec<u64>>, conflicts: &BTreeSet<Copy>) {
        for (transaction, contents) in counted {
            assert_eq!(contents.len(), 1, "transaction {transaction} is counted {contents:?}");
            let copy = Copy { transaction: *transaction, content: contents[0] };
            assert!(self.posted.contains(&copy), "{copy:?} is counted and nobody sent it");
            assert!(copy.content != BROKEN, "{copy:?} is counted");
        }
        for transaction in &self.told {
            let told = "is in the log as senders were told, and not counted";
            assert!(counted.contains_key(transaction), "transaction {transaction} {told}");
        }
        for copy in &self.accepted {
            let first = counted[&copy.transaction][0];
            let listed = first == copy.content || conflicts.contains(copy);
            assert!(listed, "{copy:?} is accepted after {first}, and the conflict is not listed");
        }
    }
}

impl Copy {
    pub fn json(self) -> String {
        let Self { transaction, content } = self;
        let mut facts = Dice::new(transaction * 8 + content);
        let value = match facts.roll(8) {
            0 => String::new(),
            1 => r#","v":"not a number""#.to_owned(),
            2 => format!(r#","v":{},"operation_type":"remove""#, facts.roll(5)),
            _ => format!(r#","v":{}.{:03}"#, facts.roll(20) as i64 - 5, facts.roll(1000)),
        };
        let subscription = ["s0", "s1", "s2", "nobody"][facts.pick(4)];
        let code = CODES[facts.pick(3)];
        let at_us = START_US + facts.roll(3_600_000_000) as i64;
        let timestamp = match facts.roll(8) {
            _ if content == BROKEN => r#","timestamp":"never""#.to_owned(),
            // The time of its receipt.
            0 => String::new(),
            _ => format!(r#","timestamp":{}.{:06}"#, at_us / 1_000_000, at_us % 1_000_000),
        };
        let names = format!(r#""externalSubscriptionId":"{subscription}","code":"{code}""#);
        let properties = format!(r#""properties":{{"c":{content}{value}}}"#);
        format!(r#"{{"transactionId":"t{transaction}",{names}{timestamp},{properties}}}"#)
    }

    pub fn of(event: &RecordEvent<'_>) -> Self {
        let number = |text: &str| text.parse().unwrap();
        let content = property(event.properties, "c").unwrap();
        Self { transaction: number(&event.transaction_id[1..]), content: number(content) }
    }
}
