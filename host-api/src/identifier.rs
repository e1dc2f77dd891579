//! Names: generated ids (UTC first, so that they sort by time) and checks of what people and guests write.

use crate::error::{Error, Result};

/// A new id, `20261123T061534123z-7k3f9q`: UTC to the millisecond, then randomness, so that a repeated hour overwrites nothing.
/// Lower case but for the `T`, safe in file names and object keys.
pub fn fresh() -> String {
    of(jiff::Timestamp::now())
}

/// The same, of a time in Unix milliseconds: for what is older than its name.
pub(crate) fn fresh_at(ms: u64) -> String {
    of(i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or_else(jiff::Timestamp::now))
}

fn of(time: jiff::Timestamp) -> String {
    let random = ulid::Ulid::new().to_string().to_lowercase();
    // The last characters of a ULID are all random.
    format!("{}z-{}", time.strftime("%Y%m%dT%H%M%S%3f"), &random[random.len() - 6..])
}

/// The time that an id begins with, Unix milliseconds; none where it begins with none.
pub(crate) fn taken_at_ms(id: &str) -> Option<u64> {
    let (time, _) = id.split_once("z-")?;
    let (seconds, ms) = time.split_at_checked(time.len().checked_sub(3)?)?;
    let at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", seconds).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    u64::try_from(at.timestamp().as_millisecond()).ok()?.checked_add(ms.parse().ok()?)
}

/// Now, in Unix milliseconds, UTC.
pub fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// `2026-11-23T06:15:34Z` of Unix milliseconds; for people.
pub fn utc(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{ms} ms"), |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The same, with its milliseconds: `2026-11-26T12:00:00.250Z`.
pub fn utc_ms(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{ms} ms"), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Unix milliseconds from what a query said: an ISO 8601 time (UTC where it names no zone) or a number of seconds or milliseconds.
pub fn parse_time_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        // Seconds until the year 5138, milliseconds from 1973 on.
        let ms = if number < 1e11 { number * 1000.0 } else { number };
        return (ms >= 0.0).then_some(ms as u64);
    }
    let iso = text.replacen(' ', "T", 1);
    let stamp = iso
        .parse::<jiff::Timestamp>()
        .or_else(|_| format!("{iso}:00").parse())
        .or_else(|_| format!("{iso}Z").parse())
        .ok()?;
    u64::try_from(stamp.as_millisecond()).ok()
}

/// Checks a configured or given name: 1 to 40 of `a-z 0-9 - _`, starting with a letter or digit.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let ok = (1..=40).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if ok {
        Ok(())
    } else {
        Err(Error::invalid(format!("`{}` is no name for a {what}", shown(name)))
            .hint("use 1 to 40 of a-z, 0-9, - and _, starting with a letter or digit"))
    }
}

/// Checks an id that [`fresh`] could have made, so that it may stand in a path or an object key.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let ok = (8..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && id.as_bytes()[0].is_ascii_alphanumeric();
    if ok { Ok(()) } else { Err(Error::invalid(format!("`{}` is no id of a {what}", shown(id)))) }
}

/// A name from outside, made safe to print: control characters (and with them terminal escapes) become `\u{…}`, long ones are cut.
pub fn shown(text: &str) -> String {
    shown_up_to(text, 120)
}

/// As [`shown`], for messages of tools: up to 2,000 characters.
pub fn shown_long(text: &str) -> String {
    shown_up_to(text, 2_000)
}

/// As [`shown`], for what must not be cut: a line that is meant to be read whole.
pub fn shown_whole(text: &str) -> String {
    shown_up_to(text, usize::MAX)
}

/// Whether a character can't be seen, or reorders what a person reads: bidirectional controls, and what has no width.
pub fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown_up_to(text: &str, chars_max: usize) -> String {
    // Nearly all there is.
    if text.len() <= chars_max && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return text.to_owned();
    }
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == chars_max {
            out.push('…');
            break;
        }
        if c.is_control() || reorders(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_sort_by_time_and_pass_their_own_check() {
        let first = fresh();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = fresh();
        assert!(first < second, "{first} {second}");
        check_id("backup", &first).unwrap();
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        assert_eq!(taken_at_ms(&fresh_at(1_795_694_056_766)), Some(1_795_694_056_766));
        for strange in ["", "z-", "20261126T115414z-x", "20261399T115414644z-744g9q", "bench", "20261126T115414-+1z-x"]
        {
            assert_eq!(taken_at_ms(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_line_that_is_shown_whole_is_neither_cut_nor_steers_a_terminal() {
        let long = format!("CREATE ROLE \"{}\"", "r".repeat(5_000));
        assert_eq!(shown_whole(&long), long);
        assert_eq!(shown_whole("a\u{1b}[2J\u{202e}b"), "a\\u{1b}[2J\\u{202e}b");
    }

    #[test]
    fn times_are_read_in_the_forms_databases_write() {
        assert_eq!(parse_time_ms("1970-01-01T00:00:01+00:00"), Some(1000));
        assert_eq!(parse_time_ms("1970-01-01 00:00:01.5"), Some(1500));
        assert_eq!(parse_time_ms("1970-01-01 01:00:01.5+01"), Some(1500));
        assert_eq!(parse_time_ms("1.5"), Some(1500));
        assert_eq!(parse_time_ms("yesterday"), None);
    }

    #[test]
    fn hostile_names_are_refused_and_shown_harmless() {
        for name in ["", "../x", "A", "a/b", "-a", "a\u{1b}[2J"] {
            assert!(check_name("store", name).is_err(), "{name:?}");
        }
        assert_eq!(shown("a\u{1b}[2J"), "a\\u{1b}[2J");
    }
}
