//! By what a metric's usage is kept apart: the values that an event has of the metric's dimensions.

use crate::{Properties, distinct_of, property::write_string};
use xxhash_rust::xxh3::xxh3_64;

/// Characters of a value by which usage is kept apart, at most; the edge refuses longer ones.
pub const GROUP_VALUE_CHARS_MAX: usize = 255;

/// A property by which a metric's usage is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dimension {
    /// The property's name.
    pub key: String,
    /// The values that are told apart, as `distinct_of` gives them; others count as absent.
    /// `None`: any value.
    pub values: Option<Vec<String>>,
}

impl Dimension {
    fn tells_apart(&self, key: &str, value: &str) -> bool {
        self.key == key
            && self.values.as_ref().is_none_or(|values| values.iter().any(|own| own == value))
    }
}

/// The group of an event with these properties: the text of a JSON object of its values of the
/// dimensions, keys in order of their bytes, values as `distinct_of` gives them. Without the keys
/// that the event has not or has as `null`, and without values that a dimension does not tell
/// apart; `""` when nothing is left.
///
/// A value that is too long, of an event from before its key was a dimension, is cut and ends in a
/// digest of it, so that no two values become one.
#[must_use]
pub fn group_of(properties: Properties<'_>, dimensions: &[Dimension]) -> String {
    let mut pairs: Vec<(String, String)> = Vec::new();
    each_dimension(properties, dimensions, |key, value| {
        if dimensions.iter().any(|dimension| dimension.tells_apart(key, &value)) {
            pairs.push((key.to_owned(), bounded(value)));
        }
    });
    if pairs.is_empty() {
        return String::new();
    }
    pairs.sort();
    let mut group = String::with_capacity(64);
    for (place, (key, value)) in pairs.iter().enumerate() {
        group.push(if place == 0 { '{' } else { ',' });
        write_string(key, &mut group);
        group.push(':');
        write_string(value, &mut group);
    }
    group.push('}');
    group
}

/// The first dimension of which the event has a value with more than `GROUP_VALUE_CHARS_MAX`
/// characters, in the order of the event's properties. A value that a dimension does not tell
/// apart may have any length.
#[must_use]
pub fn too_long_for_group(properties: Properties<'_>, dimensions: &[Dimension]) -> Option<String> {
    let mut found = None;
    each_dimension(properties, dimensions, |key, value| {
        if found.is_none()
            && is_too_long(&value)
            && dimensions.iter().any(|dimension| dimension.tells_apart(key, &value))
        {
            found = Some(key.to_owned());
        }
    });
    found
}

/// Calls `tell` with key and value of each property that is a dimension and not null.
fn each_dimension(
    properties: Properties<'_>,
    dimensions: &[Dimension],
    mut tell: impl FnMut(&str, String),
) {
    if dimensions.is_empty() {
        return;
    }
    for (key, raw) in properties.iter() {
        if raw != "null" && dimensions.iter().any(|dimension| dimension.key == key) {
            tell(&key, distinct_of(raw));
        }
    }
}

fn is_too_long(value: &str) -> bool {
    value.len() > GROUP_VALUE_CHARS_MAX && value.chars().nth(GROUP_VALUE_CHARS_MAX).is_some()
}

