//! Who may send: checked before the body is read.

use crate::deployment::{ACME, BATCH, Deployment, SINGLE, embedded, event};
use axum::body::Body;
use http::{Request, header};
use sqlx::PgPool;
use weir_ids::OrganizationId;

#[sqlx::test(migrations = "../migrations/postgres")]
async fn only_a_key_with_the_scope_may_send(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let rows = deployment.rows();
    rows.key(ACME, 2, "weir_reader", &["events.read", "plans.write"]).await;
    rows.key(ACME, 3, "weir_all", &["*"]).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    let cases = [
        (None, 401, "API_KEY_MISSING", 16),
        (Some("Basic dXNlcjpwYXNz"), 401, "API_KEY_MISSING", 16),
        (Some("Bearer weir_wrong"), 401, "API_KEY_UNKNOWN", 16),
        (Some("Bearer weir_reader"), 403, "SCOPE_MISSING", 7),
    ];
    for (authorization, status, reason, code) in cases {
        let mut request = Request::post(SINGLE);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        // The body never ends: an answer shows that it was not waited for.
        let endless = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, String>>());
        let answer = edge.send(request, endless).await;
        assert_eq!((answer.code(), answer.reason()), (status, reason), "{authorization:?}");
        assert_eq!(answer.json["code"], code);
        assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), status == 401);
        let named = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(answer.detail("RequestInfo")["requestId"], named);
        assert_eq!(answer.detail("ErrorInfo")["domain"], "weir");
        if status == 403 {
            assert_eq!(answer.detail("ErrorInfo")["metadata"]["scope"], "events.write");
        }
    }
    let request = Request::post(SINGLE).header(header::AUTHORIZATION, "Bearer weir_all");
    assert_eq!(edge.send(request, event("t").to_string()).await.code(), 202);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_key_made_a_moment_ago_is_known(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    deployment.rows().key(ACME, 2, "weir_new", &["events.write"]).await;
    let request = Request::post(SINGLE).header(header::AUTHORIZATION, "Bearer weir_new");
    assert_eq!(edge.send(request, event("t").to_string()).await.code(), 202);
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn organizations_share_neither_ids_nor_catalogs(pool: PgPool) {
    const GLOBEX: OrganizationId = OrganizationId::from_u128(0x610);
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new(pool).await;
    let rows = deployment.rows();
    rows.organization(GLOBEX, "globex").await;
    rows.key(GLOBEX, 9, "weir_globex", &["events.write"]).await;
    rows.metric(GLOBEX, 9, "tokens", "sum", Some("tokens")).await;
    let edge = deployment.edge(embedded(dir.path()).await).await;
    assert_eq!(edge.post(SINGLE, event("t").to_string()).await.code(), 202);
    let as_globex = || Request::post(BATCH).header(header::AUTHORIZATION, "Bearer weir_globex");
    let body = serde_json::json!([event("t")]).to_string();
    let foreign = edge.send(as_globex(), body.clone()).await;
    assert_eq!(foreign.json["verdicts"][0]["error"]["reason"], "UNKNOWN_SUBSCRIPTION");
    rows.plan_and_customer(GLOBEX).await;
    rows.subscription(GLOBEX, 9, "sub-1", "2026-03-01T00:00:00Z", None).await;
    assert_eq!(edge.send(as_globex(), body).await.words(), ["accepted"], "not acme's duplicate");
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn a_request_keeps_the_name_its_sender_gave_it(pool: PgPool) {
    let dir = tempfile::tempdir().unwrap();
    let edge = Deployment::new(pool).await.edge(embedded(dir.path()).await).await;
    let named = |body: String| edge.post_as(SINGLE, "x-request-id", "mine-7", body.into_bytes());
    let taken = named(event("t").to_string()).await;
    assert_eq!((taken.code(), &taken.headers["x-request-id"]), (202, &"mine-7".parse().unwrap()));
    for body in ["{", "{}"] {
        let refused = named(body.to_owned()).await;
        assert_eq!(refused.code(), 400);
        assert_eq!(refused.headers["x-request-id"], "mine-7");
        assert_eq!(refused.detail("RequestInfo")["requestId"], "mine-7");
    }
    let long = "x".repeat(129);
    let refused = edge.post_as(SINGLE, "x-request-id", &long, b"{".to_vec()).await;
    assert_eq!(refused.headers["x-request-id"].len(), 32, "a name of our own");
}
