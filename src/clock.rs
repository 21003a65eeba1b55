//! Time as the server sees it: one instant type, one clock, read once per request and passed down.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An instant: milliseconds since 1970-01-01T00:00:00Z. Milliseconds, because "everything issued before T" is judged by
/// the millisecond that a `UUIDv7` `jti` carries; [`UnixTime::seconds`] gives the `NumericDate` of RFC 7519 section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// `NumericDate`, RFC 7519 section 2.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The span from `earlier` to this instant; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// As a person reads it, to the minute: "24 November 2026, 18:42 UTC".
    #[must_use]
    pub fn in_words(self) -> String {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        let text = self.to_string();
        let mut parts = text.split(['-', 'T', ':', 'Z']);
        let mut part = || parts.next().unwrap_or_default();
        let (year, month, day, hour, minute) = (part(), part(), part(), part(), part());
        let month = month.parse().ok().and_then(|month: usize| MONTHS.get(month.checked_sub(1)?)).unwrap_or(&"");
        format!("{} {month} {year}, {hour}:{minute} UTC", day.trim_start_matches('0'))
    }
}

impl std::fmt::Display for UnixTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0));
        humantime::format_rfc3339_seconds(at).fmt(f)
    }
}

/// Where `now` comes from. Tests hold the manual one and move it.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    #[must_use]
    pub fn manual(start: UnixTime) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.millis())))
    }

    #[must_use]
    pub fn now(&self) -> UnixTime {
        match self {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(millis) => UnixTime(millis.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock; the system's clock is not ours to move.
    pub fn advance(&self, span: Duration) {
        if let Self::Manual(millis) = self {
            millis.fetch_add(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_round_down_and_spans_never_go_negative() {
        let at = UnixTime::from_millis(1_999);
        assert_eq!(at.seconds(), 1);
        assert_eq!(at.plus(Duration::from_secs(1)).millis(), 2_999);
        assert_eq!(UnixTime::from_seconds(1).since(at), Duration::ZERO);
        assert_eq!(UnixTime::from_seconds(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixTime::from_seconds(1_795_545_720).in_words(), "24 November 2026, 18:42 UTC");
    }
}
