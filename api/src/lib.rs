//! The API role: catalog, customers, subscriptions, invoices and usage, as gRPC and as REST on one
//! port. REST enters the gRPC router, so permissions, idempotency and measurement exist once.

mod accounts;
pub mod billable_metrics;
pub mod config;
pub mod context;
pub mod customers;
pub mod descriptors;
pub mod error;
pub mod events;
pub mod fields;
pub mod invoices;
pub mod layers;
pub mod lists;
pub mod mask;
pub mod metrics;
pub mod openapi;
pub mod plans;
pub mod refusal;
pub mod request_id;
pub mod rest;
mod role;
pub mod subscriptions;
mod text;
pub mod unsupported;
pub mod usage;
mod usage_rolls;

pub use config::Config;
pub use context::{Api, ApiDeps};
pub use role::{RoleOptions, run};

use axum::{
    Router,
    extract::Request,
    handler::Handler,
    middleware::{from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::on,
};
use error::OpError;
use refusal::Refusal;
use tonic::{Status, service::Routes};
use weir_proto::v2::{
    account_service_server::AccountServiceServer,
    billable_metric_service_server::BillableMetricServiceServer,
    customer_service_server::CustomerServiceServer, event_service_server::EventServiceServer,
    invoice_service_server::InvoiceServiceServer, plan_service_server::PlanServiceServer,
    subscription_service_server::SubscriptionServiceServer,
    usage_roll_service_server::UsageRollServiceServer,
};

/// The rpcs whose REST calls go to the ingest role as they are: it checks keys itself and takes
/// bodies that no message can hold.
const INGESTED: [&str; 2] = ["EventService.Ingest", "EventService.IngestBatch"];

/// gRPC, its reflection and REST.
///
/// Panics: two rpcs claim the same route; every test would see it.
pub fn router(deps: ApiDeps) -> Router {
    let bounds = deps.config.bounds();
    let (pool, clock, events) = (deps.pool.clone(), deps.clock.clone(), deps.events.clone());
    let grpc = grpc(Api::new(deps)).layer(from_fn(layers::permit));
    let is_ingested = |rpc: &descriptors::Rpc| INGESTED.contains(&rpc.label.as_str());
    let rest = rest::router(descriptors::rpcs(), &grpc, is_ingested);
    let called = grpc
        .reset_fallback()
        .merge(rest)
        .route_layer(from_fn_with_state(pool, layers::authenticate))
        .route_layer(from_fn_with_state(bounds, layers::bound));
    let identified = from_fn_with_state(clock, request_id::identify);
    // Events past our layers: theirs is the one path where each costs, and the role has its own.
    called
        .merge(reflection())
        .fallback(unknown)
        .layer(identified.clone())
        .merge(events.unwrap_or_else(|| no_ingest_role().layer(identified.clone())))
        .method_not_allowed_fallback(wrong_method.layer(identified))
}

fn grpc(api: Api) -> Router {
    let limit = rest::BODY_BYTES_MAX;
    Routes::default()
        .add_service(BillableMetricServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(PlanServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(CustomerServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(SubscriptionServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(InvoiceServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(AccountServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(UsageRollServiceServer::new(api.clone()).max_decoding_message_size(limit))
        .add_service(
            EventServiceServer::new(api).max_decoding_message_size(events::BATCH_BYTES_MAX),
        )
        .into_axum_router()
}

/// What describes the API to tools; it needs no key, since it says no more than the documentation.
fn reflection() -> Router {
    let build = |make: fn(tonic_reflection::server::Builder<'static>) -> Option<Routes>| {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(weir_proto::FILE_DESCRIPTOR_SET);
        let routes = make(builder).unwrap_or_default();
        routes.into_axum_router().reset_fallback()
    };
    build(|builder| builder.build_v1().ok().map(Routes::new))
        .merge(build(|builder| builder.build_v1alpha().ok().map(Routes::new)))
}

/// The REST routes of [`INGESTED`] where no ingest role takes them.
fn no_ingest_role() -> Router {
    ingested(async || layers::answer(events::unavailable(), false))
}

/// The REST routes of [`INGESTED`], and no other: what is merged with ours has no fallback of its own.
pub(crate) fn ingested<T, S>(handler: impl Handler<T, S>) -> Router<S>
where
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    let rpcs = descriptors::rpcs().iter().filter(|rpc| INGESTED.contains(&rpc.label.as_str()));
    rpcs.flat_map(|rpc| &rpc.bindings).fold(Router::new(), |router, binding| {
        router.route(&binding.path, on(rest::filter(&binding.method), handler.clone()))
    })
}

async fn unknown(request: Request) -> Response {
    if layers::is_grpc(request.headers()) {
        return Status::unimplemented("no such rpc").into_http();
    }
    Refusal::route_unknown(request.uri().path()).into_response()
}

async fn wrong_method(request: Request) -> Response {
    Refusal::method_not_allowed(request.method()).into_response()
}

/// A method's error as its status.
pub(crate) fn status(error: impl Into<OpError>) -> Status {
    Status::from(error.into())
}
