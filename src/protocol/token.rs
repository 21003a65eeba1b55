//! The token endpoint's requests and answers: RFC 6749 sections 4.1.3, 4.4.2, 5.1 and 6.

use secrecy::SecretString;
use serde::Serialize;

use super::error::OAuthError;
use super::params::Params;
use super::scope::Scope;

/// One grant, one variant; there is no request that is half of two.
#[derive(Debug)]
pub enum TokenRequest {
    AuthorizationCode(AuthorizationCodeRequest),
    RefreshToken(RefreshTokenRequest),
    ClientCredentials(ClientCredentialsRequest),
}

/// RFC 6749 section 4.1.3, RFC 7636 section 4.5.
#[derive(Debug)]
pub struct AuthorizationCodeRequest {
    pub code: String,
    pub redirect_uri: Option<String>,
    pub code_verifier: Option<String>,
    pub resource: Option<String>,
}

/// RFC 6749 section 6.
#[derive(Debug)]
pub struct RefreshTokenRequest {
    pub refresh_token: SecretString,
    pub scope: Option<Scope>,
    pub resource: Option<String>,
}

/// RFC 6749 section 4.4.2.
#[derive(Debug)]
pub struct ClientCredentialsRequest {
    pub scope: Option<Scope>,
    pub resource: Option<String>,
}

impl TokenRequest {
    /// # Errors
    /// `invalid_request` for a missing parameter, `unsupported_grant_type` for a grant that is not offered.
    pub fn parse(params: &Params) -> Result<Self, OAuthError> {
        let owned = |name| params.get(name).map(str::to_owned);
        match params.require("grant_type")? {
            "authorization_code" => Ok(Self::AuthorizationCode(AuthorizationCodeRequest {
                code: params.require("code")?.to_owned(),
                redirect_uri: owned("redirect_uri"),
                code_verifier: owned("code_verifier"),
                resource: resource(params)?,
            })),
            "refresh_token" => Ok(Self::RefreshToken(RefreshTokenRequest {
                refresh_token: params.require("refresh_token")?.into(),
                scope: params.get("scope").map(Scope::parse).transpose()?,
                resource: resource(params)?,
            })),
            "client_credentials" => Ok(Self::ClientCredentials(ClientCredentialsRequest {
                scope: params.get("scope").map(Scope::parse).transpose()?,
                resource: resource(params)?,
            })),
            _ => Err(OAuthError::unsupported_grant_type(
                "`grant_type` must be authorization_code, refresh_token or client_credentials.",
            )),
        }
    }
}

/// One token is for one resource: a token for several could be replayed by each of them at the others (RFC 8707 section 3).
fn resource(params: &Params) -> Result<Option<String>, OAuthError> {
    let mut all = params.all("resource");
    let first = all.next().map(str::to_owned);
    match all.next() {
        Some(_) => Err(OAuthError::invalid_target("Ask for one resource at a time; each has a token of its own.")),
        None => Ok(first),
    }
}

/// The successful answer, RFC 6749 section 5.1 and OpenID Connect Core section 3.1.3.3.
#[derive(Serialize)]
pub struct TokenResponse<'a> {
    pub access_token: String,
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose")]
    pub refresh_token: Option<SecretString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    /// Left out when empty, which the grammar of RFC 6749 section 3.3 cannot write.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub scope: &'a str,
}

/// The response writer is where a refresh token leaves the server; nowhere else is it exposed.
#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn expose<S: serde::Serializer>(token: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    token.as_ref().map(secrecy::ExposeSecret::expose_secret).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(body: &str) -> &'static str {
        TokenRequest::parse(&Params::parse(body.as_bytes()).unwrap()).unwrap_err().code.as_str()
    }

    #[test]
    fn s46_the_password_and_implicit_grants_are_absent() {
        for grant in ["password", "implicit", "urn:ietf:params:oauth:grant-type:jwt-bearer", "CLIENT_CREDENTIALS"] {
            assert_eq!(code_of(&format!("grant_type={grant}&username=a&password=b")), "unsupported_grant_type");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for body in ["", "grant_type=authorization_code", "grant_type=refresh_token&refresh_token="] {
            assert_eq!(code_of(body), "invalid_request", "{body}");
        }
        assert_eq!(code_of("grant_type=client_credentials&resource=a&resource=b"), "invalid_target");
        assert_eq!(code_of("grant_type=client_credentials&scope=%22"), "invalid_scope");
    }
}
