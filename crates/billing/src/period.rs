//! Calendar periods, cut at local midnights of the customer's time zone. The only place that knows
//! time zones.

use crate::{BillingError, Timestamp, invoice::Period, plan::Interval};
use chrono::{
    Datelike, Days, MappedLocalTime, Months, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc,
};
use chrono_tz::{GapInfo, Tz};

/// The calendar day that clocks in `tz` show at `at`.
#[must_use]
pub fn local_date(tz: Tz, at: Timestamp) -> NaiveDate {
    at.with_timezone(&tz).date_naive()
}

/// The first instant of a local day. Where daylight saving skips midnight it is the first instant
/// after the gap, where midnight comes twice the first of the two.
/// 1 May 2026 in Asia/Kathmandu (+05:45) begins at 2026-04-30T18:15:00Z.
/// Errors: a day outside the calendar.
pub fn day_start(tz: Tz, date: NaiveDate) -> Result<Timestamp, BillingError> {
    let midnight = date.and_time(NaiveTime::MIN);
    let local = match tz.from_local_datetime(&midnight) {
        MappedLocalTime::Single(only) => Some(only),
        MappedLocalTime::Ambiguous(first, _) => Some(first),
        MappedLocalTime::None => GapInfo::new(&midnight, &tz).and_then(|gap| gap.end),
    };
    local.map(|local| local.with_timezone(&Utc)).ok_or(BillingError::NoSuchDay { date, tz })
}

/// `days` local days after `at`, as long after local midnight. Errors: outside the calendar.
pub fn add_local_days(tz: Tz, at: Timestamp, days: u16) -> Result<Timestamp, BillingError> {
    if days == 0 {
        return Ok(at);
    }
    let date = local_date(tz, at);
    let target =
        date.checked_add_days(Days::new(days.into())).ok_or(BillingError::OutOfCalendar)?;
    let since_midnight = at - day_start(tz, date)?;
    day_start(tz, target)?.checked_add_signed(since_midnight).ok_or(BillingError::OutOfCalendar)
}

impl Period {
    /// The whole period that holds `at`. Errors: outside the calendar.
    pub fn holding(interval: Interval, tz: Tz, at: Timestamp) -> Result<Self, BillingError> {
        let Interval::Monthly = interval;
        let first = local_date(tz, at).with_day(1).ok_or(BillingError::OutOfCalendar)?;
        let month = Self::month(tz, first)?;
        // Where clocks go back over midnight, an hour of the old month comes again after the new
        // one began.
        if at >= month.end {
            return Self::month(tz, months_later(first)?);
        }
        Ok(month)
    }

    fn month(tz: Tz, first: NaiveDate) -> Result<Self, BillingError> {
        Ok(Self { start: day_start(tz, first)?, end: day_start(tz, months_later(first)?)? })
    }

    /// The whole period after this one. Errors: outside the calendar.
    pub fn next(self, interval: Interval, tz: Tz) -> Result<Self, BillingError> {
        Self::holding(interval, tz, self.end)
    }

