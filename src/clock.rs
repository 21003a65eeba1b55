//! Time as the server sees it: one instant type, one clock, read once per request and passed down.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// So often a server tells the database how late it is: so much of the time before a crash is forgotten at most.
pub const KEEP_TIME_EVERY: Duration = Duration::from_secs(10);

/// An instant: milliseconds since 1970-01-01T00:00:00Z. Milliseconds, because "everything issued before T" is judged by
/// the millisecond that a `UUIDv7` `jti` carries; [`UnixTime::seconds`] gives the `NumericDate` of RFC 7519 section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
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

/// A machine's clock that is behind by no more than this is waited for; see docs/decisions/0013.
const STANDS_STILL: Duration = Duration::from_mins(1);

/// Where `now` comes from. Tests hold the manual one and move it.
#[derive(Clone, Debug)]
pub enum Clock {
    System(Arc<Mutex<Latest>>),
    Manual(Arc<AtomicI64>),
}

/// The latest instant that was told. No later one is earlier.
#[derive(Debug)]
pub struct Latest {
    told: UnixTime,
    /// While the machine's clock is far behind: what was told when that was found, and when.
    lost: Option<(UnixTime, Instant)>,
}

impl Latest {
    /// What to tell when the machine says `wall`: never less than before. A clock that was set back a little is waited
    /// for; one that was set back far is not believed, and time goes on by the count since then.
    fn advance(&mut self, wall: UnixTime, count: Instant) -> UnixTime {
        self.told = if self.told.since(wall) <= STANDS_STILL {
            self.lost = None;
            wall.max(self.told)
        } else {
            let (from, since) = *self.lost.get_or_insert((self.told, count));
            from.plus(count.saturating_duration_since(since)).max(self.told)
        };
        self.told
    }
}

impl Clock {
    /// The machine's clock, which tells nothing before `least`: the latest instant that the database knows.
    #[must_use]
    pub fn system(least: UnixTime) -> Self {
        Self::System(Arc::new(Mutex::new(Latest { told: least, lost: None })))
    }

    #[must_use]
    pub fn manual(start: UnixTime) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.millis())))
    }

    #[must_use]
    pub fn now(&self) -> UnixTime {
        match self {
            Self::System(latest) => {
                latest.lock().unwrap_or_else(PoisonError::into_inner).advance(machine(), Instant::now())
            }
            Self::Manual(millis) => UnixTime(millis.load(Ordering::SeqCst)),
        }
    }

    /// How far the machine's clock is behind what we tell.
    #[must_use]
    pub fn behind(&self) -> Duration {
        match self {
            Self::System(_) => self.now().since(machine()),
            Self::Manual(_) => Duration::ZERO,
        }
    }

    /// Whether the machine's clock was set back so far that it is not believed.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.behind() > STANDS_STILL
    }

    /// Moves a manual clock; the system's clock is not ours to move.
    pub fn advance(&self, span: Duration) {
        if let Self::Manual(millis) = self {
            millis.fetch_add(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
fn machine() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
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

    #[test]
    fn time_never_goes_back_and_goes_on_when_the_clock_was_set_back_far() {
        let (start, at) = (Instant::now(), UnixTime::from_seconds);
        let mut clock = Latest { told: at(0), lost: None };
        let mut tell = |wall: i64, count: u64| clock.advance(at(wall), start + Duration::from_secs(count)).seconds();
        assert_eq!(tell(1000, 0), 1000);
        assert_eq!(tell(970, 1), 1000, "a little: it is waited for");
        assert_eq!(tell(999, 30), 1000);
        assert_eq!(tell(1010, 41), 1010, "and it goes on");
        assert_eq!(tell(10, 42), 1010, "far: counted from when that is found");
        assert_eq!(tell(30, 62), 1030);
        assert_eq!(tell(20, 63), 1031, "whatever it says meanwhile");
        assert_eq!(tell(1050, 83), 1050, "right again");
        assert_eq!(tell(5000, 84), 5000, "forward is believed at once: what has expired has expired");
        assert_eq!(tell(1060, 94), 5000);
        assert_eq!(tell(1070, 104), 5010);
    }

    #[test]
    fn nothing_before_what_the_database_knows_is_told() {
        let ahead = machine().plus(Duration::from_hours(2));
        let clock = Clock::system(ahead);
        assert!(clock.now() >= ahead && clock.is_lost());
        assert!(!Clock::system(UnixTime::from_seconds(0)).is_lost());
    }
}
