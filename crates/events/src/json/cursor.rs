//! The cursor over a JSON text: syntax of RFC 8259 and nothing more.

use std::borrow::Cow;

/// Where a text stops being JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Bytes from the start of the text.
    pub at: usize,
    pub expected: &'static str,
}

/// What a value is, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// A string of the text as written, without its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub raw: &'a str,
    pub escaped: bool,
    /// An escape stands for half of a surrogate pair, which is no character.
    pub broken: bool,
}

impl<'a> Text<'a> {
    /// The characters that are meant. Borrowed where nothing is escaped.
    pub fn value(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    /// Whether the characters meant are these.
    pub fn is(self, other: &str) -> bool {
        if self.escaped { unescape(self.raw) == other } else { self.raw == other }
    }
}

/// Reads a text from the front. After an error the place is undefined.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Bytes from the start of the text.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text from `start` to here.
    pub fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The text from here on.
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub fn fail<T>(&self, expected: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError { at: self.at, expected })
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no white space, which is not passed.
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                // Compact JSON has no white space: one comparison for the usual byte.
                Some(byte) if byte > b' ' => return Some(byte),
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Passes `wanted` if it comes next.
    pub fn take(&mut self, wanted: u8) -> bool {
        let here = self.peek() == Some(wanted);
        self.at += usize::from(here);
        here
    }

    /// The kind of the value that comes next.
    pub fn kind(&mut self) -> Result<Kind, SyntaxError> {
        match self.peek() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => self.fail("a value"),
        }
    }

    /// Checks that nothing but white space is left.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        if self.peek().is_none() { Ok(()) } else { self.fail("the end") }
    }

    /// Reads a string.
    pub fn string(&mut self) -> Result<Text<'a>, SyntaxError> {
        if self.peek() != Some(b'"') {
            return self.fail("'\"'");
        }
        self.at += 1;
        let start = self.at;
        let (mut escaped, mut broken) = (false, false);
        loop {
            self.pass_plain();
            match self.byte() {
                Some(b'"') => {
                    let raw = self.since(start);
                    self.at += 1;
                    return Ok(Text { raw, escaped, broken });
                }
                Some(b'\\') => {
                    escaped = true;
                    broken |= !self.escape()?;
                }
                Some(0..=0x1f) => return self.fail("no control character in a string"),
                Some(_) => self.at += 1,
                None => return self.fail("'\"'"),
            }
        }
    }

    /// Passes characters that end no string and start no escape, eight bytes at a time.
    fn pass_plain(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(chunk) = bytes.get(self.at..self.at + 8) {
            let Ok(eight) = <[u8; 8]>::try_from(chunk) else { return };
            let special = special_bytes(u64::from_le_bytes(eight));
            if special != 0 {
                self.at += special.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
    }

    /// Passes one escape. False: it stands for half of a surrogate pair.
    fn escape(&mut self) -> Result<bool, SyntaxError> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                match self.hex4()? {
                    0xd800..=0xdbff => return self.low_surrogate(),
                    0xdc00..=0xdfff => return Ok(false),
                    _ => {}
                }
            }
            _ => return self.fail("an escape"),
        }
        Ok(true)
    }

    fn low_surrogate(&mut self) -> Result<bool, SyntaxError> {
        if self.text.as_bytes().get(self.at..self.at + 2) != Some(b"\\u") {
            return Ok(false);
        }
        let before = self.at;
        self.at += 2;
        let low = self.hex4()?;
        if !(0xdc00..=0xdfff).contains(&low) {
            // Another escape of its own: read it again as such.
            self.at = before;
            return Ok(false);
        }
        Ok(true)
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return self.fail("four hexadecimal digits") };
            unit = (unit << 4) | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// Reads a number; its digits stay as written.
    pub fn number(&mut self) -> Result<&'a str, SyntaxError> {
        self.peek();
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(self.since(start))
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.fail("a digit") } else { Ok(()) }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        let here = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !here.starts_with(word.as_bytes()) {
            return self.fail(word);
        }
        self.at += word.len();
        Ok(())
    }

    /// Passes a value that is neither object nor array.
    pub fn scalar(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.fail("a value"),
        }
    }

    /// Reads a key with its colon.
    pub fn key(&mut self) -> Result<Text<'a>, SyntaxError> {
        let key = self.string()?;
        if self.peek() != Some(b':') {
            return self.fail("':'");
        }
        self.at += 1;
        Ok(key)
    }

    /// The next key of an object; `first` before the first. `None` after the last.
    pub fn next_key(&mut self, first: bool) -> Result<Option<Text<'a>>, SyntaxError> {
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                Ok(None)
            }
            Some(b',') if !first => {
                self.at += 1;
                self.key().map(Some)
            }
            _ if first => self.key().map(Some),
            _ => self.fail("',' or '}'"),
        }
    }

    /// Whether an array goes on, with the cursor before the next element.
    pub fn next_element(&mut self, first: bool) -> Result<bool, SyntaxError> {
        if self.take(b']') {
            return Ok(false);
        }
        if !first && !self.take(b',') {
            return self.fail("',' or ']'");
        }
        Ok(true)
    }

    /// Passes one value of any depth and gives it as written. Needs a byte of memory a level.
    pub fn skip_value(&mut self) -> Result<&'a str, SyntaxError> {
        self.peek();
        let start = self.at;
        let mut open: Vec<u8> = Vec::new();
        loop {
            if self.take(b'{') {
                if !self.take(b'}') {
                    open.push(b'}');
                    self.key()?;
                    continue;
                }
            } else if self.take(b'[') {
                if !self.take(b']') {
                    open.push(b']');
                    continue;
                }
            } else {
                self.scalar()?;
            }
            if self.close(&mut open)? {
                return Ok(self.since(start));
            }
        }
    }

    /// Goes from the end of a value to the start of the next. True: there is none.
    fn close(&mut self, open: &mut Vec<u8>) -> Result<bool, SyntaxError> {
        while let Some(closing) = open.last().copied() {
            if self.take(closing) {
                open.pop();
            } else if self.take(b',') {
                if closing == b'}' {
                    self.key()?;
                }
                return Ok(false);
            } else {
                return self.fail("',' or a closing bracket");
            }
        }
        Ok(true)
    }
}

