//! The `claims` request parameter (OpenID Connect Core section 5.5) and the claims that scopes stand for (section 5.4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::OAuthError;
use super::scope::Scope;

const MAX_LENGTH: usize = 4096;
const MAX_DEPTH: usize = 5;

/// `claims`, with `null` read as "asked for, nothing more".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimsRequest {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub userinfo: BTreeMap<String, Option<ClaimRequest>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub id_token: BTreeMap<String, Option<ClaimRequest>>,
}

/// One requested claim, section 5.5.1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClaimRequest {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub essential: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Value>>,
}

impl ClaimsRequest {
    /// # Errors
    /// `invalid_request` for text that is not such a JSON object, or one longer than 4 KiB or nested beyond 5 levels.
    pub fn parse(text: &str) -> Result<Self, OAuthError> {
        if text.len() > MAX_LENGTH || depth(text) > MAX_DEPTH {
            return Err(OAuthError::invalid_request("`claims` is longer than 4096 bytes or nested too deeply."));
        }
        // By way of a map, since serde would take a list for a struct as well.
        let members = serde_json::from_str::<Map<String, Value>>(text);
        members.and_then(|members| serde_json::from_value(Value::Object(members))).map_err(|error| OAuthError {
            source: Some(error.into()),
            ..OAuthError::invalid_request("`claims` must be a JSON object as in OpenID Connect Core section 5.5.")
        })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.userinfo.is_empty() && self.id_token.is_empty()
    }

    /// Leaves out the claims that may not be asked for; nothing is promised of any (section 5.5.1).
    pub fn retain(&mut self, may_ask: impl Fn(&str) -> bool) {
        for claims in [&mut self.userinfo, &mut self.id_token] {
            claims.retain(|name, _| may_ask(name));
        }
    }

    /// The subjects of which the answer must be about one; `None` where the request names none. A name that is no text, or
    /// two lists that share nobody, leave nobody.
    #[must_use]
    pub fn required_subjects(&self) -> Option<Vec<&str>> {
        let asked = [&self.id_token, &self.userinfo].into_iter().filter_map(|claims| claims.get("sub")?.as_ref());
        let named = asked.filter(|sub| sub.value.is_some() || sub.values.is_some()).map(ClaimRequest::texts);
        named.reduce(|mut wanted, also| {
            wanted.retain(|subject| also.contains(subject));
            wanted
        })
    }

    /// The `acr` values that the request calls essential; `None` when it does not.
    #[must_use]
    pub fn essential_acr(&self) -> Option<Vec<&str>> {
        // What names no class at all asks for none; what names something that is no class asks for what cannot be met.
        let named = |acr: &ClaimRequest| acr.value.is_some() || acr.values.is_some();
        self.acr(true).filter(|_| self.id_token.get("acr").and_then(Option::as_ref).is_some_and(named))
    }

    /// The `acr` values that the request would like, in its order.
    #[must_use]
    pub fn wished_acr(&self) -> Vec<&str> {
        self.acr(false).unwrap_or_default()
    }

    fn acr(&self, essential: bool) -> Option<Vec<&str>> {
        let acr = self.id_token.get("acr")?.as_ref().filter(|acr| acr.essential == essential)?;
        Some(acr.texts())
    }
}

impl ClaimRequest {
    /// The `value` and `values` that are text.
    fn texts(&self) -> Vec<&str> {
        self.values.iter().flatten().chain(&self.value).filter_map(Value::as_str).collect()
    }
}

/// How deeply a JSON text nests, without parsing it: what a recursive parser must be spared from.
fn depth(text: &str) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// The claims of each scope, OpenID Connect Core section 5.4.
pub const SCOPE_CLAIMS: &[(&str, &[&str])] = &[
    (
        "profile",
        &[
            "name",
            "family_name",
            "given_name",
            "middle_name",
            "nickname",
            "preferred_username",
            "profile",
            "picture",
            "website",
            "gender",
            "birthdate",
            "zoneinfo",
            "locale",
            "updated_at",
        ],
    ),
    ("email", &["email", "email_verified"]),
    ("address", &["address"]),
    ("phone", &["phone_number", "phone_number_verified"]),
];

