//! The trace that the demo bills, and what its invoices must say, reckoned apart from Weir.

use anyhow::Context;
use std::{fs::File, path::Path};

/// Request n belongs to customer n mod this.
pub const CUSTOMERS: usize = 50;

/// One request of the trace.
pub struct Request {
    /// RFC 3339, every digit of the trace.
    pub timestamp: String,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// Usage of one customer, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// What the trace must come to (data/README.md).
pub const WHOLE: Usage =
    Usage { requests: 19_366, input_tokens: 22_361_870, output_tokens: 4_088_665 };

/// Reads the CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens.
pub fn read(path: &Path) -> anyhow::Result<Vec<Request>> {
    let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
    csv::Reader::from_reader(file)
        .deserialize::<(String, u64, u64)>()
        .map(|row| {
            let (time, input_tokens, output_tokens) = row?;
            Ok(Request { timestamp: time.replacen(' ', "T", 1) + "Z", input_tokens, output_tokens })
        })
        .collect()
}

/// Usage by customer, straight from the trace.
pub fn usage_by_customer(requests: &[Request]) -> Vec<Usage> {
    let mut usage = vec![Usage::default(); CUSTOMERS];
    for (n, request) in requests.iter().enumerate() {
        let of = &mut usage[n % CUSTOMERS];
        of.requests += 1;
        of.input_tokens += request.input_tokens;
        of.output_tokens += request.output_tokens;
    }
    usage
}

impl Usage {
    /// The invoice's total in cents: 20.00, 0.0000025 an input token, 0.00001 an output token,
    /// 0.001 a request after the first 100. Each line is rounded by itself, half up.
    pub fn expected_cents(&self) -> u64 {
        // All prices are whole multiples of a ten-millionth of a dollar: 100,000 of them are a cent.
        let cents = |ten_millionths: u64| (ten_millionths + 50_000) / 100_000;
        2_000
            + cents(self.input_tokens * 25)
            + cents(self.output_tokens * 100)
            + cents(self.requests.saturating_sub(100) * 10_000)
    }
}

impl std::ops::Add for Usage {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_is_the_one_we_know() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/llm_inference_conv_2023.csv");
        let requests = read(&path).unwrap();
        let by_customer = usage_by_customer(&requests);
        assert_eq!(by_customer.into_iter().fold(Usage::default(), |sum, of| sum + of), WHOLE);
    }

    #[test]
    fn a_bill_reckoned_by_hand() {
        // 20.00 + 1,000,000 × 0.0000025 + 50,450 × 0.00001 (0.5045 → 0.50) + 285 × 0.001 (→ 0.29)
        let usage = Usage { requests: 385, input_tokens: 1_000_000, output_tokens: 50_450 };
        assert_eq!(usage.expected_cents(), 2_000 + 250 + 50 + 29);
        assert_eq!(Usage::default().expected_cents(), 2_000);
    }
}
