//! What time it is by a store's own clock: the `Date` of its newest answer, and how long ago that came.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

/// The clock of one store, shared by all who ask it.
#[derive(Clone, Default)]
pub(super) struct StoreClock(Arc<Mutex<Option<(Instant, u64)>>>);

impl StoreClock {
    /// Takes what an answer says. One that says nothing, or nothing that is a date, changes nothing.
    pub(super) fn note(&self, headers: &HeaderMap) {
        let text = headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
        let date = text.and_then(|text| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok());
        if let Some(ms) = date.and_then(|date| u64::try_from(date.as_millisecond()).ok()) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), ms));
        }
    }

    /// Unix milliseconds, a second more or less; none where no answer has said it yet.
    pub(super) fn now_ms(&self) -> Option<u64> {
        let (at, ms) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.elapsed().min(Duration::from_secs(u64::from(u32::MAX)));
        Some(ms.saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_as_servers_write_it_and_nothing_else_is() {
        let clock = StoreClock::default();
        let say = |date: &str| {
            let value = http::HeaderValue::from_str(date).unwrap();
            clock.note(&HeaderMap::from_iter([(http::header::DATE, value)]));
            clock.now_ms()
        };
        assert_eq!(say("yesterday"), None);
        let told = say("Fri, 27 Nov 2026 08:00:00 GMT").unwrap();
        assert!((1_795_766_400_000..1_795_766_460_000).contains(&told), "{told}");
        assert!(say("").unwrap() >= told, "what says nothing changes nothing");
    }
}
