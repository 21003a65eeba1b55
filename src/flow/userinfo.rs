//! `UserInfo`, OpenID Connect Core section 5.3.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::crypto::jwt::TokenType;
use crate::domain::client::Client;
use crate::protocol::claims::{claims_of_scope, is_standard_claim};
use crate::protocol::error::OAuthError;
use crate::protocol::scope::{OPENID, Scope};

use super::Context;
use super::access_token::{persons_token, verify};

/// The answer in the form that the client registered (section 5.3.2).
pub enum UserInfo {
    Json(Map<String, Value>),
    Jwt(String),
}

/// The claims that an access token opens, and the client it was issued to.
///
/// # Errors
/// `invalid_token` for a token that is not ours, not for us, or not living; `insufficient_scope` without `openid`.
pub async fn userinfo(ctx: &Context, token: &str, now: UnixTime) -> Result<(Arc<Client>, UserInfo), OAuthError> {
    let invalid = || OAuthError::invalid_token("The access token is not valid, has expired or was revoked.");
    let claims = verify(ctx, token, now).ok_or_else(invalid)?;
    ctx.hasher.token_is_asked_for();
    if claims.aud != ctx.config.access_token.audience {
        return Err(OAuthError::invalid_token("The access token is for another resource, not for UserInfo."));
    }
    let scope = Scope::parse(&claims.scope)?;
    let Some(grant) = claims.grant_id.as_deref().filter(|_| scope.contains(OPENID)) else {
        return Err(OAuthError::insufficient_scope("UserInfo needs an access token with the scope `openid`."));
    };
    let registry = ctx.registry();
    let client = registry.client(&claims.client_id).cloned().ok_or_else(invalid)?;
    let (user, asked) = ctx.store.userinfo(persons_token(&claims, grant), now).await?.ok_or_else(invalid)?;

    let mut names: Vec<&str> = claims_of_scope(&scope).collect();
    let by_name = asked.userinfo.keys().map(String::as_str);
    names.extend(by_name.filter(|name| is_standard_claim(name) && client.metadata.allows_claim(name)));
    let mut answer: Map<String, Value> =
        names.iter().filter_map(|name| Some(((*name).to_owned(), user.claim(name)?))).collect();
    answer.insert("sub".to_owned(), user.id.as_str().into());
    let Some(algorithm) = client.metadata.userinfo_signed_response_alg else {
        return Ok((client, UserInfo::Json(answer)));
    };
    // Section 5.3.2: a signed answer says who signed it and for whom.
    answer.insert("iss".to_owned(), ctx.issuer().into());
    answer.insert("aud".to_owned(), client.id.as_str().into());
    let signed = registry.keyring.sign(algorithm, TokenType::Jwt, &answer, now)?;
    Ok((client, UserInfo::Jwt(signed)))
}
