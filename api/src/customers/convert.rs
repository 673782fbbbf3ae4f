//! Customers between proto and domain.

use crate::{
    error::OpError,
    fields::{Faults, currency, currency_out, timestamp_out, timezone},
    mask::Mask,
};
use weir_billing::customer::{Customer, CustomerDetails};
use weir_proto::v2;
use weir_store::customers::CustomerFilter;

/// The longest grace period and payment term, in days.
const DAYS_MAX: u16 = 365;

/// A customer as a request describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub external_id: String,
    pub details: CustomerDetails,
}

/// Reads a create. Errors: `Invalid`, naming each field.
pub fn draft(request: v2::CreateCustomerRequest) -> Result<Draft, OpError> {
    let mut faults = Faults::default();
    let external_id = external_id(&request.external_id, &mut faults);
    let details = CustomerDetails {
        name: faults.optional_text("name", request.name.as_deref()),
        firstname: faults.optional_text("firstname", request.firstname.as_deref()),
        lastname: faults.optional_text("lastname", request.lastname.as_deref()),
        email: faults.optional_text("email", request.email.as_deref()),
        phone: faults.optional_text("phone", request.phone.as_deref()),
        url: faults.optional_text("url", request.url.as_deref()),
        legal_name: faults.optional_text("legalName", request.legal_name.as_deref()),
        legal_number: faults.optional_text("legalNumber", request.legal_number.as_deref()),
        tax_identification_number: faults
            .optional_text("taxIdentificationNumber", request.tax_identification_number.as_deref()),
        address_line1: faults.optional_text("addressLine1", request.address_line1.as_deref()),
        address_line2: faults.optional_text("addressLine2", request.address_line2.as_deref()),
        city: faults.optional_text("city", request.city.as_deref()),
        state: faults.optional_text("state", request.state.as_deref()),
        zipcode: faults.optional_text("zipcode", request.zipcode.as_deref()),
        country: country(request.country, &mut faults),
        currency: optional_currency(request.currency, &mut faults),
        timezone: optional_timezone(request.timezone.as_deref(), &mut faults),
        invoice_grace_period_days: days(
            "invoiceGracePeriod",
            request.invoice_grace_period,
            &mut faults,
        ),
        net_payment_term_days: days("netPaymentTerm", request.net_payment_term, &mut faults),
    };
    faults.finish(Some(Draft { external_id, details }))
}

/// The customer with what the update names. Errors: `Invalid`, naming each field.
pub fn changed(
    request: &v2::UpdateCustomerRequest,
    mask: &Mask,
    customer: &Customer,
) -> Result<Draft, OpError> {
    // What the update names is read like a create, so that both have the same rules.
    let asked = v2::CreateCustomerRequest {
        external_id: match mask.names("external_id") {
            true => request.external_id.clone(),
            false => customer.external_id.clone(),
        },
        name: request.name.clone(),
        firstname: request.firstname.clone(),
        lastname: request.lastname.clone(),
        email: request.email.clone(),
        phone: request.phone.clone(),
        url: request.url.clone(),
        legal_name: request.legal_name.clone(),
        legal_number: request.legal_number.clone(),
        tax_identification_number: request.tax_identification_number.clone(),
        address_line1: request.address_line1.clone(),
        address_line2: request.address_line2.clone(),
        city: request.city.clone(),
        state: request.state.clone(),
        zipcode: request.zipcode.clone(),
        country: request.country,
        currency: request.currency,
        timezone: request.timezone.clone(),
        invoice_grace_period: request.invoice_grace_period,
        net_payment_term: request.net_payment_term,
        ..v2::CreateCustomerRequest::default()
    };
    let Draft { external_id, details: new } = draft(asked)?;
    let mut details = customer.details.clone();
    mask.set("name", &mut details.name, new.name);
    mask.set("firstname", &mut details.firstname, new.firstname);
    mask.set("lastname", &mut details.lastname, new.lastname);
    mask.set("email", &mut details.email, new.email);
    mask.set("phone", &mut details.phone, new.phone);
    mask.set("url", &mut details.url, new.url);
    mask.set("legal_name", &mut details.legal_name, new.legal_name);
    mask.set("legal_number", &mut details.legal_number, new.legal_number);
    mask.set(
        "tax_identification_number",
        &mut details.tax_identification_number,
        new.tax_identification_number,
    );
    mask.set("address_line1", &mut details.address_line1, new.address_line1);
    mask.set("address_line2", &mut details.address_line2, new.address_line2);
    mask.set("city", &mut details.city, new.city);
    mask.set("state", &mut details.state, new.state);
    mask.set("zipcode", &mut details.zipcode, new.zipcode);
    mask.set("country", &mut details.country, new.country);
    mask.set("currency", &mut details.currency, new.currency);
    mask.set("timezone", &mut details.timezone, new.timezone);
    let grace = new.invoice_grace_period_days;
    mask.set("invoice_grace_period", &mut details.invoice_grace_period_days, grace);
    let term = new.net_payment_term_days;
    mask.set("net_payment_term", &mut details.net_payment_term_days, term);
    Ok(Draft { external_id, details })
}