/// The value, or as much of it as leaves room for an ellipsis and the 16 digits of its digest.
fn bounded(value: String) -> String {
    if !is_too_long(&value) {
        return value;
    }
    let digest = format!("…{:016x}", xxh3_64(value.as_bytes()));
    let kept = GROUP_VALUE_CHARS_MAX - digest.chars().count();
    value.chars().take(kept).chain(digest.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PropertyReader;
    use proptest::prelude::*;

    fn group_of(properties: &str, dimensions: &[Dimension]) -> String {
        super::group_of(PropertyReader::default().read(properties), dimensions)
    }

    fn too_long_for_group(properties: &str, dimensions: &[Dimension]) -> Option<String> {
        super::too_long_for_group(PropertyReader::default().read(properties), dimensions)
    }

    fn any(key: &str) -> Dimension {
        Dimension { key: key.to_owned(), values: None }
    }

    fn of(key: &str, values: &[&str]) -> Dimension {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Dimension { key: key.to_owned(), values: Some(values) }
    }

    #[test]
    fn a_group_holds_the_values_that_are_told_apart() {
        let dimensions = [any("region"), of("model", &["large", "4"]), any("a\"b")];
        for (properties, group) in [
            (r#"{"region":"eu","model":"large"}"#, r#"{"model":"large","region":"eu"}"#),
            (
                r#" { "model" : "large" , "region" : "e\u0075" } "#,
                r#"{"model":"large","region":"eu"}"#,
            ),
            (r#"{"model":"small","region":"eu","tokens":5}"#, r#"{"region":"eu"}"#),
            (r#"{"model":4.0}"#, r#"{"model":"4"}"#),
            (r#"{"model":"4"}"#, r#"{"model":"4"}"#),
            (r#"{"region":null,"model":null}"#, ""),
            (r#"{"region":""}"#, r#"{"region":""}"#),
            (r#"{"region":true}"#, r#"{"region":"true"}"#),
            (r#"{"region":{"b":1.0,"a":[]}}"#, r#"{"region":"{\"a\":[],\"b\":1}"}"#),
            (r#"{"a\"b":"c\\d"}"#, r#"{"a\"b":"c\\d"}"#),
            (r#"{"Region":"eu"}"#, ""),
            ("{}", ""),
            ("", ""),
        ] {
            assert_eq!(group_of(properties, &dimensions), group, "{properties}");
        }
        assert_eq!(group_of(r#"{"region":"eu"}"#, &[]), "");
    }

    #[test]
    fn a_key_with_any_value_wins_over_the_same_key_with_some() {
        let dimensions = [of("region", &["eu"]), any("region")];
        assert_eq!(group_of(r#"{"region":"us"}"#, &dimensions), r#"{"region":"us"}"#);
    }

    #[test]
    fn only_a_value_that_is_told_apart_can_be_too_long() {
        let (long, longest) = ("é".repeat(256), "é".repeat(255));
        let dimensions = [of("model", &["large"]), any("region")];
        let found = |properties: &str| too_long_for_group(properties, &dimensions);
        assert_eq!(found(&format!("{{\"region\":\"{longest}\"}}")), None);
        assert_eq!(found(&format!("{{\"model\":\"{long}\",\"other\":\"{long}\"}}")), None);
        let refused = format!("{{\"model\":\"large\",\"region\":\"{long}\"}}");
        assert_eq!(found(&refused).as_deref(), Some("region"));
    }

    #[test]
    fn long_values_from_before_are_bounded_and_stay_apart() {
        let group =
            |end: &str| group_of(&format!("{{\"r\":\"{}{end}\"}}", "é".repeat(300)), &[any("r")]);
        assert_ne!(group("1"), group("2"));
        let value: std::collections::BTreeMap<String, String> =
            serde_json::from_str(&group("1")).unwrap();
        assert_eq!(value["r"].chars().count(), GROUP_VALUE_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn a_group_is_json_and_does_not_depend_on_the_order_of_keys(
            values in prop::collection::btree_map("[a-e\"\\\\]{1,3}", "\\PC{0,8}", 0..6),
            keys in prop::collection::vec("[a-e\"\\\\]{1,3}", 0..6),
        ) {
            let field = |(key, value): (&String, &String)| {
                format!("{}:{}", serde_json::json!(key), serde_json::json!(value))
            };
            let forward = values.iter().map(field).collect::<Vec<_>>().join(",");
            let backward = values.iter().rev().map(field).collect::<Vec<_>>().join(", ");
            let dimensions: Vec<_> = keys.iter().map(|key| any(key)).collect();
            let group = group_of(&format!("{{{forward}}}"), &dimensions);
            prop_assert_eq!(&group, &group_of(&format!("{{ {backward} }}"), &dimensions));
            let expected: std::collections::BTreeMap<_, _> =
                values.into_iter().filter(|(key, _)| keys.contains(key)).collect();
            if expected.is_empty() {
                prop_assert_eq!(group, "");
            } else {
                let read: std::collections::BTreeMap<String, String> =
                    serde_json::from_str(&group).unwrap();
                prop_assert_eq!(read, expected);
            }
        }

        #[test]
        fn no_properties_panic(properties in "\\PC{0,60}") {
            let _ = group_of(&properties, &[any("a")]);
            let _ = too_long_for_group(&properties, &[any("a")]);
        }
    }
}
