//! The digest of a value: equal for equal content, whatever the order of keys and the white space.
//!
//! Kept with every event for ever, so its definition never changes; `docs/log-format.md` has it.

use super::{Cursor, Kind, SyntaxError, Text};
use crate::property::Field;
use xxhash_rust::xxh3::xxh3_64;

/// What is wrong with a value although it is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A key stands twice in one object; the key, where the object is small enough to name it.
    DuplicateKey(Option<String>),
    TooDeep,
    BrokenText,
}

/// Reads values, digests them and notes the first flaw.
pub(crate) struct Digester {
    /// Digests of the keys of the objects that are open, innermost last.
    keys: Vec<u64>,
    depth_max: u32,
    flaw: Option<Flaw>,
}

// Up to here a repeated key is found as it comes; larger objects are sorted once at their end.
const NAMED_KEYS: usize = 24;

impl Digester {
    /// Objects and arrays may be nested `depth_max` deep.
    pub fn new(depth_max: u32) -> Self {
        Self { keys: Vec::new(), depth_max, flaw: None }
    }

    /// Passes the object that comes next, and adds its own fields to `fields`. After a flaw the
    /// digest means nothing, but the syntax is still checked to the end of the value.
    pub fn read(
        &mut self,
        cursor: &mut Cursor<'_>,
        fields: &mut Vec<Field>,
    ) -> Result<Result<u64, Flaw>, SyntaxError> {
        self.keys.clear();
        self.flaw = None;
        let text = cursor.rest();
        let tell = |key: Text<'_>, value: &str| fields.push(Field::of(text, key, value));
        let digest = self.object(cursor, 0, tell)?;
        Ok(self.flaw.take().map_or(Ok(digest), Err))
    }

    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }

    fn value(&mut self, cursor: &mut Cursor<'_>, depth: u32) -> Result<u64, SyntaxError> {
        match cursor.kind()? {
            Kind::String => {
                let text = cursor.string()?;
                if text.broken {
                    self.note(Flaw::BrokenText);
                }
                Ok(text_digest(text))
            }
            Kind::Object | Kind::Array if depth == self.depth_max => {
                self.note(Flaw::TooDeep);
                cursor.skip_value().map(|_| 0)
            }
            Kind::Object => self.object(cursor, depth, |_, _| {}),
            Kind::Array => self.array(cursor, depth),
            Kind::Number | Kind::Bool | Kind::Null => {
                let start = cursor.at();
                cursor.scalar()?;
                Ok(xxh3_64(cursor.since(start).as_bytes()))
            }
        }
    }

    /// `tell` is called with each field: its key, and its value as written.
    fn object<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
        depth: u32,
        mut tell: impl FnMut(Text<'a>, &'a str),
    ) -> Result<u64, SyntaxError> {
        cursor.take(b'{');
        let base = self.keys.len();
        // A sum, because it does not depend on the order.
        let (mut sum, mut first) = (0_u64, true);
        while let Some(key) = cursor.next_key(first)? {
            first = false;
            let key_digest = self.key(key, base);
            cursor.peek();
            let start = cursor.at();
            let value_digest = self.value(cursor, depth + 1)?;
            tell(key, cursor.since(start));
            sum = sum.wrapping_add(digest_of([key_digest, value_digest]));
        }
        let keys = self.keys.get_mut(base..).unwrap_or_default();
        let count = keys.len() as u64;
        if keys.len() > NAMED_KEYS {
            keys.sort_unstable();
            if keys.windows(2).any(|pair| pair.first() == pair.last()) {
                self.note(Flaw::DuplicateKey(None));
            }
        }
        self.keys.truncate(base);
        Ok(digest_of([u64::from(b'{'), count, sum]))
    }

    fn key(&mut self, key: Text<'_>, base: usize) -> u64 {
        if key.broken {
            self.note(Flaw::BrokenText);
        }
        let digest = text_digest(key);
        let earlier = self.keys.get(base..).unwrap_or_default();
        if earlier.len() < NAMED_KEYS && earlier.contains(&digest) {
            self.note(Flaw::DuplicateKey(Some(key.value().into_owned())));
        }
        self.keys.push(digest);
        digest
    }

    fn array(&mut self, cursor: &mut Cursor<'_>, depth: u32) -> Result<u64, SyntaxError> {
        cursor.take(b'[');
        let (mut digest, mut first) = (u64::from(b'['), true);
        while cursor.next_element(first)? {
            first = false;
            digest = digest_of([digest, self.value(cursor, depth + 1)?]);
        }
        Ok(digest)
    }
}

