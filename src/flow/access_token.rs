//! Building access tokens, and judging those that come back.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use serde_json::Value;

use crate::clock::UnixTime;
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::crypto::jwt::TokenType;
use crate::crypto::opaque::Digest;
use crate::domain::client::Client;
use crate::domain::grant::Grant;
use crate::domain::ids::{self, ClientId, GrantId, uuid_v7};
use crate::protocol::access_token::AccessTokenClaims;
use crate::protocol::error::OAuthError;
use crate::protocol::scope::Scope;
use crate::store::{PersonsToken, StoreError};

use super::Context;
use super::registry::Registry;

/// Tokens whose signature was verified a moment ago, by digest. A signature never changes its mind, so an entry needs no
/// end; everything that can change (time, revocation, audience) is judged anew each time. Bounded by count.
pub struct VerifiedTokens(Cache<[u8; 32], Arc<AccessTokenClaims>>);

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self(Cache::new(2048))
    }
}

/// An access token for one audience, and what the client is told beside it.
pub struct IssuedAccessToken {
    pub token: String,
    pub scope: Scope,
    pub lifetime: Duration,
}

/// Whom an access token speaks for.
pub enum Speaker<'a> {
    /// A person, through a grant, with the `sid` that its client knows.
    Person(&'a Grant, String),
    /// The client itself.
    Client,
}

/// Signs an access token, RFC 9068.
///
/// # Errors
/// When signing fails.
pub fn issue(
    registry: &Registry,
    config: &Config,
    client: &Client,
    speaker: &Speaker<'_>,
    audience: &str,
    granted: &Scope,
    now: UnixTime,
) -> Result<IssuedAccessToken, CryptoError> {
    let resource = registry.resource(audience);
    let lifetime = resource.and_then(|resource| resource.access_token_lifetime).unwrap_or(config.access_token.lifetime);
    let algorithm = resource.and_then(|resource| resource.access_token_signing_alg);
    let scope = registry.scope_for(audience, granted);
    let mut claims = AccessTokenClaims {
        iss: config.issuer.as_str().to_owned(),
        sub: client.id.as_str().to_owned(),
        aud: audience.to_owned(),
        exp: now.plus(lifetime).seconds(),
        iat: now.seconds(),
        jti: uuid_v7(now),
        client_id: client.id.as_str().to_owned(),
        scope: scope.as_str().to_owned(),
        auth_time: None,
        acr: None,
        amr: None,
        sid: None,
        grant_id: None,
    };
    if let Speaker::Person(grant, sid) = speaker {
        grant.user_id.as_str().clone_into(&mut claims.sub);
        claims.auth_time = Some(grant.authentication.at.seconds());
        claims.acr = Some(grant.authentication.acr.clone());
        claims.amr = Some(grant.authentication.amr.split(' ').map(str::to_owned).collect());
        claims.sid = Some(sid.clone());
        claims.grant_id = Some(grant.id.as_str().to_owned());
    }
    let algorithm = algorithm.unwrap_or(client.metadata.access_token_signing_alg);
    let token = registry.keyring.sign(algorithm, TokenType::AccessToken, &claims, now)?;
    Ok(IssuedAccessToken { token, scope, lifetime })
}

/// The claims of a token that is ours: signed by one of our keys as an access token of this issuer, and not expired.
/// Audience and revocation are still to be judged.
#[must_use]
pub fn verify(ctx: &Context, token: &str, now: UnixTime) -> Option<Arc<AccessTokenClaims>> {
    let digest = *Digest::of(token.as_bytes()).as_bytes();
    let registry = ctx.registry.load();
    let claims = if let Some(claims) = registry.verified_tokens.0.get(&digest) {
        claims
    } else {
        let payload = registry.keyring.verify(token, TokenType::AccessToken, now)?;
        let claims: AccessTokenClaims = serde_json::from_value(Value::Object(payload)).ok()?;
        let claims = Arc::new(claims);
        registry.verified_tokens.0.insert(digest, Arc::clone(&claims));
        claims
    };
    (claims.iss == ctx.issuer() && claims.exp > now.seconds()).then_some(claims)
}

/// Whether a verified token still stands, and for whom: one read of what it hangs on. A token whose client is gone has
/// nothing left to stand on.
///
/// # Errors
/// When the database cannot be read.
pub async fn standing(ctx: &Context, claims: &AccessTokenClaims, now: UnixTime) -> Result<Standing, StoreError> {
    if ctx.registry.load().client(&claims.client_id).is_none() {
        return Ok(Standing::Ended);
    }
    let Some(grant) = &claims.grant_id else {
        let client = ClientId::from_stored(claims.client_id.clone());
        let spared = ctx.store.is_client_token_spared(client, claims.jti.clone(), issued_at(claims)).await?;
        return Ok(if spared { Standing::Client } else { Standing::Ended });
    };
    Ok(match ctx.store.token_state(persons_token(claims, grant), now).await? {
        Some(state) if state.living => Standing::Person { username: state.username },
        _ => Standing::Ended,
    })
}

/// What the database needs to know to judge a person's token.
#[must_use]
pub fn persons_token(claims: &AccessTokenClaims, grant: &str) -> PersonsToken {
    PersonsToken { grant: GrantId::from_stored(grant), jti: claims.jti.clone(), issued_at: issued_at(claims) }
}

/// To the millisecond, by `jti`.
fn issued_at(claims: &AccessTokenClaims) -> UnixTime {
    ids::issued_at(&claims.jti).unwrap_or(UnixTime::from_seconds(claims.iat))
}

/// How a token stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    Person { username: Option<String> },
    Client,
    Ended,
}

/// The audience of a token: the resource that was named, else the one that was granted, else our own.
///
/// # Errors
/// `invalid_target` when the named one is not among those granted.
pub fn audience<'a>(named: Option<&'a str>, granted: &'a [String], default: &'a str) -> Result<&'a str, OAuthError> {
    match (named, granted) {
        (Some(named), granted) if named == default || granted.iter().any(|one| one == named) => Ok(named),
        (Some(_), _) => Err(OAuthError::invalid_target("The `resource` was not part of the authorization.")),
        (None, [only]) => Ok(only),
        (None, _) => Ok(default),
    }
}
