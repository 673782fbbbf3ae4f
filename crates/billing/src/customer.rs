//! A customer: who is billed, in which currency and time zone.

use crate::Timestamp;
use alloc::string::String;
use chrono_tz::Tz;
use weir_ids::{CustomerId, OrganizationId};
use weir_money::Currency;

/// A customer of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    pub id: CustomerId,
    pub organization: OrganizationId,
    /// The organization's own name for it; unique among those not deleted.
    pub external_id: String,
    /// 1, 2, 3 … within the organization; part of invoice numbers.
    pub sequential_id: u64,
    pub details: CustomerDetails,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// What a client may set on a customer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CustomerDetails {
    pub name: Option<String>,
    pub firstname: Option<String>,
    pub lastname: Option<String>,
    pub email: Option<String>,
    pub phone: Option<String>,
    pub url: Option<String>,
    pub legal_name: Option<String>,
    pub legal_number: Option<String>,
    pub tax_identification_number: Option<String>,
    pub address_line1: Option<String>,
    pub address_line2: Option<String>,
    pub city: Option<String>,
    pub state: Option<String>,
    pub zipcode: Option<String>,
    /// ISO 3166-1 alpha-2.
    pub country: Option<String>,
    /// Set by the first subscription when absent.
    pub currency: Option<Currency>,
    /// Where calendar months are cut; UTC when absent.
    pub timezone: Option<Tz>,
    /// Days an invoice stays a draft; 0 when absent.
    pub invoice_grace_period_days: Option<u16>,
    /// Days from the issuing date until payment is due; 0 when absent.
    pub net_payment_term_days: Option<u16>,
}
