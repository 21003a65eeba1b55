//! How guessing is slowed: what a wrong guess counts against, and how long the next must wait (NIST SP 800-63B-4 section
//! 3.2.2).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::crypto::opaque::Digest;

use super::ids::UserId;
use super::user::normal_name;

/// So many are free; after that each costs a growing wait.
const FREE: i64 = 5;
/// A password is one of very many; of one-time codes a guess in a million is right, so that the first wait is as long as one
/// of them lives (OWASP ASVS V6.5.5).
const FIRST_WAIT: Duration = Duration::from_secs(1);
const FIRST_WAIT_FOR_CODES: Duration = Duration::from_secs(30);
pub const LONGEST_WAIT: Duration = Duration::from_mins(15);
/// After so many in a row the account is shut to browsers that it does not know, until it has a new password.
pub const MOST: i64 = 100;
const SHUT: Duration = Duration::from_hours(24 * 365);
/// So many wrong guesses from one network count as one: many people may share an address.
const NETWORK_WEIGHT: i64 = 20;
/// So many mails on a stranger's word are free for one mailbox, and from one network.
const FREE_MAILS: i64 = 3;
const FREE_MAILS_OF_NETWORK: i64 = 30;

/// A count of wrong guesses in a row.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub key: String,
    /// How many guesses make one failure.
    weight: i64,
    /// How its waits grow.
    waits: Waits,
}

/// How long the next one must wait.
#[derive(Clone, Copy, Debug)]
enum Waits {
    /// After the free ones so long, and twice as long each time.
    Doubling(Duration),
    /// For a count of mails: so many are free, and each after them waits so long.
    Mails(i64, Duration),
}

impl Bucket {
    /// The count of an account. A browser that has signed in to it before has a count of its own there (`mark`), so that
    /// no stranger's guesses lock its person out. By digest: people type their passwords into the wrong field.
    #[must_use]
    pub fn account(name: &str, mark: Option<&str>) -> Self {
        let digest = Digest::of(format!("{}\n{}", normal_name(name), mark.unwrap_or_default()).as_bytes());
        let key = format!("account {}", URL_SAFE_NO_PAD.encode(digest.as_bytes()));
        Self { key, weight: 1, waits: Waits::Doubling(FIRST_WAIT) }
    }

    /// The count of a person's second factor, one-time codes and recovery codes together, whatever they are asked for at;
    /// again apart for a browser that has signed in before.
    #[must_use]
    pub fn second_factor(user: &UserId, mark: Option<&str>) -> Self {
        let digest = Digest::of(format!("{user}\n{}", mark.unwrap_or_default()).as_bytes());
        let key = format!("factor {}", URL_SAFE_NO_PAD.encode(digest.as_bytes()));
        Self { key, weight: 1, waits: Waits::Doubling(FIRST_WAIT_FOR_CODES) }
    }

    /// The count of an IPv4 address or an IPv6 /64.
    #[must_use]
    pub fn network(network: &str) -> Self {
        Self { key: format!("network {network}"), weight: NETWORK_WEIGHT, waits: Waits::Doubling(FIRST_WAIT) }
    }

    /// The count of mails that anybody had sent to one mailbox or account.
    #[must_use]
    pub fn mails_to(whom: &str) -> Self {
        let digest = URL_SAFE_NO_PAD.encode(Digest::of(whom.as_bytes()).as_bytes());
        Self { key: format!("mails {digest}"), weight: 1, waits: Waits::Mails(FREE_MAILS, Duration::from_hours(1)) }
    }

    /// The count of mails that were asked for from an IPv4 address or an IPv6 /64.
    #[must_use]
    pub fn mails_from(network: &str) -> Self {
        let key = format!("mails from {network}");
        Self { key, weight: NETWORK_WEIGHT, waits: Waits::Mails(FREE_MAILS_OF_NETWORK, Duration::from_mins(1)) }
    }

    /// How long without a failure until the count is forgotten.
    #[must_use]
    pub fn memory(&self) -> Duration {
        if self.weight == 1 { Duration::from_hours(24) } else { Duration::from_hours(1) }
    }

    /// How long the next guess must wait after so many.
    #[must_use]
    pub fn wait_after(&self, guesses: i64) -> Duration {
        let first = match self.waits {
            Waits::Mails(free, wait) => return if guesses < free { Duration::ZERO } else { wait },
            Waits::Doubling(first) => first,
        };
        let failures = guesses / self.weight;
        match u32::try_from(failures - FREE) {
            Err(_) => Duration::ZERO,
            Ok(_) if failures >= MOST && self.weight == 1 => SHUT,
            Ok(beyond) => {
                let factor = 1u32.checked_shl(beyond).unwrap_or(u32::MAX);
                first.checked_mul(factor).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
            }
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
    fn s65_a_mailbox_gets_three_mails_and_then_one_an_hour() {
        let mailbox = Bucket::mails_to("ada@example.com");
        for (mails, wait) in [(1, 0), (2, 0), (3, 3600), (1000, 3600)] {
            assert_eq!(mailbox.wait_after(mails), Duration::from_secs(wait), "{mails}");
        }
        assert!(!mailbox.key.contains("ada"));
        assert_eq!(Bucket::mails_from("192.0.2.1").wait_after(29), Duration::ZERO);
        assert_eq!(Bucket::mails_from("192.0.2.1").wait_after(30), Duration::from_mins(1));
    }

    #[test]
    fn s56_five_codes_are_free_then_each_waits_longer_than_a_code_lives() {
        let factor = Bucket::second_factor(&UserId::from_stored("ada"), None);
        for (guesses, wait) in [(4, 0), (5, 30), (6, 60), (9, 480), (10, 900), (99, 900), (100, 365 * 86_400)] {
            assert_eq!(factor.wait_after(guesses), Duration::from_secs(wait), "{guesses}");
        }
        assert_ne!(factor.key, Bucket::second_factor(&UserId::from_stored("ada"), Some("mark")).key);
    }

    #[test]
    fn an_account_is_counted_whatever_the_letter_case_and_never_by_its_plain_name() {
        assert_eq!(Bucket::account("Ada", None).key, Bucket::account(" ada ", None).key);
        assert_ne!(Bucket::account("ada", Some("mark")).key, Bucket::account("ada", None).key);
        assert!(!Bucket::account("ada", None).key.contains("ada"));
    }
}
