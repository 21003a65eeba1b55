//! People, and the claims that they have.

use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::protocol::claims::is_standard_claim;
use crate::protocol::text::misleads;

use super::ids::UserId;
use super::zone::Zone;

#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    /// As it was given; found by [`normal_name`].
    pub username: String,
    pub email: Option<String>,
    pub email_verified: bool,
    pub is_admin: bool,
    /// The claims of OpenID Connect Core section 5.1 that are not columns of their own.
    pub claims: Map<String, Value>,
    pub disabled_at: Option<UnixTime>,
    pub created_at: UnixTime,
    pub updated_at: UnixTime,
    /// Whether something beside the password proves that it is them.
    pub has_second_factor: bool,
}

/// The form in which user names are unique and looked up: NFKC, lower case, no space around it. One account cannot be
/// guessed at through many spellings.
#[must_use]
pub fn normal_name(name: &str) -> String {
    use unicode_normalization::UnicodeNormalization as _;
    name.trim().nfkc().collect::<String>().to_lowercase()
}

/// The form in which addresses are looked up. Mail goes to an address as it was given, never to what was typed to find it.
#[must_use]
pub fn normal_email(email: &str) -> String {
    use unicode_normalization::UnicodeNormalization as _;
    let email = email.trim().nfc().collect::<String>().to_lowercase();
    match email.rsplit_once('@') {
        Some((local, domain)) => format!("{local}@{}", domain_on_the_wire(domain)),
        None => email,
    }
}

/// Whether nothing of a domain is lost on the way to its A-label and back: marks that do not show are.
fn is_spelt_as_looked_up(domain: &str) -> bool {
    domain.is_ascii() || idna::domain_to_unicode(&domain_on_the_wire(domain)).0 == domain.to_lowercase()
}

/// A domain as it is looked up (RFC 5891).
#[must_use]
pub fn domain_on_the_wire(domain: &str) -> String {
    url::Host::parse(domain).map_or_else(|_no_domain| domain.to_lowercase(), |domain| domain.to_string())
}

/// Why a person cannot have chosen this name for themselves; stricter than [`check_name`], so that a name neither looks
/// like another's address nor carries an address into a mail.
///
/// # Errors
/// Says what would be right.
pub fn check_chosen_name(name: &str) -> Result<(), &'static str> {
    let normal = normal_name(name);
    // Hangul's fillers count as letters and show as nothing: two names that look the same.
    let legal =
        |c: char| (c.is_alphanumeric() && !matches!(c, '\u{115f}' | '\u{1160}')) || matches!(c, '.' | '_' | '-');
    if !(2..=40).contains(&normal.chars().count()) || !normal.chars().all(legal) {
        return Err("A user name has 2 to 40 letters, digits, dots, hyphens or underscores, and no spaces.");
    }
    // A command would read it as an option.
    if !normal.starts_with(char::is_alphanumeric) {
        return Err("A user name begins with a letter or a digit.");
    }
    Ok(())
}

/// Why a name cannot be a user name.
///
/// # Errors
/// Says what would be right.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let normal = normal_name(name);
    if normal.is_empty() || normal.chars().count() > 100 {
        return Err("a user name must have 1 to 100 characters");
    }
    if normal.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("a user name must not have spaces or control characters");
    }
    Ok(())
}

/// Why this is no address: the dot-string of RFC 5321 section 4.1.2 and letters of any alphabet (RFC 6531 section 3.3), without
/// quotes, nothing that does not show. A domain is written as it is looked up: full-width letters, another full stop or a
/// soft hyphen would make one mailbox many addresses.
///
/// # Errors
/// Says what would be right.
pub fn check_email(email: &str) -> Result<(), &'static str> {
    use unicode_normalization::char::is_combining_mark;
    use unicode_normalization::is_nfkc;
    let letter = |c: char| c.is_alphanumeric() || is_combining_mark(c);
    let in_local = |c: char| letter(c) || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let in_domain = |c: char| letter(c) || matches!(c, '-' | '.');
    match email.rsplit_once('@') {
        Some((local, domain))
            if email.len() <= 254
                && !local.is_empty()
                && local.chars().all(in_local)
                && !domain.is_empty()
                && domain.chars().all(in_domain)
                && is_nfkc(domain)
                && is_spelt_as_looked_up(domain) =>
        {
            Ok(())
        }
        _ => Err("an e-mail address looks like name@example.com"),
    }
}

