//! Which passwords people may choose (NIST SP 800-63B-4 section 3.1.1.2): long enough, on no list of common ones, not like
//! the person's own names. No composition rules; any Unicode.

use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;
use zxcvbn::matching::patterns::MatchPattern;
use zxcvbn::{Score, zxcvbn};

/// In characters. Longer is refused before any work: Argon2 takes any length, a form should not.
pub const MAX_LENGTH: usize = 128;
/// So many characters must be left when the person's own names are taken out.
const LEAST_BESIDE_NAMES: usize = 8;
/// Shorter pieces of a name stand in many words by chance.
const SHORTEST_NAME: usize = 3;
/// Of a name or address, this much is looked for: looking costs time for each.
const LONGEST_NAME: usize = 64;
const MOST_NAMES: usize = 16;

/// Why a password is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Length {
        least: usize,
        given: usize,
    },
    /// No form sends them, so nobody could type it again.
    ControlCharacter,
    /// It is on the list of common ones, or as quickly guessed as those.
    Common,
    /// It is made of the person's own name or address, or the name of the service.
    LikeName,
    /// It stands in a corpus of leaked ones.
    Breached,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { least, given } if given < least => {
                write!(
                    f,
                    "This password is too short: it has {given} of at least {least} characters. Several words are easy to remember."
                )
            }
            Self::Length { given, .. } => {
                write!(f, "This password has {given} characters; choose one of at most {MAX_LENGTH}.")
            }
            Self::ControlCharacter => {
                f.write_str("This password has a control character, which no sign-in form sends; leave it out.")
            }
            Self::Common => f.write_str(
                "This password is among the first that anybody would guess; choose other words, or more of them.",
            ),
            Self::LikeName => f.write_str(
                "This password is too much like your name or address, or the name of this service; choose words that have nothing to do with either.",
            ),
            Self::Breached => f.write_str(
                "This password is known from a leak of another site; choose one that you have used nowhere.",
            ),
        }
    }
}

/// The form in which a password is hashed and judged: Unicode's normal form C, so that one letter written two ways is one.
#[must_use]
pub fn normal(password: &str) -> Zeroizing<String> {
    Zeroizing::new(password.nfc().collect())
}

/// Judges a password of a person with these names and addresses. Costs milliseconds, so it runs where passwords are
/// hashed.
///
/// # Errors
/// Says what is wrong with it.
pub fn judge(password: &str, names: &[&str], least: usize) -> Result<(), Refusal> {
    let password = normal(password);
    let given = password.chars().count();
    if !(least..=MAX_LENGTH).contains(&given) {
        return Err(Refusal::Length { least, given });
    }
    if password.chars().any(char::is_control) {
        return Err(Refusal::ControlCharacter);
    }
    let names = pieces(names);
    let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
    let estimate = zxcvbn(&password, &inputs);
    let of_names: usize = estimate
        .sequence()
        .iter()
        .filter(|found| matches!(&found.pattern, MatchPattern::Dictionary(word) if names.contains(&word.matched_word)))
        .map(|found| found.token.chars().count())
        .sum();
    let recognised = of_names > 0 && given - of_names.min(given) < LEAST_BESIDE_NAMES;
    if recognised || beside_names(&password, &names).is_some_and(|left| left < LEAST_BESIDE_NAMES) {
        return Err(Refusal::LikeName);
    }
    // Below a million guesses: its lists hold the 30,000 most common passwords, and it knows rows of keys and repeats.
    if estimate.score() < Score::Two {
        return Err(Refusal::Common);
    }
    Ok(())
}

/// How many characters are left when every piece of a name is taken out, wherever it stands; `None` where there is no piece.
/// What only separates counts once, however often it stands there.
fn beside_names(password: &str, names: &[String]) -> Option<usize> {
    let lower = password.to_lowercase();
    let mut rest: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
    let before = rest.len();
    let squeezed = |name: &String| name.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    let mut pieces: Vec<String> =
        names.iter().map(squeezed).filter(|name| name.chars().count() >= SHORTEST_NAME).collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
    for piece in &pieces {
        rest = rest.replace(piece.as_str(), "");
    }
    let mut others: Vec<char> = lower.chars().filter(|c| !c.is_alphanumeric()).collect();
    others.sort_unstable();
    others.dedup();
    (rest.len() < before).then(|| rest.chars().count() + others.len())
}

