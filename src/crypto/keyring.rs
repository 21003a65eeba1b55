//! The signing keys in memory: signers and verifiers built once per key, the JWKS ready as bytes. The database holds the
//! truth; a keyring is one reading of it.

use std::time::Duration;

use bytes::Bytes;
use josekit::jwk::KeyPair as _;
use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
use josekit::jwk::alg::ed::{EdCurve, EdKeyPair};
use josekit::jwk::alg::rsa::RsaKeyPair;
use josekit::jws::{JwsSigner, JwsVerifier};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::clock::UnixTime;
use crate::domain::key::SigningKey;
use crate::protocol::jose::{SigningAlgorithm, UnverifiedJws};

use super::CryptoError;
use super::jwt::{TokenType, encoded_header, failed, opened, sign};
use super::seal::SealingKey;

struct LoadedKey {
    record: SigningKey,
    signer: Box<dyn JwsSigner>,
    verifier: Box<dyn JwsVerifier>,
    access_token_header: String,
    jwt_header: String,
    logout_header: String,
}

/// Every key that signs, will sign or has signed something that still lives.
pub struct Keyring {
    /// The newest first.
    keys: Vec<LoadedKey>,
    /// The JWK Set, RFC 7517 section 5: public halves only.
    pub jwks: Bytes,
    /// When the first of the published keys expires.
    next_expiry: Option<UnixTime>,
}

fn label(key_id: &str) -> String {
    format!("signing key {key_id}")
}

/// Makes a key, private half sealed. Its `kid` is its thumbprint (RFC 7638), so that it says what the key is and nothing else.
///
/// # Errors
/// When key generation or sealing fails.
pub fn generate(
    algorithm: SigningAlgorithm,
    sealing: &SealingKey,
    created_at: UnixTime,
    active_at: UnixTime,
) -> Result<SigningKey, CryptoError> {
    let (private, public) = match algorithm {
        SigningAlgorithm::Es256 => {
            EcKeyPair::generate(EcCurve::P256).map(|pair| (pair.to_der_private_key(), pair.to_jwk_public_key()))
        }
        SigningAlgorithm::EdDsa => {
            EdKeyPair::generate(EdCurve::Ed25519).map(|pair| (pair.to_der_private_key(), pair.to_jwk_public_key()))
        }
        // RFC 7518 section 3.3: 2048 bits or more.
        SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => {
            RsaKeyPair::generate(2048).map(|pair| (pair.to_der_private_key(), pair.to_jwk_public_key()))
        }
    }
    .map_err(failed("generation", algorithm))?;
    let private = Zeroizing::new(private);
    let member = |name: &str| public.parameter(name).cloned().unwrap_or_default();
    let mut required = match algorithm {
        SigningAlgorithm::Es256 => json!({"crv": member("crv"), "kty": "EC", "x": member("x"), "y": member("y")}),
        SigningAlgorithm::EdDsa => json!({"crv": member("crv"), "kty": "OKP", "x": member("x")}),
        SigningAlgorithm::Rs256 | SigningAlgorithm::Ps256 => json!({"e": member("e"), "kty": "RSA", "n": member("n")}),
    };
    // RFC 7638 section 3: the required members in lexicographic order, no white space: the order in which they are written above.
    let thumbprint = super::opaque::Digest::of(required.to_string().as_bytes());
    let key_id = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, thumbprint.as_bytes());
    if let Some(members) = required.as_object_mut() {
        members.insert("kid".to_owned(), key_id.clone().into());
        members.insert("use".to_owned(), "sig".into());
        members.insert("alg".to_owned(), algorithm.as_str().into());
    }
    Ok(SigningKey {
        sealed_private: sealing.seal(&label(&key_id), &private)?,
        key_id,
        algorithm,
        public_jwk: required,
        created_at,
        active_at,
        expires_at: None,
    })
}

