//! Lists of ids, numbers and texts as part of a query's text.
//!
//! ClickHouse takes query parameters of at most 128 KiB, which three thousand ids fill. A list here is
//! a constant that the query names, `WITH CAST('[1,2]' AS Array(UInt64)) AS numbers`: text that is
//! cast is read six times quicker than an array literal of two thousand ids.

use std::fmt::{Display, Write};
use uuid::Uuid;

/// `max_query_size` for queries with lists: two thousand windows are 200 KB, the rest are groups.
pub(crate) const QUERY_BYTES_MAX: &str = "100000000";

/// The lists of one query, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lists(String);

impl Lists {
    pub(crate) fn uuids(&mut self, name: &str, ids: impl IntoIterator<Item = u128>) {
        let ids = ids.into_iter().map(|id| Uuid::from_u128(id).to_string());
        self.add(name, "UUID", ids, |id| format!("'{id}'"));
    }

    /// Numbers of this type of ClickHouse's.
    pub(crate) fn numbers<N: Display>(
        &mut self,
        name: &str,
        kind: &str,
        numbers: impl IntoIterator<Item = N>,
    ) {
        self.add(name, kind, numbers, |number| number.to_string());
    }

    pub(crate) fn texts<T: AsRef<str>>(&mut self, name: &str, texts: impl IntoIterator<Item = T>) {
        self.add(name, "String", texts, |text| quoted(text.as_ref()));
    }

    fn add<T>(
        &mut self,
        name: &str,
        kind: &str,
        items: impl IntoIterator<Item = T>,
        show: impl Fn(T) -> String,
    ) {
        let items: Vec<_> = items.into_iter().map(show).collect();
        let list = quoted(&format!("[{}]", items.join(",")));
        let separator = if self.0.is_empty() { "WITH" } else { "," };
        // Writing to a string does not fail.
        let _written = writeln!(self.0, "{separator} CAST({list} AS Array({kind})) AS {name}");
    }

    /// The clause that a query begins with.
    pub(crate) fn clause(&self) -> &str {
        &self.0
    }
}

/// A text as a literal, in a query and within the text form of an array alike.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

pub(crate) fn uuid(id: u128) -> String {
    format!("toUUID('{}')", Uuid::from_u128(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_constants_that_the_query_names() {
        let mut lists = Lists::default();
        lists.uuids("ids", [1]);
        lists.numbers("numbers", "UInt8", [1, 2]);
        lists.texts("none", [""; 0]);
        let expected = r"WITH CAST('[\'00000000-0000-0000-0000-000000000001\']' AS Array(UUID)) AS ids
, CAST('[1,2]' AS Array(UInt8)) AS numbers
, CAST('[]' AS Array(String)) AS none
";
        assert_eq!(lists.clause(), expected);
    }

    #[test]
    fn no_text_ends_its_literal() {
        assert_eq!(quoted(r"a'b\"), r"'a\'b\\'");
        let mut lists = Lists::default();
        lists.texts("t", [r"'\"]);
        // Twice: as an element of the array's text, and that text as a literal.
        assert_eq!(lists.clause(), "WITH CAST('[\\'\\\\\\'\\\\\\\\\\']' AS Array(String)) AS t\n");
    }
}
