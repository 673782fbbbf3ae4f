//! Usage from ClickHouse, as the pure crate prices it.

use crate::{context::Context, error::OpError};
use weir_billing::{book::UsageBook, line::Pricing};
use weir_books::{Priced, Reader};
use weir_store::Tx;

/// Reads what these prices need, under the generations that count now.
pub async fn reader<'a>(
    ctx: &'a Context,
    tx: &mut Tx,
    pricings: &[Pricing<'_>],
) -> Result<Reader<'a>, OpError> {
    let subscriptions: Vec<_> =
        pricings.iter().map(|pricing| (ctx.organization, pricing.subscription)).collect();
    Ok(Reader::new(&ctx.usage, tx, &subscriptions).await?)
}

/// The usage that these prices need, as it is now.
pub async fn read(
    ctx: &Context,
    reader: &Reader<'_>,
    pricings: &[Pricing<'_>],
) -> Result<UsageBook, OpError> {
    let priced = Priced { organization: ctx.organization, pricings: pricings.to_vec() };
    Ok(reader.books(&[priced]).await?.pop().unwrap_or_default())
}