/// The scope that stands for a claim.
#[must_use]
pub fn scope_of_claim(name: &str) -> Option<&'static str> {
    SCOPE_CLAIMS.iter().find(|(_, claims)| claims.contains(&name)).map(|(scope, _)| *scope)
}

/// Whether a person has such a claim at all, whatever its scope.
#[must_use]
pub fn is_standard_claim(name: &str) -> bool {
    scope_of_claim(name).is_some()
}

/// The claims that a scope asks for at `UserInfo`.
pub fn claims_of_scope(scope: &Scope) -> impl Iterator<Item = &'static str> + '_ {
    SCOPE_CLAIMS.iter().filter(|(name, _)| scope.contains(name)).flat_map(|(_, claims)| claims.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_specification_parses() {
        let claims = ClaimsRequest::parse(
            r#"{"userinfo":{"given_name":{"essential":true},"nickname":null,"picture":null},
                "id_token":{"auth_time":{"essential":true},"acr":{"essential":true,"values":["a","b"]},"sub":{"value":"248289761001"}}}"#,
        )
        .unwrap();
        assert!(claims.userinfo.contains_key("nickname"));
        assert_eq!(claims.required_subjects(), Some(vec!["248289761001"]));
        assert_eq!(claims.essential_acr(), Some(vec!["a", "b"]));
        assert_eq!(ClaimsRequest::parse(r#"{"id_token":{"acr":{"values":["a"]}}}"#).unwrap().essential_acr(), None);
        assert_eq!(ClaimsRequest::parse(r#"{"id_token":{"acr":{"essential":true}}}"#).unwrap().essential_acr(), None);
        let no_class = ClaimsRequest::parse(r#"{"id_token":{"acr":{"essential":true,"value":2}}}"#).unwrap();
        assert_eq!(no_class.essential_acr(), Some(Vec::new()));
    }

    #[test]
    fn the_subject_is_one_of_those_named_in_both_places() {
        for (claims, wanted) in [
            (r#"{"id_token":{"sub":null}}"#, None),
            (r#"{"id_token":{"sub":{"essential":true}}}"#, None),
            (r#"{"userinfo":{"sub":{"value":"a"}}}"#, Some(vec!["a"])),
            (r#"{"id_token":{"sub":{"values":["a","b"]}}}"#, Some(vec!["a", "b"])),
            (r#"{"id_token":{"sub":{"values":["a","b"]}},"userinfo":{"sub":{"value":"b"}}}"#, Some(vec!["b"])),
            (r#"{"id_token":{"sub":{"value":"a"}},"userinfo":{"sub":{"value":"b"}}}"#, Some(vec![])),
            (r#"{"id_token":{"sub":{"values":[]}}}"#, Some(vec![])),
            (r#"{"id_token":{"sub":{"value":7}}}"#, Some(vec![])),
        ] {
            assert_eq!(ClaimsRequest::parse(claims).unwrap().required_subjects(), wanted, "{claims}");
        }
    }

    #[test]
    fn s47_a_claims_parameter_beyond_the_bounds_is_refused() {
        assert!(ClaimsRequest::parse(&format!("{{\"a\":{}{}}}", "[".repeat(6), "]".repeat(6))).is_err());
        assert!(ClaimsRequest::parse(&format!("{{\"a\":\"{}\"}}", "x".repeat(5000))).is_err());
        for bad in ["", "[]", "null", "{", "{\"userinfo\":1}", "{\"id_token\":{\"acr\":{\"essential\":\"yes\"}}}"] {
            assert!(ClaimsRequest::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,200}") { let _ = ClaimsRequest::parse(&text); }
    }
}
