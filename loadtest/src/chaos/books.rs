//! What was sent, what was answered, and what must come of it.

use super::{dice::Dice, story::Story};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Of a hundred copies that are sent so many repeat an event that was answered, and so many lie.
const REPEATS: u64 = 12;
const LIES: u64 = 6;
/// The most remarkable answers that are kept word for word.
const REMARKS_MAX: usize = 20;

/// A copy of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    pub number: u64,
    /// As it is meant, or a variant that lies.
    pub lie: Option<u64>,
}

/// What the server said of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Accepted,
    Duplicate,
    Conflict,
    /// Not now, or nothing was heard: it is sent again.
    Nothing,
    Other,
}

/// What is known of an event.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// It was answered for good.
    settled: bool,
    /// How often it was answered `accepted`.
    accepted: u8,
    lied: bool,
    /// A lie may be in the log: it was answered `accepted`, or not at all.
    lie_may_stand: bool,
    lie_accepted: bool,
}

/// The books of all senders.
pub struct Books {
    pub story: Story,
    /// Whether the edge knows every id for ever: in `weir up` it asks the aggregator's own index.
    exact: bool,
    dice: Dice,
    events: Vec<Known>,
    waiting: VecDeque<Copy>,
    under_way: u64,
    pub counts: Counts,
    remarks: Vec<String>,
    remarkable: u64,
}

/// How many copies were sent and how they fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub settled: u64,
    pub repeats: u64,
    pub lies: u64,
    /// Lies that an edge took because it could not know better.
    pub lies_accepted: u64,
    /// Copies that were sent again because nothing was heard or they were not taken.
    pub again: u64,
}

/// What the events of one subscription come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total {
    pub events: u64,
    pub sum: i128,
    pub max: i128,
    pub distinct: u64,
}

impl Books {
    pub fn new(story: Story, exact: bool) -> Self {
        Self {
            story,
            exact,
            dice: Dice::new(story.seed ^ 0xb00c),
            events: Vec::new(),
            waiting: VecDeque::new(),
            under_way: 0,
            counts: Counts::default(),
            remarks: Vec::new(),
            remarkable: 0,
        }
    }

    /// The next copies to be sent: what waits first, then mostly new events.
    pub fn take(&mut self, count: usize) -> Vec<Copy> {
        let waiting = self.waiting.len().min(count);
        let mut copies: Vec<Copy> = self.waiting.drain(..waiting).collect();
        while copies.len() < count {
            let copy = self.fresh();
            copies.push(copy);
        }
        self.under_way += copies.len() as u64;
        copies
    }

    /// What waits, and nothing else; also everything once more, in order, from `from` on.
    pub fn take_waiting(&mut self, count: usize) -> Vec<Copy> {
        let waiting = self.waiting.len().min(count);
        self.under_way += waiting as u64;
        self.waiting.drain(..waiting).collect()
    }

    /// Everything shall be sent once more.
    pub fn again(&mut self) {
        let all = (0..self.events.len() as u64).map(|number| Copy { number, lie: None });
        self.waiting.extend(all);
        self.counts.repeats += self.events.len() as u64;
    }

    /// Whether nothing waits and nothing is under way.
    pub fn at_rest(&self) -> bool {
        self.waiting.is_empty() && self.under_way == 0
    }

