//! What the descriptors say of each rpc: its routes, its permission, its comment.

use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    MethodDescriptor, Value,
};
use std::sync::LazyLock;

/// An rpc and how it is reached.
#[derive(Debug, Clone)]
pub struct Rpc {
    pub descriptor: MethodDescriptor,
    /// The HTTP/2 path of a gRPC call: `/weir.billing.v2.PlanService/Create`.
    pub grpc_path: String,
    /// The short name in metrics: `PlanService.Create`.
    pub label: String,
    /// The scope a key must hold; `None` only where the `.proto` forgot it.
    pub permission: Option<String>,
    /// The REST route first, its aliases after it.
    pub bindings: Vec<Binding>,
}

/// A REST route of an rpc.
#[derive(Debug, Clone)]
pub struct Binding {
    pub method: Method,
    /// With variables in braces, named like the request's fields: `/plans/{id}`.
    pub path: String,
    /// Whether the body holds the request; otherwise the query does.
    pub has_body: bool,
}

/// All our descriptors.
pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        #[expect(clippy::expect_used, reason = "built with this program; every test reads it")]
        DescriptorPool::decode(weir_proto::FILE_DESCRIPTOR_SET).expect("descriptors are readable")
    });
    &POOL
}

/// Every rpc, in the order of the files.
pub fn rpcs() -> &'static [Rpc] {
    static RPCS: LazyLock<Vec<Rpc>> = LazyLock::new(|| {
        let methods =
            |service: prost_reflect::ServiceDescriptor| service.methods().collect::<Vec<_>>();
        pool().services().flat_map(methods).map(rpc).collect()
    });
    &RPCS
}

/// The comment above a declaration, without its leading blanks.
#[must_use]
pub fn comment(file: &FileDescriptor, path: &[i32]) -> Option<String> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let location = info.location.iter().find(|location| location.path == path)?;
    let text = location.leading_comments.as_deref()?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join(" "))
}

/// The field of an update that names the fields to change.
#[must_use]
pub fn mask_field(message: &MessageDescriptor) -> Option<FieldDescriptor> {
    let is_mask = |field: &FieldDescriptor| match field.kind() {
        Kind::Message(inner) => inner.full_name() == "google.protobuf.FieldMask",
        _ => false,
    };
    message.fields().find(is_mask)
}

fn rpc(descriptor: MethodDescriptor) -> Rpc {
    let service = descriptor.parent_service().clone();
    let options = descriptor.options();
    let permission = extension(&options, "weir.billing.v2.permission")
        .and_then(|value| value.as_str().map(str::to_owned));
    let bindings = extension(&options, "google.api.http")
        .and_then(|value| value.as_message().map(bindings))
        .unwrap_or_default();
    Rpc {
        grpc_path: format!("/{}/{}", service.full_name(), descriptor.name()),
        label: format!("{}.{}", service.name(), descriptor.name()),
        permission,
        bindings,
        descriptor,
    }
}

fn extension(options: &DynamicMessage, name: &str) -> Option<Value> {
    let extension = pool().get_extension_by_name(name)?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}

/// A `google.api.HttpRule` and its additional bindings.
fn bindings(rule: &DynamicMessage) -> Vec<Binding> {
    let mut all: Vec<Binding> = binding(rule).into_iter().collect();
    if let Some(more) = rule.get_field_by_name("additional_bindings")
        && let Some(rules) = more.as_list()
    {
        all.extend(rules.iter().filter_map(Value::as_message).filter_map(binding));
    }
    all
}

fn binding(rule: &DynamicMessage) -> Option<Binding> {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name)?;
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let (path, method) =
        verbs.into_iter().find_map(|(name, method)| Some((text(name)?, method)))?;
    Some(Binding { method, path, has_body: text("body").is_some_and(|body| body == "*") })
}
