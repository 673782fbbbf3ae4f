//! `SubscriptionService`.

pub mod convert;
pub mod ops;

use crate::{
    context::{Api, Context},
    customers,
    error::OpError,
    lists::{is_full, page_request},
    plans,
};
use chrono_tz::Tz;
use convert::{Name, subscription_out};
use tonic::{Request, Response, Status};
use weir_billing::subscription::Subscription;
use weir_ids::{CustomerId, PlanId};
use weir_proto::v2::{self, subscription_service_server::SubscriptionService};
use weir_store::{Tx, customers as customer_store, plans as plan_store, subscriptions as store};

/// What errors call the entity.
pub const KIND: &str = "subscription";

#[tonic::async_trait]
impl SubscriptionService for Api {
    async fn create(
        &self,
        request: Request<v2::CreateSubscriptionRequest>,
    ) -> Result<Response<v2::SubscriptionResponse>, Status> {
        let ctx = self.context(&request)?;
        let draft = convert::draft(request.get_ref(), ctx.now)?;
        let subscription = ops::create(&ctx, draft).await?;
        answer(&ctx, &mut ctx.begin().await?, subscription).await
    }

    async fn get(
        &self,
        request: Request<v2::GetSubscriptionRequest>,
    ) -> Result<Response<v2::SubscriptionResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.get_ref();
        let mut tx = ctx.begin().await?;
        let subscription = find(&ctx, &mut tx, &request.id).await?;
        if request.view() == v2::View::Basic {
            let subscription = Some(subscription_out(&subscription, ctx.now));
            return Ok(Response::new(v2::SubscriptionResponse { subscription }));
        }
        answer(&ctx, &mut tx, subscription).await
    }

    async fn list(
        &self,
        request: Request<v2::ListSubscriptionsRequest>,
    ) -> Result<Response<v2::ListSubscriptionsResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let full = is_full(request.view());
        let page = page_request(request.pagination.as_ref(), request.sort.as_ref())?;
        let filter = convert::filter(request.filter.unwrap_or_default(), ctx.now)?;
        let mut tx = ctx.begin().await?;
        let page = store::list(&mut tx, ctx.organization, &filter, &page).await;
        let page = page.map_err(OpError::from)?;
        let items = match full {
            true => written(&ctx, &mut tx, &page.items).await?,
            false => page.items.iter().map(|one| subscription_out(one, ctx.now)).collect(),
        };
        let (total_count, next_page_cursor) = (page.total_count, page.next_cursor);
        Ok(Response::new(v2::ListSubscriptionsResponse { items, total_count, next_page_cursor }))
    }

    async fn terminate(
        &self,
        request: Request<v2::TerminateSubscriptionRequest>,
    ) -> Result<Response<v2::SubscriptionResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.get_ref();
        let skip_invoice = convert::skips_invoice(request)?;
        let subscription = ops::terminate(&ctx, &request.id, skip_invoice).await?;
        answer(&ctx, &mut ctx.begin().await?, subscription).await
    }
}

/// The subscription with this id, whatever its status, or the live one with this external id.
/// Errors: `NotFound`.
pub async fn find(ctx: &Context, tx: &mut Tx, text: &str) -> Result<Subscription, OpError> {
    let found = match convert::name(text)? {
        Name::Id(id) => store::find(tx, ctx.organization, id).await?,
        Name::External(external) => {
            store::find_live_by_external_id(tx, ctx.organization, &external, ctx.now).await?
        }
    };
    found.ok_or_else(|| OpError::not_found(KIND, text))
}

async fn answer(
    ctx: &Context,
    tx: &mut Tx,
    subscription: Subscription,
) -> Result<Response<v2::SubscriptionResponse>, Status> {
    let mut written = written(ctx, tx, std::slice::from_ref(&subscription)).await?;
    Ok(Response::new(v2::SubscriptionResponse { subscription: written.pop() }))
}

/// The subscriptions with their customers, plans and current periods; four queries for all of them.
async fn written(
    ctx: &Context,
    tx: &mut Tx,
    subscriptions: &[Subscription],
) -> Result<Vec<v2::Subscription>, OpError> {
    let ids: Vec<CustomerId> = subscriptions.iter().map(|one| one.customer).collect();
    let customers = customer_store::find_many(tx, ctx.organization, &ids).await?;
    let ids: Vec<PlanId> = subscriptions.iter().map(|one| one.plan).collect();
    let plans = plan_store::find_many(tx, ctx.organization, &ids).await?;
    let all: Vec<_> = plans.values().cloned().collect();
    let metrics = plans::metrics(ctx, tx, &all).await?;
    let write = |one: &Subscription| {
        let mut written = subscription_out(one, ctx.now);
        let customer = customers.get(&one.customer);
        let plan = plans.get(&one.plan);
        let tz = customer.and_then(|customer| customer.details.timezone).unwrap_or(Tz::UTC);
        if let Some(plan) = plan
            && let Some(period) = one.usage_period(&plan.version, tz, None, ctx.now)?
        {
            convert::set_period(&mut written, period);
        }
        written.customer = customer.cloned().map(customers::convert::customer_out);
        written.plan = plan.map(|plan| plans::convert::plan_out(plan.clone(), &metrics));
        Ok(written)
    };
    subscriptions.iter().map(write).collect()
}

/// The customer that a request names by id or external id, locked and not deleted.
/// Errors: `NotFound`.
pub async fn lock_customer(
    ctx: &Context,
    tx: &mut Tx,
    name: &str,
) -> Result<weir_billing::customer::Customer, OpError> {
    let found = customers::find(ctx, tx, name).await?;
    let locked = customer_store::lock(tx, ctx.organization, found.id).await?;
    let live = locked.filter(|customer| customer.deleted_at.is_none());
    live.ok_or_else(|| OpError::not_found(customers::KIND, name))
}
