//! `scope`, RFC 6749 section 3.3.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::OAuthError;

/// RFC 6749 sets no bound; an identity provider that evaluates each token of a stranger's list needs one.
const MAX_TOKENS: usize = 100;
const MAX_LENGTH: usize = 4096;

pub const OPENID: &str = "openid";
pub const OFFLINE_ACCESS: &str = "offline_access";
/// OpenID Connect Core sections 5.4 and 11.
pub const OIDC_SCOPES: [&str; 6] = [OPENID, "profile", "email", "address", "phone", OFFLINE_ACCESS];

/// A set of scope tokens, kept as the wire has it: sorted, each once, separated by one space. May be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(String);

impl Scope {
    /// # Errors
    /// `invalid_scope` for a character outside `%x21 / %x23-5B / %x5D-7E` or a list beyond our bounds.
    pub fn parse(text: &str) -> Result<Self, OAuthError> {
        if text.len() > MAX_LENGTH {
            return Err(OAuthError::invalid_scope("The scope is longer than 4096 bytes."));
        }
        let legal = |b: u8| matches!(b, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if !text.bytes().all(legal) {
            return Err(OAuthError::invalid_scope("The scope has a character that scopes cannot have."));
        }
        if text.split(' ').count() > MAX_TOKENS {
            return Err(OAuthError::invalid_scope("The scope has more than 100 entries."));
        }
        Ok(Self::collect(text.split(' ')))
    }

    /// The set of these tokens, which must come from a parsed scope.
    fn collect<'a>(tokens: impl Iterator<Item = &'a str>) -> Self {
        let mut tokens: Vec<&str> = tokens.filter(|token| !token.is_empty()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        Self(tokens.join(" "))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|token| !token.is_empty())
    }

    #[must_use]
    pub fn contains(&self, token: &str) -> bool {
        self.iter().any(|own| own == token)
    }

    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.iter().all(|token| other.contains(token))
    }

    #[must_use]
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.iter().filter(|token| keep(token)).collect::<Vec<_>>().join(" "))
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::collect(self.iter().chain(other.iter()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Scope {
    type Error = OAuthError;
    fn try_from(text: String) -> Result<Self, OAuthError> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_scope_is_a_sorted_set() {
        let scope = Scope::parse("profile openid  openid").unwrap();
        assert_eq!(scope.as_str(), "openid profile");
        assert!(scope.contains("openid") && !scope.contains("open"));
        assert!(Scope::parse("openid").unwrap().is_subset_of(&scope));
        assert!(!scope.is_subset_of(&Scope::parse("openid").unwrap()));
    }

    #[test]
    fn s47_scopes_beyond_the_bounds_are_refused() {
        assert!(Scope::parse(&"a ".repeat(101)).is_err());
        assert!(Scope::parse(&"a".repeat(4097)).is_err());
        for bad in ["a\"b", "a\\b", "a\tb", "ä", "a\nb"] {
            assert!(Scope::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_what_was_printed_changes_nothing(text in "[!#-\\[\\]-~ ]{0,80}") {
            if let Ok(scope) = Scope::parse(&text) {
                prop_assert_eq!(Scope::parse(scope.as_str()).unwrap(), scope.clone());
                for token in scope.iter() { prop_assert!(text.split(' ').any(|t| t == token)); }
            }
        }
        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,200}") { let _ = Scope::parse(&text); }
    }
}
