//! A strict JSON reader that borrows, keeps every digit and never recurses with its input.
//!
//! Written here and not taken from sonic-rs, because its skipping accepts `\uZZZZ`, recurses once
//! a bracket (16 MB of `[` end the process), and one wrong element ends an array.

mod cursor;
mod digest;

pub(crate) use cursor::{Cursor, Kind, SyntaxError, Text};
pub(crate) use digest::{Digester, Flaw, digest_of};
