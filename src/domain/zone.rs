//! The time zone in which a person reads times.

use jiff::Timestamp;
use jiff::tz::{TimeZone, db};
use serde_json::Value;

use crate::clock::UnixTime;

use super::user::User;

/// Where the names of places begin; the others are old spellings and fixed distances.
const REGIONS: [&str; 10] = [
    "Africa/",
    "America/",
    "Antarctica/",
    "Arctic/",
    "Asia/",
    "Atlantic/",
    "Australia/",
    "Europe/",
    "Indian/",
    "Pacific/",
];

/// A zone of the IANA database that is compiled in: no file of the machine is read.
pub struct Zone(TimeZone);

impl Zone {
    /// The person's `zoneinfo` (OpenID Connect Core section 5.1), or UTC.
    #[must_use]
    pub fn of(user: &User) -> Self {
        let name = user.claims.get("zoneinfo").and_then(Value::as_str);
        Self(name.and_then(|name| TimeZone::get(name).ok()).unwrap_or(TimeZone::UTC))
    }

    #[must_use]
    pub fn is_known(name: &str) -> bool {
        // It takes any letter case; applications do not.
        TimeZone::get(name).is_ok_and(|zone| zone.iana_name() == Some(name))
    }

    /// The zones to choose from, in order.
    pub fn names() -> impl Iterator<Item = String> {
        let named_after_a_place = |name: &String| REGIONS.iter().any(|region| name.starts_with(region));
        db().available().map(|name| name.to_string()).filter(named_after_a_place)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// An instant to the minute: "24 November 2026, 18:42".
    #[must_use]
    pub fn words(&self, at: UnixTime) -> String {
        match Timestamp::from_millisecond(at.millis()) {
            Ok(at) => at.to_zoned_datetime(self.0.clone()).strftime("%-d %B %Y, %H:%M").to_string(),
            Err(_) => at.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_in_the_persons_zone_summer_and_winter() {
        let zone = |name: &str| Zone(TimeZone::get(name).unwrap());
        let winter = UnixTime::from_seconds(1_795_545_720);
        assert_eq!(zone("UTC").words(winter), "24 November 2026, 18:42");
        assert_eq!(zone("Europe/Berlin").words(winter), "24 November 2026, 19:42");
        assert_eq!(zone("Europe/Berlin").words(UnixTime::from_seconds(1_780_000_000)), "28 May 2026, 22:26");
        assert!(!Zone::is_known("../etc/passwd") && !Zone::is_known("Mars/Olympus"));
        assert!(Zone::names().any(|name| name == "Asia/Kolkata") && Zone::names().all(|name| Zone::is_known(&name)));
    }
}
