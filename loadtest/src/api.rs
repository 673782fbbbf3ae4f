//! A server's API as a user of it: plain HTTP and JSON, one call after the other.

use crate::connection::{Connection, Head, Protocol, Target};
use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::Value;
use std::time::Duration;
use tokio::runtime::Runtime;

/// No call of a benchmark takes this long on a server that lives.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A client on one connection.
pub struct Api {
    runtime: Runtime,
    target: Target,
    headers: Vec<(header::HeaderName, String)>,
    connection: Option<Connection>,
}

impl Api {
    /// A client of the server at this URL. Nothing is sent yet.
    pub fn new(url: &str, key: Option<&str>) -> anyhow::Result<Self> {
        let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
        headers.extend(key.map(|key| (header::AUTHORIZATION, format!("Bearer {key}"))));
        Self::with_headers(url, headers)
    }

    /// A client that sends these headers with every call.
    pub fn with_headers(
        url: &str,
        headers: Vec<(header::HeaderName, String)>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, target: Target::parse(url)?, headers, connection: None })
    }

    /// The answer's text. Errors: no connection, no answer in time, any status but success.
    pub fn get(&mut self, path: &str) -> anyhow::Result<String> {
        let held = self.connection.is_some();
        let answer = match self.call(Method::GET, path, Bytes::new()) {
            // A connection that has rested may have been closed meanwhile; a look can be repeated.
            Err(_) if held => self.call(Method::GET, path, Bytes::new()),
            answer => answer,
        };
        let (status, text) = answer?;
        ensure!(status.is_success(), "GET {path}: {status}: {text}");
        Ok(text)
    }

    /// Posts JSON and reads JSON. Errors: as `get`, or no JSON.
    pub fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, text) = self.call(Method::POST, path, body.to_string().into())?;
        ensure!(status.is_success(), "POST {path}: {status}: {text}");
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Posts text and reads text. Errors: as `get`.
    pub fn ask(&mut self, path: &str, text: &str) -> anyhow::Result<String> {
        let (status, answer) = self.call(Method::POST, path, text.to_owned().into())?;
        ensure!(status.is_success(), "POST {path}: {status}: {answer}");
        Ok(answer)
    }

    fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, String)> {
        let head = Head::new(&self.target, Protocol::Http1, method, path, &self.headers)?;
        let (target, held) = (&self.target, self.connection.take());
        let called = self.runtime.block_on(async {
            tokio::time::timeout(CALL_TIMEOUT, async {
                let mut connection = match held {
                    Some(connection) => connection,
                    None => Connection::open(target, Protocol::Http1).await?,
                };
                let answer = connection.send(&head, body).await?;
                anyhow::Ok((connection, answer))
            })
            .await
        });
        // After an error the connection is dropped and the next call makes another.
        let (connection, answer) = called.context("no answer in time")??;
        self.connection = Some(connection);
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }
}

/// The sum of a metric over all its labels, in Prometheus' text; `labels` must all stand in a line.
pub fn metric(text: &str, name: &str, labels: &str) -> f64 {
    text.lines()
        .filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        })
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# HELP a_total x\na_total{outcome=\"new\",p=\"1\"} 5\na_total{outcome=\"new\",p=\"2\"} 7\n\
                    a_total{outcome=\"old\"} 100\na_total_more 9\nplain 3.5\n";
        assert!((metric(text, "a_total", "outcome=\"new\"") - 12.0).abs() < 1e-9);
        assert!((metric(text, "a_total", "") - 112.0).abs() < 1e-9);
        assert!((metric(text, "plain", "") - 3.5).abs() < 1e-9);
        assert!(metric(text, "none", "").abs() < 1e-9);
    }
}
