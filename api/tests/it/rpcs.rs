//! What holds for every rpc.

use crate::world::{World, request};
use http::StatusCode;
use serde_json::{Value as Json, json};
use sqlx::PgPool;
use std::collections::BTreeSet;
use weir_api::descriptors::{Binding, Rpc, comment, rpcs};
use weir_store::api_keys::Secret;

/// The routes of the contract: rpc, verb, path. Aliases follow their route.
const ROUTES: &str = "\
AccountService.GetOrganization GET /account/organization
AccountService.UpdateOrganization PUT /account/organization
BillableMetricService.Create POST /billable-metrics
BillableMetricService.Update PUT /billable-metrics/{id}
BillableMetricService.Get GET /billable-metrics/{id}
BillableMetricService.List POST /billable-metrics/list
BillableMetricService.List GET /billable-metrics
BillableMetricService.Delete POST /billable-metrics/delete
BillableMetricService.Delete DELETE /billable-metrics/{id}
BillableMetricService.EvaluateExpression POST /billable-metrics/evaluate-expression
CustomerService.Create POST /customers
CustomerService.Update PUT /customers/{id}
CustomerService.Get GET /customers/{id}
CustomerService.List POST /customers/list
CustomerService.List GET /customers
CustomerService.Delete POST /customers/delete
CustomerService.Delete DELETE /customers/{id}
CustomerService.GetUsage GET /customers/{customer_id}/subscriptions/{subscription_id}/usage
CustomerService.GetUsage GET /customers/{customer_id}/usage
EventService.Ingest POST /events
EventService.IngestBatch POST /events/batch
EventService.IngestBatch POST /events:batchCreate
EventService.Get GET /events/{transaction_id}
EventService.List GET /events
EventService.Void POST /events/{transaction_id}/void
EventService.Amend POST /events/{transaction_id}/amend
EventService.Backfill POST /events/backfill
InvoiceService.List POST /invoices/list
InvoiceService.List GET /invoices
InvoiceService.Get GET /invoices/{id}
InvoiceService.CustomerInvoices POST /invoices/customer-invoices
InvoiceService.CustomerInvoices GET /customers/{customer_id}/invoices
InvoiceService.Finalize POST /invoices/{id}/finalize
PlanService.Create POST /plans
PlanService.Update PUT /plans/{id}
PlanService.Get GET /plans/{id}
PlanService.List POST /plans/list
PlanService.List GET /plans
PlanService.Delete POST /plans/delete
PlanService.Delete DELETE /plans/{id}
SubscriptionService.Create POST /subscriptions
SubscriptionService.Get GET /subscriptions/{id}
SubscriptionService.List POST /subscriptions/list
SubscriptionService.List GET /subscriptions
SubscriptionService.Terminate POST /subscriptions/{id}/terminate
UsageRollService.List GET /usage-rolls";

#[test]
fn the_routes_are_those_of_the_contract() {
    let written = rpcs().iter().flat_map(|rpc| {
        let line = |binding: &Binding| {
            let path = binding.path.strip_prefix("/api/billing/v2").unwrap();
            format!("{} {} {path}", rpc.label, binding.method)
        };
        rpc.bindings.iter().map(line).collect::<Vec<_>>()
    });
    let written: BTreeSet<String> = written.collect();
    let wanted: BTreeSet<String> = ROUTES.lines().map(str::to_owned).collect();
    assert_eq!(written, wanted);
}

#[test]
fn every_rpc_has_a_route_a_permission_and_a_comment() {
    assert_eq!(rpcs().len(), 35);
    for rpc in rpcs() {
        assert!(!rpc.bindings.is_empty(), "{} has no route", rpc.label);
        let scope = rpc.permission.as_deref().unwrap_or_default();
        let verb = scope.split_once('.').map(|(_, verb)| verb);
        assert!(matches!(verb, Some("read" | "write")), "{}: {scope:?}", rpc.label);
        let text = comment(&rpc.descriptor.parent_file(), rpc.descriptor.path());
        assert!(text.is_some(), "{} has no comment", rpc.label);
    }
}

#[test]
fn no_request_or_answer_has_a_binary_float_or_bytes() {
    use prost_reflect::Kind;
    let messages = weir_api::descriptors::pool().all_messages();
    let ours = messages.filter(|message| message.package_name() == "weir.billing.v2");
    for field in ours.flat_map(|message| message.fields().collect::<Vec<_>>()) {
        let kind = field.kind();
        let banned = matches!(kind, Kind::Double | Kind::Float | Kind::Bytes) || field.is_map();
        assert!(!banned, "{}", field.full_name());
    }
}

