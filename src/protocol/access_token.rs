//! The access token, RFC 9068, and reading one from a request, RFC 6750.

use serde::{Deserialize, Serialize};

use super::error::OAuthError;
use super::params::Params;

/// The claims of RFC 9068 section 2.2, with `sid` and the grant that it hangs on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AccessTokenClaims {
    pub iss: String,
    pub sub: String,
    /// One audience: a token for several could be replayed by each of them at the others.
    pub aud: String,
    pub exp: i64,
    pub iat: i64,
    /// A `UUIDv7`: tells the millisecond of issue.
    pub jti: String,
    pub client_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amr: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The grant it came from; absent with `client_credentials`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<String>,
}

/// Takes the one bearer token of a request from its header (RFC 6750 section 2.1) or form body (section 2.2). Never from
/// the query: addresses end up in logs and histories (RFC 9700 section 4.3.2).
///
/// # Errors
/// `invalid_request` when more than one way is used or it is in the query. `None` when there is no token at all.
pub fn bearer_token(
    authorization: Option<&str>,
    query: &str,
    body: Option<&Params>,
) -> Result<Option<String>, OAuthError> {
    if Params::parse(query.as_bytes())?.get("access_token").is_some() {
        return Err(OAuthError::invalid_request("An access token does not belong in an address."));
    }
    if let Some(body) = body {
        body.refuse_repeated()?;
    }
    let in_body = body.and_then(|body| body.get("access_token"));
    let in_header = match authorization {
        None => None,
        Some(header) => match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                Some(token.trim())
            }
            // Another scheme is no bearer token at all (RFC 6750 section 3.1: then the challenge says only `Bearer`).
            Some((scheme, _)) if !scheme.eq_ignore_ascii_case("bearer") => None,
            _ => return Err(OAuthError::invalid_request("The Authorization header must be `Bearer` and a token.")),
        },
    };
    match (in_header, in_body) {
        (Some(_), Some(_)) => Err(OAuthError::invalid_request("The access token was sent in two ways.")),
        (header, body) => Ok(header.or(body).map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s36_a_token_in_the_address_is_refused() {
        assert!(bearer_token(None, "access_token=x", None).is_err());
        assert!(bearer_token(Some("Bearer x"), "access_token=x", None).is_err());
    }

    #[test]
    fn one_token_is_taken_from_header_or_body() {
        let body = Params::parse(b"access_token=b").unwrap();
        assert_eq!(bearer_token(Some("bearer a"), "", None).unwrap().as_deref(), Some("a"));
        assert_eq!(bearer_token(None, "", Some(&body)).unwrap().as_deref(), Some("b"));
        assert_eq!(bearer_token(None, "", None).unwrap(), None);
        assert!(bearer_token(Some("Bearer a"), "", Some(&body)).is_err());
        assert_eq!(bearer_token(Some("Basic YTpi"), "", None).unwrap(), None);
        assert_eq!(bearer_token(Some("DPoP x"), "", None).unwrap(), None, "s44 another scheme is not a bearer token");
        for bad in ["Bearer", "Bearer ", ""] {
            assert!(bearer_token(Some(bad), "", None).is_err(), "{bad}");
        }
    }
}