/// What a name or address is made of, in lower case.
fn pieces(names: &[&str]) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for name in names {
        let name: String = name.nfc().take(LONGEST_NAME).collect::<String>().to_lowercase();
        let local = name.split('@').next().unwrap_or_default().to_owned();
        let parts = name.split(|c: char| !c.is_alphanumeric()).map(str::to_owned);
        for piece in [name.clone(), local].into_iter().chain(parts) {
            if piece.chars().count() >= SHORTEST_NAME && !pieces.contains(&piece) && pieces.len() < MOST_NAMES {
                pieces.push(piece);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s72_common_and_name_like_passwords_are_refused_and_long_ones_of_any_kind_taken() {
        let names = ["ada.lovelace", "ada@example.com"];
        let judged = |password: &str, least| judge(password, &names, least);
        for good in [
            "correct horse battery staple",
            "кошка сидит на крыше дома",
            "猫が屋根の上で静かに眠っています",
            "ada likes to count her sheep at night",
            "xkT9-qqfe-Lw72-mmZa",
            "no digits and no capitals here",
            "ada!#$%&/()=?+*",
        ] {
            assert_eq!(judged(good, 15), Ok(()), "{good}");
        }
        for common in [
            "password",
            "Password1",
            "12345678",
            "qwertyuiop",
            "iloveyou1",
            "baseball",
            "superman1",
            "trustno1!",
            "1q2w3e4r5t",
            "passwordpassword",
            "aaaaaaaaaaaaaaa",
            "123456789012345",
            "qwertyuiopasdfgh",
            "abcdefghijklmnop",
            "drowssapdrowssap",
        ] {
            assert_eq!(judged(common, 8), Err(Refusal::Common), "{common}");
        }
        for named in [
            "ada.lovelace",
            "Ada.Lovelace1!",
            "lovelaceada1815",
            "ada@example.com",
            "4da.l0velace",
            "example.com.ada",
            "ada ada ada ada ada",
            "LOVELACE-LOVELACE-1",
            "a.d.a.lovelace.a.d.a",
        ] {
            assert_eq!(judged(named, 8), Err(Refusal::LikeName), "{named}");
        }
    }

    #[test]
    fn s72_length_is_counted_in_characters_with_no_rule_of_composition() {
        let judged = |password: &str, least| judge(password, &[], least);
        assert_eq!(judged("short", 15), Err(Refusal::Length { least: 15, given: 5 }));
        assert_eq!(judged("éclair au café!", 15), Ok(()));
        assert_eq!(judged("e\u{301}clair au cafe\u{301}!", 15), Ok(()));
        assert_eq!(judged(&"xy z".repeat(32), 15).is_ok(), judged(&"xy z".repeat(32), 128).is_ok());
        assert_eq!(judged(&"x".repeat(129), 15), Err(Refusal::Length { least: 15, given: 129 }));
        assert_eq!(judged("tab\tin the middle", 15), Err(Refusal::ControlCharacter));
        let complaint = judged("short", 15).unwrap_err().to_string();
        assert!(complaint.contains("at least 15") && !complaint.contains("short;"), "{complaint}");
    }

    #[test]
    fn s72_judging_is_bounded_whatever_is_typed() {
        let start = std::time::Instant::now();
        let names: Vec<String> = (0..20).map(|n| format!("{n}name{n}").repeat(20)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for evil in [
            "a".repeat(128),
            "4@(<!|107$5+%2".repeat(9),
            "1234567890".repeat(12),
            "ab1".repeat(42),
            "é".repeat(128),
            "passw0rd".repeat(16),
        ] {
            let _verdict = judge(&evil, &names, 8);
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(6), "{:?}", start.elapsed());
    }
}
