//! When the next invoice of a subscription is due.

use crate::{
    BillingError, Timestamp, invoice::Period, plan::PlanVersion, subscription::Subscription,
};
use chrono::TimeDelta;
use chrono_tz::Tz;

/// More than two zones are apart, which is 26 hours, and less than the 28 days of a month.
const ZONES_APART: TimeDelta = TimeDelta::days(2);

/// The next instant at which an invoice of a subscription is due: its start when the plan is billed
/// in advance (`first` is the version in force then), each local month's first midnight, and its
/// end unless the final invoice is skipped. `None`: nothing more will be due.
///
/// `billed` is the last instant an invoice of it was due at, none when there is none.
/// After a change of zone the period that begins with `billed` runs to the next month's end in the
/// new zone; the days or hours by which the two zones differ make no invoice of their own.
///
/// Started 8 February, in arrears, UTC: 1 March, 1 April … Terminated 10 April 15:00: that instant.
/// Errors: outside the calendar.
pub fn next_due_at(
    subscription: &Subscription,
    first: &PlanVersion,
    tz: Tz,
    billed: Option<Timestamp>,
) -> Result<Option<Timestamp>, BillingError> {
    let start = subscription.started_at;
    let after = billed.unwrap_or(start);
    if subscription.end().is_some_and(|end| end <= start || billed.is_some_and(|at| end <= at)) {
        return Ok(None);
    }
    if billed.is_none() && first.pay_in_advance {
        return Ok(Some(start));
    }
    let apart = if after > start { ZONES_APART } else { TimeDelta::zero() };
    let inside = after.checked_add_signed(apart).ok_or(BillingError::OutOfCalendar)?;
    let boundary = Period::holding(first.interval, tz, inside)?.end;
    Ok(subscription.cap_due(boundary))
}

/// [`next_due_at`] of a subscription whose next invoice was planned for `planned` before: when its
/// customer has moved to another zone since, the month's end in the new zone that is nearest to it.
/// So the hours between the two midnights make no invoice of their own, also where the first one has
/// not been made, and the month that a first invoice in advance paid for is not billed again.
///
/// Started 1 April 00:00 UTC, planned for 1 May 00:00 UTC; moved to New York: due 1 May 04:00 UTC,
/// not 1 April 04:00.
/// Errors: outside the calendar.
pub fn replanned_due_at(
    subscription: &Subscription,
    first: &PlanVersion,
    tz: Tz,
    billed: Option<Timestamp>,
    planned: Option<Timestamp>,
) -> Result<Option<Timestamp>, BillingError> {
    let due = next_due_at(subscription, first, tz, billed)?;
    let (Some(at), Some(planned)) = (due, planned) else { return Ok(due) };
    if billed.is_none() && first.pay_in_advance {
        return Ok(due);
    }
    let inside = planned.checked_sub_signed(ZONES_APART).ok_or(BillingError::OutOfCalendar)?;
    let boundary = Period::holding(first.interval, tz, inside)?.end;
    Ok(if boundary > at { subscription.cap_due(boundary) } else { due })
}

impl Subscription {
    /// What becomes of an invoice that would be due at `due_at` when the subscription's end is
    /// known: due at the end if that is not later, and none if the final invoice is skipped. Put the
    /// stored `next_due_at` through this after a termination.
    #[must_use]
    pub fn cap_due(&self, due_at: Timestamp) -> Option<Timestamp> {
        match self.end() {
            Some(end) if end <= self.started_at => None,
            Some(end) if end <= due_at => (!self.skip_final_invoice).then_some(end),
            _ => Some(due_at),
        }
    }

    /// The window of usage that an invoice will settle, as it looks at `now`: from what is billed
    /// (or the start) to the month's end or the subscription's. `None`: not started, or ended.
    /// Errors: outside the calendar.
    pub fn usage_period(
        &self,
        version: &PlanVersion,
        tz: Tz,
        usage_to: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Option<Period>, BillingError> {
        if now < self.started_at || self.end().is_some_and(|end| end <= now) {
            return Ok(None);
        }
        let month = Period::holding(version.interval, tz, now)?;
        // A month that ended without its invoice yet is not the current one.
        let start = usage_to.filter(|to| *to > month.start && *to <= now).unwrap_or(month.start);
        let end = self.end().map_or(month.end, |end| end.min(month.end));
        Ok(Some(Period { start: start.max(self.started_at), end }))
    }
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
