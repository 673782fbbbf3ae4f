//! Spans reach a collector that speaks OTLP.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use tracing_subscriber::prelude::*;
use weir_runtime::traces;

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0
            .send(request.into_inner())
            .await
            .map_err(|_| Status::cancelled("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_spans_reach_the_collector_and_others_do_not() {
    let (sender, mut received) = mpsc::channel(10);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = TraceServiceServer::new(Collector(sender));
    let incoming = TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder().add_service(collector).serve_with_incoming(incoming),
    );

    let (layer, traces) = traces::to(&endpoint, "weir-test").unwrap();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        tracing::debug_span!(target: "weir_test", "ingest.accept", events = 3).in_scope(|| {
            tracing::debug_span!(target: "somebody_else", "noise").in_scope(|| ());
        });
    });
    tokio::task::spawn_blocking(move || drop(traces)).await.unwrap();

    let request = received.recv().await.unwrap();
    let resource = &request.resource_spans[0];
    let service = format!("{:?}", resource.resource);
    assert!(service.contains("weir-test"), "{service}");
    let spans = &resource.scope_spans[0].spans;
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["ingest.accept"]);
    assert!(spans[0].attributes.iter().any(|attribute| attribute.key == "events"));
}
