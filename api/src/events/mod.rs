//! `EventService`. `Ingest` and `IngestBatch` are the ingest role's work: REST goes to its router
//! as it is, gRPC is turned into the same HTTP call here. Reads come from ClickHouse.

mod forward;
pub mod ingest;
mod read;

use crate::{context::Api, error::OpError, lists::limit, status};
use tonic::{Request, Response, Status};
use weir_proto::v2::{self, event_service_server::EventService};

pub use forward::{BATCH_BYTES_MAX, unavailable};

/// What errors call the entity.
pub const KIND: &str = "event";

#[tonic::async_trait]
impl EventService for Api {
    async fn ingest(
        &self,
        request: Request<v2::IngestEventRequest>,
    ) -> Result<Response<v2::EventVerdict>, Status> {
        self.context(&request)?;
        let call = forward::Call::of(&request, self.deps.events.clone())?;
        Ok(Response::new(call.one(request.get_ref()).await?))
    }

    async fn ingest_batch(
        &self,
        request: Request<v2::IngestEventBatchRequest>,
    ) -> Result<Response<v2::IngestEventBatchResponse>, Status> {
        self.context(&request)?;
        let call = forward::Call::of(&request, self.deps.events.clone())?;
        Ok(Response::new(call.batch(request.get_ref()).await?))
    }

    async fn get(
        &self,
        request: Request<v2::GetEventRequest>,
    ) -> Result<Response<v2::EventResponse>, Status> {
        let ctx = self.context(&request)?;
        let id = &request.get_ref().transaction_id;
        let event = ctx.usage.event(ctx.organization, id).await.map_err(status)?;
        let event = event.ok_or_else(|| OpError::not_found(KIND, id))?;
        Ok(Response::new(v2::EventResponse { event: Some(read::event_out(&event)) }))
    }

    async fn list(
        &self,
        request: Request<v2::ListEventsRequest>,
    ) -> Result<Response<v2::ListEventsResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let filter = read::filter(request.filter.unwrap_or_default())?;
        let pagination = request.pagination.unwrap_or_default();
        let (cursor, limit) = (read::cursor(&pagination)?, limit(&pagination)? as usize);
        let page = ctx.usage.events(ctx.organization, &filter, cursor, limit).await;
        Ok(Response::new(read::page_out(&page.map_err(status)?)))
    }
}
