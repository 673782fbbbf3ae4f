//! An organization with a key, its API, and how to call it.

use axum::{Router, body::Body, extract::Request, response::Response};
use chrono::{DateTime, Utc};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use tower::ServiceExt;
use weir_api::{ApiDeps, Config};
use weir_ids::{ApiKeyId, OrganizationId};
use weir_runtime::Clock;
use weir_store::{
    api_keys::{self, ApiKey, Secret},
    organizations::{self, Organization},
};
use weir_usage::ClickHouse;

/// When every world begins.
pub const START: &str = "2026-03-10T12:00:00Z";

pub struct World {
    pub app: Router,
    pub pool: PgPool,
    pub clock: Clock,
    pub organization: OrganizationId,
    /// Holds every scope.
    pub secret: Secret,
}

/// What a call answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Json,
}

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// A ClickHouse that nobody is.
pub fn no_usage() -> ClickHouse {
    ClickHouse::connect("http://127.0.0.1:9", "nobody", "", "nothing")
}

impl World {
    /// Without usage and without an ingest role.
    pub async fn new(pool: PgPool) -> Self {
        Self::with(pool, no_usage(), None).await
    }

    pub async fn with(pool: PgPool, usage: ClickHouse, events: Option<Router>) -> Self {
        Self::configured(pool, usage, events, Config::load().unwrap()).await
    }

    pub async fn configured(
        pool: PgPool,
        usage: ClickHouse,
        events: Option<Router>,
        config: Config,
    ) -> Self {
        let clock = Clock::test(at(START));
        let deps = ApiDeps { pool: pool.clone(), usage, clock: clock.clone(), events, config };
        let organization = Organization::new(clock.new_id(), "Acme", clock.now());
        let mut connection = pool.acquire().await.unwrap();
        organizations::insert(&mut connection, &organization).await.unwrap();
        drop(connection);
        let id = organization.id;
        let secret = key(&pool, &clock, id, &["*"]).await;
        Self { app: weir_api::router(deps), pool, clock, organization: id, secret }
    }

    /// Another key of the organization.
    pub async fn key(&self, scopes: &[&str]) -> Secret {
        key(&self.pool, &self.clock, self.organization, scopes).await
    }

    /// A key of another organization.
    pub async fn stranger(&self) -> Secret {
        let other = Organization::new(self.clock.new_id(), "Other", self.clock.now());
        let mut connection = self.pool.acquire().await.unwrap();
        organizations::insert(&mut connection, &other).await.unwrap();
        key(&self.pool, &self.clock, other.id, &["*"]).await
    }

    /// Calls with the key that holds every scope.
    pub async fn call(&self, method: &str, path: &str, body: Json) -> Answer {
        self.call_as(Some(&self.secret), method, path, body).await
    }

    pub async fn call_as(
        &self,
        secret: Option<&Secret>,
        method: &str,
        path: &str,
        body: Json,
    ) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(request(secret, method, path, body)).await
    }

    pub async fn send(&self, request: Request) -> Answer {
        read(self.app.clone().oneshot(request).await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Json::Null).await
    }

    pub async fn post(&self, path: &str, body: Json) -> Answer {
        self.call("POST", path, body).await
    }

    /// A metric that counts events; answers its id.
    pub async fn metric(&self, code: &str) -> String {
        let body = json!({ "name": code, "code": code, "aggregationType": "COUNT_AGG" });
        let made = self.post("/api/billing/v2/billable-metrics", body).await;
        made.ok()["billableMetric"]["id"].as_str().unwrap().to_owned()
    }

    /// A plan of 50.00 SAR a month and 0.50 for each unit of `metric`; answers its id.
    pub async fn plan(&self, code: &str, metric: &str) -> String {
        let made = self.post("/api/billing/v2/plans", plan_body(code, metric)).await;
        made.ok()["plan"]["id"].as_str().unwrap().to_owned()
    }

    /// A customer; answers its id.
    pub async fn customer(&self, external_id: &str) -> String {
        let body = json!({ "externalId": external_id, "name": "Muster & Sons" });
        let made = self.post("/api/billing/v2/customers", body).await;
        made.ok()["customer"]["id"].as_str().unwrap().to_owned()
    }

    /// A subscription from now on; answers its id.
    pub async fn subscription(&self, customer: &str, plan: &str, external_id: &str) -> String {
        let body = json!({ "customerId": customer, "planId": plan, "externalId": external_id });
        let made = self.post("/api/billing/v2/subscriptions", body).await;
        made.ok()["subscription"]["id"].as_str().unwrap().to_owned()
    }
}

