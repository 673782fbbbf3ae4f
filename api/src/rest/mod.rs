//! REST in front of gRPC: reads `google.api.http` from the descriptors, makes the gRPC call in
//! process and turns the reply into JSON. Knows no resource.

pub mod decode;
pub mod encode;
mod json;
mod routes;

use crate::{
    descriptors::{self, Binding, Rpc},
    error::{OpError, Violation},
    refusal::Refusal,
};
use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, RawQuery, Request, rejection::RawPathParamsRejection},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, header, request::Parts};
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};
use routes::Route;
use serde_json::{Map, Value as Json};
use std::sync::Arc;
use tonic::{Code, Status};
use tower::ServiceExt;

/// The longest body taken. The largest sensible request, a plan of a hundred charges with ten
/// tiers each, has 150 KiB.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Which headers of the HTTP request the method sees.
const FORWARDED: [&str; 4] = ["authorization", "idempotency-key", "traceparent", "x-request-id"];

/// The routes of all rpcs but those that `skip` names.
///
/// Panics: two rpcs claim the same route; every test would see it.
pub fn router(rpcs: &[Rpc], grpc: &Router, skip: impl Fn(&Rpc) -> bool) -> Router {
    let mut router = Router::new();
    for Route { path, rpc, binding, fixed } in routes::all(rpcs) {
        if skip(rpc) {
            continue;
        }
        let (rpc, grpc) = (Arc::new(rpc.clone()), grpc.clone());
        let (route, fixed) = (Arc::new(binding.clone()), Arc::new(fixed));
        let handler = move |params: Result<RawPathParams, RawPathParamsRejection>,
                            RawQuery(query): RawQuery,
                            request: Request| {
            let (rpc, grpc, route, fixed) =
                (rpc.clone(), grpc.clone(), route.clone(), fixed.clone());
            async move {
                let query = query.unwrap_or_default();
                let called = match variables(params, &fixed) {
                    Ok(params) => call(&rpc, &route, grpc, &params, &query, request).await,
                    Err(error) => Err(Status::from(error).into()),
                };
                called.unwrap_or_else(IntoResponse::into_response)
            }
        };
        router = router.route(&path, on(filter(&binding.method), handler));
    }
    router
}

/// The variables of a path: what the request has in their place, or what the route itself has.
fn variables(
    params: Result<RawPathParams, RawPathParamsRejection>,
    fixed: &[(String, String)],
) -> Result<Vec<(String, String)>, OpError> {
    let params = params.map_err(|error| OpError::invalid("path", error.body_text()))?;
    let sent = params.iter().map(|(name, text)| (name.to_owned(), text.to_owned()));
    Ok(sent.chain(fixed.iter().cloned()).collect())
}

/// The axum filter of a verb; `OPTIONS` for one that no route has.
pub fn filter(method: &Method) -> MethodFilter {
    MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::OPTIONS)
}

async fn call(
    rpc: &Rpc,
    binding: &Binding,
    grpc: Router,
    params: &[(String, String)],
    query: &str,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let object = match binding.has_body {
        true => body_object(body).await?,
        false => Map::new(),
    };
    let message = request_message(rpc, binding, params, query, object)?;
    let response = grpc
        .oneshot(grpc_request(rpc, &message, parts))
        .await
        .unwrap_or_else(|never| match never {});
    let payload = reply(response).await?;
    let reply = DynamicMessage::decode(rpc.descriptor.output(), payload)
        .map_err(|error| Status::from(OpError::internal(error)))?;
    let json = encode::message(&reply).map_err(|error| Status::from(OpError::internal(error)))?;
    Ok(axum::Json(json).into_response())
}

async fn body_object(body: Body) -> Result<Map<String, Json>, Refusal> {
    let limited = http_body_util::Limited::new(body, BODY_BYTES_MAX);
    let bytes = match limited.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Refusal::body_too_large(BODY_BYTES_MAX));
        }
        Err(error) => return Err(Refusal::not_json(error.to_string())),
    };
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    // The reader stops at 128 levels by itself.
    match json::read(&bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::not_json("the body must be a JSON object".to_owned())),
        Err(error) => Err(Refusal::not_json(format!("the body is no JSON: {error}"))),
    }
}

fn request_message(
    rpc: &Rpc,
    binding: &Binding,
    params: &[(String, String)],
    query: &str,
    mut object: Map<String, Json>,
) -> Result<DynamicMessage, Refusal> {
    let input = rpc.descriptor.input();
    let mut faults = Vec::new();
    for (key, text) in form_urlencoded::parse(query.as_bytes()) {
        let inserted = match binding.has_body {
            true => Err("unknown parameter: this form takes its fields from the body"),
            false => decode::insert_parameter(&input, &mut object, &key, &text),
        };
        if let Err(fault) = inserted {
            faults.push(Violation::new(key, fault));
        }
    }
    let named: Vec<String> = object.keys().cloned().collect();
    let mut message = decode::message(&input, object, "", &mut faults);
    if binding.has_body {
        fill_mask(&input, &mut message, &named);
    }
    for (key, text) in params {
        let Some(field) = decode::field(&input, key) else { continue };
        match decode::value(&field.kind(), Json::String(text.clone()), field.json_name()) {
            Ok(value) if message.has_field(&field) && *message.get_field(&field) != value => {
                faults.push(Violation::new(field.json_name(), "is another one in the path"));
            }
            Ok(value) => message.set_field(&field, value),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(message) } else { Err(Status::from(OpError::Invalid(faults)).into()) }
}

/// An update without a mask changes the fields that its body names: `null` clears, absence keeps.
fn fill_mask(input: &MessageDescriptor, message: &mut DynamicMessage, named: &[String]) {
    let Some(mask) = descriptors::mask_field(input) else { return };
    if message.has_field(&mask) {
        return;
    }
    let fields = named.iter().filter_map(|key| decode::field(input, key));
    let paths = fields.filter(|field| *field != mask);
    let paths = paths.map(|field| Value::String(field.name().to_owned())).collect();
    let Kind::Message(descriptor) = mask.kind() else { return };
    let mut filled = DynamicMessage::new(descriptor);
    filled.set_field_by_name("paths", Value::List(paths));
    message.set_field(&mask, Value::Message(filled));
}

fn grpc_request(rpc: &Rpc, message: &DynamicMessage, parts: Parts) -> http::Request<Body> {
    let payload = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(5 + payload.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    frame.put_slice(&payload);
    let mut request = http::Request::new(Body::from(frame.freeze()));
    *request.method_mut() = Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    if let Ok(uri) = rpc.grpc_path.parse() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for name in FORWARDED {
        if let Some(value) = parts.headers.get(name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    *request.extensions_mut() = parts.extensions;
    request
}

/// The one message of a unary reply, or its status when that is not OK.
async fn reply(response: Response) -> Result<Bytes, Refusal> {
    let failed = |headers: &http::HeaderMap| {
        Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
    };
    if let Some(status) = failed(response.headers()) {
        return Err(status.into());
    }
    let collected = response
        .into_body()
        .collect()
        .await
        .map_err(|error| Status::from(OpError::internal(error)))?;
    if let Some(status) = collected.trailers().and_then(failed) {
        return Err(status.into());
    }
    let mut frame = collected.to_bytes();
    if frame.len() < 5 {
        return Err(Status::from(OpError::internal("a reply without a message")).into());
    }
    Ok(frame.split_off(5))
}
