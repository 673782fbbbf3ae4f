//! Usage as prices need it: read from ClickHouse, under the generations that Postgres names, into the
//! books of the pure crate. The same for an invoice run, a draft, a correction and current usage.
//!
//! Knows neither what is due nor what anything costs: it reads what some prices ask for, and nothing
//! that none of them needs.

mod answers;

use answers::{bounds, insert, measure};
use std::collections::{BTreeMap, BTreeSet};
use weir_billing::{
    book::{DistinctUnion, UsageBook, UsageQuestion, UsageWindow},
    line::Pricing,
};
use weir_ids::{OrganizationId, SubscriptionId};
use weir_store::{PgConnection, StoreError, rolls};
use weir_usage::{ClickHouse, Generations, LateBucket, LateQuestion, Measures, UsageError};

/// Prices that share a book: those of a customer's invoice, a draft, a past window, a subscription.
#[derive(Debug)]
pub struct Priced<'a> {
    pub organization: OrganizationId,
    pub pricings: Vec<Pricing<'a>>,
}

/// Reads usage of some subscriptions under the generations that counted when it was made: all that
/// one reader reads is of the same.
#[derive(Debug)]
pub struct Reader<'a> {
    usage: &'a ClickHouse,
    generations: BTreeMap<OrganizationId, Generations>,
}

/// Something to be read for the prices of a place.
struct Wanted<Q> {
    place: usize,
    question: Q,
}

impl<'a> Reader<'a> {
    /// For these subscriptions and no others. A roll that ends later does not count; what it replaces
    /// stays readable for an hour.
    pub async fn new(
        usage: &'a ClickHouse,
        conn: &mut PgConnection,
        subscriptions: &[(OrganizationId, SubscriptionId)],
    ) -> Result<Self, StoreError> {
        let mut by_organization: BTreeMap<OrganizationId, BTreeSet<SubscriptionId>> =
            BTreeMap::new();
        for (organization, subscription) in subscriptions {
            by_organization.entry(*organization).or_default().insert(*subscription);
        }
        let mut generations = BTreeMap::new();
        for (organization, subscriptions) in by_organization {
            let subscriptions: Vec<_> = subscriptions.into_iter().collect();
            let rows = rolls::generations(&mut *conn, organization, &subscriptions).await?;
            let rolls::GenerationRows { metrics, subscriptions, cells } = rows;
            generations.insert(organization, Generations { metrics, subscriptions, cells });
        }
        Ok(Self { usage, generations })
    }

    /// The usage that the prices need as it is now, a book for each. Of an organization it takes two
    /// queries however many prices there are, and one more for values that are counted over groups.
    ///
    /// What has more than 38 digits is marked in its book: only what needs it can't be billed.
    pub async fn books(&self, priced: &[Priced<'_>]) -> Result<Vec<UsageBook>, UsageError> {
        let mut books = vec![UsageBook::new(); priced.len()];
        let questions = |pricing: &Pricing<'_>| pricing.questions().collect();
        for (organization, wanted) in by_organization(priced, |_, pricing| questions(pricing)) {
            self.read_totals(organization, &wanted, &mut books).await?;
        }
        // A group that can't be read is met again when it is priced.
        let unions = |place: usize, pricing: &Pricing<'_>| {
            let book = books.get(place).map(|book| pricing.unions(book).unwrap_or_default());
            book.unwrap_or_default()
        };
        for (organization, wanted) in by_organization(priced, unions) {
            self.read_unions(organization, &wanted, &mut books).await?;
        }
        Ok(books)
    }

    async fn read_totals(
        &self,
        organization: OrganizationId,
        wanted: &[Wanted<UsageQuestion>],
        books: &mut [UsageBook],
    ) -> Result<(), UsageError> {
        let measures: Measures = wanted
            .iter()
            .map(|one| (one.question.metric, measure(one.question.aggregation)))
            .collect();
        let windows: BTreeSet<(usize, UsageWindow)> =
            wanted.iter().map(|one| (one.place, one.question.window)).collect();
        let windows: Vec<(usize, UsageWindow)> = windows.into_iter().collect();
        let asked: Vec<_> = windows.iter().map(|(_, window)| bounds(window)).collect();
        let generations = self.generations_of(organization);
        for answer in self.usage.usage(organization, &asked, &measures, &generations).await? {
            let window = answer.as_ref().map_or_else(|over| over.window, |usage| usage.window);
            let Some((place, window)) = windows.get(window) else { continue };
            let Some(book) = books.get_mut(*place) else { continue };
            match answer {
                Ok(usage) => insert(book, window.span, usage),
                Err(over) => book.overflow(over.subscription, over.metric),
            }
        }
        Ok(())
    }

    /// Counts distinct values over several groups.
    async fn read_unions(
        &self,
        organization: OrganizationId,
        wanted: &[Wanted<DistinctUnion>],
        books: &mut [UsageBook],
    ) -> Result<(), UsageError> {
        let questions: Vec<_> = wanted
            .iter()
            .map(|one| weir_usage::DistinctUnion {
                window: bounds(&one.question.window),
                metric: one.question.metric,
                groups: one.question.groups.iter().cloned().collect(),
            })
            .collect();
        let generations = self.generations_of(organization);
        let counts = self.usage.distinct_unions(organization, &questions, &generations).await?;
        for (one, count) in wanted.iter().zip(counts) {
            if let Some(book) = books.get_mut(one.place) {
                book.insert_union(one.question.clone(), count);
            }
        }
        Ok(())
    }

    /// The buckets that have changed since, each once.
    pub async fn late_buckets(
        &self,
        organization: OrganizationId,
        questions: &[LateQuestion],
    ) -> Result<Vec<LateBucket>, UsageError> {
        let generations = self.generations_of(organization);
        self.usage.late_buckets(organization, questions, &generations).await
    }

    fn generations_of(&self, organization: OrganizationId) -> Generations {
        self.generations.get(&organization).cloned().unwrap_or_default()
    }
}

/// What the prices ask, each question once for its place, in order.
fn by_organization<Q: Ord>(
    priced: &[Priced<'_>],
    ask: impl Fn(usize, &Pricing<'_>) -> Vec<Q>,
) -> BTreeMap<OrganizationId, Vec<Wanted<Q>>> {
    let mut wanted: BTreeMap<OrganizationId, Vec<Wanted<Q>>> = BTreeMap::new();
    for (place, one) in priced.iter().enumerate() {
        let pricings = one.pricings.iter();
        let questions: BTreeSet<Q> = pricings.flat_map(|pricing| ask(place, pricing)).collect();
        if !questions.is_empty() {
            let questions = questions.into_iter().map(|question| Wanted { place, question });
            wanted.entry(one.organization).or_default().extend(questions);
        }
    }
    wanted
}
