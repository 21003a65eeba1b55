//! How guessing is slowed: what a wrong guess counts against, and how long the next must wait (NIST SP 800-63B-4 section
//! 3.2.2).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::crypto::opaque::Digest;

use super::user::normal_name;

/// So many are free; after that each costs a growing wait.
const FREE: i64 = 5;
const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// After so many in a row the account is shut to browsers that it does not know, until it has a new password.
const MOST: i64 = 100;
const SHUT: Duration = Duration::from_hours(24 * 365);
/// So many wrong guesses from one network count as one: many people may share an address.
const NETWORK_WEIGHT: i64 = 20;

/// A count of wrong guesses in a row.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub key: String,
    /// How many guesses make one failure.
    weight: i64,
}

impl Bucket {
    /// The count of an account. A browser that has signed in to it before has a count of its own there (`mark`), so that
    /// no stranger's guesses lock its person out. By digest: people type their passwords into the wrong field.
    #[must_use]
    pub fn account(name: &str, mark: Option<&str>) -> Self {
        let digest = Digest::of(format!("{}\n{}", normal_name(name), mark.unwrap_or_default()).as_bytes());
        Self { key: format!("account {}", URL_SAFE_NO_PAD.encode(digest.as_bytes())), weight: 1 }
    }

    /// The count of an IPv4 address or an IPv6 /64.
    #[must_use]
    pub fn network(network: &str) -> Self {
        Self { key: format!("network {network}"), weight: NETWORK_WEIGHT }
    }

    /// How long without a failure until the count is forgotten.
    #[must_use]
    pub fn memory(&self) -> Duration {
        if self.weight == 1 { Duration::from_hours(24) } else { Duration::from_hours(1) }
    }

    /// How long the next guess must wait after so many.
    #[must_use]
    pub fn wait_after(&self, guesses: i64) -> Duration {
        let failures = guesses / self.weight;
        match u32::try_from(failures - FREE) {
            Err(_) => Duration::ZERO,
            Ok(_) if failures >= MOST && self.weight == 1 => SHUT,
            Ok(beyond) => Duration::from_secs(1u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(LONGEST_WAIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s54_waits_grow_and_a_hundred_failures_shut_the_account() {
        let account = Bucket::account("ada", None);
        for (guesses, wait) in [(4, 0), (5, 1), (8, 8), (14, 512), (15, 900), (99, 900), (100, 365 * 86_400)] {
            assert_eq!(account.wait_after(guesses), Duration::from_secs(wait), "{guesses}");
        }
        let network = Bucket::network("192.0.2.1");
        for (guesses, wait) in [(99, 0), (100, 1), (100_000, 900)] {
            assert_eq!(network.wait_after(guesses), Duration::from_secs(wait), "{guesses}");
        }
    }

    #[test]
    fn an_account_is_counted_whatever_the_letter_case_and_never_by_its_plain_name() {
        assert_eq!(Bucket::account("Ada", None).key, Bucket::account(" ada ", None).key);
        assert_ne!(Bucket::account("ada", Some("mark")).key, Bucket::account("ada", None).key);
        assert!(!Bucket::account("ada", None).key.contains("ada"));
    }
}
