//! What the role says about itself, declared once.

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::time::Duration;
use weir_billing::BillingError;

/// Declares help texts; call once a process, after the recorder is installed.
pub fn describe() {
    describe_counter!(
        "invoicer_runs_total",
        "Looks at what is due, by outcome; one each schedule.interval_ms."
    );
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
    describe_gauge!(
        "invoicer_organizations_waiting",
        "Organizations whose invoices wait until their usage is computed again after a change."
    );
    describe_histogram!(
        "invoicer_batch_duration_seconds",
        Unit::Seconds,
        "One batch: load, price, write, commit."
    );
    start_at_zero();
}

/// The first increase of a counter that is not there before is not seen as one.
fn start_at_zero() {
    created(0);
    finalized(0);
    for outcome in [RUN_OK, RUN_FAILED] {
        counter!("invoicer_runs_total", "outcome" => outcome).increment(0);
    }
    for reason in REASONS {
        counter!("invoicer_failures_total", "reason" => reason).increment(0);
    }
}

const RUN_OK: &str = "ok";
const RUN_FAILED: &str = "failed";

/// A scheduled look at what is due has ended.
pub(crate) fn ran(ok: bool) {
    let outcome = if ok { RUN_OK } else { RUN_FAILED };
    counter!("invoicer_runs_total", "outcome" => outcome).increment(1);
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

pub(crate) fn organizations_waiting(count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    gauge!("invoicer_organizations_waiting").set(count as f64);
}

pub(crate) fn batch_took(elapsed: Duration) {
    histogram!("invoicer_batch_duration_seconds").record(elapsed.as_secs_f64());
}

/// The label `reason` of what the database refused.
pub(crate) const REFUSED_BY_STORE: &str = "refused_by_store";

/// The closed set of the label `reason`.
const REASONS: [&str; 9] = [
    "usage_overflow",
    "usage_unreadable",
    "amount_out_of_range",
    "total_out_of_range",
    "no_tier",
    "unknown_metric",
    "no_plan_version",
    "out_of_calendar",
    REFUSED_BY_STORE,
];

/// The label `reason` of what the rules can't bill, also written beside the failure.
pub(crate) const fn reason(error: &BillingError) -> &'static str {
    match error {
        BillingError::UsageOverflow { .. } => "usage_overflow",
        BillingError::UnreadableGroup { .. } | BillingError::NotCounted { .. } => {
            "usage_unreadable"
        }
        BillingError::Amount { .. } => "amount_out_of_range",
        BillingError::Total(_) => "total_out_of_range",
        BillingError::NoTier { .. } => "no_tier",
        BillingError::UnknownMetric { .. } => "unknown_metric",
        BillingError::NoPlanVersion(_) | BillingError::UnknownPlanVersion(_) => "no_plan_version",
        BillingError::NoSuchDay { .. } | BillingError::OutOfCalendar => "out_of_calendar",
    }
}