    /// Copies that wait to be sent again.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn fresh(&mut self) -> Copy {
        let dice = self.dice.below(100);
        if dice < REPEATS + LIES && !self.events.is_empty() {
            let number = self.dice.below(self.events.len() as u64);
            // Who repeats does not know whether the first copy was taken; who lies shall know it,
            // or else nobody could say which is first.
            if dice < REPEATS {
                self.counts.repeats += 1;
                return Copy { number, lie: None };
            }
            let known = &mut self.events[number as usize];
            if known.settled {
                known.lied = true;
                self.counts.lies += 1;
                return Copy { number, lie: Some(self.dice.below(3)) };
            }
        }
        self.events.push(Known::default());
        Copy { number: self.events.len() as u64 - 1, lie: None }
    }

    /// Notes what was said of a copy; `words` are kept where that is not as it must be.
    pub fn enter(&mut self, copy: Copy, said: Said, words: impl FnOnce() -> String) {
        self.under_way -= 1;
        let exact = self.exact;
        let known = &mut self.events[copy.number as usize];
        let as_it_must = match (copy.lie, said) {
            (_, Said::Nothing) => {
                known.lie_may_stand |= copy.lie.is_some();
                self.counts.again += 1;
                self.waiting.push_back(copy);
                return;
            }
            (None, Said::Accepted) => {
                known.accepted = known.accepted.saturating_add(1);
                !exact || known.accepted == 1
            }
            (None, Said::Duplicate) | (Some(_), Said::Conflict) => true,
            // An edge that knows only the lie tells the truth from it.
            (None, Said::Conflict) | (Some(_), Said::Duplicate) => !exact && known.lie_may_stand,
            (Some(_), Said::Accepted) => {
                (known.lie_may_stand, known.lie_accepted) = (true, true);
                self.counts.lies_accepted += 1;
                !exact
            }
            (_, Said::Other) => false,
        };
        if copy.lie.is_none() && said != Said::Other && !known.settled {
            known.settled = true;
            self.counts.settled += 1;
        }
        if !as_it_must {
            let lie = if copy.lie.is_some() { "a conflicting copy of " } else { "" };
            self.remark(format!("{lie}chaos-{}: {}", copy.number, words()));
        }
    }

    /// Notes something that must not be.
    pub fn remark(&mut self, words: String) {
        self.remarkable += 1;
        if self.remarks.len() < REMARKS_MAX {
            self.remarks.push(words);
        }
    }

    /// Answers that must not be: the first of them, and how many there are.
    pub fn remarks(&self) -> (&[String], u64) {
        (&self.remarks, self.remarkable)
    }

    /// How many events there are.
    pub fn events(&self) -> u64 {
        self.events.len() as u64
    }

    /// Events that were never answered for good.
    pub fn unsettled(&self) -> Vec<String> {
        let numbers = (0..self.events()).filter(|number| !self.events[*number as usize].settled);
        numbers.map(|number| self.story.event(number).id).collect()
    }

    /// Ids of which a lie was answered `accepted`: they must be listed.
    pub fn must_be_listed(&self) -> BTreeSet<String> {
        self.ids(|known| known.lie_accepted)
    }

    /// Ids of which a lie was sent: no others may be listed.
    pub fn may_be_listed(&self) -> BTreeSet<String> {
        self.ids(|known| known.lied)
    }

    fn ids(&self, wanted: impl Fn(&Known) -> bool) -> BTreeSet<String> {
        let numbers = (0_u64..).zip(&self.events).filter(|(_, known)| wanted(known));
        numbers.map(|(number, _)| self.story.event(number).id).collect()
    }

    /// What each subscription must come to.
    pub fn totals(&self) -> BTreeMap<u64, Total> {
        let mut totals: BTreeMap<u64, Total> = BTreeMap::new();
        let mut distinct: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for subscription in 0..self.story.subscriptions {
            totals.insert(subscription, Total::default());
        }
        for number in 0..self.events() {
            let event = self.story.event(number);
            let total = totals.entry(event.subscription).or_default();
            total.events += 1;
            total.sum += i128::from(event.hundredths);
            total.max = total.max.max(i128::from(event.hundredths));
            distinct.entry(event.subscription).or_default().insert(event.who);
        }
        for (subscription, values) in distinct {
            totals.entry(subscription).or_default().distinct = values.len() as u64;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(exact: bool) -> Books {
        let story = Story { seed: 1, subscriptions: 4, from_us: 0, to_us: 1_000_000 };
        Books::new(story, exact)
    }

    fn truth(number: u64) -> Copy {
        Copy { number, lie: None }
    }

    #[test]
    fn what_is_not_heard_of_waits_until_it_is() {
        let mut books = books(true);
        let copies = books.take(10);
        assert!(copies.contains(&truth(0)));
        copies.iter().for_each(|copy| books.enter(*copy, Said::Nothing, String::new));
        assert_eq!((books.waiting(), books.counts.again), (10, 10));
        let again = books.take_waiting(100);
        assert_eq!(again, copies);
        again.iter().for_each(|copy| books.enter(*copy, Said::Duplicate, String::new));
        assert!(books.at_rest() && books.unsettled().is_empty());
    }

    #[test]
    fn an_exact_edge_must_not_take_a_copy_twice_nor_a_lie() {
        let lie = Copy { number: 0, lie: Some(0) };
        let remarkable = |exact, said: &[(Copy, Said)]| {
            let mut books = books(exact);
            books.events.push(Known::default());
            for (copy, said) in said {
                books.under_way += 1;
                books.enter(*copy, *said, String::new);
            }
            books.remarks().1
        };
        let first = (truth(0), Said::Accepted);
        assert_eq!(remarkable(true, &[first, (truth(0), Said::Duplicate)]), 0);
        assert_eq!(remarkable(true, &[first, first]), 1);
        assert_eq!(remarkable(false, &[first, first]), 0);
        assert_eq!(remarkable(true, &[first, (lie, Said::Conflict)]), 0);
        assert_eq!(remarkable(true, &[first, (lie, Said::Accepted)]), 1);
        assert_eq!(remarkable(false, &[first, (lie, Said::Accepted)]), 0);
        assert_eq!(remarkable(false, &[first, (lie, Said::Duplicate)]), 1);
        assert_eq!(remarkable(false, &[first, (truth(0), Said::Other)]), 1);
    }

    #[test]
    fn lies_are_told_only_of_what_was_answered_and_totals_are_those_of_the_truth() {
        let mut books = books(false);
        for _ in 0..50 {
            for copy in books.take(20) {
                let settled = books.events[copy.number as usize].settled;
                assert!(copy.lie.is_none() || settled);
                let said = if copy.lie.is_some() { Said::Accepted } else { Said::Duplicate };
                books.enter(copy, said, String::new);
            }
        }
        assert!(books.counts.lies > 10 && books.counts.repeats > 50);
        assert_eq!(books.must_be_listed(), books.may_be_listed());
        let totals = books.totals();
        assert_eq!(totals.values().map(|total| total.events).sum::<u64>(), books.events());
        let sum: i128 = (0..books.events())
            .map(|number| i128::from(books.story.event(number).hundredths))
            .sum();
        assert_eq!(totals.values().map(|total| total.sum).sum::<i128>(), sum);
    }
}
