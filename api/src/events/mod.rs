//! `EventService`. `Ingest` and `IngestBatch` are the ingest role's work: REST goes to its router
//! as it is, gRPC is turned into the same HTTP call here. Reads come from ClickHouse.

mod backfill;
mod forward;
pub mod ingest;
mod read;
mod standing;
mod void;

use crate::{
    context::{Api, Context},
    error::OpError,
    lists::limit,
    status,
};
use standing::{Standing, voids_of};
use tonic::{Request, Response, Status};
use weir_proto::v2::{self, event_service_server::EventService};
use weir_usage::EventRow;

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
        Ok(Response::new(call.one(request.get_ref(), "").await?))
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
        let event = Some(written(&ctx, event).await?);
        Ok(Response::new(v2::EventResponse { event }))
    }

    async fn list(
        &self,
        request: Request<v2::ListEventsRequest>,
    ) -> Result<Response<v2::ListEventsResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let mut tx = ctx.begin().await?;
        let standing = Standing::load(&ctx, &mut tx).await?;
        // No transaction is kept open while ClickHouse works.
        drop(tx);
        let filter = read::filter(request.filter.unwrap_or_default(), &standing)?;
        let pagination = request.pagination.unwrap_or_default();
        let (cursor, limit) = (read::cursor(&pagination)?, limit(&pagination)? as usize);
        let page = ctx.usage.events(ctx.organization, &filter, cursor, limit).await;
        let page = page.map_err(status)?;
        let voids = voids_of(&ctx, &mut ctx.begin().await?, &page.events).await?;
        Ok(Response::new(read::page_out(&page, &standing, &voids)))
    }

    async fn void(
        &self,
        request: Request<v2::VoidEventRequest>,
    ) -> Result<Response<v2::EventResponse>, Status> {
        let ctx = self.context(&request)?;
        let v2::VoidEventRequest { transaction_id, reason } = request.get_ref();
        let event = void::void(&ctx, transaction_id, reason.as_deref()).await?;
        let event = Some(written(&ctx, event).await?);
        Ok(Response::new(v2::EventResponse { event }))
    }

    async fn amend(
        &self,
        request: Request<v2::AmendEventRequest>,
    ) -> Result<Response<v2::AmendEventResponse>, Status> {
        let ctx = self.context(&request)?;
        let call = forward::Call::of(&request, self.deps.events.clone())?;
        let (event, replacement) = void::amend(&ctx, call, request.get_ref()).await?;
        let event = Some(written(&ctx, event).await?);
        Ok(Response::new(v2::AmendEventResponse { event, replacement: Some(replacement) }))
    }

    async fn backfill(
        &self,
        request: Request<v2::BackfillEventsRequest>,
    ) -> Result<Response<v2::BackfillEventsResponse>, Status> {
        let ctx = self.context(&request)?;
        let call = forward::Call::of(&request, self.deps.events.clone())?;
        let answer = backfill::backfill(&ctx, call, request.into_inner()).await?;
        Ok(Response::new(answer))
    }
}

/// The event as it is answered, with what has become of it.
async fn written(ctx: &Context, event: EventRow<'static>) -> Result<v2::Event, OpError> {
    let mut tx = ctx.begin().await?;
    let standing = Standing::load(ctx, &mut tx).await?;
    let voids = voids_of(ctx, &mut tx, std::slice::from_ref(&event)).await?;
    Ok(read::event_out(&event, &standing, &voids))
}