/// Claims as an operator sets them: the standard ones that are not kept elsewhere, each of its type. `null` takes one away.
///
/// # Errors
/// Names the claim that is unknown or not as OpenID Connect Core section 5.1 describes it, and says what would be right.
pub fn check_claims(claims: &Map<String, Value>) -> Result<(), String> {
    for (name, value) in claims.iter().filter(|(_, value)| !value.is_null()) {
        let text = |right: fn(&str) -> bool| value.as_str().is_some_and(|text| is_shown_text(text) && right(text));
        let (right, would_be) = match name.as_str() {
            "email" => return Err("`email` is set by `user create --email` and `user set-email`".to_owned()),
            "updated_at" => return Err("`updated_at` is kept by the server".to_owned()),
            "email_verified" | "phone_number_verified" => (value.is_boolean(), "true or false"),
            "address" => (
                is_address(value),
                "an object with some of formatted, street_address, locality, region, postal_code and country, each of them text",
            ),
            "profile" | "picture" | "website" => (text(is_web_address), "an http or https address"),
            "birthdate" => (text(is_birthdate), "a date as 1815-12-10, 0000-12-10 or 1815"),
            "zoneinfo" => (text(Zone::is_known), "a time zone as Europe/Berlin"),
            "locale" => (text(is_locale), "a language tag as en-GB"),
            known if is_standard_claim(known) => (text(|_| true), "text of 1 to 2048 bytes that shows"),
            _ => return Err(format!("`{name}` is not a claim of OpenID Connect Core section 5.1")),
        };
        if !right {
            return Err(format!("`{name}` must be {would_be}; see OpenID Connect Core section 5.1"));
        }
    }
    Ok(())
}

fn is_shown_text(text: &str) -> bool {
    text.len() <= 2048 && !text.trim().is_empty() && !misleads(text)
}

/// Core section 5.1.1; its lines may be broken.
fn is_address(value: &Value) -> bool {
    const MEMBERS: [&str; 6] = ["formatted", "street_address", "locality", "region", "postal_code", "country"];
    let is_line = |value: &Value| value.as_str().is_some_and(|text| is_shown_text(&text.replace(['\r', '\n'], " ")));
    value.as_object().is_some_and(|address| {
        !address.is_empty() && address.iter().all(|(name, value)| MEMBERS.contains(&name.as_str()) && is_line(value))
    })
}

/// Applications link to it: no address that runs or holds something by itself.
fn is_web_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"))
}

/// ISO 8601-1: a date, a date of no year (0000), or a year.
fn is_birthdate(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    match text.len() {
        4 => digits(text),
        // Of a year that has a 29th of February.
        10 => text.replacen("0000-", "2000-", 1).parse::<jiff::civil::Date>().is_ok(),
        _ => false,
    }
}

