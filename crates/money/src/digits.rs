//! Decimal texts, read digit by digit: the syntax of a JSON number, of any length.

/// A number as written: `0.d₁d₂d₃… × 10^point`, without leading or trailing zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<'a> {
    pub negative: bool,
    /// How many significant digits there are; none for zero.
    pub significant: usize,
    /// How many digits stand before the point; negative for 0.01 and smaller.
    pub point: i64,
    leading_zeros: usize,
    head: &'a [u8],
    tail: &'a [u8],
}

/// Beyond any number of digits that is kept: keeps sums of exponents from overflowing.
const EXPONENT_MAX: i64 = 1 << 40;

impl<'a> Number<'a> {
    /// Reads `-12.5e3` and the like. `None`: not the syntax of a JSON number.
    pub fn read(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (negative, bytes) = match bytes.split_first() {
            Some((b'-', rest)) => (true, rest),
            _ => (false, bytes),
        };
        let (bytes, exponent) = match bytes.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (bytes.get(..at)?, read_exponent(bytes.get(at + 1..)?)?),
            None => (bytes, 0),
        };
        let (head, tail) = match bytes.iter().position(|b| *b == b'.') {
            Some(at) => {
                let tail = bytes.get(at + 1..)?;
                if tail.is_empty() {
                    return None;
                }
                (bytes.get(..at)?, tail)
            }
            None => (bytes, &[][..]),
        };
        if !head.iter().chain(tail).all(u8::is_ascii_digit) || !starts_as_number(head) {
            return None;
        }
        Some(Self::trimmed(negative, head, tail, exponent))
    }

    fn trimmed(negative: bool, head: &'a [u8], tail: &'a [u8], exponent: i64) -> Self {
        let is_zero = |digit: &&u8| **digit == b'0';
        let leading_zeros = head.iter().chain(tail).take_while(is_zero).count();
        let trailing_zeros = head.iter().chain(tail).rev().take_while(is_zero).count();
        let significant = (head.len() + tail.len()).saturating_sub(leading_zeros + trailing_zeros);
        let shift = i64::try_from(head.len()).unwrap_or(EXPONENT_MAX)
            - i64::try_from(leading_zeros).unwrap_or(EXPONENT_MAX);
        let point = if significant == 0 { 0 } else { shift + exponent };
        Self {
            negative: negative && significant > 0,
            significant,
            point,
            leading_zeros,
            head,
            tail,
        }
    }

    /// The significant digits, greatest first.
    pub fn digits(&self) -> impl Iterator<Item = u8> + '_ {
        self.head
            .iter()
            .chain(self.tail)
            .skip(self.leading_zeros)
            .take(self.significant)
            .map(|byte| byte - b'0')
    }

    /// How many digits stand after the point.
    pub fn fraction_digits(&self) -> i64 {
        (i64::try_from(self.significant).unwrap_or(EXPONENT_MAX) - self.point).max(0)
    }
}

/// One digit at least, and no `007`.
fn starts_as_number(head: &[u8]) -> bool {
    matches!(head, [_]) || matches!(head, [first, ..] if *first != b'0')
}

fn read_exponent(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, bytes),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value: i64 = 0;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = (value * 10 + i64::from(byte - b'0')).min(EXPONENT_MAX);
    }
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_json_calls_a_number() {
        for (text, negative, significant, point) in [
            ("0", false, 0, 0),
            ("-0.000", false, 0, 0),
            ("0e999999999999999999999", false, 0, 0),
            ("12.5", false, 3, 2),
            ("-12.50", true, 3, 2),
            ("100", false, 1, 3),
            ("0.001", false, 1, -2),
            ("1e3", false, 1, 4),
            ("1.5E-2", false, 2, -1),
        ] {
            let number = Number::read(text).unwrap();
            assert_eq!(
                (number.negative, number.significant, number.point),
                (negative, significant, point),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "", "-", "+1", ".5", "5.", "1e", "1e+", "007", "-01", "0x1", "1_000", "1,5", " 1",
            "1 ", "NaN", "Infinity", "--1", "1.2.3", "1e1.5", "١",
        ] {
            assert!(Number::read(text).is_none(), "{text}");
        }
    }
}
