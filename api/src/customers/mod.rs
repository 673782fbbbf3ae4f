//! `CustomerService`.

pub mod convert;
mod ops;

use crate::{
    context::{Api, Context},
    error::OpError,
    fields::id,
    lists::page_request,
    mask::Mask,
    usage,
};
use tonic::{Request, Response, Status};
use weir_billing::customer::Customer;
use weir_ids::CustomerId;
use weir_proto::v2::{self, customer_service_server::CustomerService};
use weir_store::{Tx, customers as store};

/// What errors call the entity.
pub const KIND: &str = "customer";

#[tonic::async_trait]
impl CustomerService for Api {
    async fn create(
        &self,
        request: Request<v2::CreateCustomerRequest>,
    ) -> Result<Response<v2::CustomerResponse>, Status> {
        let ctx = self.context(&request)?;
        let draft = convert::draft(request.into_inner())?;
        Ok(answer(ops::create(&ctx, draft).await?))
    }

    async fn update(
        &self,
        request: Request<v2::UpdateCustomerRequest>,
    ) -> Result<Response<v2::CustomerResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.get_ref();
        let mask = Mask::of(request, request.update_mask.as_ref())?;
        let customer = id::<CustomerId>(KIND, &request.id)?;
        let change = |customer: &_| convert::changed(request, &mask, customer);
        let ends_grace = mask.names("invoice_grace_period") && request.invoice_grace_period() == 0;
        Ok(answer(ops::update(&ctx, customer, ends_grace, change).await?))
    }

    async fn get(
        &self,
        request: Request<v2::GetCustomerRequest>,
    ) -> Result<Response<v2::CustomerResponse>, Status> {
        let ctx = self.context(&request)?;
        let mut tx = ctx.begin().await?;
        Ok(answer(find(&ctx, &mut tx, &request.get_ref().id).await?))
    }

    async fn list(
        &self,
        request: Request<v2::ListCustomersRequest>,
    ) -> Result<Response<v2::ListCustomersResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let page = page_request(request.pagination.as_ref(), request.sort.as_ref())?;
        let filter = convert::filter(request.filter.unwrap_or_default())?;
        let mut tx = ctx.begin().await?;
        let page = store::list(&mut tx, ctx.organization, &filter, &page).await;
        let page = page.map_err(OpError::from)?;
        Ok(Response::new(v2::ListCustomersResponse {
            items: page.items.into_iter().map(convert::customer_out).collect(),
            total_count: page.total_count,
            next_page_cursor: page.next_cursor,
        }))
    }

    async fn delete(
        &self,
        request: Request<v2::DeleteCustomerRequest>,
    ) -> Result<Response<v2::DeleteCustomerResponse>, Status> {
        let ctx = self.context(&request)?;
        ops::delete(&ctx, id(KIND, &request.get_ref().id)?).await?;
        Ok(Response::new(v2::DeleteCustomerResponse {}))
    }

    async fn get_usage(
        &self,
        request: Request<v2::GetUsageRequest>,
    ) -> Result<Response<v2::GetUsageResponse>, Status> {
        let ctx = self.context(&request)?;
        let customer_usage = Some(usage::current(&ctx, request.get_ref()).await?);
        Ok(Response::new(v2::GetUsageResponse { customer_usage }))
    }
}

/// The customer with this id, also a deleted one, or the live one with this external id.
/// Errors: `NotFound`.
pub async fn find(ctx: &Context, tx: &mut Tx, name: &str) -> Result<Customer, OpError> {
    let found = match CustomerId::parse(name) {
        Ok(id) => store::find(tx, ctx.organization, id).await?,
        Err(_) => store::find_by_external_id(tx, ctx.organization, name).await?,
    };
    found.ok_or_else(|| OpError::not_found(KIND, name))
}

fn answer(customer: Customer) -> Response<v2::CustomerResponse> {
    Response::new(v2::CustomerResponse { customer: Some(convert::customer_out(customer)) })
}
