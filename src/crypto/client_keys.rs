//! Checking a signature with the public keys that a client registered.

use josekit::jwk::Jwk;
use serde_json::Value;

use crate::protocol::jose::{SigningAlgorithm, UnverifiedJws};

use super::jwt::verifier;

/// Whether one of the client's keys signed it, under an algorithm that we allow and the key fits. A `kid` narrows the
/// search to that client's own keys; `jwk`, `jku` and `x5u` of the header are never looked at (RFC 8725 section 3.10).
#[must_use]
pub fn signed_by(jwks: &Value, jws: &UnverifiedJws<'_>, registered: Option<SigningAlgorithm>) -> bool {
    let Some(algorithm) = jws.header_str("alg").and_then(SigningAlgorithm::parse) else { return false };
    if registered.is_some_and(|only| only != algorithm) {
        return false;
    }
    let key_id = jws.header_str("kid");
    let keys = jwks.get("keys").and_then(Value::as_array).into_iter().flatten();
    keys.filter(|key| key_id.is_none() || key.get("kid").is_none() || key.get("kid").and_then(Value::as_str) == key_id)
        .filter(|key| key.get("use").is_none_or(|purpose| purpose == "sig"))
        .filter(|key| key.get("alg").is_none_or(|own| own == algorithm.as_str()))
        .filter_map(|key| {
            let mut members = key.as_object()?.clone();
            // Only the key itself is of use here; josekit would refuse a `key_ops` or `kid` it does not expect.
            members.retain(|name, _| matches!(name.as_str(), "kty" | "crv" | "x" | "y" | "n" | "e"));
            verifier(algorithm, &Jwk::from_map(members).ok()?).ok()
        })
        .any(|verifier| verifier.verify(jws.signing_input, &jws.signature).is_ok())
}

/// Whether a set holds a key of this name; if not, it is time to fetch the set anew.
#[must_use]
pub fn has_key(jwks: &Value, key_id: Option<&str>) -> bool {
    let Some(key_id) = key_id else { return true };
    let keys = jwks.get("keys").and_then(Value::as_array);
    keys.into_iter().flatten().any(|key| key.get("kid").and_then(Value::as_str) == Some(key_id))
}
