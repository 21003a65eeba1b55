//! Client authentication: the one place where a client is believed (RFC 6749 section 2.3, RFC 7523 section 3).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use url::Url;

use crate::clock::UnixTime;
use crate::crypto::client_keys::{has_key, signed_by};
use crate::crypto::opaque::{Digest, client_secret_digest};
use crate::domain::client::Client;
use crate::domain::ids::ClientId;
use crate::protocol::client_auth::{AuthMethod, ClientCredentials};
use crate::protocol::error::OAuthError;
use crate::protocol::jose::UnverifiedJws;

use super::Context;

/// RFC 10070 and FAPI 2.0: an assertion is made for one request, not for a day.
const LONGEST_ASSERTION: Duration = Duration::from_mins(5);
const CLOCK_SKEW: Duration = Duration::from_mins(1);
const LONGEST_JTI: usize = 256;
/// A `jwks_uri` is asked at most so often, whatever `kid` strangers present.
const FETCH_AT_MOST_EVERY: Duration = Duration::from_mins(1);
/// After a failure sooner, or a client would be locked out by one lost packet.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// What was fetched is used for so long while a new answer cannot be had.
const GRACE: Duration = Duration::from_hours(24);
/// And otherwise believed no longer than this.
const FETCH_AT_LEAST_EVERY: Duration = Duration::from_hours(1);

fn refused() -> OAuthError {
    OAuthError::invalid_client("Client authentication failed.")
}

/// The client that these credentials prove, by the one method that it registered.
///
/// # Errors
/// `invalid_client` for an unknown client, another method than the registered one, or a wrong proof.
pub async fn authenticate(
    ctx: &Context,
    credentials: ClientCredentials,
    now: UnixTime,
) -> Result<Arc<Client>, OAuthError> {
    let registry = ctx.registry();
    let find = |id: &str| registry.client(id).cloned().ok_or_else(refused);
    match credentials {
        ClientCredentials::None { client_id } => {
            let client = find(&client_id)?;
            if !client.metadata.is_public() {
                return Err(OAuthError::invalid_client("This client must authenticate."));
            }
            Ok(client)
        }
        ClientCredentials::Basic { client_id, secret } => {
            check_secret(find(&client_id)?, AuthMethod::ClientSecretBasic, &secret, now)
        }
        ClientCredentials::Post { client_id, secret } => {
            check_secret(find(&client_id)?, AuthMethod::ClientSecretPost, &secret, now)
        }
        ClientCredentials::Assertion { client_id, assertion } => {
            let jws = UnverifiedJws::parse(&assertion).ok_or_else(refused)?;
            let subject = jws.claim_str("sub").ok_or_else(refused)?;
            if client_id.is_some_and(|id| id != subject) {
                return Err(refused());
            }
            let client = find(subject)?;
            check_assertion(ctx, &client, &jws, now).await?;
            Ok(client)
        }
    }
}

fn another_way(registered: AuthMethod) -> OAuthError {
    OAuthError::invalid_client(format!("The client is registered for {}.", registered.as_str()))
}

fn check_secret(
    client: Arc<Client>,
    method: AuthMethod,
    secret: &secrecy::SecretString,
    now: UnixTime,
) -> Result<Arc<Client>, OAuthError> {
    let right = client_secret_digest(secret).is_some_and(|digest| client.accepts_secret(&digest, now));
    if right && client.metadata.token_endpoint_auth_method == method {
        return Ok(client);
    }
    if right {
        return Err(another_way(client.metadata.token_endpoint_auth_method));
    }
    Err(refused())
}

