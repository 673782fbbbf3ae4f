//! What is answered for each event, and its JSON, written by hand: one buffer, no tree.

use crate::status::Status;
use std::io::Write;
use weir_events::Rejection;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the log, durably.
    Accepted,
    /// Its id is known, with the same content.
    Duplicate,
    /// Its id is known, with other content; the first copy stays.
    Conflict,
    /// It will never be taken as it is.
    Rejected(Box<Rejection>),
    /// It could not be made durable, or that is not known: to be sent again.
    Retry(RetryCause),
}

/// What did not answer, so that an event must be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// The log did not confirm it.
    Log,
    /// Postgres was not there to say whether what is unknown exists.
    Catalog,
    /// The aggregator's index did not say whether it is known.
    Index,
}

impl Verdict {
    /// The verdict on a further copy of an id.
    #[must_use]
    pub fn of_copy(first: u64, copy: u64) -> Self {
        if first == copy { Self::Duplicate } else { Self::Conflict }
    }

    /// The word of the contract.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Rejected(_) => "rejected",
            Self::Retry(_) => "retry",
        }
    }
}

/// How many events of a request got which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub rejected: u64,
    pub retry: u64,
}

impl Counts {
    /// Counts `verdicts`.
    #[must_use]
    pub fn of(verdicts: &[Verdict]) -> Self {
        let mut counts = Self::default();
        for verdict in verdicts {
            match verdict {
                Verdict::Accepted => counts.accepted += 1,
                Verdict::Duplicate => counts.duplicates += 1,
                Verdict::Conflict => counts.conflicts += 1,
                Verdict::Rejected(_) => counts.rejected += 1,
                Verdict::Retry(_) => counts.retry += 1,
            }
        }
        counts
    }

    /// Why nothing was taken, where sending again may help: the whole request is answered 503.
    #[must_use]
    pub fn unavailable(&self, verdicts: &[Verdict]) -> Option<RetryCause> {
        if self.retry == 0 || self.accepted > 0 {
            return None;
        }
        verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Retry(cause) => Some(*cause),
            _ => None,
        })
    }
}

/// Which verdicts a batch's answer lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    All,
    /// All but the accepted ones.
    Failed,
}

/// One event's answer: the transaction id, as far as one could be read, and the verdict.
pub type Line<'a> = (Option<&'a str>, &'a Verdict);

