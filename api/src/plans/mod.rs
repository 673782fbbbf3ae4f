//! `PlanService`.

mod charges;
pub mod convert;
pub mod filters;
mod ops;

pub use charges::charge_out;

use crate::{
    context::{Api, Context},
    error::OpError,
    fields::id,
    lists::page_request,
    mask::Mask,
};
use std::collections::BTreeMap;
use tonic::{Request, Response, Status};
use weir_billing::{metric::BillableMetric, plan::Plan};
use weir_ids::{BillableMetricId, PlanId};
use weir_proto::v2::{self, plan_service_server::PlanService};
use weir_store::{Tx, billable_metrics, plans as store};

/// What errors call the entity.
pub const KIND: &str = "plan";

#[tonic::async_trait]
impl PlanService for Api {
    async fn create(
        &self,
        request: Request<v2::CreatePlanRequest>,
    ) -> Result<Response<v2::PlanResponse>, Status> {
        let ctx = self.context(&request)?;
        let draft = convert::draft(request.get_ref())?;
        let plan = ops::create(&ctx, draft).await?;
        answer(&ctx, &mut ctx.begin().await?, plan).await
    }

    async fn update(
        &self,
        request: Request<v2::UpdatePlanRequest>,
    ) -> Result<Response<v2::PlanResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.get_ref();
        let mask = Mask::of(request, request.update_mask.as_ref())?;
        let plan = id::<PlanId>(KIND, &request.id)?;
        let change = |plan: &_| convert::changed(request, &mask, plan);
        let plan = ops::update(&ctx, plan, request.cascade_updates(), change).await?;
        answer(&ctx, &mut ctx.begin().await?, plan).await
    }

    async fn get(
        &self,
        request: Request<v2::GetPlanRequest>,
    ) -> Result<Response<v2::PlanResponse>, Status> {
        let ctx = self.context(&request)?;
        let plan = id(KIND, &request.get_ref().id)?;
        let mut tx = ctx.begin().await?;
        let plan = load(&ctx, &mut tx, plan).await?;
        answer(&ctx, &mut tx, plan).await
    }

    async fn list(
        &self,
        request: Request<v2::ListPlansRequest>,
    ) -> Result<Response<v2::ListPlansResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let page = page_request(request.pagination.as_ref(), request.sort.as_ref())?;
        let filter = convert::filter(&request.filter.unwrap_or_default());
        let mut tx = ctx.begin().await?;
        let page = store::list(&mut tx, ctx.organization, &filter, &page).await;
        let page = page.map_err(OpError::from)?;
        let metrics = metrics(&ctx, &mut tx, &page.items).await?;
        let items = page.items.into_iter().map(|plan| convert::plan_out(plan, &metrics));
        Ok(Response::new(v2::ListPlansResponse {
            items: items.collect(),
            total_count: page.total_count,
            next_page_cursor: page.next_cursor,
        }))
    }

    async fn delete(
        &self,
        request: Request<v2::DeletePlanRequest>,
    ) -> Result<Response<v2::DeletePlanResponse>, Status> {
        let ctx = self.context(&request)?;
        ops::archive(&ctx, id(KIND, &request.get_ref().id)?).await?;
        Ok(Response::new(v2::DeletePlanResponse {}))
    }
}

/// The plan in its newest version, also an archived one. Errors: `NotFound`.
pub async fn load(ctx: &Context, tx: &mut Tx, id: PlanId) -> Result<Plan, OpError> {
    let plan = store::find(tx, ctx.organization, id).await?;
    plan.ok_or_else(|| OpError::not_found(KIND, id))
}

/// The metrics that these plans charge by, in one query.
pub async fn metrics(
    ctx: &Context,
    tx: &mut Tx,
    plans: &[Plan],
) -> Result<BTreeMap<BillableMetricId, BillableMetric>, OpError> {
    let charges = plans.iter().flat_map(|plan| &plan.version.charges);
    let ids: Vec<BillableMetricId> = charges.map(|charge| charge.metric).collect();
    Ok(billable_metrics::find_many(tx, ctx.organization, &ids).await?)
}

async fn answer(
    ctx: &Context,
    tx: &mut Tx,
    plan: Plan,
) -> Result<Response<v2::PlanResponse>, Status> {
    let metrics = metrics(ctx, tx, std::slice::from_ref(&plan)).await?;
    Ok(Response::new(v2::PlanResponse { plan: Some(convert::plan_out(plan, &metrics)) }))
}
