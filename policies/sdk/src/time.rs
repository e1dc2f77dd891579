//! Times and durations as people and services write them. All times are Unix milliseconds, UTC.

/// ISO 8601 in UTC with microseconds, `2026-11-23T06:38:10.123000+00:00`: sorts as text among times written the same way.
pub fn iso8601(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let micros = ms % 1_000 * 1_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

/// So many days after a time; the largest time there is, if that is too far.
pub fn days_after(time_ms: u64, days: u64) -> u64 {
    time_ms.saturating_add(days.saturating_mul(86_400_000))
}

/// A duration in words, `0.8 s`, `3 min 5 s`, `2 d 4 h`: two units at most.
pub fn words(duration_ms: u64) -> String {
    let seconds = duration_ms / 1_000;
    let two = |a: u64, a_unit: &str, b: u64, b_unit: &str| match b {
        0 => format!("{a} {a_unit}"),
        _ => format!("{a} {a_unit} {b} {b_unit}"),
    };
    match seconds {
        0..10 => format!("{}.{} s", seconds, duration_ms % 1_000 / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`, for days that are not negative).
fn civil(days: u64) -> (u64, u64, u64) {
    // Years start in March here, so that a leap day is the last day of a year; an era is 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_iso_8601() {
        assert_eq!(iso8601(0), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(iso8601(951_782_399_999), "2000-02-28T23:59:59.999000+00:00");
        assert_eq!(iso8601(951_782_400_000), "2000-02-29T00:00:00.000000+00:00");
        assert_eq!(iso8601(1_709_164_800_000), "2024-02-29T00:00:00.000000+00:00");
        assert_eq!(iso8601(1_795_417_090_123), "2026-11-23T06:58:10.123000+00:00");
        assert_eq!(iso8601(4_107_542_400_000), "2100-03-01T00:00:00.000000+00:00");
    }

    #[test]
    fn durations_are_written_for_people() {
        let cases = [
            (0, "0.0 s"),
            (849, "0.8 s"),
            (9_999, "9.9 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (185_000, "3 min 5 s"),
            (7_380_000, "2 h 3 min"),
            (187_200_000, "2 d 4 h"),
        ];
        for (ms, text) in cases {
            assert_eq!(words(ms), text);
        }
    }
}
