//! `AccountService`: the caller's organization and its settings.

mod convert;
mod ops;

use crate::{context::Api, mask::Mask};
use tonic::{Request, Response, Status};
use weir_proto::v2::{self, account_service_server::AccountService};

#[tonic::async_trait]
impl AccountService for Api {
    async fn get_organization(
        &self,
        request: Request<v2::GetOrganizationRequest>,
    ) -> Result<Response<v2::OrganizationResponse>, Status> {
        let ctx = self.context(&request)?;
        let mut tx = ctx.begin().await?;
        let organization = Some(convert::organization_out(ops::load(&ctx, &mut tx).await?));
        Ok(Response::new(v2::OrganizationResponse { organization }))
    }

    async fn update_organization(
        &self,
        request: Request<v2::UpdateOrganizationRequest>,
    ) -> Result<Response<v2::OrganizationResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.get_ref();
        let mask = Mask::of(request, request.update_mask.as_ref())?;
        let change = |account: &_| convert::changed(request, &mask, account);
        let organization = Some(convert::organization_out(ops::update(&ctx, change).await?));
        Ok(Response::new(v2::OrganizationResponse { organization }))
    }
}
