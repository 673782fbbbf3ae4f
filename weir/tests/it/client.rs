//! A sender and an API's caller: plain HTTP and JSON.

use crate::eventually;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value as Json, json};
use std::{collections::BTreeMap, time::Duration};

/// A caller with a key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// `http://host:port/api/billing/v2`
    pub api: String,
    /// The same of whoever takes events.
    pub edge: String,
    key: String,
}

/// What a call answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub json: Json,
}

/// Units and events of a charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub units: String,
    pub events: u64,
}

/// An invoice as the tests look at it.
#[derive(Debug, Clone)]
pub struct Invoice {
    pub id: String,
    pub number: String,
    pub total_cents: i128,
    pub fees: BTreeMap<String, Fee>,
    /// How many it has, of which some may have the same code.
    pub lines: usize,
}

/// A line of an invoice, by the code of its charge or plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fee {
    pub units: String,
    pub events: u64,
    pub cents: i128,
    pub precise_cents: String,
    /// First instant, and first instant after.
    pub window: (String, String),
}

/// Asks whoever answers within a minute; a paused process does not.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap()
}

impl Client {
    /// Addresses are `http://host:port`.
    pub fn new(api: &str, edge: &str, key: &str) -> Self {
        let base = |address: &str| format!("{address}/api/billing/v2");
        Self { http: http(), api: base(api), edge: base(edge), key: key.trim().to_owned() }
    }

    /// The same caller with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.trim().to_owned(), ..self.clone() }
    }

    /// Calls; an error is that of the connection.
    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, url).header(CONTENT_TYPE, "application/json");
        if !self.key.is_empty() {
            request = request.bearer_auth(&self.key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body).send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await?;
        let json =
            serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        Ok(Answer { status, headers, json })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", &format!("{}/{path}", self.api), &[], "").await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Json) -> Answer {
        self.send("POST", &format!("{}/{path}", self.api), &[], body.to_string()).await.unwrap()
    }

    /// Posts one event, to the letter.
    pub async fn event(&self, text: &str) -> Answer {
        self.send("POST", &format!("{}/events", self.edge), &[], text.to_owned()).await.unwrap()
    }

    /// Posts a batch, to the letter.
    pub async fn batch(&self, body: impl Into<reqwest::Body>) -> Result<Answer, reqwest::Error> {
        self.send("POST", &format!("{}/events/batch", self.edge), &[], body).await
    }

    async fn create(&self, path: &str, entity: &str, body: Json) -> String {
        let made = self.post(path, body).await.ok();
        made[entity]["id"].as_str().unwrap().to_owned()
    }

    /// A metric on events of `event_code`: their number, or the sum of a field. Answers its id.
    pub async fn metric(&self, code: &str, event_code: &str, sum_of: Option<&str>) -> String {
        let aggregation = if sum_of.is_some() { "SUM_AGG" } else { "COUNT_AGG" };
        let body = json!({
            "code": code, "name": code, "eventCode": event_code,
            "aggregationType": aggregation, "fieldName": sum_of,
        });
        self.create("billable-metrics", "billableMetric", body).await
    }

    /// A monthly plan in USD, with a price for each unit of some metrics. Answers its id.
    pub async fn plan(&self, code: &str, base_cents: i64, prices: &[(&str, &str)]) -> String {
        let body = json!({
            "code": code, "name": code, "interval": "MONTHLY", "payInAdvance": false,
            "amountCents": base_cents, "amountCurrency": "USD", "charges": charges(prices),
        });
        self.create("plans", "plan", body).await
    }

    /// A customer. Answers its id.
    pub async fn customer(&self, external_id: &str, timezone: Option<&str>) -> String {
        let body = json!({ "externalId": external_id, "timezone": timezone });
        self.create("customers", "customer", body).await
    }

    /// A subscription with the customer's name, from some instant on or from now. Answers its id.
    pub async fn subscription(&self, customer: &str, plan: &str, at: Option<&str>) -> String {
        let body = json!({
            "customerId": customer, "planId": plan, "externalId": customer, "subscriptionAt": at,
        });
        self.create("subscriptions", "subscription", body).await
    }

    /// What the subscription named as its customer has used in its current period, by metric.
    pub async fn usage(&self, customer: &str) -> BTreeMap<String, Used> {
        let path = format!("customers/{customer}/subscriptions/external:{customer}/usage");
        let usage = self.get(&path).await.ok();
        let charges = usage["customerUsage"]["chargesUsage"].as_array().unwrap().iter();
        charges
            .map(|charge| {
                let code = charge["billableMetric"]["code"].as_str().unwrap().to_owned();
                let units = charge["units"].as_str().unwrap().to_owned();
                (code, Used { units, events: charge["eventsCount"].as_u64().unwrap_or_default() })
            })
            .collect()
    }

    /// Waits until a metric shows so many units, from so many events.
    pub async fn wait_for_usage(&self, customer: &str, metric: &str, units: &str, events: u64) {
        let wanted = Used { units: units.to_owned(), events };
        eventually(&format!("usage of {customer}"), async || {
            let usage = self.usage(customer).await;
            if usage.get(metric) == Some(&wanted) {
                return Ok(());
            }
            Err(format!("wanted {wanted:?} of {metric}, got {usage:?}"))
        })
        .await;
    }

    /// Transaction ids of all events of a subscription, as the list gives them.
    pub async fn event_ids(&self, external_id: &str) -> Vec<String> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let filter = format!("filter.part.externalSubscriptionId={external_id}");
            let page = format!("events?{filter}&pagination.limit=1000{cursor}");
            let page = self.get(&page).await.ok();
            let items = page["items"].as_array().unwrap().iter();
            ids.extend(items.map(|item| item["transactionId"].as_str().unwrap().to_owned()));
            match page["nextPageCursor"].as_str() {
                Some(next) => cursor = format!("&pagination.cursor={next}"),
                None => return ids,
            }
        }
    }

    /// The customer's invoices, oldest first.
    pub async fn invoices(&self, customer: &str) -> Vec<Invoice> {
        let path = format!("customers/{customer}/invoices?pagination.limit=1000");
        let listed = self.get(&path).await.ok();
        let mut invoices = Vec::new();
        for item in listed["items"].as_array().unwrap().iter().rev() {
            let id = item["id"].as_str().unwrap();
            let invoice = self.get(&format!("invoices/{id}")).await.ok();
            invoices.push(Invoice::read(&invoice["invoice"]));
        }
        invoices
    }
}

