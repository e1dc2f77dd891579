//! Calendars: cron's five fields (or six, with seconds first) in a time zone.
//!
//! Of an hour that the zone skips, a fixed time is the first second after the gap; of an hour that comes twice, it is its first. What `*` or a
//! step gives follows the clock on the wall: none in a gap, both times in an hour that comes twice.

use std::str::FromStr;

use croner::Cron;
use croner::errors::CronError;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::error::{Error, Result};
use crate::identifier::shown;

/// Longest calendar, bytes.
const CALENDAR_BYTES_MAX: usize = 256;

/// A calendar in its zone.
pub struct Calendar {
    cron: Cron,
    zone: TimeZone,
}

impl Calendar {
    /// Reads one. An error says what is wrong with it; one that has no time at all (`0 0 31 2 *`) is read, and gives none.
    pub fn parse(calendar: &str, zone: &str) -> Result<Self> {
        if calendar.len() > CALENDAR_BYTES_MAX {
            return Err(Error::invalid(format!("a calendar has at most {CALENDAR_BYTES_MAX} bytes")));
        }
        // A seventh would be the year.
        if calendar.split_whitespace().count() > 6 {
            return Err(Error::invalid(format!("calendar `{}` has more than six fields", shown(calendar))));
        }
        let cron = Cron::from_str(calendar).map_err(|e| {
            Error::invalid(format!("calendar `{}`: {e}", shown(calendar)))
                .hint("minute, hour, day of the month, month, day of the week: `30 3 * * *`, `0 * * * *`, `0 4 1 * *`")
        })?;
        let zone = TimeZone::get(zone).map_err(|_| {
            Error::invalid(format!("no time zone `{}`", shown(zone)))
                .hint("a name of the tz database: UTC, Europe/Berlin")
        })?;
        Ok(Self { cron, zone })
    }

    /// The newest time at or before one, Unix milliseconds; none within some years: none.
    pub fn at_or_before(&self, time_ms: u64) -> Result<Option<u64>> {
        // Searching back has no tie to break in an hour that comes twice, and calls its second half earlier than its first: so the times are
        // gone through forwards from one that is surely before.
        let mut from = self.local(time_ms)?;
        for span in BACK {
            from = from.checked_sub(jiff::Span::new().hours(span)).map_err(|_| out_of_range(time_ms))?;
            let mut newest = None;
            let mut cursor = from.timestamp();
            let mut looked = 0_u32;
            while let Some(next) = self.first_after(cursor)? {
                looked += 1;
                if looked > TIMES_MAX {
                    return Err(Error::invalid("the calendar has too many times in too small a part of the year")
                        .hint("every second of one month, say: leave the month out, or the seconds"));
                }
                if next.as_millisecond() > i64::try_from(time_ms).map_err(|_| out_of_range(time_ms))? {
                    break;
                }
                (newest, cursor) = (Some(next), next);
            }
            if newest.is_some() {
                return Ok(newest.map(millisecond));
            }
        }
        Ok(None)
    }

    /// The first time after one, Unix milliseconds; none within some years: none.
    pub fn after(&self, time_ms: u64) -> Result<Option<u64>> {
        let from = self.local(time_ms)?.timestamp();
        Ok(self.first_after(from)?.map(millisecond))
    }

    fn first_after(&self, from: Timestamp) -> Result<Option<Timestamp>> {
        let mut cursor = from.to_zoned(self.zone.clone());
        loop {
            match self.cron.find_next_occurrence(&cursor, false) {
                // In an hour that comes twice, one that is not later than where the search began is the first half again.
                Ok(next) if next.timestamp() > from => return Ok(Some(next.timestamp())),
                Ok(next) => {
                    cursor =
                        next.checked_add(jiff::Span::new().seconds(1)).map_err(|e| Error::failed(e.to_string()))?;
                }
                Err(CronError::TimeSearchLimitExceeded) => return Ok(None),
                Err(error) => return Err(Error::failed(format!("a time of the calendar can't be told: {error}"))),
            }
        }
    }

    fn local(&self, time_ms: u64) -> Result<Zoned> {
        let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Ok(time.ok_or_else(|| out_of_range(time_ms))?.to_zoned(self.zone.clone()))
    }
}

/// Times that are gone through at most: those of a day with one each second.
const TIMES_MAX: u32 = 100_000;

