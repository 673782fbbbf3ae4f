//! Reading one property of an event, exactly.

use crate::json::{Cursor, Kind, Text};
use std::borrow::Cow;
use weir_money::{Quantity, QuantityError};

/// Where a field stands in the text of its object. 20 bytes: a body of nothing but the smallest fields,
/// of six bytes each, takes some three times its size here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    key: Span,
    is_key_escaped: bool,
    value: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: u32,
    to: u32,
}

impl Field {
    /// The field of an object with which `text` begins; `key` and `value` are parts of the text.
    pub fn of(text: &str, key: Text<'_>, value: &str) -> Self {
        Self {
            key: Span::of(text, key.raw),
            is_key_escaped: key.escaped,
            value: Span::of(text, value),
        }
    }

    fn key(self, text: &str) -> Text<'_> {
        Text { raw: self.key.within(text), escaped: self.is_key_escaped, broken: false }
    }
}

impl Span {
    fn of(text: &str, part: &str) -> Self {
        let from = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        // No body is so large; one that were would lose the field.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { from: place(from), to: place(from + part.len()) }
    }

    fn within(self, text: &str) -> &str {
        text.get(self.from as usize..self.to as usize).unwrap_or_default()
    }
}

/// An event's properties, read once however many metrics ask for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties<'a> {
    text: &'a str,
    fields: &'a [Field],
}

impl<'a> Properties<'a> {
    /// Of an event that has none.
    pub const NONE: Self = Self { text: "{}", fields: &[] };

    pub(crate) fn new(text: &'a str, fields: &'a [Field]) -> Self {
        Self { text, fields }
    }

    /// The value of `key` as written. `None`: no such key; a JSON `null` is `Some("null")`.
    #[must_use]
    pub fn get(self, key: &str) -> Option<&'a str> {
        let field = self.fields.iter().find(|field| field.key(self.text).is(key))?;
        Some(field.value.within(self.text))
    }

    /// Each key with its value as written, in the order of the text.
    pub(crate) fn iter(self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
        let Self { text, fields } = self;
        fields.iter().map(move |field| (field.key(text).value(), field.value.within(text)))
    }
}

/// Reads stored properties, those of one event after the other, in the same memory.
#[derive(Debug, Default)]
pub struct PropertyReader {
    fields: Vec<Field>,
}

impl PropertyReader {
    /// The fields of an event's properties: an object that `parse_*` has accepted. Of any other text
    /// those that come before its first fault.
    pub fn read<'a>(&'a mut self, text: &'a str) -> Properties<'a> {
        self.fields.clear();
        let mut cursor = Cursor::new(text);
        if cursor.take(b'{') {
            while let Ok(Some(key)) = cursor.next_key(self.fields.is_empty()) {
                let Ok(value) = cursor.skip_value() else { break };
                self.fields.push(Field::of(text, key, value));
            }
        }
        Properties::new(text, &self.fields)
    }
}

/// The value of `key` as written in an event's properties (an object that `parse_*` has accepted).
/// `None`: no such key; a JSON `null` is `Some("null")`.
#[must_use]
pub fn property<'a>(raw_properties: &'a str, key: &str) -> Option<&'a str> {
    let mut cursor = Cursor::new(raw_properties);
    if !cursor.take(b'{') {
        return None;
    }
    let mut first = true;
    while let Some(name) = cursor.next_key(first).ok()? {
        first = false;
        let value = cursor.skip_value().ok()?;
        if name.is(key) {
            return Some(value);
        }
    }
    None
}

/// The number that a property's raw value holds: a JSON number, or a string with one. Every digit
/// counts. Errors: `NotANumber`; `TooManyDigits` beyond 16 before or 12 after the point.
pub fn value_of(raw: &str) -> Result<Quantity, QuantityError> {
    Quantity::parse_value(&characters(raw).unwrap_or(Cow::Borrowed(raw)))
}

/// The characters of a raw value that is a string.
fn characters(raw: &str) -> Option<Cow<'_, str>> {
    let mut cursor = Cursor::new(raw);
    (cursor.kind().ok()? == Kind::String).then(|| cursor.string().ok())?.map(|text| text.value())
}

/// The text by which distinct values of a property are told apart: a string's characters; a number
/// in its shortest form, so `1`, `1.0` and `"1"` are one value; an object or array without white
/// space and with its keys in order.
#[must_use]
pub fn distinct_of(raw: &str) -> String {
    match characters(raw) {
        Some(text) => text.into_owned(),
        None => {
            let mut out = String::new();
            canonical(raw.trim(), CANONICAL_DEPTH_MAX, &mut out);
            out
        }
    }
}

// No event has deeper properties; deeper text is written as it stands.
const CANONICAL_DEPTH_MAX: u32 = crate::PROPERTIES_DEPTH_MAX;

