//! Checking a signature with the public keys that a client registered.

use josekit::jwk::Jwk;
use josekit::jws::JwsVerifier;
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
    keys(jwks)
        .filter(|key| key_id.is_none() || key.get("kid").is_none() || key.get("kid").and_then(Value::as_str) == key_id)
        .filter_map(|key| verifier_of(key, algorithm))
        .any(|verifier| verifier.verify(jws.signing_input, &jws.signature).is_ok())
}

/// Whether some key of a set can ever verify a signature of this client. What does not read is no obstacle to the others
/// (RFC 7517 section 5).
#[must_use]
pub fn is_usable(jwks: &Value, registered: Option<SigningAlgorithm>) -> bool {
    let mut allowed = SigningAlgorithm::ALL.into_iter().filter(|one| registered.is_none_or(|only| only == *one));
    allowed.any(|algorithm| keys(jwks).any(|key| verifier_of(key, algorithm).is_some()))
}

fn keys(jwks: &Value) -> impl Iterator<Item = &Value> {
    jwks.get("keys").and_then(Value::as_array).into_iter().flatten()
}

/// What checks signatures of this algorithm, where the key is meant for that (RFC 7517 sections 4.2 to 4.4) and fits.
fn verifier_of(key: &Value, algorithm: SigningAlgorithm) -> Option<Box<dyn JwsVerifier>> {
    let meant = key.get("use").is_none_or(|purpose| purpose == "sig")
        && key.get("alg").is_none_or(|own| own == algorithm.as_str())
        && key.get("key_ops").is_none_or(|all| all.as_array().is_some_and(|all| all.iter().any(|one| one == "verify")));
    let mut members = key.as_object().filter(|_| meant)?.clone();
    // Only the key itself is of use here; josekit would refuse a `key_ops` or `kid` it does not expect.
    members.retain(|name, _| matches!(name.as_str(), "kty" | "crv" | "x" | "y" | "n" | "e"));
    verifier(algorithm, &Jwk::from_map(members).ok()?).ok()
}

/// Whether a set holds a key of this name; if not, it is time to fetch the set anew.
#[must_use]
pub fn has_key(jwks: &Value, key_id: Option<&str>) -> bool {
    key_id.is_none_or(|key_id| keys(jwks).any(|key| key.get("kid").and_then(Value::as_str) == Some(key_id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use josekit::jwk::alg::ec::EcCurve;
    use serde_json::json;

    #[test]
    fn a_set_is_usable_where_one_key_can_verify_what_its_client_signs() {
        let generated = |curve: EcCurve| {
            let mut public = Jwk::generate_ec_key(curve).unwrap().to_public_key().unwrap().as_ref().clone();
            public.remove("key_ops");
            Value::Object(public)
        };
        let good = generated(EcCurve::P256);
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let usable = |keys: Value| is_usable(&json!({"keys": keys}), None);
        let encrypts = with("use", json!("enc"));
        assert!(usable(json!([good])) && usable(json!([with("key_ops", json!(["verify"]))])));
        assert!(usable(json!([encrypts, {"kty": "unheard of"}, good])), "what does not read is no obstacle");
        for useless in [
            encrypts.clone(),
            with("alg", json!("ES384")),
            with("key_ops", json!(["sign"])),
            with("key_ops", json!("verify")),
            with("x", good["y"].clone()),
            generated(EcCurve::P384),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!("key"),
        ] {
            assert!(!usable(json!([useless])), "{useless}");
        }
        assert!(!is_usable(&json!({"keys": [good]}), Some(SigningAlgorithm::Rs256)));
        assert!(!is_usable(&json!({}), None));
    }
}