/// Marks the lowest byte that is a quote, a backslash or a control character with its top bit;
/// bits above the lowest mark mean nothing.
fn special_bytes(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let zero_byte = |x: u64| x.wrapping_sub(ONES) & !x;
    let quote = zero_byte(eight ^ (ONES * b'"' as u64));
    let backslash = zero_byte(eight ^ (ONES * b'\\' as u64));
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (quote | backslash | control) & TOPS
}

/// The characters that a checked string means; half a surrogate pair becomes U+FFFD.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, after)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = after.chars();
        match chars.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let (letter, left) = unicode_escape(chars.as_str());
                out.push(letter);
                rest = left;
                continue;
            }
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}

/// The character of `XXXX` or `XXXX\uXXXX` at the front, and what follows.
fn unicode_escape(text: &str) -> (char, &str) {
    let unit = |text: &str| text.get(..4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let after = text.get(4..).unwrap_or_default();
    let Some(high) = unit(text) else { return (char::REPLACEMENT_CHARACTER, after) };
    if let (0xd800..=0xdbff, Some(next)) = (high, after.strip_prefix("\\u"))
        && let Some(low @ 0xdc00..=0xdfff) = unit(next)
    {
        let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        return (letter, next.get(4..).unwrap_or_default());
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Result<&str, SyntaxError> {
        let mut cursor = Cursor::new(text);
        let raw = cursor.skip_value()?;
        cursor.end().map(|()| raw)
    }

    #[test]
    fn what_is_json_is_read_and_nothing_else() {
        for text in [
            "0",
            "-0",
            "1.5e-7",
            "1E+2",
            "true",
            "false",
            "null",
            "\"\"",
            "{}",
            "[]",
            " [ 1 , 2 ] ",
            "{\"a\":{\"b\":[1,{}]},\"\":0}",
            "\"\\u00e9\\n\\/\"",
            "\"\\ud83d\\ude00\"",
            "\"é😀\"",
            "\"\\ud800\"",
            "[[],[[]],{}]",
        ] {
            assert_eq!(whole(text), Ok(text.trim()), "{text}");
        }
        for text in [
            "",
            " ",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[}",
            "{]",
            "[1",
            "1 2",
            "NaN",
            "'a'",
            "\u{feff}1",
            "\"\\ud800\\u12\"",
        ] {
            assert!(whole(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_million_brackets_are_an_error_and_not_a_crash() {
        let deep = "[".repeat(1_000_000);
        assert!(whole(&deep).is_err());
        let closed = deep + &"]".repeat(1_000_000);
        assert_eq!(whole(&closed), Ok(closed.as_str()));
    }

    #[test]
    fn escapes_become_the_characters_they_mean() {
        for (text, meant, broken) in [
            (r#""plain""#, "plain", false),
            (r#""a\"b\\c\/d""#, "a\"b\\c/d", false),
            (r#""\b\f\n\r\t""#, "\u{8}\u{c}\n\r\t", false),
            (r#""\u0041\u00e9\u20ac""#, "Aé€", false),
            (r#""\ud83d\ude00!""#, "😀!", false),
            (r#""\ud83d!""#, "\u{fffd}!", true),
            (r#""\ude00""#, "\u{fffd}", true),
            (r#""\ud83d\u0041""#, "\u{fffd}A", true),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀", true),
        ] {
            let read = Cursor::new(text).string().unwrap();
            assert_eq!((read.value().as_ref(), read.broken), (meant, broken), "{text}");
        }
    }

    proptest! {
        #[test]
        fn strings_end_where_serde_json_ends_them(text in "\\PC{0,40}") {
            let json = serde_json::to_string(&text).unwrap();
            let read = Cursor::new(&json).string().unwrap();
            prop_assert_eq!(read.value(), text.as_str());
            prop_assert!(read.is(&text) && !read.broken);
        }

        #[test]
        fn verdicts_on_syntax_are_those_of_serde_json(text in r#"[\[\]{}",:0-9eE+\-.\\u tfn a]{0,14}"#) {
            let ours = whole(&text).is_ok();
            let theirs = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            prop_assert_eq!(ours, theirs, "{}", text);
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,60}") {
            let _ = whole(&text);
            let _ = unescape(&text);
        }
    }
}