/// The calls that this role itself answers: events are taken by the ingest role.
fn own() -> impl Iterator<Item = (&'static Rpc, &'static Binding)> {
    let own = rpcs().iter().filter(|rpc| !rpc.label.starts_with("EventService.Ingest"));
    own.flat_map(|rpc| rpc.bindings.iter().map(move |binding| (rpc, binding)))
}

/// The path with an id that may exist, but doesn't.
fn path(binding: &Binding) -> String {
    let id = binding.path.split('/').nth(4).map_or("x", |resource| match resource {
        "billable-metrics" => "bm_01J00000000000000000000000",
        "plans" => "plan_01J00000000000000000000000",
        "subscriptions" => "sub_01J00000000000000000000000",
        "invoices" => "inv_01J00000000000000000000000",
        _ => "cus_01J00000000000000000000000",
    });
    let path = binding.path.replace("{id}", id).replace("{customer_id}", id);
    path.replace("{subscription_id}", "sub_01J00000000000000000000000")
        .replace("{transaction_id}", "t-1")
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_rpc_refuses_calls_without_a_key_and_with_an_unknown_one(pool: PgPool) {
    let world = World::new(pool).await;
    let unknown = Secret::generate();
    for (rpc, binding) in own() {
        let (verb, path) = (binding.method.as_str(), path(binding));
        for (secret, reason) in [(None, "API_KEY_MISSING"), (Some(&unknown), "API_KEY_UNKNOWN")] {
            let answer = world.send(request(secret, verb, &path, "{no json")).await;
            answer.refused(401, reason);
            assert!(answer.headers.contains_key("www-authenticate"), "{}", rpc.label);
        }
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn every_rpc_refuses_a_key_without_its_scope_and_names_it(pool: PgPool) {
    let world = World::new(pool).await;
    for (rpc, binding) in own() {
        let wanted = rpc.permission.as_deref().unwrap();
        let others: BTreeSet<&str> =
            rpcs().iter().filter_map(|rpc| rpc.permission.as_deref()).collect();
        let others: Vec<&str> = others.into_iter().filter(|scope| *scope != wanted).collect();
        let secret = world.key(&others).await;
        let verb = binding.method.as_str();
        let answer = world.call_as(Some(&secret), verb, &path(binding), Json::Null).await;
        answer.refused(403, "SCOPE_MISSING");
        assert_eq!(answer.detail("ErrorInfo")["metadata"]["scope"], wanted);
    }
}

#[sqlx::test(migrations = "../migrations/postgres")]
async fn no_rpc_shows_or_changes_what_belongs_to_another_organization(pool: PgPool) {
    let world = World::new(pool).await;
    let metric = world.metric("calls").await;
    let plan = world.plan("pro", &metric).await;
    let customer = world.customer("acme").await;
    let subscription = world.subscription(&customer, &plan, "acme-pro").await;
    let stranger = world.stranger().await;

    let ids = [
        ("billable-metrics", metric.as_str()),
        ("plans", plan.as_str()),
        ("customers", customer.as_str()),
        ("subscriptions", subscription.as_str()),
    ];
    let name = json!({ "name": "mine now" });
    for (resource, id) in ids {
        let base = format!("/api/billing/v2/{resource}");
        let mut calls = vec![("GET", format!("{base}/{id}"), Json::Null)];
        if resource == "subscriptions" {
            calls.push(("POST", format!("{base}/{id}/terminate"), json!({})));
        } else {
            calls.push(("PUT", format!("{base}/{id}"), name.clone()));
            calls.push(("POST", format!("{base}/delete"), json!({ "id": id })));
            calls.push(("DELETE", format!("{base}/{id}"), Json::Null));
        }
        for (verb, path, body) in calls {
            world.call_as(Some(&stranger), verb, &path, body).await.refused(404, "NOT_FOUND");
        }
        let list = world.call_as(Some(&stranger), "GET", &base, Json::Null).await.ok();
        assert_eq!(list["totalCount"], "0", "{resource}");
        let kept = world.get(&format!("{base}/{id}")).await;
        assert_eq!(kept.status, StatusCode::OK, "{resource}");
    }
    let usage = format!("/api/billing/v2/customers/{customer}/subscriptions/{subscription}/usage");
    let by_external = "/api/billing/v2/customers/acme/invoices".to_owned();
    for path in [usage, by_external, "/api/billing/v2/customers/acme".to_owned()] {
        let answer = world.call_as(Some(&stranger), "GET", &path, Json::Null).await;
        answer.refused(404, "NOT_FOUND");
    }
    let foreign = json!({ "customerId": customer, "planId": plan });
    let path = "/api/billing/v2/subscriptions";
    world.call_as(Some(&stranger), "POST", path, foreign).await.refused(404, "NOT_FOUND");
}