/// The answer to a batch; `lines` in the order of the events.
#[must_use]
pub fn batch_json<'a>(
    counts: &Counts,
    listed: Listed,
    lines: impl ExactSizeIterator<Item = Line<'a>>,
) -> Vec<u8> {
    // A usual line: {"transactionId":"<36 characters>","status":"accepted"}, and a comma.
    let mut out = Vec::with_capacity(128 + lines.len() * 88);
    // Writing to a Vec can't fail.
    let _ = write!(
        out,
        "{{\"accepted\":{},\"duplicates\":{},\"conflicts\":{},\"rejected\":{},\"verdicts\":[",
        counts.accepted, counts.duplicates, counts.conflicts, counts.rejected
    );
    let mut first = true;
    for (index, (transaction_id, verdict)) in lines.enumerate() {
        if listed == Listed::Failed && *verdict == Verdict::Accepted {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        push_verdict(&mut out, Some(index), transaction_id, verdict);
    }
    out.extend_from_slice(b"]}");
    out
}

/// The answer to a single event that was taken, now or before.
#[must_use]
pub fn single_json((transaction_id, verdict): Line<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    push_verdict(&mut out, None, transaction_id, verdict);
    out
}

/// The answer to a single event that was not taken: its verdict, which is a `google.rpc.Status` too.
#[must_use]
pub fn failed_single_json(line: Line<'_>, request_id: &str) -> Vec<u8> {
    let mut out = single_json(line);
    let (code, message, reason, field) = match line.1 {
        Verdict::Rejected(rejection) => {
            let Rejection { field, reason, message, .. } = rejection.as_ref();
            (3, rejection.to_string(), reason.as_str(), Some((field.as_str(), message.as_str())))
        }
        Verdict::Conflict => {
            let message = "an event with this transaction id and other content was accepted before";
            (6, message.to_owned(), "EVENT_CONFLICT", None)
        }
        Verdict::Accepted | Verdict::Duplicate | Verdict::Retry(_) => return out,
    };
    // In front of the closing brace.
    out.pop();
    out.push(b',');
    let (metadata, retry_after_s) = (None, None);
    Status { code, message: &message, reason, metadata, field, retry_after_s, request_id }
        .push(&mut out);
    out.push(b'}');
    out
}

fn push_verdict(
    out: &mut Vec<u8>,
    index: Option<usize>,
    transaction_id: Option<&str>,
    verdict: &Verdict,
) {
    out.extend_from_slice(b"{\"transactionId\":");
    match transaction_id {
        Some(id) => push_json_string(out, id),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"status\":\"");
    out.extend_from_slice(verdict.word().as_bytes());
    out.push(b'"');
    if let Verdict::Rejected(rejection) = verdict {
        out.extend_from_slice(b",\"error\":{\"field\":");
        push_json_string(out, &rejection.field);
        out.extend_from_slice(b",\"reason\":\"");
        out.extend_from_slice(rejection.reason.as_str().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        match (index, transaction_id) {
            // Without an id only its place tells the sender which event is meant.
            (Some(index), None) => {
                push_json_string(out, &format!("event {index}: {}", rejection.message));
            }
            _ => push_json_string(out, &rejection.message),
        }
        out.push(b'}');
    }
    out.push(b'}');
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let needs_escape = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    out.push(b'"');
    let bytes = text.as_bytes();
    // Without an early end, so that many bytes are looked at at once: hardly an id has an escape.
    if !bytes.iter().fold(false, |any, byte| any | needs_escape(*byte)) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !needs_escape(*byte) {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_events::Reason;

    fn rejected(field: &str, message: &str) -> Verdict {
        Verdict::Rejected(Box::new(Rejection::new(Reason::NotANumber, field, message)))
    }

    fn text(json: Vec<u8>) -> String {
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn a_batch_answers_in_the_shape_of_the_contract() {
        let verdicts = [Verdict::Accepted, Verdict::Duplicate, rejected("properties.n", "no")];
        let ids = ["a", "b", "c"];
        let lines = || ids.iter().map(|id| Some(*id)).zip(&verdicts);
        let counts = Counts::of(&verdicts);
        assert_eq!(
            text(batch_json(&counts, Listed::All, lines())),
            r#"{"accepted":1,"duplicates":1,"conflicts":0,"rejected":1,"verdicts":[{"transactionId":"a","status":"accepted"},{"transactionId":"b","status":"duplicate"},{"transactionId":"c","status":"rejected","error":{"field":"properties.n","reason":"NOT_A_NUMBER","message":"no"}}]}"#
        );
        assert_eq!(
            text(batch_json(&counts, Listed::Failed, lines())),
            r#"{"accepted":1,"duplicates":1,"conflicts":0,"rejected":1,"verdicts":[{"transactionId":"b","status":"duplicate"},{"transactionId":"c","status":"rejected","error":{"field":"properties.n","reason":"NOT_A_NUMBER","message":"no"}}]}"#
        );
        assert_eq!(
            text(batch_json(&Counts::default(), Listed::All, lines().take(0))),
            r#"{"accepted":0,"duplicates":0,"conflicts":0,"rejected":0,"verdicts":[]}"#
        );
    }

    #[test]
    fn an_event_without_an_id_is_named_by_its_place() {
        let verdicts = [Verdict::Accepted, rejected("transactionId", "is required")];
        let lines = [Some("a"), None].into_iter().zip(&verdicts);
        let json = text(batch_json(&Counts::of(&verdicts), Listed::Failed, lines));
        assert!(
            json.ends_with(
                r#"[{"transactionId":null,"status":"rejected","error":{"field":"transactionId","reason":"NOT_A_NUMBER","message":"event 1: is required"}}]}"#
            ),
            "{json}"
        );
    }

    #[test]
    fn transaction_ids_are_escaped_so_that_they_read_back_the_same() {
        for id in
            ["plain", "q\"uote", "back\\slash", "\u{0}\u{1f}\n\r\t\u{8}", "ü€😀\u{7f}\u{2028}"]
        {
            let json = single_json((Some(id), &Verdict::Conflict));
            let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(read["transactionId"], id);
            assert_eq!(read["status"], "conflict");
        }
    }

    #[test]
    fn a_request_is_unavailable_only_when_nothing_was_taken() {
        let cause = |verdicts: &[Verdict]| Counts::of(verdicts).unavailable(verdicts);
        let retry = Verdict::Retry(RetryCause::Index);
        assert_eq!(cause(&[Verdict::Duplicate, retry.clone()]), Some(RetryCause::Index));
        assert_eq!(cause(&[retry, Verdict::Accepted]), None);
        assert_eq!((cause(&[Verdict::Duplicate]), cause(&[])), (None, None));
    }

    #[test]
    fn a_single_event_that_was_not_taken_is_told_as_a_status_too() {
        let refused = rejected("properties.n", "no");
        let json = failed_single_json((Some("a"), &refused), "r-1");
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (&read["status"], &read["error"]["field"]),
            (&"rejected".into(), &"properties.n".into())
        );
        assert_eq!(read["code"], 3);
        assert_eq!(read["message"], "properties.n: NOT_A_NUMBER: no");
        assert_eq!(read["details"][0]["reason"], "NOT_A_NUMBER");
        assert_eq!(read["details"][1]["fieldViolations"][0]["field"], "properties.n");
        assert_eq!(read["details"][2]["requestId"], "r-1");

        let json = failed_single_json((None, &Verdict::Conflict), "r-2");
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (&read["code"], &read["details"][0]["reason"]),
            (&6.into(), &"EVENT_CONFLICT".into())
        );
        let taken = Verdict::Duplicate;
        assert_eq!(failed_single_json((Some("a"), &taken), "r"), single_json((Some("a"), &taken)));
    }
}
