//! One-time passwords as authenticator apps make them: RFC 6238 with SHA-1, six digits and steps of 30 seconds, which is
//! all that every app knows.

use totp_rs::{Algorithm, Builder, Totp};
use zeroize::Zeroizing;

use super::{CryptoError, random};
use crate::clock::UnixTime;

/// In seconds.
const STEP: i64 = 30;
const DIGITS: u8 = 6;

/// A device's secret: 160 bits, as RFC 4226 section 4 asks.
pub struct TotpSecret(Totp);

impl std::fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TotpSecret(…)")
    }
}

impl TotpSecret {
    /// # Errors
    /// When the system has no randomness to give.
    pub fn mint() -> Result<Self, CryptoError> {
        let bytes: Zeroizing<[u8; 20]> = Zeroizing::new(random()?);
        Self::new(bytes.as_slice(), "", "")
    }

    /// The secret that was opened with the sealing key.
    ///
    /// # Errors
    /// When it is too short to be one.
    pub fn from_opened(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::new(bytes, "", "")
    }

    fn new(secret: &[u8], issuer: &str, account: &str) -> Result<Self, CryptoError> {
        let builder = Builder::new()
            .with_algorithm(Algorithm::SHA1)
            .with_digits(DIGITS)
            // One step at a time: which steps are taken is judged here, with the one taken last.
            .with_skew(0)
            .with_step_duration(STEP.unsigned_abs())
            .with_secret(secret.to_vec())
            // Colons part issuer and account in the label.
            .with_issuer(Some(issuer.replace(':', " ")))
            .with_account_name(account.replace(':', " "));
        builder.build().map(Self).map_err(CryptoError::Totp)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.secret().as_bytes()
    }

    /// The time step that a code is of: this one, the one before or the one after (RFC 6238 section 5.2), and none up to
    /// `last`, whose code was taken. Every candidate is compared, each in constant time.
    #[must_use]
    pub fn step_of(&self, code: &str, last: i64, now: UnixTime) -> Option<i64> {
        let current = now.seconds().div_euclid(STEP);
        let mut found = None;
        for step in current - 1..=current + 1 {
            let at = u64::try_from(step.saturating_mul(STEP)).unwrap_or(0);
            if self.0.check(code, at).is_some() && step > last {
                found = found.or(Some(step));
            }
        }
        found
    }

    /// As people type it where no camera is: base32 in groups of four.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let text = Zeroizing::new(self.0.secret().to_base32());
        let mut grouped = Zeroizing::new(String::with_capacity(text.len() * 5 / 4));
        for (at, letter) in text.chars().enumerate() {
            if at > 0 && at % 4 == 0 {
                grouped.push(' ');
            }
            grouped.push(letter);
        }
        grouped
    }

    /// The `otpauth://` address that apps read, from a picture or from a link.
    ///
    /// # Errors
    /// When there is no account name to show.
    pub fn link(&self, issuer: &str, account: &str) -> Result<Zeroizing<String>, CryptoError> {
        Self::new(self.as_bytes(), issuer, account)?.0.to_url().map(Zeroizing::new).map_err(CryptoError::Totp)
    }
}

/// A code as people type it: `123 456`.
#[must_use]
pub fn typed_code(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-').take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238 appendix B.
    fn secret() -> TotpSecret {
        TotpSecret::from_opened(b"12345678901234567890").unwrap()
    }

    #[test]
    fn the_codes_are_those_of_the_rfc() {
        // The last six of the eight digits of RFC 6238 appendix B, SHA-1.
        for (at, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
        ] {
            assert_eq!(secret().step_of(code, -1, UnixTime::from_seconds(at)), Some(at / 30), "{at}");
        }
    }

    #[test]
    fn s57_a_code_is_taken_one_step_early_or_late_and_never_up_to_the_last_taken() {
        // The code of step 1, 30 to 59 seconds.
        for (at, last, taken) in [
            (0, -1, true),
            (29, -1, true),
            (30, -1, true),
            (59, 0, true),
            (89, 0, true),
            (90, 0, false),
            (45, 1, false),
            (45, 2, false),
        ] {
            let step = secret().step_of("287082", last, UnixTime::from_seconds(at));
            assert_eq!(step, taken.then_some(1), "{at} {last}");
        }
        let now = UnixTime::from_seconds(45);
        for wrong in ["287083", "28708", "2870820", "", "28708a", "+87082", "２８７０８２"] {
            assert_eq!(secret().step_of(wrong, -1, now), None, "{wrong:?}");
        }
        assert_eq!(typed_code(" 287 082\n"), "287082");
    }

    #[test]
    fn s58_a_new_secret_has_160_bits_and_does_not_show_itself() {
        let (one, other) = (TotpSecret::mint().unwrap(), TotpSecret::mint().unwrap());
        assert_eq!(one.as_bytes().len(), 20);
        assert_ne!(one.as_bytes(), other.as_bytes());
        assert_eq!(format!("{one:?}"), "TotpSecret(…)");
        assert_eq!(secret().text().as_str(), "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ");
        let link = secret().link("id.example:8443", "ada:b").unwrap();
        assert!(link.starts_with("otpauth://totp/id.example%208443:ada%20b?"), "{}", *link);
        assert!(link.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"), "{}", *link);
    }
}
