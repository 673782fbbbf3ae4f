//! Groups of usage: the values that events have of their metric's dimensions.

use alloc::{collections::BTreeMap, string::String};
use core::iter::Peekable;
use core::str::Chars;

/// The values of a group's text: a JSON object of strings, or nothing at all.
/// `None`: neither, which nothing writes.
pub(crate) fn read_group(text: &str) -> Option<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    if text.is_empty() {
        return Some(values);
    }
    let mut rest = text.chars().peekable();
    take(&mut rest, '{')?;
    if rest.next_if_eq(&'}').is_some() {
        return rest.next().is_none().then_some(values);
    }
    loop {
        let key = read_string(&mut rest)?;
        take(&mut rest, ':')?;
        values.insert(key, read_string(&mut rest)?);
        if rest.next_if_eq(&',').is_none() {
            break;
        }
    }
    take(&mut rest, '}')?;
    rest.next().is_none().then_some(values)
}

fn take(rest: &mut Peekable<Chars<'_>>, wanted: char) -> Option<()> {
    rest.next_if_eq(&wanted).map(|_| ())
}

fn read_string(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    take(rest, '"')?;
    let mut value = String::new();
    loop {
        match rest.next()? {
            '"' => return Some(value),
            '\\' => value.push(read_escaped(rest)?),
            plain => value.push(plain),
        }
    }
}

fn read_escaped(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    Some(match rest.next()? {
        plain @ ('"' | '\\' | '/') => plain,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let unit = read_unit(rest)?;
            if !(0xd800..0xdc00).contains(&unit) {
                return char::from_u32(unit);
            }
            take(rest, '\\')?;
            take(rest, 'u')?;
            let low = read_unit(rest)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            return char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + low);
        }
        _ => return None,
    })
}

fn read_unit(rest: &mut Peekable<Chars<'_>>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit * 16 + rest.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{borrow::ToOwned, vec::Vec};

    fn read(text: &str) -> Option<Vec<(String, String)>> {
        read_group(text).map(|values| values.into_iter().collect())
    }

    #[test]
    fn groups_are_read_with_every_letter() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        for (text, values) in [
            ("", Vec::new()),
            ("{}", Vec::new()),
            (r#"{"a":"1"}"#, Vec::from([pair("a", "1")])),
            (
                r#"{"model":"gpt \"4\"","region":"eu\\west"}"#,
                Vec::from([pair("model", "gpt \"4\""), pair("region", "eu\\west")]),
            ),
            (
                r#"{"a":"","b":"ü\n\u001f\ud83d\ude00"}"#,
                Vec::from([pair("a", ""), pair("b", "ü\n\u{1f}😀")]),
            ),
        ] {
            assert_eq!(read(text), Some(values), "{text}");
        }
    }

    #[test]
    fn what_nothing_writes_is_no_group() {
        for text in [
            "{",
            "[]",
            r#"{"a":1}"#,
            r#"{"a":"1"}x"#,
            r#"{"a":"1",}"#,
            r#"{"a":"\q"}"#,
            r#"{"a":"\ud83d"}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