/// An external id must not look like an id of ours: `Get` takes both in one place.
fn external_id(text: &str, faults: &mut Faults) -> String {
    if weir_ids::CustomerId::parse(text).is_ok() {
        faults.push("externalId", "must not have the form of our own ids");
    }
    faults.text("externalId", text)
}

fn optional_currency(number: Option<i32>, faults: &mut Faults) -> Option<weir_money::Currency> {
    let number = number.filter(|number| *number != 0)?;
    faults.take("currency", currency(number))
}

fn optional_timezone(text: Option<&str>, faults: &mut Faults) -> Option<chrono_tz::Tz> {
    let text = text.filter(|text| !text.is_empty())?;
    faults.take("timezone", timezone(text))
}

fn country(number: Option<i32>, faults: &mut Faults) -> Option<String> {
    let number = number.filter(|number| *number != 0)?;
    let code = v2::CountryCode::try_from(number).map_err(|_| "is none of the enum's values");
    let code = faults.take("country", code)?;
    country_text(code)
}

fn country_text(code: v2::CountryCode) -> Option<String> {
    code.as_str_name().strip_prefix("COUNTRY_CODE_").map(str::to_owned)
}

fn days(field: &str, number: Option<i32>, faults: &mut Faults) -> Option<u16> {
    let days = u16::try_from(number?).ok().filter(|days| *days <= DAYS_MAX);
    faults.take(field, days.ok_or_else(|| format!("must be 0 to {DAYS_MAX} days")))
}

/// Reads a list's conditions. Errors: `Invalid`.
pub fn filter(filter: v2::CustomerListFilter) -> Result<CustomerFilter, OpError> {
    let part = filter.part.unwrap_or_default();
    let mut faults = Faults::default();
    let countries = part.countries.unwrap_or_default().in_values;
    let currencies = part.currencies.unwrap_or_default().in_values;
    let filter = CustomerFilter {
        countries: countries
            .into_iter()
            .filter_map(|one| country(Some(one), &mut faults))
            .collect(),
        currencies: currencies
            .into_iter()
            .filter_map(|one| optional_currency(Some(one), &mut faults))
            .collect(),
        text: filter.text_search.trim().to_owned(),
        with_deleted: part.with_deleted.unwrap_or(false),
    };
    faults.finish(Some(filter))
}

pub fn customer_out(customer: Customer) -> v2::Customer {
    let display_name = display_name(&customer);
    let details = customer.details;
    let country = details.country.map(|code| format!("COUNTRY_CODE_{code}"));
    let country = country.and_then(|name| v2::CountryCode::from_str_name(&name));
    let zone = |tz: chrono_tz::Tz| tz.name().to_owned();
    v2::Customer {
        id: customer.id.to_string(),
        external_id: customer.external_id,
        sequential_id: customer.sequential_id.to_string(),
        display_name,
        name: details.name,
        firstname: details.firstname,
        lastname: details.lastname,
        email: details.email,
        phone: details.phone,
        url: details.url,
        legal_name: details.legal_name,
        legal_number: details.legal_number,
        tax_identification_number: details.tax_identification_number,
        address_line1: details.address_line1,
        address_line2: details.address_line2,
        city: details.city,
        state: details.state,
        zipcode: details.zipcode,
        country: country.map(Into::into),
        currency: details.currency.map(|currency| currency_out(currency).into()),
        timezone: details.timezone.map(zone),
        applicable_timezone: zone(details.timezone.unwrap_or(chrono_tz::Tz::UTC)),
        invoice_grace_period: details.invoice_grace_period_days.map(Into::into),
        net_payment_term: details.net_payment_term_days.map(Into::into),
        created_at: Some(timestamp_out(customer.created_at)),
        updated_at: Some(timestamp_out(customer.updated_at)),
        deleted_at: customer.deleted_at.map(timestamp_out),
    }
}

fn display_name(customer: &Customer) -> String {
    let details = &customer.details;
    let first_and_last = [&details.firstname, &details.lastname];
    let person: Vec<&str> = first_and_last.into_iter().flatten().map(String::as_str).collect();
    let person = (!person.is_empty()).then(|| person.join(" "));
    let company = details.name.clone().or_else(|| details.legal_name.clone());
    company.or(person).unwrap_or_else(|| customer.external_id.clone())
}
