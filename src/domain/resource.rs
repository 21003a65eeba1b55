//! Resources: the APIs that access tokens are for (RFC 8707).

use std::time::Duration;

use crate::clock::UnixTime;
use crate::protocol::error::OAuthError;
use crate::protocol::jose::SigningAlgorithm;
use crate::protocol::scope::Scope;

use super::ids::ClientId;

#[derive(Clone, Debug)]
pub struct Resource {
    /// The URI that clients name it by, and the `aud` of its tokens.
    pub identifier: String,
    /// What people call it.
    pub name: Option<String>,
    /// The scopes that mean something there, and nowhere else.
    pub scope: Scope,
    /// How long its tokens live; absent, as long as all others.
    pub access_token_lifetime: Option<Duration>,
    /// The algorithm of its tokens; absent, the client's.
    pub access_token_signing_alg: Option<SigningAlgorithm>,
    /// The client that the resource server authenticates as when it asks about a token (RFC 7662).
    pub resource_server: Option<ClientId>,
    pub created_at: UnixTime,
}

/// RFC 8707 section 2: an absolute URI without a fragment.
///
/// # Errors
/// `invalid_target` for anything else.
pub fn check_identifier(text: &str) -> Result<(), OAuthError> {
    match url::Url::parse(text) {
        Ok(url)
            if url.fragment().is_none()
                && !text.contains('#')
                && text.len() <= 2048
                && text.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(())
        }
        _ => Err(OAuthError::invalid_target("A resource identifier must be an absolute URI without a fragment.")),
    }
}
