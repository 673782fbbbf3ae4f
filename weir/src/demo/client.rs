//! The demo as a user of the API: plain HTTP and JSON.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::time::Duration;

/// A client with a key.
pub struct Client {
    http: reqwest::Client,
    api: String,
    ingest: String,
    key: String,
}

/// What the batches were answered, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub accepted: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub rejected: u64,
}

impl Client {
    /// A client of the API and the ingest edge at these addresses (`http://host:port`).
    pub fn new(api: String, ingest: String, key: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { http, api, ingest, key })
    }

    /// Posts a JSON body to the API; anything but success is an error with the answer's text.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/api/billing/v2/{path}", self.api);
        self.send(&url, body.to_string()).await.with_context(|| format!("POST {path}"))
    }

    /// Makes an entity and answers its id; `wrapper` is the name the answer wraps it in.
    pub async fn create(&self, path: &str, wrapper: &str, body: Value) -> anyhow::Result<String> {
        let answer = self.post(path, &body).await?;
        let id = answer[wrapper]["id"].as_str();
        Ok(id.with_context(|| format!("no {wrapper}.id in {answer}"))?.to_owned())
    }

    /// Posts a batch of events.
    pub async fn events(&self, events: &[Value]) -> anyhow::Result<Verdicts> {
        let url = format!("{}/api/billing/v2/events/batch?verdicts=failed", self.ingest);
        let answer = self.send(&url, json!({ "events": events }).to_string()).await?;
        let count =
            |name: &str| answer[name].as_u64().with_context(|| format!("no {name}: {answer}"));
        let verdicts = Verdicts {
            accepted: count("accepted")?,
            duplicates: count("duplicates")?,
            conflicts: count("conflicts")?,
            rejected: count("rejected")?,
        };
        if verdicts.rejected + verdicts.conflicts > 0 {
            bail!("refused: {}", answer["verdicts"]);
        }
        Ok(verdicts)
    }

    /// Every item of a list, page by page.
    pub async fn list(&self, path: &str, view: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut pagination = json!({ "limit": 100 });
        loop {
            let page = self.post(path, &json!({ "pagination": pagination, "view": view })).await?;
            items.extend(page["items"].as_array().context("a list has items")?.iter().cloned());
            match page["nextPageCursor"].as_str().filter(|cursor| !cursor.is_empty()) {
                Some(cursor) => pagination = json!({ "limit": 100, "cursor": cursor }),
                None => return Ok(items),
            }
        }
    }

    /// One entity.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}/api/billing/v2/{path}", self.api);
        let answer = self.http.get(&url).bearer_auth(&self.key).send().await?;
        read(answer).await.with_context(|| format!("GET {path}"))
    }

    async fn send(&self, url: &str, body: String) -> anyhow::Result<Value> {
        let request = self.http.post(url).bearer_auth(&self.key);
        let request = request.header("content-type", "application/json").body(body);
        read(request.send().await?).await
    }
}

async fn read(answer: reqwest::Response) -> anyhow::Result<Value> {
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}