fn canonical(raw: &str, depth_left: u32, out: &mut String) {
    let mut cursor = Cursor::new(raw);
    let done = match cursor.kind() {
        Ok(Kind::Object) if depth_left > 0 => canonical_object(&mut cursor, depth_left, out),
        Ok(Kind::Array) if depth_left > 0 => canonical_array(&mut cursor, depth_left, out),
        Ok(Kind::Number) => {
            let shortest = Quantity::parse_value(raw).map(|quantity| quantity.to_string());
            out.push_str(shortest.as_deref().unwrap_or(raw));
            Some(())
        }
        Ok(Kind::String) => cursor.string().ok().map(|text| write_string(&text.value(), out)),
        _ => None,
    };
    if done.is_none() {
        out.push_str(raw);
    }
}

/// `None`, with nothing written: the raw text is no object.
fn canonical_object(cursor: &mut Cursor<'_>, depth_left: u32, out: &mut String) -> Option<()> {
    cursor.take(b'{');
    let mut fields = Vec::new();
    while let Some(key) = cursor.next_key(fields.is_empty()).ok()? {
        fields.push((key.value(), cursor.skip_value().ok()?));
    }
    fields.sort();
    for (place, (key, value)) in fields.iter().enumerate() {
        out.push(if place == 0 { '{' } else { ',' });
        write_string(key, out);
        out.push(':');
        canonical(value, depth_left - 1, out);
    }
    out.push_str(if fields.is_empty() { "{}" } else { "}" });
    Some(())
}

fn canonical_array(cursor: &mut Cursor<'_>, depth_left: u32, out: &mut String) -> Option<()> {
    cursor.take(b'[');
    let mut elements = Vec::new();
    while cursor.next_element(elements.is_empty()).ok()? {
        elements.push(cursor.skip_value().ok()?);
    }
    for (place, element) in elements.iter().enumerate() {
        out.push(if place == 0 { '[' } else { ',' });
        canonical(element, depth_left - 1, out);
    }
    out.push_str(if elements.is_empty() { "[]" } else { "]" });
    Some(())
}

/// Appends `text` as a JSON string, quotes included.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_found_as_it_was_written() {
        let raw = r#"{"a":{"n":1}, "n" : 9007199254740993 ,"\u0074":"x","z":null}"#;
        assert_eq!(property(raw, "n"), Some("9007199254740993"));
        assert_eq!(property(raw, "a"), Some(r#"{"n":1}"#));
        assert_eq!(property(raw, "t"), Some(r#""x""#));
        assert_eq!(property(raw, "z"), Some("null"));
        assert_eq!(property(raw, "b"), None);
        for broken in ["", "[]", "{\"n\"", "{\"n\":", "null"] {
            assert_eq!(property(broken, "n"), None, "{broken}");
        }
    }

    #[test]
    fn properties_read_at_once_are_those_that_are_found_one_by_one() {
        let raw = r#"{"a":{"n":1}, "n" : 9007199254740993 ,"\u0074":"x","z":null}"#;
        let mut reader = PropertyReader::default();
        // What was read before is gone.
        assert_eq!(reader.read(r#"{"b":1}"#).get("b"), Some("1"));
        let properties = reader.read(raw);
        for key in ["n", "a", "t", "z", "b", ""] {
            assert_eq!(properties.get(key), property(raw, key), "{key}");
        }
        let keys: Vec<_> = properties.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a", "n", "t", "z"]);
        assert_eq!(reader.read(r#"{"a":1,"n":[}"#).get("a"), Some("1"));
        assert_eq!(reader.read(r#"{"a":1,"n":[}"#).get("n"), None);
        assert_eq!(reader.read("{}"), Properties::NONE);
        assert_eq!(reader.read("null").get("n"), None);
        assert!(size_of::<Field>() <= 20);
    }

    #[test]
    fn values_keep_each_digit_whether_number_or_string() {
        for (raw, plain) in [
            ("9007199254740993", "9007199254740993"),
            ("0.1", "0.1"),
            ("1e3", "1000"),
            ("\"12.50\"", "12.5"),
            ("\"\\u0031\"", "1"),
            ("-0.000000000001", "-0.000000000001"),
        ] {
            assert_eq!(value_of(raw).unwrap().to_string(), plain, "{raw}");
        }
        for raw in ["null", "true", "{}", "[1]", "\"\"", "\"1 \"", "\"1,5\"", "\"NaN\"", ""] {
            assert_eq!(value_of(raw), Err(QuantityError::NotANumber), "{raw}");
        }
        for raw in ["12345678901234567", "0.1234567890123", "\"1e17\""] {
            assert_eq!(value_of(raw), Err(QuantityError::TooManyDigits), "{raw}");
        }
    }

    #[test]
    fn distinct_values_are_told_apart_by_what_they_mean() {
        for (raw, text) in [
            ("\"u\\u0031\"", "u1"),
            ("1.0", "1"),
            ("1e0", "1"),
            ("\"1\"", "1"),
            ("true", "true"),
            ("null", "null"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (r#"{ "b" : [ 1.0, {} , [] ], "a" : "x\n\"" }"#, r#"{"a":"x\u000a\"","b":[1,{},[]]}"#),
        ] {
            assert_eq!(distinct_of(raw), text, "{raw}");
        }
        assert_eq!(distinct_of("{\"a\""), "{\"a\"", "what cannot be read stands as it is");
    }
}
