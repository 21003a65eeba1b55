//! The signature algorithms on offer, RFC 7518 section 3.1 and RFC 8037, and reading a compact JWS before it is trusted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longer tokens are refused before anything in them is decoded (RFC 8725 section 3.6).
pub const MAX_TOKEN_LENGTH: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    pub const ALL: [Self; 4] = [Self::Es256, Self::Rs256, Self::Ps256, Self::EdDsa];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::EdDsa => "EdDSA",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

/// A compact JWS taken apart. Nothing in it is true until its signature has been checked with a key and an algorithm
/// from our own record (RFC 8725 section 3.1).
#[derive(Debug)]
pub struct UnverifiedJws<'a> {
    pub header: Map<String, Value>,
    pub payload: Map<String, Value>,
    pub signing_input: &'a [u8],
    pub signature: Vec<u8>,
}

impl<'a> UnverifiedJws<'a> {
    /// `None` for anything that is not a compact JWS of bounded size whose header and payload are JSON objects, and for a
    /// header with `crit`, `b64` or `zip`, none of which we understand (RFC 7515 section 4.1.11). A registered name of another
    /// type than its own is no absent one.
    #[must_use]
    pub fn parse(token: &'a str) -> Option<Self> {
        if token.len() > MAX_TOKEN_LENGTH {
            return None;
        }
        let (signing_input, signature) = token.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let object =
            |part: &str| serde_json::from_slice::<Map<String, Value>>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header = object(header)?;
        if ["crit", "b64", "zip"].iter().any(|name| header.contains_key(*name)) {
            return None;
        }
        let payload = object(payload)?;
        if !is_well_typed(&header, &payload) {
            return None;
        }
        Some(Self {
            header,
            payload,
            signing_input: signing_input.as_bytes(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    #[must_use]
    pub fn header_str(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    #[must_use]
    pub fn claim_str(&self, name: &str) -> Option<&str> {
        self.payload.get(name)?.as_str()
    }

    /// A `NumericDate` in whole seconds.
    #[must_use]
    pub fn claim_seconds(&self, name: &str) -> Option<i64> {
        let value = self.payload.get(name)?;
        #[expect(clippy::cast_possible_truncation, reason = "float to int saturates")]
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
    }

    /// Whether `aud` is, or holds, this value (RFC 7519 section 4.1.3).
    #[must_use]
    pub fn has_audience(&self, audience: &str) -> bool {
        match self.payload.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(many)) => many.iter().any(|one| one == audience),
            _ => false,
        }
    }
}

/// RFC 7515 sections 4.1.1, 4.1.4, 4.1.9 and 4.1.10; RFC 7519 section 4.1.
fn is_well_typed(header: &Map<String, Value>, payload: &Map<String, Value>) -> bool {
    let all = |members: &Map<String, Value>, names: &[&str], right: fn(&Value) -> bool| {
        names.iter().filter_map(|name| members.get(*name)).all(right)
    };
    all(header, &["alg", "kid", "typ", "cty"], Value::is_string)
        && all(payload, &["iss", "sub", "jti"], Value::is_string)
        && all(payload, &["exp", "nbf", "iat"], Value::is_number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_registered_name_of_another_type_is_not_an_absent_one() {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let parses = |header: serde_json::Value, payload: serde_json::Value| {
            UnverifiedJws::parse(&format!("{}.{}.AA", part(header), part(payload))).is_some()
        };
        assert!(parses(json!({"alg": "ES256", "kid": "a"}), json!({"exp": 1.5, "nbf": 2, "aud": ["a"], "other": {}})));
        for header in
            [json!({"alg": "ES256", "kid": 1}), json!({"alg": "ES256", "typ": null}), json!({"alg": ["ES256"]})]
        {
            assert!(!parses(header.clone(), json!({})), "{header}");
        }
        for payload in
            [json!({"nbf": "soon"}), json!({"iat": null}), json!({"exp": [1]}), json!({"jti": 1}), json!({"sub": {}})]
        {
            assert!(!parses(json!({"alg": "ES256"}), payload.clone()), "{payload}");
        }
    }
    use proptest::prelude::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_compact_jws_is_taken_apart() {
        let token = token(r#"{"alg":"ES256"}"#, r#"{"iss":"x","exp":12.9,"aud":["a","b"]}"#);
        let jws = UnverifiedJws::parse(&token).unwrap();
        assert_eq!(jws.header_str("alg"), Some("ES256"));
        assert_eq!(jws.claim_str("iss"), Some("x"));
        assert_eq!(jws.claim_seconds("exp"), Some(12));
        assert!(jws.has_audience("b") && !jws.has_audience("c"));
    }

    #[test]
    fn s85_s87_headers_that_change_the_rules_and_oversized_tokens_are_refused() {
        for header in [r#"{"crit":["x"]}"#, r#"{"b64":false}"#, r#"{"zip":"DEF"}"#, "[]", "x"] {
            assert!(UnverifiedJws::parse(&token(header, "{}")).is_none(), "{header}");
        }
        assert!(UnverifiedJws::parse(&token("{}", &" ".repeat(20_000))).is_none());
        for shape in ["", ".", "..", "a.b", "a.b.c.d", "a.b.c.d.e", "e30.e30.=", "e30.[].AA"] {
            assert!(UnverifiedJws::parse(shape).is_none(), "{shape}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(text in "[ -~]{0,200}") { let _ = UnverifiedJws::parse(&text); }
    }
}