/// BCP 47, or with underscores, which Core takes too.
fn is_locale(text: &str) -> bool {
    let mut parts = text.split(['-', '_']);
    let language = parts.next().unwrap_or_default();
    (2..=8).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_alphabetic())
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl User {
    /// One claim of OpenID Connect Core section 5.1; `None` where the person has no such thing.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<Value> {
        match name {
            "preferred_username" => {
                Some(self.claims.get(name).cloned().unwrap_or_else(|| self.username.clone().into()))
            }
            "email" => self.email.clone().map(Value::from),
            "email_verified" => self.email.as_ref().map(|_| self.email_verified.into()),
            "updated_at" => Some(self.updated_at.seconds().into()),
            "phone_number_verified" if !self.claims.contains_key("phone_number") => None,
            other => self.claims.get(other).cloned(),
        }
    }

    /// What the pages call this person: their name, and the one that they type.
    #[must_use]
    pub fn label(&self) -> String {
        match self.claims.get("name").and_then(Value::as_str) {
            Some(name) if name != self.username => format!("{name} ({})", self.username),
            _ => self.username.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_one_account_in_any_letter_case() {
        assert_eq!(normal_name(" Ａlice "), "alice");
        assert!(check_name("alice").is_ok());
        for bad in ["", " ", "a b", "a\u{0}", &"x".repeat(101)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["ada+x@example.com", "o'neil@a-b.example", "用户@例え.jp", "jürgen@bücher.example", "a@localhost"]
        {
            assert!(check_email(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a",
            "@",
            "a@",
            "@b",
            "a b@c",
            "a@b@c",
            "<a>@b",
            "a,b@c",
            "\"a\"@b",
            "a@b,c",
            "a\r\nb@c",
            "a\u{202e}b@c",
        ] {
            assert!(check_email(bad).is_err(), "{bad:?}");
        }
        assert!(check_chosen_name("ada.lovelace_1815-x").is_ok() && check_chosen_name("Аda").is_ok());
        for bad in [
            "a",
            "--yes",
            "..",
            "bob@example.com",
            "http://x.example",
            "a b",
            "ada\u{3164}",
            "ada\u{115f}",
            &"x".repeat(41),
        ] {
            assert!(check_chosen_name(bad).is_err(), "{bad:?}");
        }
        for same in
            ["a@eｘample.org", "a@example。org", "a@example．org", "a@exa\u{ad}mple.org", "a@exam\u{200b}ple.org"]
        {
            assert!(check_email(same).is_err(), "another spelling of one mailbox: {same}");
        }
        for marked in ["a@exam\u{34f}ple.org", "a@exam\u{fe00}ple.org", "a@exam\u{180b}ple.org"] {
            assert!(check_email(marked).is_err(), "{marked:?}");
        }
        assert_eq!(normal_email(" Ada@Example.COM "), "ada@example.com");
        assert_eq!(normal_email("Ada@B\u{dc}CHER.example"), normal_email("ada@xn--bcher-kva.example"));
    }

    #[test]
    fn claims_have_the_types_of_the_specification() {
        let check = |claims: Value| check_claims(claims.as_object().unwrap());
        for good in [
            json!({"name": "A", "address": {"formatted": "1 Street\nTown", "country": "NL"}, "phone_number_verified": true}),
            json!({"picture": "https://a.example/ada.png", "website": "http://a.example", "nickname": null}),
            json!({"birthdate": "1815-12-10", "zoneinfo": "Europe/London", "locale": "en-GB"}),
            json!({"birthdate": "0000-02-29", "locale": "zh_Hant_TW"}),
            json!({"birthdate": "1815"}),
        ] {
            assert_eq!(check(good.clone()), Ok(()), "{good}");
        }
        for bad in [
            json!({"name": 1}),
            json!({"address": "x"}),
            json!({"role": "admin"}),
            json!({"sub": "x"}),
            json!({"email": "x"}),
            json!({"name": ""}),
            json!({"name": "A\u{1b}[2J"}),
            json!({"picture": "javascript:alert(1)"}),
            json!({"website": "data:text/html,x"}),
            json!({"profile": "/ada"}),
            json!({"birthdate": "yesterday"}),
            json!({"birthdate": "1815-02-29"}),
            json!({"birthdate": "12-10-1815"}),
            json!({"zoneinfo": "Mars/Olympus"}),
            json!({"locale": "en GB"}),
            json!({"locale": "e"}),
            json!({"address": {}}),
            json!({"address": {"country": ""}}),
            json!({"address": {"planet": "Earth"}}),
        ] {
            assert!(check(bad.clone()).is_err(), "{bad}");
        }
    }
}
