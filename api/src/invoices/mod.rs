//! `InvoiceService`.

mod convert;
pub mod ops;

use crate::{
    context::{Api, Context},
    customers,
    error::OpError,
    fields::id,
    lists::{is_full, page_request},
    status,
    subscriptions::{self, convert::Name},
};
use chrono_tz::Tz;
use std::collections::BTreeMap;
use tonic::{Request, Response, Status};
use weir_billing::{customer::Customer, invoice::Invoice, subscription::Subscription};
use weir_ids::{CustomerId, InvoiceId, SubscriptionId};
use weir_money::MoneyError;
use weir_proto::v2::{self, invoice_service_server::InvoiceService};
use weir_store::{
    PageRequest, Tx, customers as customer_store,
    invoices::{self as store, InvoiceFilter},
    subscriptions as subscription_store,
};

/// What errors call the entity.
pub const KIND: &str = "invoice";

#[tonic::async_trait]
impl InvoiceService for Api {
    async fn list(
        &self,
        request: Request<v2::ListInvoicesRequest>,
    ) -> Result<Response<v2::ListInvoicesResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let full = is_full(request.view());
        let page = page_request(request.pagination.as_ref(), request.sort.as_ref())?;
        let mut tx = ctx.begin().await?;
        let filter = filter(&ctx, &mut tx, request.filter.unwrap_or_default()).await?;
        Ok(Response::new(list(&ctx, &mut tx, &filter, &page, full).await?))
    }

    async fn get(
        &self,
        request: Request<v2::GetInvoiceRequest>,
    ) -> Result<Response<v2::InvoiceResponse>, Status> {
        let ctx = self.context(&request)?;
        let invoice = id::<InvoiceId>(KIND, &request.get_ref().id)?;
        let full = request.get_ref().view() != v2::View::Basic;
        let mut tx = ctx.begin().await?;
        let found = store::find(&mut tx, ctx.organization, invoice).await.map_err(status)?;
        let invoice = found.ok_or_else(|| OpError::not_found(KIND, invoice))?;
        answer(&ctx, &mut tx, invoice, full).await
    }

    async fn customer_invoices(
        &self,
        request: Request<v2::CustomerInvoicesRequest>,
    ) -> Result<Response<v2::ListInvoicesResponse>, Status> {
        let ctx = self.context(&request)?;
        let request = request.into_inner();
        let full = is_full(request.view());
        let page = page_request(request.pagination.as_ref(), request.sort.as_ref())?;
        let mut tx = ctx.begin().await?;
        let customer = customers::find(&ctx, &mut tx, &request.customer_id).await?;
        let filter = filter(&ctx, &mut tx, request.filter.unwrap_or_default()).await?;
        if filter.customer.is_some_and(|other| other != customer.id) {
            let message = "names another customer than the path";
            return Err(OpError::invalid("filter.part.customerId", message).into());
        }
        let filter = InvoiceFilter { customer: Some(customer.id), ..filter };
        Ok(Response::new(list(&ctx, &mut tx, &filter, &page, full).await?))
    }

    async fn finalize(
        &self,
        request: Request<v2::FinalizeInvoiceRequest>,
    ) -> Result<Response<v2::InvoiceResponse>, Status> {
        let ctx = self.context(&request)?;
        let invoice = ops::finalize(&ctx, id(KIND, &request.get_ref().id)?).await?;
        answer(&ctx, &mut ctx.begin().await?, invoice, true).await
    }
}

/// Reads a list's conditions. A customer or subscription that is not there is `NotFound`.
async fn filter(
    ctx: &Context,
    tx: &mut Tx,
    filter: v2::InvoiceListFilter,
) -> Result<InvoiceFilter, OpError> {
    let part = filter.part.unwrap_or_default();
    let customer = match part.customer_id {
        Some(name) => Some(customers::find(ctx, tx, &name).await?.id),
        None => None,
    };
    let (mut subscription, mut external_subscription_id) = (None, part.external_subscription_id);
    if let Some(text) = part.subscription_id {
        match subscriptions::convert::name(&text)? {
            Name::Id(id) => subscription = Some(id),
            Name::External(external) => external_subscription_id = Some(external),
        }
    }
    Ok(InvoiceFilter {
        customer,
        subscription,
        external_subscription_id,
        statuses: convert::statuses(part.status)?,
        text: filter.text_search.trim().to_owned(),
    })
}

async fn list(
    ctx: &Context,
    tx: &mut Tx,
    filter: &InvoiceFilter,
    page: &PageRequest,
    full: bool,
) -> Result<v2::ListInvoicesResponse, OpError> {
    let page = store::list(tx, ctx.organization, filter, page).await?;
    let items = written(ctx, tx, &page.items, Full { entities: full, fees: false }).await?;
    let (total_count, next_page_cursor) = (page.total_count, page.next_cursor);
    Ok(v2::ListInvoicesResponse { items, total_count, next_page_cursor })
}

async fn answer(
    ctx: &Context,
    tx: &mut Tx,
    invoice: Invoice,
    full: bool,
) -> Result<Response<v2::InvoiceResponse>, Status> {
    let full = Full { entities: full, fees: full };
    let mut written = written(ctx, tx, std::slice::from_ref(&invoice), full).await?;
    Ok(Response::new(v2::InvoiceResponse { invoice: written.pop() }))
}

/// What of an invoice's surroundings is written with it.
#[derive(Clone, Copy)]
struct Full {
    /// Customer and subscriptions.
    entities: bool,
    fees: bool,
}

/// The invoices as they are answered, with two queries for all of them.
async fn written(
    ctx: &Context,
    tx: &mut Tx,
    invoices: &[Invoice],
    full: Full,
) -> Result<Vec<v2::Invoice>, OpError> {
    let ids: Vec<CustomerId> = invoices.iter().map(|invoice| invoice.customer).collect();
    let customers = customer_store::find_many(tx, ctx.organization, &ids).await?;
    let settled = invoices.iter().flat_map(|invoice| &invoice.subscriptions);
    let ids: Vec<SubscriptionId> = settled.map(|one| one.subscription).collect();
    let subscriptions = match full.entities {
        true => subscription_store::find_many(tx, ctx.organization, &ids).await?,
        false => BTreeMap::new(),
    };
    let one = |invoice| write(ctx, invoice, &customers, &subscriptions, full);
    invoices.iter().map(one).collect::<Result<_, _>>().map_err(OpError::internal)
}

fn write(
    ctx: &Context,
    invoice: &Invoice,
    customers: &BTreeMap<CustomerId, Customer>,
    subscriptions: &BTreeMap<SubscriptionId, Subscription>,
    full: Full,
) -> Result<v2::Invoice, MoneyError> {
    let customer = customers.get(&invoice.customer);
    let tz = customer.and_then(|customer| customer.details.timezone).unwrap_or(Tz::UTC);
    let mut written = convert::invoice_out(invoice, tz)?;
    if full.entities {
        written.customer = customer.cloned().map(customers::convert::customer_out);
        let settled = invoice.subscriptions.iter();
        let settled = settled.filter_map(|one| subscriptions.get(&one.subscription));
        let out = |one| subscriptions::convert::subscription_out(one, ctx.now);
        written.subscriptions = settled.map(out).collect();
    }
    if full.fees {
        let fees = invoice.fees.iter().map(|fee| convert::fee_out(fee, invoice.id));
        written.fees = fees.collect::<Result<_, _>>()?;
    }
    Ok(written)
}