impl Keyring {
    /// Opens the keys that were read from the database. Retired ones are kept for `hints_live` more, for reading the ID
    /// tokens that clients hand back as hints, and for nothing else.
    ///
    /// # Errors
    /// When a key does not open with this key-encryption key.
    pub fn load(
        records: Vec<SigningKey>,
        sealing: &SealingKey,
        hints_live: Duration,
        now: UnixTime,
    ) -> Result<Self, CryptoError> {
        let mut keys = Vec::new();
        for record in records.into_iter().filter(|record| !record.is_expired(now.minus(hints_live))) {
            let private = sealing.open(&label(&record.key_id), &record.sealed_private)?;
            let (signer, verifier) = opened(record.algorithm, &private)?;
            keys.push(LoadedKey {
                signer,
                verifier,
                access_token_header: encoded_header(record.algorithm, TokenType::AccessToken, &record.key_id),
                jwt_header: encoded_header(record.algorithm, TokenType::Jwt, &record.key_id),
                logout_header: encoded_header(record.algorithm, TokenType::Logout, &record.key_id),
                record,
            });
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.record.active_at));
        let published = || keys.iter().map(|key| &key.record).filter(|key| !key.is_expired(now));
        let public: Vec<&Value> = published().map(|key| &key.public_jwk).collect();
        let jwks = Bytes::from(serde_json::to_vec(&json!({ "keys": public }))?);
        let next_expiry = published().filter_map(|key| key.expires_at).min();
        Ok(Self { keys, jwks, next_expiry })
    }

    /// Whether a key is published still that has expired since.
    #[must_use]
    pub fn is_outdated(&self, now: UnixTime) -> bool {
        self.next_expiry.is_some_and(|at| at <= now)
    }

    /// Whether there is a key of every algorithm that may still sign.
    #[must_use]
    pub fn is_complete(&self, now: UnixTime) -> bool {
        let live = |algorithm| self.keys.iter().any(|k| k.record.algorithm == algorithm && !k.record.is_expired(now));
        SigningAlgorithm::ALL.into_iter().all(live)
    }

    /// Signs with the newest key of the algorithm that may sign already; or, where none may because a clock was ahead when
    /// they were made, with the earliest.
    ///
    /// # Errors
    /// When there is no such key, or signing fails.
    pub fn sign(
        &self,
        algorithm: SigningAlgorithm,
        token_type: TokenType,
        claims: &impl Serialize,
        now: UnixTime,
    ) -> Result<String, CryptoError> {
        let usable = |key: &&LoadedKey| key.record.algorithm == algorithm && key.record.signs_at(now);
        let early = |key: &&LoadedKey| key.record.algorithm == algorithm && !key.record.is_expired(now);
        let key = self.keys.iter().find(usable).or_else(|| self.keys.iter().rev().find(early));
        let key = key.ok_or(CryptoError::NoKey(algorithm.as_str()))?;
        let header = match token_type {
            TokenType::AccessToken => &key.access_token_header,
            TokenType::Jwt => &key.jwt_header,
            TokenType::Logout => &key.logout_header,
        };
        sign(algorithm, &*key.signer, header, claims)
    }

    /// The payload of a token that one of our keys signed. The key is found by `kid` among our own and the algorithm is
    /// the key's, never the header's (RFC 8725 section 3.1); `typ` must be the expected one (section 3.11). Says nothing
    /// about time, audience or revocation.
    #[must_use]
    pub fn verify(&self, token: &str, token_type: TokenType, now: UnixTime) -> Option<Map<String, Value>> {
        self.signed(token, token_type, |key| !key.is_expired(now))
    }

    /// The payload of an ID token of ours that a client hands back as a hint: also an expired one, also of a retired key
    /// (OpenID Connect RP-Initiated Logout section 2). Proves who was signed in once, and opens nothing.
    #[must_use]
    pub fn verify_hint(&self, token: &str, issuer: &str) -> Option<Map<String, Value>> {
        let payload = self.signed(token, TokenType::Jwt, |_| true)?;
        // Only ID tokens have a session; a signed UserInfo answer is of the same type and does not.
        let is_id_token = ["sid", "exp", "sub", "aud"].iter().all(|claim| payload.contains_key(*claim));
        (is_id_token && payload.get("iss").and_then(Value::as_str) == Some(issuer)).then_some(payload)
    }

    fn signed(
        &self,
        token: &str,
        token_type: TokenType,
        usable: impl Fn(&SigningKey) -> bool,
    ) -> Option<Map<String, Value>> {
        let jws = UnverifiedJws::parse(token)?;
        if !jws.header_str("typ")?.eq_ignore_ascii_case(token_type.as_str()) {
            return None;
        }
        let key_id = jws.header_str("kid")?;
        let key = self.keys.iter().find(|key| key.record.key_id == key_id && usable(&key.record))?;
        if jws.header_str("alg")? != key.record.algorithm.as_str() {
            return None;
        }
        key.verifier.verify(jws.signing_input, &jws.signature).ok()?;
        Some(jws.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeySource;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    const NOW: UnixTime = UnixTime::from_seconds(1_000_000);

    fn sealing() -> SealingKey {
        SealingKey::load(&KeySource::Inline("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into())).unwrap()
    }

    fn ring(keys: Vec<SigningKey>) -> Keyring {
        Keyring::load(keys, &sealing(), Duration::from_hours(1), NOW).unwrap()
    }

    #[test]
    fn every_algorithm_signs_and_verifies_and_publishes_no_private_part() {
        let keys = SigningAlgorithm::ALL.map(|algorithm| generate(algorithm, &sealing(), NOW, NOW).unwrap());
        let ring = ring(keys.to_vec());
        for algorithm in SigningAlgorithm::ALL {
            let token = ring.sign(algorithm, TokenType::AccessToken, &json!({"sub": "x"}), NOW).unwrap();
            assert_eq!(ring.verify(&token, TokenType::AccessToken, NOW).unwrap()["sub"], "x");
            assert!(ring.verify(&token, TokenType::Jwt, NOW).is_none(), "s9 of one kind for another");
            let (rest, signature) = token.rsplit_once('.').unwrap();
            let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            signature[3] ^= 1;
            let forged = format!("{rest}.{}", URL_SAFE_NO_PAD.encode(signature));
            assert!(ring.verify(&forged, TokenType::AccessToken, NOW).is_none());
        }
        let jwks: Value = serde_json::from_slice(&ring.jwks).unwrap();
        for key in jwks["keys"].as_array().unwrap() {
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(key.get(private).is_none(), "s93 {private}");
            }
        }
    }

    #[test]
    fn s84_the_algorithm_comes_from_the_key_and_never_from_the_header() {
        let es = generate(SigningAlgorithm::Es256, &sealing(), NOW, NOW).unwrap();
        let kid = es.key_id.clone();
        let ring = ring(vec![es]);
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"x"}"#);
        for alg in ["none", "HS256", "RS256", "es256"] {
            let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "at+jwt", "kid": kid}).to_string());
            for signature in ["", "AAAA"] {
                assert!(ring.verify(&format!("{header}.{claims}.{signature}"), TokenType::AccessToken, NOW).is_none());
            }
        }
    }

    #[test]
    fn s90_a_new_key_is_published_before_it_signs_and_the_old_one_stays_until_it_expires() {
        let old = generate(SigningAlgorithm::Es256, &sealing(), NOW, NOW).unwrap();
        let later = NOW.plus(Duration::from_hours(1));
        let new = generate(SigningAlgorithm::Es256, &sealing(), NOW, later).unwrap();
        let retired = SigningKey { expires_at: Some(later.plus(Duration::from_mins(1))), ..old.clone() };
        let ring = ring(vec![retired.clone(), new.clone()]);
        let jwks: Value = serde_json::from_slice(&ring.jwks).unwrap();
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
        let kid_at = |now| {
            let token = ring.sign(SigningAlgorithm::Es256, TokenType::Jwt, &json!({}), now).unwrap();
            UnverifiedJws::parse(&token).unwrap().header_str("kid").unwrap().to_owned()
        };
        assert_eq!(kid_at(NOW), old.key_id);
        assert_eq!(kid_at(later), new.key_id);
        let token = ring.sign(SigningAlgorithm::Es256, TokenType::Jwt, &json!({}), NOW).unwrap();
        assert!(ring.verify(&token, TokenType::Jwt, later).is_some());
        assert!(ring.verify(&token, TokenType::Jwt, later.plus(Duration::from_secs(61))).is_none(), "s89");
        let hint = json!({"iss": "i", "sub": "x", "aud": "c", "exp": 1, "sid": "s"});
        let hint = ring.sign(SigningAlgorithm::Es256, TokenType::Jwt, &hint, NOW).unwrap();
        let reread =
            Keyring::load(vec![retired], &sealing(), Duration::from_hours(1), later.plus(Duration::from_mins(2)))
                .unwrap();
        assert_eq!(reread.jwks, r#"{"keys":[]}"#);
        assert!(!ring.is_outdated(later) && ring.is_outdated(later.plus(Duration::from_mins(1))));
        assert!(!reread.is_outdated(later.plus(Duration::from_hours(9))));
        assert!(reread.verify_hint(&hint, "i").is_some() && reread.verify_hint(&hint, "other").is_none());
        assert!(reread.verify_hint(&token, "i").is_none(), "not an ID token");
    }

    #[test]
    fn a_key_that_was_stored_as_a_jwk_signs_on() {
        let sealing = sealing();
        let mut record = generate(SigningAlgorithm::Es256, &sealing, NOW, NOW).unwrap();
        let der = sealing.open(&label(&record.key_id), &record.sealed_private).unwrap();
        let jwk = EcKeyPair::from_der(der.as_slice(), Some(EcCurve::P256)).unwrap().to_jwk_key_pair();
        record.sealed_private = sealing.seal(&label(&record.key_id), jwk.to_string().as_bytes()).unwrap();
        let claims = json!({"sub": "ada"});
        assert!(ring(vec![record]).sign(SigningAlgorithm::Es256, TokenType::Jwt, &claims, NOW).is_ok());
    }
}