/// Hours to go back, each from where the one before ended: close ones first, because a calendar of every second has 86,400 times a day.
const BACK: [i64; 6] = [1, 23, 24 * 31, 24 * 366, 24 * 366 * 4, 24 * 366 * 8];

fn millisecond(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

fn out_of_range(time_ms: u64) -> Error {
    Error::invalid(format!("{time_ms} ms is no time that a calendar has"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: &str) -> u64 {
        millisecond(time.parse::<Timestamp>().unwrap())
    }

    fn after(calendar: &str, zone: &str, times: &[&str]) {
        let calendar = Calendar::parse(calendar, zone).unwrap();
        for pair in times.windows(2) {
            assert_eq!(calendar.after(ms(pair[0])).unwrap(), Some(ms(pair[1])), "after {}", pair[0]);
        }
        // Back the same way: at each time itself, and a second before the next.
        for pair in times[1..].windows(2) {
            assert_eq!(calendar.at_or_before(ms(pair[0])).unwrap(), Some(ms(pair[0])));
            assert_eq!(calendar.at_or_before(ms(pair[1]) - 1_000).unwrap(), Some(ms(pair[0])), "before {}", pair[1]);
        }
    }

    #[test]
    fn a_fixed_time_in_a_skipped_hour_is_the_first_second_after_it() {
        let times = ["2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
        after("30 2 * * *", "Europe/Berlin", &times);
    }

    #[test]
    fn a_fixed_time_in_a_repeated_hour_comes_once() {
        let times = ["2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"];
        after("30 2 * * *", "Europe/Berlin", &times);
        // Also when the search begins between the two.
        let calendar = Calendar::parse("30 2 * * *", "Europe/Berlin").unwrap();
        assert_eq!(calendar.after(ms("2026-10-25T01:00:00Z")).unwrap(), Some(ms("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn every_hour_is_every_hour_also_when_it_comes_twice() {
        let times = ["2026-10-24T23:00:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"];
        after("0 * * * *", "Europe/Berlin", &times);
        let times = ["2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"];
        after("0 * * * *", "Europe/Berlin", &times);
    }

    #[test]
    fn half_hours_shift_where_a_zone_shifts_by_half_an_hour() {
        // Lord Howe: clocks go from 02:00 back to 01:30.
        let times = ["2026-04-04T14:00:00Z", "2026-04-04T14:30:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"];
        after("*/30 * * * *", "Australia/Lord_Howe", &times);
    }

    #[test]
    fn months_years_and_leap_days() {
        after("0 4 1 * *", "UTC", &["2026-11-26T00:00:00Z", "2026-12-01T04:00:00Z", "2027-01-01T04:00:00Z"]);
        after("0 0 29 2 *", "UTC", &["2026-11-26T00:00:00Z", "2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
        let never = Calendar::parse("0 0 31 2 *", "UTC").unwrap();
        assert_eq!(never.after(ms("2026-11-26T00:00:00Z")).unwrap(), None);
        assert_eq!(never.at_or_before(ms("2026-11-26T00:00:00Z")).unwrap(), None);
    }

    #[test]
    fn seconds_are_a_sixth_field_in_front() {
        after("*/10 * * * * *", "UTC", &["2026-11-26T00:00:01Z", "2026-11-26T00:00:10Z", "2026-11-26T00:00:20Z"]);
    }

    #[test]
    fn what_is_no_calendar_is_said() {
        for (calendar, zone) in
            [("", "UTC"), ("61 * * * *", "UTC"), ("0 3 * *", "UTC"), ("0 3 * * *", "Berlin"), (&"1".repeat(300), "UTC")]
        {
            assert!(Calendar::parse(calendar, zone).is_err(), "{calendar} {zone}");
        }
        let calendar = Calendar::parse("0 3 * * *", "UTC").unwrap();
        assert!(calendar.after(u64::MAX).is_err());
        assert!(calendar.at_or_before(u64::MAX).is_err());
        assert!(Calendar::parse("0 0 3 * * * 2027", "UTC").is_err());
        // Every second of January, asked for in March.
        let slow = Calendar::parse("* * * * 1 *", "UTC").unwrap();
        assert!(slow.at_or_before(ms("2026-03-01T00:00:00Z")).unwrap_err().message.contains("too many times"));
    }
}
