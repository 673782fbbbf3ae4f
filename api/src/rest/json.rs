//! A JSON body, as it is written: a field that stands twice is refused, since readers differ in
//! which of the two they would take.

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value as Json};
use std::fmt;

/// What `serde_json` calls the only field of a number that keeps its digits.
const NUMBER: &str = "$serde_json::private::Number";

/// Reads a body; it may have 128 levels. Errors: what is wrong, and where.
pub fn read(bytes: &[u8]) -> Result<Json, serde_json::Error> {
    Ok(serde_json::from_slice::<Strict>(bytes)?.0)
}

struct Strict(Json);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::from(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if name == NUMBER && object.is_empty() {
                let digits: String = fields.next_value()?;
                return digits.parse::<Number>().map(Json::Number).map_err(A::Error::custom);
            }
            let Strict(value) = fields.next_value()?;
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("the field {name:?} stands twice")));
            }
            object.insert(name, value);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::read;
    use serde_json::Value as Json;

    #[test]
    fn what_is_written_once_is_read_as_the_usual_reader_has_it() {
        for text in [
            r#"{"a":[1,-2.50,1e400,9007199254740993,0.1,"x\u0000",true,null,{}],"b":{"a":[]}}"#,
            "[]",
            "18446744073709551616",
            "\"\"",
        ] {
            let usual: Json = serde_json::from_str(text).unwrap();
            assert_eq!(read(text.as_bytes()).unwrap().to_string(), usual.to_string());
        }
    }

    #[test]
    fn what_is_written_twice_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"x":{"a":1,"b":2,"a":null}}]"#] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(r#""a" stands twice"#), "{error}");
        }
        assert!(read(b"{\"a\":1} x").is_err() && read("[".repeat(200).as_bytes()).is_err());
    }
}
