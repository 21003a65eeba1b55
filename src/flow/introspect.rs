//! RFC 7662: what a token is, told to those whom it concerns and to nobody else.

use serde::Serialize;

use crate::clock::UnixTime;
use crate::crypto::opaque::{GrantSecret, REFRESH_TOKEN_PREFIX};
use crate::domain::client::Client;
use crate::protocol::access_token::AccessTokenClaims;
use crate::protocol::error::OAuthError;

use super::Context;
use super::access_token::{Standing, standing, verify};
use super::session::sid;

/// The answer, RFC 7662 section 2.2. Of a token that is not active nothing is told.
#[derive(Debug, Default, Serialize)]
pub struct Introspection {
    pub active: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amr: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

/// Looks at a token for an authenticated client: the one it was issued to, or the resource server it is for.
///
/// # Errors
/// When the database cannot be read.
pub async fn introspect(
    ctx: &Context,
    client: &Client,
    token: &str,
    now: UnixTime,
) -> Result<Introspection, OAuthError> {
    if let Some(token) = GrantSecret::parse(REFRESH_TOKEN_PREFIX, token) {
        return refresh_token(ctx, client, &token, now).await;
    }
    let Some(claims) = verify(ctx, token, now).filter(|claims| concerns(ctx, client, claims)) else {
        return Ok(Introspection::default());
    };
    let username = match standing(ctx, &claims, now).await? {
        Standing::Ended => return Ok(Introspection::default()),
        Standing::Person { username } => username,
        Standing::Client => None,
    };
    Ok(Introspection {
        active: true,
        scope: claims.scope.clone(),
        client_id: Some(claims.client_id.clone()),
        username,
        token_type: Some("Bearer"),
        exp: Some(claims.exp),
        iat: Some(claims.iat),
        sub: Some(claims.sub.clone()),
        aud: Some(claims.aud.clone()),
        iss: Some(claims.iss.clone()),
        jti: Some(claims.jti.clone()),
        auth_time: claims.auth_time,
        acr: claims.acr.clone(),
        amr: claims.amr.clone(),
        sid: claims.sid.clone(),
    })
}

/// RFC 7662 section 4: otherwise anybody with a client could try out tokens here.
fn concerns(ctx: &Context, client: &Client, claims: &AccessTokenClaims) -> bool {
    let registry = ctx.registry.load();
    let serves =
        registry.resource(&claims.aud).and_then(|resource| resource.resource_server.as_ref()) == Some(&client.id);
    claims.client_id == client.id.as_str() || serves
}

async fn refresh_token(
    ctx: &Context,
    client: &Client,
    token: &GrantSecret,
    now: UnixTime,
) -> Result<Introspection, OAuthError> {
    let Some((grant, true)) = ctx.store.find_grant(token, now).await? else { return Ok(Introspection::default()) };
    let end = ctx.store.refresh_token_end(grant.id.clone()).await?.filter(|end| *end > now);
    let Some(end) = end.filter(|_| grant.client_id == client.id) else { return Ok(Introspection::default()) };
    Ok(Introspection {
        active: true,
        scope: grant.scope.as_str().to_owned(),
        client_id: Some(client.id.as_str().to_owned()),
        exp: Some(end.seconds()),
        iat: Some(grant.created_at.seconds()),
        sub: Some(grant.user_id.as_str().to_owned()),
        iss: Some(ctx.issuer().to_owned()),
        sid: Some(sid(ctx, &grant.session_id, &client.id)),
        ..Introspection::default()
    })
}
