//! Proof Key for Code Exchange, RFC 7636. S256 only: `plain` proves nothing to whoever reads the request
//! (RFC 9700 section 2.1.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::OAuthError;

/// What RFC 7636 section 4.2 allows: 43 to 128 unreserved characters. What is no base64url of a SHA-256 is taken, and proven by
/// no verifier.
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
        if !is_unreserved(challenge) {
            return Err(OAuthError::invalid_request("`code_challenge` must have 43 to 128 unreserved characters."));
        }
        Ok(Self(challenge.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The challenge that a verifier proves, section 4.6; `None` for text outside the grammar.
    #[must_use]
    pub fn of_verifier(verifier: &str) -> Option<Self> {
        is_unreserved(verifier).then(|| Self(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))))
    }
}

/// The grammar of verifier and challenge alike, RFC 7636 sections 4.1 and 4.2.
fn is_unreserved(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    (43..=128).contains(&text.len()) && text.bytes().all(legal)
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
        let long = "a".repeat(129);
        for challenge in ["", "short", long.as_str(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM"] {
            assert!(CodeChallenge::parse(challenge, Some("S256")).is_err(), "{challenge:?}");
        }
    }

    #[test]
    fn a_challenge_is_of_the_grammar_of_the_rfc() {
        // No base64url of a SHA-256 among them; what proves them is for the token endpoint to say.
        for challenge in ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cN", &"a".repeat(128), &"-._~".repeat(11)] {
            assert!(CodeChallenge::parse(challenge, Some("S256")).is_ok(), "{challenge:?}");
        }
    }

    #[test]
    fn a_verifier_outside_the_grammar_proves_nothing() {
        for verifier in ["short", &"a".repeat(129), &format!("{}=", "a".repeat(43)), ""] {
            assert_eq!(CodeChallenge::of_verifier(verifier), None);
        }
    }
}