/// The digest of a string: of its characters with a quote before them, so that no string has the
/// digest of a number. Escapes don't matter.
fn text_digest(text: Text<'_>) -> u64 {
    if text.escaped { characters_digest(&text.value()) } else { characters_digest(text.raw) }
}

fn characters_digest(characters: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(characters.as_bytes(), u64::from(b'"'))
}

/// The digest of some digests.
pub(crate) fn digest_of<const N: usize>(parts: [u64; N]) -> u64 {
    let mut bytes = [0_u8; 64];
    let mut length = 0;
    for (slot, part) in bytes.chunks_exact_mut(8).zip(parts) {
        slot.copy_from_slice(&part.to_le_bytes());
        length += 8;
    }
    xxh3_64(bytes.get(..length).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Result<u64, Flaw> {
        let mut digester = Digester::new(3);
        let digest = digester.value(&mut Cursor::new(text), 0).unwrap();
        digester.flaw.take().map_or(Ok(digest), Err)
    }

    #[test]
    fn order_of_keys_white_space_and_escapes_do_not_matter() {
        let same = digest(r#"{"a":1,"b":{"c":[1,2],"d":"é"}}"#);
        assert_eq!(same, digest(r#" { "b" : { "d" : "\u00e9", "c" : [ 1 , 2 ] } , "a" : 1 } "#));
        for other in [
            r#"{"a":1,"b":{"c":[2,1],"d":"é"}}"#,
            r#"{"a":"1","b":{"c":[1,2],"d":"é"}}"#,
            r#"{"a":1,"c":{"b":[1,2],"d":"é"}}"#,
            r#"{"a":1,"b":{"c":[1,2],"d":"é","e":null}}"#,
            r#"{"a":1}"#,
            "{}",
            "[]",
        ] {
            assert_ne!(same, digest(other), "{other}");
        }
        assert_ne!(digest("[1,2]"), digest("[[1],2]"));
    }

    #[test]
    fn a_repeated_key_is_found_at_every_level_and_size() {
        let named = |key: &str| Err(Flaw::DuplicateKey(Some(key.to_owned())));
        assert_eq!(digest(r#"{"a":1,"b":2,"a":1}"#), named("a"));
        assert_eq!(digest(r#"{"a":1,"\u0061":1}"#), named("a"));
        assert_eq!(digest(r#"[{"x":{"b":0,"b":0}}]"#), named("b"));
        assert!(digest(r#"{"a":{"a":1},"b":{"a":1}}"#).is_ok());
        for repeated in [0, 10, 98] {
            let keys = (0..99).map(|n| format!("\"k{n}\":0,")).collect::<String>();
            let found = digest(&format!("{{{keys}\"k{repeated}\":0}}"));
            assert_eq!(found, Err(Flaw::DuplicateKey(None)), "{repeated}");
        }
    }

    #[test]
    fn too_deep_values_are_a_flaw_and_their_syntax_still_counts() {
        assert!(digest("[[[1]]]").is_ok());
        assert_eq!(digest("[[[[1]]]]"), Err(Flaw::TooDeep));
        assert_eq!(digest(r#"{"a":[{"b":{}}]}"#), Err(Flaw::TooDeep));
        assert!(Digester::new(3).value(&mut Cursor::new("[[[[1}]]]"), 0).is_err());
    }

    #[test]
    fn half_a_surrogate_pair_is_a_flaw_in_keys_and_values() {
        assert_eq!(digest(r#"{"a":"\ud800"}"#), Err(Flaw::BrokenText));
        assert_eq!(digest(r#"{"\udc00":1}"#), Err(Flaw::BrokenText));
    }
}
