//! How a client proves itself at the token, revocation and introspection endpoints (RFC 6749 section 2.3, RFC 7523).
//! Reads what was presented; the flow decides whether it is true.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::error::OAuthError;
use super::params::{Params, decode};

/// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer`, RFC 7523 section 2.2.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// `token_endpoint_auth_method`, RFC 7591 section 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    None,
    #[default]
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
}

impl AuthMethod {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }

    #[must_use]
    pub const fn has_secret(self) -> bool {
        matches!(self, Self::ClientSecretBasic | Self::ClientSecretPost)
    }
}

/// What a request presented for its client.
#[derive(Debug)]
pub enum ClientCredentials {
    /// A public client only says who it is (`client_id` alone).
    None {
        client_id: String,
    },
    Basic {
        client_id: String,
        secret: SecretString,
    },
    Post {
        client_id: String,
        secret: SecretString,
    },
    /// The assertion names its client inside; `client_id` beside it is optional and must agree.
    Assertion {
        client_id: Option<String>,
        assertion: String,
    },
}

impl ClientCredentials {
    /// # Errors
    /// `invalid_client` when nothing names a client or the Basic header is malformed, `invalid_request` when more than
    /// one method is used (RFC 6749 section 2.3).
    pub fn parse(authorization: Option<&str>, params: &Params) -> Result<Self, OAuthError> {
        let client_id = params.get("client_id").map(str::to_owned);
        let secret = params.get("client_secret");
        let assertion = params.get("client_assertion");
        match (authorization, secret, assertion) {
            (Some(header), None, None) => {
                let (basic_id, secret) = parse_basic(header)?;
                if client_id.is_some_and(|id| id != basic_id) {
                    return Err(OAuthError::invalid_request("`client_id` differs from the Authorization header."));
                }
                Ok(Self::Basic { client_id: basic_id, secret })
            }
            (None, Some(secret), None) => match client_id {
                Some(client_id) => Ok(Self::Post { client_id, secret: secret.into() }),
                None => Err(OAuthError::invalid_client("`client_id` is missing.")),
            },
            (None, None, Some(assertion)) => {
                if params.get("client_assertion_type") != Some(JWT_BEARER) {
                    return Err(OAuthError::invalid_client("`client_assertion_type` must be the JWT bearer type."));
                }
                Ok(Self::Assertion { client_id, assertion: assertion.to_owned() })
            }
            (None, None, None) => match client_id {
                Some(client_id) => Ok(Self::None { client_id }),
                None => Err(OAuthError::invalid_client("The request does not say which client it is from.")),
            },
            _ => Err(OAuthError::invalid_request("More than one way of client authentication was used.")),
        }
    }
}

/// The credentials of RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined and base64-encoded.
///
/// # Errors
/// `invalid_client` for another scheme, loose base64, bytes that are not UTF-8, or no colon.
pub fn parse_basic(header: &str) -> Result<(String, SecretString), OAuthError> {
    let bad = || OAuthError::invalid_client("The Authorization header is not valid HTTP Basic authentication.");
    let (scheme, encoded) = header.split_once(' ').ok_or_else(bad)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(bad());
    }
    let decoded = STANDARD.decode(encoded).map_err(|_base64| bad())?;
    let colon = decoded.iter().position(|&b| b == b':').ok_or_else(bad)?;
    let (id, secret) = decoded.split_at(colon);
    let id = decode(id).map_err(|_form| bad())?;
    let secret = decode(secret.get(1..).unwrap_or_default()).map_err(|_form| bad())?;
    if id.is_empty() {
        return Err(bad());
    }
    Ok((id.into_owned(), secret.into_owned().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    fn params(text: &str) -> Params {
        Params::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn s40_two_methods_at_once_are_refused() {
        let basic = format!("Basic {}", STANDARD.encode("a:b"));
        for body in ["client_id=a&client_secret=b", "client_assertion=x&client_assertion_type=y"] {
            assert!(ClientCredentials::parse(Some(&basic), &params(body)).is_err(), "{body}");
        }
        let both = params("client_id=a&client_secret=b&client_assertion=x");
        assert!(ClientCredentials::parse(None, &both).is_err());
        assert!(ClientCredentials::parse(Some(&basic), &params("client_id=other")).is_err());
        assert!(ClientCredentials::parse(Some(&basic), &params("client_id=a")).is_ok());
    }

    #[test]
    fn s42_basic_is_read_strictly() {
        let (id, secret) = parse_basic(&format!("Basic {}", STANDARD.encode("a%3Ab:c%2Bd+e"))).unwrap();
        assert_eq!((id.as_str(), secret.expose_secret()), ("a:b", "c+d e"));
        let raw = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes));
        for bad in [
            "Basic".to_owned(),
            "Basic ".into(),
            "Bearer YTpi".into(),
            "Basic YTpi=".into(),
            "Basic YTp i".into(),
            "Basic YTpiCg".into(),
            "Basic !!!!".into(),
            raw(b"nocolon"),
            raw(b":secret"),
            raw(b"a:\xff"),
            raw(b"a%00:b"),
            raw(b"a:b\0"),
            raw(b"a%zz:b"),
        ] {
            assert!(parse_basic(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn form_encoded_credentials_survive_the_header(id in "[^\0]{1,20}", secret in "[^\0]{0,40}") {
            let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let header = format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(&id), encode(&secret))));
            let (read_id, read_secret) = parse_basic(&header).unwrap();
            prop_assert_eq!(read_id, id);
            prop_assert_eq!(read_secret.expose_secret(), secret.as_str());
        }
        #[test]
        fn any_header_is_answered_without_a_panic(header in ".{0,80}") { let _ = parse_basic(&header); }
    }
}
