//! `BillableMetricService`.

pub mod convert;
mod counting;
mod evaluate;
mod ops;

use crate::{context::Api, fields::id, lists::page_request, mask::Mask, status};
use tonic::{Request, Response, Status};
use weir_billing::metric::BillableMetric;
use weir_ids::BillableMetricId;
use weir_proto::v2::{self, billable_metric_service_server::BillableMetricService};
use weir_store::billable_metrics as store;

/// What errors call the entity.
pub const KIND: &str = "billable metric";

#[tonic::async_trait]
impl BillableMetricService for Api {
    async fn create(
        &self,
        request: Request<v2::CreateBillableMetricRequest>,
    ) -> Result<Response<v2::BillableMetricResponse>, Status> {
        let ctx = self.context(&request)?;
        let draft = convert::draft(request.get_ref())?;
        Ok(answer(ops::create(&ctx, draft).await?))
    }

    async fn update(
        &self,
        request: Request<v2::UpdateBillableMetricRequest>,
    ) -> Result<Response<v2::BillableMetricResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.get_ref();
        let mask = Mask::of(request, request.mask.as_ref())?;
        let metric = id::<BillableMetricId>(KIND, &request.id)?;
        let change = |metric: &_| convert::changed(request, &mask, metric);
        Ok(answer(ops::update(&ctx, metric, change).await?))
    }

    async fn get(
        &self,
        request: Request<v2::GetBillableMetricRequest>,
    ) -> Result<Response<v2::BillableMetricResponse>, Status> {
        let ctx = self.context(&request)?;
        let metric = id(KIND, &request.get_ref().id)?;
        let mut tx = ctx.begin().await?;
        Ok(answer(ops::load(&ctx, &mut tx, metric).await?))
    }

    async fn list(
        &self,
        request: Request<v2::ListBillableMetricsRequest>,
    ) -> Result<Response<v2::ListBillableMetricsResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let page = page_request(request.pagination.as_ref(), request.sort.as_ref())?;
        let filter = convert::filter(request.filter.unwrap_or_default())?;
        let mut tx = ctx.begin().await?;
        let page = store::list(&mut tx, ctx.organization, &filter, &page).await.map_err(status)?;
        Ok(Response::new(v2::ListBillableMetricsResponse {
            items: page.items.into_iter().map(convert::metric_out).collect(),
            total_count: page.total_count,
            next_page_cursor: page.next_cursor,
        }))
    }

    async fn delete(
        &self,
        request: Request<v2::DeleteBillableMetricRequest>,
    ) -> Result<Response<v2::DeleteBillableMetricResponse>, Status> {
        let ctx = self.context(&request)?;
        ops::delete(&ctx, id(KIND, &request.get_ref().id)?).await?;
        Ok(Response::new(v2::DeleteBillableMetricResponse {}))
    }

    async fn evaluate_expression(
        &self,
        request: Request<v2::EvaluateExpressionRequest>,
    ) -> Result<Response<v2::EvaluateExpressionResponse>, Status> {
        let ctx = self.context(&request)?;
        let expression_result = Some(evaluate::evaluate(&ctx, request.get_ref())?);
        Ok(Response::new(v2::EvaluateExpressionResponse { expression_result }))
    }
}

fn answer(metric: BillableMetric) -> Response<v2::BillableMetricResponse> {
    let billable_metric = Some(convert::metric_out(metric));
    Response::new(v2::BillableMetricResponse { billable_metric })
}
