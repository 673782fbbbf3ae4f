//! What the role says about itself, declared once.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;
use weir_billing::BillingError;

/// Declares help texts; call once a process, after the recorder is installed.
pub fn describe() {
    describe_counter!("invoicer_invoices_created_total", "Invoices made.");
    describe_counter!("invoicer_invoices_finalized_total", "Invoices that got their number.");
    describe_counter!(
        "invoicer_failures_total",
        "Subscriptions or drafts that could not be billed, by reason; each attempt counts."
    );
    describe_gauge!(
        "invoicer_left_due",
        "Subscriptions and drafts that are due and that the pipeline's watermark has not passed yet."
    );
    describe_histogram!(
        "invoicer_batch_duration_seconds",
        Unit::Seconds,
        "One batch: load, price, write, commit."
    );
}

pub(crate) fn created(count: usize) {
    counter!("invoicer_invoices_created_total").increment(count as u64);
}

pub(crate) fn finalized(count: usize) {
    counter!("invoicer_invoices_finalized_total").increment(count as u64);
}

pub(crate) fn failed(reason: &str) {
    counter!("invoicer_failures_total", "reason" => reason.to_owned()).increment(1);
}

pub(crate) fn left_due(count: u64) {
    // A count of rows is far below 2^53.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    gauge!("invoicer_left_due").set(count as f64);
}

pub(crate) fn batch_took(elapsed: Duration) {
    histogram!("invoicer_batch_duration_seconds").record(elapsed.as_secs_f64());
}

/// The closed set of the label `reason`, also written beside the failure.
pub(crate) const fn reason(error: &BillingError) -> &'static str {
    match error {
        BillingError::UsageOverflow { .. } => "usage_overflow",
        BillingError::Amount { .. } => "amount_out_of_range",
        BillingError::Total(_) => "total_out_of_range",
        BillingError::NoTier { .. } => "no_tier",
        BillingError::UnknownMetric { .. } => "unknown_metric",
        BillingError::NoPlanVersion(_) | BillingError::UnknownPlanVersion(_) => "no_plan_version",
        BillingError::NoSuchDay { .. } | BillingError::OutOfCalendar => "out_of_calendar",
    }
}