    /// How many local days it touches: every started day counts as one. 0 for an empty period.
    #[must_use]
    pub fn local_days(self, tz: Tz) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let first = local_date(tz, self.start);
        let last = local_date(tz, self.end - TimeDelta::microseconds(1));
        u64::try_from((last - first).num_days()).unwrap_or(0) + 1
    }

    /// The seconds of the whole period in which it ends: 2,678,400 for one that ends in March.
    /// Errors: outside the calendar.
    pub fn whole_seconds(self, interval: Interval, tz: Tz) -> Result<u64, BillingError> {
        let last = self.end - TimeDelta::microseconds(1);
        let whole = Self::holding(interval, tz, last)?;
        u64::try_from((whole.end - whole.start).num_seconds())
            .map_err(|_| BillingError::OutOfCalendar)
    }

    /// Whether it holds no instant.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether `at` is in it; its end is not.
    #[must_use]
    pub fn contains(self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

fn months_later(first: NaiveDate) -> Result<NaiveDate, BillingError> {
    first.checked_add_months(Months::new(1)).ok_or(BillingError::OutOfCalendar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn month(tz: Tz, text: &str) -> (alloc::string::String, alloc::string::String, u64) {
        let period = Period::holding(Interval::Monthly, tz, at(text)).unwrap();
        let text = |at: Timestamp| at.format("%FT%RZ").to_string();
        (text(period.start), text(period.end), period.local_days(tz))
    }

    #[test]
    fn months_are_cut_at_local_midnight() {
        for (tz, instant, start, end, days) in [
            (Tz::UTC, "2026-02-10T12:00:00Z", "2026-02-01T00:00Z", "2026-03-01T00:00Z", 28),
            (Tz::UTC, "2026-03-01T00:00:00Z", "2026-03-01T00:00Z", "2026-04-01T00:00Z", 31),
            (Tz::UTC, "2026-02-28T23:59:59.999999Z", "2026-02-01T00:00Z", "2026-03-01T00:00Z", 28),
            (
                Tz::Asia__Kathmandu,
                "2026-04-30T18:15:00Z",
                "2026-04-30T18:15Z",
                "2026-05-31T18:15Z",
                31,
            ),
            (
                Tz::Asia__Kathmandu,
                "2026-04-30T18:14:59Z",
                "2026-03-31T18:15Z",
                "2026-04-30T18:15Z",
                30,
            ),
            // Clocks go forward on 8 March and 29 March 2026.
            (
                Tz::America__New_York,
                "2026-03-15T00:00:00Z",
                "2026-03-01T05:00Z",
                "2026-04-01T04:00Z",
                31,
            ),
            (
                Tz::Europe__Berlin,
                "2026-03-15T00:00:00Z",
                "2026-02-28T23:00Z",
                "2026-03-31T22:00Z",
                31,
            ),
            (
                Tz::Europe__Berlin,
                "2026-10-31T22:59:00Z",
                "2026-09-30T22:00Z",
                "2026-10-31T23:00Z",
                31,
            ),
            // A leap year and the far ends of the map.
            (
                Tz::Pacific__Kiritimati,
                "2028-02-20T00:00:00Z",
                "2028-01-31T10:00Z",
                "2028-02-29T10:00Z",
                29,
            ),
            (
                Tz::Pacific__Pago_Pago,
                "2026-12-31T12:00:00Z",
                "2026-12-01T11:00Z",
                "2027-01-01T11:00Z",
                31,
            ),
        ] {
            assert_eq!(month(tz, instant), (start.into(), end.into(), days), "{tz} {instant}");
        }
    }

    #[test]
    fn a_skipped_midnight_begins_after_the_gap() {
        // Cairo's clocks went from 24:00 on 27 April 2023 to 01:00.
        let gap = day_start(Tz::Africa__Cairo, "2023-04-28".parse().unwrap()).unwrap();
        assert_eq!(gap.to_string(), "2023-04-27 22:00:00 UTC");
        // Samoa left out 30 December 2011 altogether.
        let samoa = day_start(Tz::Pacific__Apia, "2011-12-30".parse().unwrap()).unwrap();
        assert_eq!(samoa.to_string(), "2011-12-30 10:00:00 UTC");
        assert_eq!(month(Tz::Pacific__Apia, "2011-12-20T00:00:00Z").1, "2011-12-31T10:00Z");
    }

    #[test]
    fn the_hour_that_comes_again_after_the_first_midnight_is_in_the_new_month() {
        // St. John's: 2009-11-01 00:01 became 2009-10-31 23:01.
        let tz = Tz::America__St_Johns;
        let start = day_start(tz, "2009-11-01".parse().unwrap()).unwrap();
        assert_eq!(start.to_string(), "2009-11-01 02:30:00 UTC");
        let again = at("2009-11-01T03:00:00Z");
        assert_eq!(local_date(tz, again).to_string(), "2009-10-31");
        assert!(Period::holding(Interval::Monthly, tz, again).unwrap().contains(again));
        assert_eq!(Period::holding(Interval::Monthly, tz, again).unwrap().start, start);
    }

    #[test]
    fn every_started_local_day_counts_as_one() {
        let days = |tz, start, end| Period { start: at(start), end: at(end) }.local_days(tz);
        assert_eq!(days(Tz::UTC, "2026-02-08T15:00:00Z", "2026-03-01T00:00:00Z"), 21);
        assert_eq!(days(Tz::UTC, "2026-02-01T00:00:00Z", "2026-02-10T00:00:00Z"), 9);
        assert_eq!(days(Tz::UTC, "2026-02-01T00:00:00Z", "2026-02-10T00:00:00.000001Z"), 10);
        assert_eq!(days(Tz::UTC, "2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"), 0);
        assert_eq!(days(Tz::Asia__Kathmandu, "2026-04-30T18:00:00Z", "2026-04-30T18:30:00Z"), 2);
    }

    #[test]
    fn local_days_later_keep_the_local_time_over_daylight_saving() {
        let tz = Tz::Europe__Berlin;
        let later = add_local_days(tz, at("2026-02-28T23:00:00Z"), 30).unwrap();
        assert_eq!(later, at("2026-03-30T22:00:00Z"));
        assert_eq!(
            add_local_days(tz, at("2026-02-28T23:00:00Z"), 0).unwrap(),
            at("2026-02-28T23:00:00Z")
        );
    }

    proptest! {
        #[test]
        fn every_instant_is_in_exactly_one_period(seconds in 0_i64..4_000_000_000, zone in 0..chrono_tz::TZ_VARIANTS.len()) {
            let tz = chrono_tz::TZ_VARIANTS.get(zone).copied().unwrap_or(Tz::UTC);
            let instant = chrono::DateTime::from_timestamp(seconds, 0).unwrap();
            let period = Period::holding(Interval::Monthly, tz, instant).unwrap();
            prop_assert!(period.contains(instant), "{} {} {:?}", tz, instant, period);
            let next = period.next(Interval::Monthly, tz).unwrap();
            prop_assert_eq!(next.start, period.end);
            let before = Period::holding(Interval::Monthly, tz, period.start - TimeDelta::microseconds(1)).unwrap();
            prop_assert_eq!(before.end, period.start);
        }

        #[test]
        fn the_days_of_a_cut_period_never_fall_short(start in 0_i64..86_400, cut in 86_400_i64..2_500_000) {
            let month = Period::holding(Interval::Monthly, Tz::UTC, at("2026-05-02T00:00:00Z")).unwrap();
            let middle = month.start + TimeDelta::seconds(cut);
            let whole = Period { start: month.start + TimeDelta::seconds(start), end: month.end };
            let parts = Period { end: middle, ..whole }.local_days(Tz::UTC) + Period { start: middle, ..whole }.local_days(Tz::UTC);
            let at_midnight = u64::from(cut % 86_400 != 0);
            prop_assert_eq!(parts, whole.local_days(Tz::UTC) + at_midnight);
        }
    }
}
