//! `google.rpc.Status` in JSON, with the details that the API's errors have too.

use crate::verdict::push_json_string;

/// What went wrong, for programs and people.
pub struct Status<'a> {
    /// The number of the gRPC code.
    pub code: u8,
    pub message: &'a str,
    /// The stable, documented reason.
    pub reason: &'a str,
    /// What `ErrorInfo` says besides.
    pub metadata: Option<(&'a str, &'a str)>,
    /// The field at fault and what is wrong with it.
    pub field: Option<(&'a str, &'a str)>,
    pub retry_after_s: Option<u64>,
    pub request_id: &'a str,
}

impl Status<'_> {
    /// Appends `"code":…,"message":…,"details":[…]`: the fields of an object without its braces.
    pub fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("\"code\":{},\"message\":", self.code).as_bytes());
        push_json_string(out, self.message);
        out.extend_from_slice(b",\"details\":[");
        detail(out, "ErrorInfo");
        out.extend_from_slice(b",\"reason\":");
        push_json_string(out, self.reason);
        out.extend_from_slice(b",\"domain\":\"weir\",\"metadata\":{");
        if let Some((name, value)) = self.metadata {
            push_json_string(out, name);
            out.push(b':');
            push_json_string(out, value);
        }
        out.extend_from_slice(b"}}");
        if let Some((field, description)) = self.field {
            out.push(b',');
            detail(out, "BadRequest");
            out.extend_from_slice(b",\"fieldViolations\":[{\"field\":");
            push_json_string(out, field);
            out.extend_from_slice(b",\"description\":");
            push_json_string(out, description);
            out.extend_from_slice(b"}]}");
        }
        out.push(b',');
        detail(out, "RequestInfo");
        out.extend_from_slice(b",\"requestId\":");
        push_json_string(out, self.request_id);
        out.push(b'}');
        if let Some(seconds) = self.retry_after_s {
            out.push(b',');
            detail(out, "RetryInfo");
            out.extend_from_slice(format!(",\"retryDelay\":\"{seconds}s\"}}").as_bytes());
        }
        out.push(b']');
    }
}

fn detail(out: &mut Vec<u8>, name: &str) {
    let start = format!("{{\"@type\":\"type.googleapis.com/google.rpc.{name}\"");
    out.extend_from_slice(start.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_json_with_its_details() {
        let mut out = b"{".to_vec();
        Status {
            code: 3,
            message: "no \"number\"",
            reason: "NOT_A_NUMBER",
            metadata: Some(("scope", "events.write")),
            field: Some(("properties.\"n", "must be")),
            retry_after_s: Some(7),
            request_id: "r-1",
        }
        .push(&mut out);
        out.push(b'}');
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let kind = |name: &str| format!("type.googleapis.com/google.rpc.{name}");
        assert_eq!(
            read,
            serde_json::json!({
                "code": 3,
                "message": "no \"number\"",
                "details": [
                    {
                        "@type": kind("ErrorInfo"), "reason": "NOT_A_NUMBER", "domain": "weir",
                        "metadata": { "scope": "events.write" },
                    },
                    {
                        "@type": kind("BadRequest"),
                        "fieldViolations": [{ "field": "properties.\"n", "description": "must be" }],
                    },
                    { "@type": kind("RequestInfo"), "requestId": "r-1" },
                    { "@type": kind("RetryInfo"), "retryDelay": "7s" },
                ],
            })
        );
    }
}
