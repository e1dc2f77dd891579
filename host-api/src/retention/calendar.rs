//! Hours, days, weeks, months and years.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// A part of a calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// Which hour, day, … it is; greater is later.
pub(super) type Bucket = (i16, i16, i8, i64);

impl Span {
    /// The one that a time lies in; none for what no calendar has.
    pub(super) fn bucket(self, time_ms: u64, zone: &TimeZone) -> Option<Bucket> {
        let time = Timestamp::from_millisecond(i64::try_from(time_ms).ok()?).ok()?;
        let at: Zoned = time.to_zoned(zone.clone());
        Some(match self {
            // Two hours of one name, when clocks go back, are two: the one with the smaller offset is the later.
            Self::Hour => (at.year(), at.day_of_year(), at.hour(), -i64::from(at.offset().seconds())),
            Self::Day => (at.year(), at.day_of_year(), 0, 0),
            Self::Week => {
                let week = at.date().iso_week_date();
                (week.year(), i16::from(week.week()), 0, 0)
            }
            Self::Month => (at.year(), i16::from(at.month()), 0, 0),
            Self::Year => (at.year(), 0, 0, 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(span: Span, time: &str, zone: &str) -> Bucket {
        let time: Timestamp = time.parse().unwrap();
        span.bucket(u64::try_from(time.as_millisecond()).unwrap(), &TimeZone::get(zone).unwrap()).unwrap()
    }

    #[test]
    fn weeks_are_those_of_iso_8601_across_the_new_year() {
        let week = |time| bucket(Span::Week, time, "UTC");
        assert_eq!(week("2021-01-03T23:59:59Z"), (2020, 53, 0, 0), "a Sunday of the year before");
        assert_eq!(week("2021-01-04T00:00:00Z"), (2021, 1, 0, 0));
        assert_eq!(week("2024-12-30T00:00:00Z"), (2025, 1, 0, 0), "a Monday of the next year");
        assert_eq!(week("2024-12-29T23:59:59Z"), (2024, 52, 0, 0));
    }

    #[test]
    fn a_zone_moves_days_months_and_years() {
        assert_eq!(bucket(Span::Day, "2026-03-31T22:30:00Z", "Europe/Berlin"), (2026, 91, 0, 0));
        assert_eq!(bucket(Span::Month, "2026-03-31T22:30:00Z", "Europe/Berlin"), (2026, 4, 0, 0));
        assert_eq!(bucket(Span::Year, "2026-12-31T23:30:00Z", "Europe/Berlin").0, 2027);
        assert_eq!(bucket(Span::Year, "2027-01-01T04:30:00Z", "America/New_York").0, 2026);
        assert_eq!(bucket(Span::Day, "2024-02-29T12:00:00Z", "UTC"), (2024, 60, 0, 0));
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_and_the_one_that_is_left_out_is_none() {
        let hour = |time| bucket(Span::Hour, time, "Europe/Berlin");
        // 25 October 2026: 02:30 summer time, then 02:30 again.
        let (first, second, third) =
            (hour("2026-10-25T00:30:00Z"), hour("2026-10-25T01:30:00Z"), hour("2026-10-25T02:30:00Z"));
        assert!(first < second && second < third, "{first:?} {second:?} {third:?}");
        assert_eq!(bucket(Span::Day, "2026-10-25T00:30:00Z", "Europe/Berlin"), (2026, 298, 0, 0));
        // 29 March 2026: 01:30, then 03:30.
        assert_eq!((hour("2026-03-29T00:30:00Z").2, hour("2026-03-29T01:30:00Z").2), (1, 3));
    }

    #[test]
    fn what_no_calendar_has_is_in_no_bucket() {
        assert_eq!(Span::Day.bucket(u64::MAX, &TimeZone::UTC), None);
    }
}