pub fn plan_body(code: &str, metric: &str) -> Json {
    json!({
        "name": "Business Pro",
        "code": code,
        "amountCents": 5000,
        "amountCurrency": "CURRENCY_ENUM_SAR",
        "interval": "PLAN_INTERVAL_MONTHLY",
        "charges": [{
            "billableMetricId": metric,
            "chargeModel": "CHARGE_MODEL_STANDARD",
            "properties": { "amount": "0.50" },
        }],
    })
}

/// A JSON answer as text, with what is made anew in each run taken out: ids and number prefixes.
pub fn redacted(json: &Json) -> String {
    fn walk(json: &mut Json) {
        match json {
            Json::Object(object) => object.values_mut().for_each(walk),
            Json::Array(items) => items.iter_mut().for_each(walk),
            Json::String(text) => {
                let body = text.split_once('_').map_or("", |(_, body)| body);
                if body.len() == 26 && body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    *text = format!("[{}]", &text[..text.len() - 27]);
                } else if text.starts_with("ACM-") {
                    text.replace_range(4..8, "[id]");
                }
            }
            _ => {}
        }
    }
    let mut json = json.clone();
    walk(&mut json);
    format!("{json:#}")
}

pub fn request(
    secret: Option<&Secret>,
    method: &str,
    path: &str,
    body: impl Into<Body>,
) -> Request {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = path.parse().unwrap();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    if let Some(secret) = secret {
        let bearer = format!("Bearer {}", secret.expose());
        headers.insert(header::AUTHORIZATION, bearer.parse().unwrap());
    }
    request
}

async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes).unwrap_or(Json::Null);
    Answer { status: parts.status, headers: parts.headers, json }
}

async fn key(
    pool: &PgPool,
    clock: &Clock,
    organization: OrganizationId,
    scopes: &[&str],
) -> Secret {
    let secret = Secret::generate();
    let key = ApiKey {
        id: clock.new_id::<ApiKeyId>(),
        organization,
        name: "test".to_owned(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        created_at: clock.now(),
        revoked_at: None,
    };
    let mut connection = pool.acquire().await.unwrap();
    api_keys::insert(&mut connection, &key, &secret.hash()).await.unwrap();
    secret
}

impl Answer {
    /// The body of a call that went well.
    #[track_caller]
    pub fn ok(self) -> Json {
        assert_eq!(self.status, StatusCode::OK, "{}", self.json);
        self.json
    }

    /// Asserts the HTTP status and the reason of a refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, reason: &str) {
        assert_eq!((self.status.as_u16(), self.reason()), (status, reason), "{}", self.json);
    }

    /// `ErrorInfo.reason`.
    pub fn reason(&self) -> &str {
        self.detail("ErrorInfo")["reason"].as_str().unwrap_or_default()
    }

    /// The paths of the fields that were refused.
    pub fn fields(&self) -> Vec<&str> {
        let violations = self.detail("BadRequest")["fieldViolations"].as_array();
        let fields = violations.into_iter().flatten();
        fields.map(|violation| violation["field"].as_str().unwrap()).collect()
    }

    /// The detail of this type.
    pub fn detail(&self, name: &str) -> &Json {
        let wanted = format!("type.googleapis.com/google.rpc.{name}");
        let details = self.json["details"].as_array();
        let mut details = details.into_iter().flatten();
        details.find(|detail| detail["@type"] == wanted.as_str()).unwrap_or(&Json::Null)
    }
}