/// RFC 7523 section 3, with the audience as RFC 10070 wants it: the issuer, alone and as one string, so that an
/// assertion made for another server is worth nothing here.
async fn check_assertion(
    ctx: &Context,
    client: &Client,
    jws: &UnverifiedJws<'_>,
    now: UnixTime,
) -> Result<(), OAuthError> {
    if client.metadata.token_endpoint_auth_method != AuthMethod::PrivateKeyJwt {
        return Err(another_way(client.metadata.token_endpoint_auth_method));
    }
    let typ = jws.header_str("typ").unwrap_or("JWT");
    let typ_fits = typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("client-authentication+jwt");
    if !typ_fits || jws.claim_str("iss") != Some(client.id.as_str()) {
        return Err(refused());
    }
    if jws.claim_str("aud") != Some(ctx.issuer()) {
        return Err(OAuthError::invalid_client("The assertion's `aud` must be the issuer, as one string."));
    }
    let expires_at = jws.claim_seconds("exp").map(UnixTime::from_seconds).ok_or_else(refused)?;
    let ahead =
        |name: &str| jws.claim_seconds(name).map(UnixTime::from_seconds).is_some_and(|at| at > now.plus(CLOCK_SKEW));
    if expires_at <= now || expires_at > now.plus(LONGEST_ASSERTION).plus(CLOCK_SKEW) || ahead("iat") || ahead("nbf") {
        return Err(OAuthError::invalid_client("The assertion is not valid now, or for longer than 5 minutes."));
    }
    let jti = jws.claim_str("jti").filter(|jti| (1..=LONGEST_JTI).contains(&jti.len())).ok_or_else(refused)?;
    let keys = registered_keys(ctx, client, jws.header_str("kid"), now).await?;
    if !signed_by(&keys, jws, client.metadata.token_endpoint_auth_signing_alg) {
        return Err(refused());
    }
    // Last, so that only the client itself can use up an identifier.
    let id = Digest::of(format!("{}\n{jti}", client.id).as_bytes());
    if !ctx.store.take_assertion_id(id, expires_at.plus(CLOCK_SKEW)).await? {
        return Err(OAuthError::invalid_client("The assertion was used before."));
    }
    Ok(())
}

/// Key sets fetched from clients' `jwks_uri`: by client, at most one each.
#[derive(Default)]
pub struct RemoteKeys {
    slots: Mutex<HashMap<ClientId, Arc<tokio::sync::Mutex<Slot>>>>,
}

/// What one client's address last gave. Held while it is asked, so that whoever comes meanwhile shares the answer.
#[derive(Default)]
struct Slot {
    uri: String,
    ask_again_at: Option<UnixTime>,
    stale_at: Option<UnixTime>,
    keys: Option<Arc<Value>>,
}

impl RemoteKeys {
    fn slot(&self, client: &ClientId) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(slots.entry(client.clone()).or_default())
    }
}

async fn registered_keys(
    ctx: &Context,
    client: &Client,
    key_id: Option<&str>,
    now: UnixTime,
) -> Result<Arc<Value>, OAuthError> {
    if let Some(jwks) = &client.metadata.jwks {
        return Ok(Arc::new(jwks.clone()));
    }
    let uri = client.metadata.jwks_uri.as_deref().and_then(|uri| Url::parse(uri).ok()).ok_or_else(refused)?;
    let slot = ctx.remote_keys.slot(&client.id);
    let mut slot = slot.lock().await;
    if slot.uri != uri.as_str() {
        // The client has another address since: what the old one gave counts no longer.
        *slot = Slot { uri: uri.to_string(), ..Slot::default() };
    }
    let fresh = slot.stale_at.is_some_and(|at| at > now);
    if let Some(keys) = slot.keys.as_ref().filter(|keys| fresh && has_key(keys, key_id)) {
        return Ok(Arc::clone(keys));
    }
    if slot.ask_again_at.is_none_or(|at| at <= now) {
        // Said before, so that it holds also where whoever asked hangs up.
        slot.ask_again_at = Some(now.plus(RETRY_AFTER));
        match ctx.outbound.get_json(&uri).await {
            Ok(keys) => {
                slot.ask_again_at = Some(now.plus(FETCH_AT_MOST_EVERY));
                slot.stale_at = Some(now.plus(FETCH_AT_LEAST_EVERY));
                slot.keys = Some(Arc::new(keys));
            }
            Err(error) => {
                tracing::warn!(client.id = %client.id, error = &error as &dyn std::error::Error, "fetching a client's keys failed");
            }
        }
    }
    // Old keys rather than none: an address that is away for a while locks nobody out, nor is it believed for ever.
    let dead = slot.stale_at.is_none_or(|at| at.plus(GRACE) <= now);
    slot.keys.clone().filter(|_| !dead).ok_or_else(refused)
}