/// Charges of a plan: metric and price of a unit.
pub fn charges(prices: &[(&str, &str)]) -> Vec<Json> {
    let charge = |(metric, amount): &(&str, &str)| {
        json!({
            "billableMetricId": metric, "chargeModel": "STANDARD", "properties": { "amount": amount },
        })
    };
    prices.iter().map(charge).collect()
}

impl Invoice {
    fn read(json: &Json) -> Self {
        let text = |json: &Json| json.as_str().unwrap_or_else(|| panic!("{json}")).to_owned();
        let cents = |json: &Json| text(json).parse().unwrap();
        let fees = json["fees"].as_array().unwrap().iter().map(|fee| {
            let window = &fee["properties"];
            let read = Fee {
                units: text(&fee["units"]),
                events: fee["eventsCount"].as_str().map_or(0, |count| {
                    // A true-up's may be negative.
                    count.parse::<i64>().unwrap().unsigned_abs()
                }),
                cents: cents(&fee["amountCents"]),
                precise_cents: text(&fee["preciseAmountCents"]),
                window: (text(&window["fromDatetime"]), text(&window["toDatetime"])),
            };
            (text(&fee["itemCode"]), read)
        });
        Self {
            id: text(&json["id"]),
            number: text(&json["number"]),
            total_cents: cents(&json["totalAmountCents"]),
            lines: json["fees"].as_array().unwrap().len(),
            fees: fees.collect(),
        }
    }
}

impl Answer {
    /// The body of a call that went well.
    #[track_caller]
    pub fn ok(self) -> Json {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    /// Asserts status and reason of a refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.reason()), (status, reason), "{}", self.json);
    }

    /// Asserts status and verdict of one event.
    #[track_caller]
    pub fn verdict(&self, status: u16, verdict: &str) {
        let got = (self.status, self.json["status"].as_str().unwrap_or_default());
        assert_eq!(got, (status, verdict), "{}", self.json);
    }

    fn reason(&self) -> &str {
        self.detail("ErrorInfo")["reason"].as_str().unwrap_or_default()
    }

    /// Fields that were refused, with what was said of them.
    pub fn violations(&self) -> Vec<(&str, &str)> {
        let violations = self.detail("BadRequest")["fieldViolations"].as_array();
        let violations = violations.into_iter().flatten();
        violations
            .map(|one| (one["field"].as_str().unwrap(), one["description"].as_str().unwrap()))
            .collect()
    }

    fn detail(&self, name: &str) -> &Json {
        let wanted = format!("type.googleapis.com/google.rpc.{name}");
        let mut details = self.json["details"].as_array().into_iter().flatten();
        details.find(|detail| detail["@type"] == wanted.as_str()).unwrap_or(&Json::Null)
    }
}
