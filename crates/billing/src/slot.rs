//! Which line of a charge bills an event: the filter that takes it, and its group.

use crate::{
    charge::{Charge, ChargeFilter},
    group::read_group,
    invoice::{GroupValues, UsageSlot},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};

/// A line of a charge with the groups of usage that it bills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot<'a> {
    /// None: the default price.
    pub filter: Option<&'a ChargeFilter>,
    /// The pricing group keys with their values.
    pub group: GroupValues,
    pub groups: BTreeSet<&'a str>,
}

/// A group whose text is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadableGroup(pub String);

/// Puts each group in exactly one slot. Slots stand by filter, oldest first, the default last; of
/// each by group.
pub(crate) fn slots<'a>(
    charge: &'a Charge,
    groups: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Slot<'a>>, UnreadableGroup> {
    let filters = by_age(charge);
    let mut slots: BTreeMap<(usize, GroupValues), BTreeSet<&'a str>> = BTreeMap::new();
    for text in groups {
        let values = read_group(text).ok_or_else(|| UnreadableGroup(String::from(text)))?;
        let filter = filter_of(&filters, &values);
        let keys = group_keys(charge, filter.and_then(|place| filters.get(place)).copied());
        let group = keys.iter().map(|key| (key.clone(), values.get(key).cloned())).collect();
        let place = (filter.unwrap_or(filters.len()), group);
        slots.entry(place).or_default().insert(text);
    }
    Ok(slots
        .into_iter()
        .map(|((place, group), groups)| Slot { filter: filters.get(place).copied(), group, groups })
        .collect())
}

/// The charge's filters, oldest first.
pub(crate) fn by_age(charge: &Charge) -> Vec<&ChargeFilter> {
    let mut filters: Vec<&ChargeFilter> = charge.filters.iter().collect();
    filters.sort_by_key(|filter| filter.id);
    filters
}

fn group_keys<'a>(charge: &'a Charge, filter: Option<&'a ChargeFilter>) -> &'a [String] {
    match filter {
        Some(filter) if !filter.pricing_group_keys.is_empty() => &filter.pricing_group_keys,
        _ => &charge.pricing_group_keys,
    }
}

/// The place of the filter that takes events with these values. Of those that match, the ones with
/// most keys; of these, one that no other is a part of; of these, the oldest.
fn filter_of(by_age: &[&ChargeFilter], values: &BTreeMap<String, String>) -> Option<usize> {
    let matches = |filter: &ChargeFilter| {
        filter.values.iter().all(|(key, taken)| {
            values.get(key).is_some_and(|value| taken.iter().any(|one| one == value))
        })
    };
    let mut matching: Vec<(usize, &ChargeFilter)> =
        by_age.iter().copied().enumerate().filter(|(_, filter)| matches(filter)).collect();
    let most = matching.iter().map(|(_, filter)| filter.values.len()).max()?;
    matching.retain(|(_, filter)| filter.values.len() == most);
    let narrowest = matching
        .iter()
        .find(|(_, filter)| !matching.iter().any(|(_, other)| is_part_of(other, filter)));
    narrowest.map(|(place, _)| *place)
}

/// Whether everything that `part` takes `whole` takes too, and more.
fn is_part_of(part: &ChargeFilter, whole: &ChargeFilter) -> bool {
    let inside = |part: &ChargeFilter, whole: &ChargeFilter| {
        part.values.len() == whole.values.len()
            && part.values.iter().all(|(key, values)| {
                whole.values.get(key).is_some_and(|all| values.iter().all(|one| all.contains(one)))
            })
    };
    inside(part, whole) && !inside(whole, part)
}

impl Slot<'_> {
    pub(crate) fn key(&self, charge: &Charge) -> UsageSlot {
        UsageSlot {
            charge: charge.id,
            metric: charge.metric,
            filter: self.filter.map(|filter| filter.id),
            group: self.group.clone(),
        }
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
