//! The content hash over arbitrary properties.

use proptest::prelude::*;
use serde_json::{Map, Value};
use weir_events::{content_hash, distinct_of, parse_one, property};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            any_object_of(inner),
        ]
    })
}

fn any_object_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::btree_map("\\PC{0,4}", value, 0..40)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

/// The same value with the keys of every object the other way round.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .rev()
                .map(|(key, value)| (key.clone(), reversed(value)))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(elements) => elements.iter().map(reversed).collect(),
        other => other.clone(),
    }
}

fn hash(properties: &str) -> u64 {
    let body = format!(
        r#"{{"transactionId":"t","externalSubscriptionId":"s","code":"c","properties":{properties}}}"#
    );
    content_hash(&parse_one(body.as_bytes()).unwrap().unwrap())
}

proptest! {
    #[test]
    fn order_of_keys_and_white_space_do_not_matter(properties in any_object_of(any_json())) {
        let other = reversed(&properties);
        let pretty = serde_json::to_string_pretty(&other).unwrap();
        prop_assert_eq!(hash(&properties.to_string()), hash(&pretty));
        prop_assert_eq!(distinct_of(&properties.to_string()), distinct_of(&pretty));
    }

    #[test]
    fn another_value_is_another_content(properties in any_object_of(any_json()), extra in any_json()) {
        let mut more = properties.clone();
        let fields = more.as_object_mut().unwrap();
        // Keys of the strategy have at most four characters.
        fields.insert("extra".to_owned(), extra);
        prop_assert_ne!(hash(&properties.to_string()), hash(&more.to_string()));
        let raw = more.to_string();
        let found: Value = serde_json::from_str(property(&raw, "extra").unwrap()).unwrap();
        prop_assert_eq!(&found, &more["extra"]);
    }
}
