//! The token endpoint, once the client is proven: check the grant, dispatch. A new grant is one file and one arm.

mod authorization_code;
mod client_credentials;
mod refresh_token;

use std::sync::Arc;

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::domain::client::Client;
use crate::domain::grant::Grant;
use crate::protocol::error::OAuthError;
use crate::protocol::metadata::GrantType;
use crate::protocol::scope::{OIDC_SCOPES, OPENID, Scope};
use crate::protocol::token::TokenRequest;

use super::access_token::{IssuedAccessToken, Speaker, audience};
use super::registry::Registry;
use super::{Context, access_token, issue, session};

/// What the client is given; RFC 6749 section 5.1 says how it is written.
pub struct Issued {
    pub access: IssuedAccessToken,
    pub refresh_token: Option<SecretString>,
    pub id_token: Option<String>,
}

impl Issued {
    /// The scope that the answer tells (RFC 6749 section 5.1). Beside an access token that carries none, for a resource
    /// without scopes, it is what the ID token answers.
    #[must_use]
    pub fn scope(&self) -> &str {
        if self.access.scope.is_empty() && self.id_token.is_some() { OPENID } else { self.access.scope.as_str() }
    }
}

/// Answers a token request of an authenticated client, which comes from this address.
///
/// # Errors
/// The codes of RFC 6749 section 5.2 and RFC 8707 section 2.
pub async fn exchange(
    ctx: &Context,
    client: &Client,
    request: TokenRequest,
    address: &str,
    now: UnixTime,
) -> Result<Issued, OAuthError> {
    let grant_type = match request {
        TokenRequest::AuthorizationCode(_) => GrantType::AuthorizationCode,
        TokenRequest::RefreshToken(_) => GrantType::RefreshToken,
        TokenRequest::ClientCredentials(_) => GrantType::ClientCredentials,
    };
    if !client.metadata.grants(grant_type) {
        return Err(OAuthError::unauthorized_client("This client is not registered for this grant."));
    }
    let issued = match request {
        TokenRequest::AuthorizationCode(request) => {
            authorization_code::exchange(ctx, client, request, address, now).await
        }
        TokenRequest::RefreshToken(request) => refresh_token::exchange(ctx, client, request, address, now).await,
        TokenRequest::ClientCredentials(request) => client_credentials::exchange(ctx, client, &request, now),
    }?;
    ctx.metrics.token_issued(grant_type.as_str());
    Ok(issued)
}

/// Signs the tokens of a person's grant, after the transaction that spent the code or the refresh token.
async fn issue_for_grant(
    ctx: &Context,
    client: &Client,
    grant: &Grant,
    scope: &Scope,
    resource: Option<&str>,
    nonce: Option<&str>,
    now: UnixTime,
) -> Result<(IssuedAccessToken, Option<String>), OAuthError> {
    let registry: Arc<Registry> = ctx.registry();
    let default_audience = &ctx.config.access_token.audience;
    let granted = still_granted(ctx, &registry, client, grant);
    let audience = audience(resource, &granted, default_audience)?;
    // What the client was registered for has perhaps become less since.
    let scope = scope.retain(|token| client.metadata.allows_scope(token));
    let speaker = Speaker::Person(grant, session::sid(ctx, &grant.session_id, &client.id));
    let access = access_token::issue(&registry, &ctx.config, client, &speaker, audience, &scope, now)?;
    if !scope.contains(OPENID) {
        return Ok((access, None));
    }
    let user = if grant.details.claims.id_token.keys().any(|name| crate::protocol::claims::is_standard_claim(name)) {
        ctx.store.find_user(grant.user_id.clone()).await?
    } else {
        None
    };
    let id_token = issue::id_token(ctx, client, grant, nonce, user.as_ref(), &access.token, now)?;
    Ok((access, Some(id_token)))
}

/// The resources of a grant that still count: each may have been deleted, or taken from the client, since.
fn still_granted(ctx: &Context, registry: &Registry, client: &Client, grant: &Grant) -> Vec<String> {
    let still =
        |resource: &&String| registry.check_resource(client, resource, &ctx.config.access_token.audience).is_ok();
    let mut granted: Vec<String> = grant.details.resources.iter().filter(still).cloned().collect();
    // Of several the first token is for UserInfo, also when one is left.
    let default_audience = &ctx.config.access_token.audience;
    if grant.details.resources.len() > 1 && grant.scope.contains(OPENID) && !granted.contains(default_audience) {
        granted.push(default_audience.clone());
    }
    granted
}

/// Whether a request without `resource` must be held against its grant too: without scopes of resources nothing can go
/// wrong, and the grant need not be read.
fn may_need_resource(ctx: &Context, client: &Client) -> bool {
    ctx.registry.load().has_scopes_of_resources(client)
}

/// Checks what a token request is for against what its grant holds and what is registered now (RFC 8707 section 2.2): the
/// `resource`, and that the access token carries some of the scope. Before anything is spent: what a grant holds never
/// changes, so there is no race, and a client that asks for the wrong thing keeps its code or token.
fn check_target(
    ctx: &Context,
    client: &Client,
    grant: &Grant,
    resource: Option<&str>,
    asked: &Scope,
) -> Result<(), OAuthError> {
    let registry = ctx.registry.load();
    let default_audience = &ctx.config.access_token.audience;
    if let Some(resource) = resource {
        registry.check_resource(client, resource, default_audience)?;
        audience(Some(resource), &grant.details.resources, default_audience)?;
    }
    let granted = still_granted(ctx, &registry, client, grant);
    let audience = audience(resource, &granted, default_audience)?;
    let scope = asked.retain(|token| client.metadata.allows_scope(token));
    let carries = |audience: &str| !registry.scope_for(audience, &scope).is_empty();
    // The scopes of OpenID Connect are in no token for an API; there the ID token is the answer to them.
    let by_id_token = scope.contains(OPENID) && scope.iter().all(|token| OIDC_SCOPES.contains(&token));
    if asked.is_empty() || by_id_token || carries(audience) {
        return Ok(());
    }
    let default_too = Some(default_audience).filter(|default| !granted.contains(default));
    let others = granted.iter().chain(default_too).map(String::as_str).filter(|other| carries(other));
    Err(match others.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => OAuthError::invalid_scope("No token of this client can carry any of this scope."),
        others => OAuthError::invalid_target(format!(
            "The access token would carry none of this scope; name as `resource` one of: {others}."
        )),
    })
}
