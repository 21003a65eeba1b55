//! Compact JWS, RFC 7515 section 7.1: josekit signs and verifies, this puts the parts together once and without a
//! second JSON.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use josekit::jwk::{Jwk, KeyPair as _};
use josekit::jws::{ES256, EdDSA, JwsSigner, JwsVerifier, PS256, RS256};
use serde::Serialize;

use crate::protocol::jose::SigningAlgorithm;

use super::CryptoError;

/// What a token is; a token of one kind is never accepted as another (RFC 8725 section 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// RFC 9068 section 2.1.
    AccessToken,
    /// ID tokens and signed `UserInfo` answers.
    Jwt,
    /// OpenID Connect Back-Channel Logout 1.0 section 2.4.
    Logout,
}

impl TokenType {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "at+jwt",
            Self::Jwt => "JWT",
            Self::Logout => "logout+jwt",
        }
    }
}

pub(super) fn failed(
    operation: &'static str,
    algorithm: SigningAlgorithm,
) -> impl FnOnce(josekit::JoseError) -> CryptoError {
    move |source| CryptoError::Key { operation, algorithm: algorithm.as_str(), source }
}

/// What signs with a private key (PKCS #8; a JWK in databases that are older than that) and what verifies its signatures.
pub(super) fn opened(algorithm: SigningAlgorithm, private: &[u8]) -> Result<Opened, CryptoError> {
    macro_rules! both {
        ($jws:ident) => {
            if private.starts_with(b"{") {
                Jwk::from_bytes(private).and_then(|jwk| {
                    let verifier = $jws.verifier_from_jwk(&jwk)?;
                    Ok((Box::new($jws.signer_from_jwk(&jwk)?) as _, Box::new(verifier) as _))
                })
            } else {
                $jws.key_pair_from_der(private).and_then(|pair| {
                    let verifier = $jws.verifier_from_der(pair.to_der_public_key())?;
                    Ok((Box::new($jws.signer_from_der(private)?) as _, Box::new(verifier) as _))
                })
            }
        };
    }
    let opened: Result<Opened, _> = match algorithm {
        SigningAlgorithm::Es256 => both!(ES256),
        SigningAlgorithm::Rs256 => both!(RS256),
        SigningAlgorithm::Ps256 => both!(PS256),
        SigningAlgorithm::EdDsa => both!(EdDSA),
    };
    opened.map_err(failed("reading", algorithm))
}

pub(super) type Opened = (Box<dyn JwsSigner>, Box<dyn JwsVerifier>);

pub(super) fn verifier(algorithm: SigningAlgorithm, jwk: &Jwk) -> Result<Box<dyn JwsVerifier>, CryptoError> {
    let verifier: Result<Box<dyn JwsVerifier>, _> = match algorithm {
        SigningAlgorithm::Es256 => ES256.verifier_from_jwk(jwk).map(|v| Box::new(v) as _),
        SigningAlgorithm::Rs256 => RS256.verifier_from_jwk(jwk).map(|v| Box::new(v) as _),
        SigningAlgorithm::Ps256 => PS256.verifier_from_jwk(jwk).map(|v| Box::new(v) as _),
        SigningAlgorithm::EdDsa => EdDSA.verifier_from_jwk(jwk).map(|v| Box::new(v) as _),
    };
    verifier.map_err(failed("set-up of a verifier", algorithm))
}

/// Base64url of the protected header of one key and one kind of token: the same for every token, so made once per key.
pub(super) fn encoded_header(algorithm: SigningAlgorithm, token_type: TokenType, key_id: &str) -> String {
    let header = serde_json::json!({"alg": algorithm.as_str(), "typ": token_type.as_str(), "kid": key_id});
    URL_SAFE_NO_PAD.encode(header.to_string())
}

pub(super) fn sign(
    algorithm: SigningAlgorithm,
    signer: &dyn JwsSigner,
    header: &str,
    claims: &impl Serialize,
) -> Result<String, CryptoError> {
    let claims = serde_json::to_vec(claims)?;
    let mut token = String::with_capacity(header.len() + claims.len() * 4 / 3 + 360);
    token.push_str(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = signer.sign(token.as_bytes()).map_err(failed("signature", algorithm))?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// `at_hash`, OpenID Connect Core section 3.1.3.6: the left half of the hash that the ID token's algorithm uses.
/// All of ours use SHA-256, Ed25519 (SHA-512) excepted.
#[must_use]
pub fn at_hash(algorithm: SigningAlgorithm, access_token: &str) -> String {
    use sha2::{Digest as _, Sha256, Sha512};
    if algorithm == SigningAlgorithm::EdDsa {
        URL_SAFE_NO_PAD.encode(Sha512::digest(access_token).split_at(32).0)
    } else {
        URL_SAFE_NO_PAD.encode(Sha256::digest(access_token).split_at(16).0)
    }
}
