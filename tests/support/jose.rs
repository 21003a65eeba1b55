//! Tokens as their receivers see them: taken apart, verified, and made (client assertions).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
use josekit::jws::{ES256, EdDSA, JwsHeader, JwsVerifier, PS256, RS256};
use josekit::jwt::{self, JwtPayload};
use serde_json::{Value, json};

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap_or_else(|| panic!("no JWT: {token}"));
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The header of a JWT, unverified.
pub fn header(token: &str) -> Value {
    part(token, 0)
}

/// The claims of a JWT, unverified.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// Verifies the signature of a JWT by the key of the set that its header names, and gives its claims.
#[track_caller]
pub fn verify(token: &str, jwks: &Value) -> Value {
    let header = header(token);
    let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    let key = Jwk::from_map(key.as_object().unwrap().clone()).unwrap();
    let verifier: Box<dyn JwsVerifier> = match header["alg"].as_str().unwrap() {
        "ES256" => Box::new(ES256.verifier_from_jwk(&key).unwrap()),
        "RS256" => Box::new(RS256.verifier_from_jwk(&key).unwrap()),
        "PS256" => Box::new(PS256.verifier_from_jwk(&key).unwrap()),
        "EdDSA" => Box::new(EdDSA.verifier_from_jwk(&key).unwrap()),
        other => panic!("signed by {other}"),
    };
    jwt::decode_with_verifier(token, &*verifier).unwrap();
    claims(token)
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The key of a client that authenticates by `private_key_jwt`.
pub struct ClientKey(Jwk);

impl ClientKey {
    pub fn generate() -> Self {
        Self::named("client-key")
    }

    pub fn named(key_id: &str) -> Self {
        let mut key = Jwk::generate_ec_key(EcCurve::P256).unwrap();
        key.set_key_id(key_id);
        key.set_algorithm("ES256");
        key.set_key_use("sig");
        Self(key)
    }

    pub fn jwks(&self) -> Value {
        let mut public = self.0.as_ref().clone();
        public.remove("d");
        json!({"keys": [public]})
    }

    /// The claims of a good assertion.
    pub fn assertion_claims(issuer: &str, client_id: &str) -> Value {
        json!({
            "iss": client_id, "sub": client_id, "aud": issuer, "jti": super::word() + &super::word(),
            "iat": now(), "exp": now() + 60,
        })
    }

    pub fn sign(&self, typ: &str, claims: &Value) -> String {
        self.sign_as(self.0.key_id().unwrap(), typ, claims)
    }

    /// The same under a `kid` of the test's choice.
    pub fn sign_as(&self, key_id: &str, typ: &str, claims: &Value) -> String {
        let mut header = JwsHeader::new();
        header.set_token_type(typ);
        header.set_key_id(key_id);
        let payload = JwtPayload::from_map(claims.as_object().unwrap().clone()).unwrap();
        let mut signer = ES256.signer_from_jwk(&self.0).unwrap();
        // It would put its own in the header's place.
        signer.remove_key_id();
        jwt::encode_with_signer(&payload, &header, &signer).unwrap()
    }
}

/// The token with `change` made to its claims, under the old signature.
pub fn tampered(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = claims(token);
    change(&mut claims);
    let parts: Vec<&str> = token.split('.').collect();
    format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2])
}

/// The token's claims with `alg: none` and no signature.
pub fn unsigned(token: &str) -> String {
    let mut header = header(token);
    header["alg"] = json!("none");
    let payload = token.split('.').nth(1).unwrap();
    format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.to_string()))
}
