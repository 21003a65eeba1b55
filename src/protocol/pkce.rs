//! Proof Key for Code Exchange, RFC 7636. S256 only: `plain` proves nothing to whoever reads the request
//! (RFC 9700 section 2.1.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::OAuthError;

/// The base64url of a SHA-256, RFC 7636 section 4.2: always 43 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CodeChallenge(String);

impl CodeChallenge {
    /// # Errors
    /// `invalid_request` for a method other than S256 (an absent one means `plain`, section 4.3) or a malformed challenge.
    pub fn parse(challenge: &str, method: Option<&str>) -> Result<Self, OAuthError> {
        if method != Some("S256") {
            return Err(OAuthError::invalid_request("`code_challenge_method` must be S256."));
        }
        match URL_SAFE_NO_PAD.decode(challenge) {
            Ok(digest) if digest.len() == 32 => Ok(Self(challenge.to_owned())),
            _ => {
                Err(OAuthError::invalid_request("`code_challenge` must be the base64url of a SHA-256, 43 characters."))
            }
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The grammar of RFC 7636 section 4.1.
    #[must_use]
    pub fn is_verifier(text: &str) -> bool {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        (43..=128).contains(&text.len()) && text.bytes().all(legal)
    }

    /// The challenge that a verifier proves, section 4.6; `None` for text outside the grammar.
    #[must_use]
    pub fn of_verifier(verifier: &str) -> Option<Self> {
        Self::is_verifier(verifier).then(|| Self(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))))
    }
}

impl TryFrom<String> for CodeChallenge {
    type Error = OAuthError;
    fn try_from(text: String) -> Result<Self, OAuthError> {
        Self::parse(&text, Some("S256"))
    }
}

impl From<CodeChallenge> for String {
    fn from(challenge: CodeChallenge) -> Self {
        challenge.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn the_example_of_the_rfc_holds() {
        assert_eq!(CodeChallenge::of_verifier(VERIFIER).unwrap().as_str(), CHALLENGE);
        assert_eq!(CodeChallenge::parse(CHALLENGE, Some("S256")).unwrap().as_str(), CHALLENGE);
    }

    #[test]
    fn s9_plain_pkce_is_refused() {
        for method in [None, Some("plain"), Some("s256"), Some("S512")] {
            assert!(CodeChallenge::parse(CHALLENGE, method).is_err(), "{method:?}");
        }
        for challenge in ["", "short", VERIFIER.repeat(2).as_str(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM"] {
            assert!(CodeChallenge::parse(challenge, Some("S256")).is_err(), "{challenge:?}");
        }
    }

    #[test]
    fn a_verifier_outside_the_grammar_proves_nothing() {
        for verifier in ["short", &"a".repeat(129), &format!("{}=", "a".repeat(43)), ""] {
            assert_eq!(CodeChallenge::of_verifier(verifier), None);
        }
    }
}
