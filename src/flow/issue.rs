//! What an authorization gives: a code, and later the ID token beside the access token.

use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use crate::clock::UnixTime;
use crate::crypto::CryptoError;
use crate::crypto::jwt::{TokenType, at_hash};
use crate::crypto::opaque::{CODE_PREFIX, Digest, GrantSecret, browser_state, session_state};
use crate::domain::client::Client;
use crate::domain::flow::ClientDestination;
use crate::domain::grant::{Grant, GrantDetails};
use crate::domain::ids::GrantId;
use crate::domain::session::SignedIn;
use crate::domain::user::User;
use crate::protocol::error::OAuthError;
use crate::protocol::redirect_uri::origin_of;
use crate::protocol::response_mode::{AuthorizationResponse, BrowserState};
use crate::store::{Granting, NewGrant};

use super::{Context, assurance, consent, session};

/// What a token request must prove to spend a code: the redirect URI, if the authorization request named it, and the
/// PKCE challenge, if it had one; neither more nor less (RFC 6749 section 4.1.3, RFC 9700 section 4.8.2).
#[must_use]
pub fn code_binding(redirect_uri: Option<&str>, code_challenge: Option<&str>) -> Digest {
    let part = |part: Option<&str>| part.map_or_else(|| "-".to_owned(), |text| format!("+{text}"));
    Digest::of(format!("{}\n{}", part(redirect_uri), part(code_challenge)).as_bytes())
}

/// What an authorization came to.
pub enum Issued {
    Answer(AuthorizationResponse),
    /// The flow that led here had been answered already, or the session has ended.
    Gone,
    /// What it was decided by changed meanwhile; it is to be judged again.
    Outdated,
}

/// A grant with its code, and the answer that may be given once it is stored.
pub struct Prepared {
    pub grant: NewGrant,
    pub answer: AuthorizationResponse,
}

/// Stores a grant with its code and answers the client.
///
/// # Errors
/// When the machinery fails.
pub async fn code(
    ctx: &Context,
    client: &Client,
    destination: &ClientDestination,
    signed_in: &SignedIn,
    flow: Option<Digest>,
    now: UnixTime,
) -> Result<Issued, OAuthError> {
    let Prepared { grant, answer } = prepare(ctx, client, destination, signed_in, flow, now)?;
    Ok(match ctx.store.create_grant(grant).await? {
        Granting::Done => Issued::Answer(answer),
        Granting::Gone => Issued::Gone,
        Granting::Outdated => Issued::Outdated,
    })
}

/// # Errors
/// When the machinery fails.
pub fn prepare(
    ctx: &Context,
    client: &Client,
    destination: &ClientDestination,
    signed_in: &SignedIn,
    flow: Option<Digest>,
    now: UnixTime,
) -> Result<Prepared, OAuthError> {
    let request = &destination.request;
    let secret = GrantSecret::mint()?;
    let challenge = request.code_challenge.as_ref().map(crate::protocol::pkce::CodeChallenge::as_str);
    let named = request.target.redirect_uri_sent.then_some(request.target.redirect_uri.as_str());
    let grant = NewGrant {
        handle: secret.handle_digest(),
        code: secret.digest(),
        code_binding: code_binding(named, challenge),
        code_expires_at: now.plus(ctx.config.authorization_code.lifetime),
        flow,
        asked: (!client.metadata.skip_consent).then(|| consent::asked(request)),
        grant: Grant {
            id: GrantId::new(now),
            client_id: destination.client_id.clone(),
            user_id: signed_in.user.id.clone(),
            session_id: signed_in.session.id.clone(),
            scope: request.scope.clone(),
            details: GrantDetails {
                resources: request.resources.clone(),
                claims: request.claims.clone(),
                nonce: request.nonce.clone(),
            },
            authentication: assurance::told(&ctx.config.acr, request, &signed_in.session.authentication),
            network: None,
            created_at: now,
        },
    };
    let code = secret.reveal(CODE_PREFIX).expose_secret().to_owned();
    let mut parameters = vec![("code", code)];
    let origin = origin_of(&request.target.redirect_uri).filter(|_| ctx.config.session.management);
    let browser_state = origin.as_ref().map(|_| browser_state(&ctx.session_key, signed_in.session.id.as_str()));
    if let (Some(origin), Some(browser_state)) = (&origin, &browser_state) {
        parameters.push(("session_state", session_state(destination.client_id.as_str(), origin, browser_state)?));
    }
    let browser_state = browser_state.map(|value| BrowserState { value, max_age: signed_in.session.kept_for(now) });
    let answer = AuthorizationResponse { browser_state, ..request.target.respond(ctx.issuer(), parameters) };
    Ok(Prepared { grant, answer })
}

/// Signs an ID token, OpenID Connect Core section 2. `nonce` goes into the one that answers the authorization request
/// and into no later one (section 12.2).
///
/// # Errors
/// When signing fails.
pub fn id_token(
    ctx: &Context,
    client: &Client,
    grant: &Grant,
    nonce: Option<&str>,
    user: Option<&User>,
    access_token: &str,
    now: UnixTime,
) -> Result<String, CryptoError> {
    let algorithm = client.metadata.id_token_signed_response_alg;
    let mut claims = Map::new();
    if let Some(user) = user {
        let asked = grant.details.claims.id_token.keys().filter(|name| client.metadata.allows_claim(name));
        claims.extend(asked.filter_map(|name| Some((name.clone(), user.claim(name)?))));
    }
    let amr: Vec<Value> = grant.authentication.amr.split(' ').map(Value::from).collect();
    let mut set = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
    set("iss", ctx.issuer().into());
    set("sub", grant.user_id.as_str().into());
    set("aud", client.id.as_str().into());
    set("exp", now.plus(ctx.config.id_token.lifetime).seconds().into());
    set("iat", now.seconds().into());
    set("auth_time", grant.authentication.at.seconds().into());
    set("acr", grant.authentication.acr.as_str().into());
    set("amr", amr.into());
    set("sid", session::sid(ctx, &grant.session_id, &client.id).into());
    set("at_hash", at_hash(algorithm, access_token).into());
    if let Some(nonce) = nonce {
        set("nonce", nonce.into());
    }
    ctx.registry.load().keyring.sign(algorithm, TokenType::Jwt, &claims, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_code_is_bound_to_exactly_what_the_request_had() {
        let bound = code_binding(Some("https://a.example/cb"), Some("challenge"));
        assert!(bound.equals(&code_binding(Some("https://a.example/cb"), Some("challenge"))));
        for other in [
            code_binding(Some("https://a.example/cb"), None),
            code_binding(None, Some("challenge")),
            code_binding(Some("https://a.example/cb/"), Some("challenge")),
            code_binding(Some("https://a.example/cb\n+challenge"), None),
            code_binding(Some("https://a.example/cb"), Some("")),
            code_binding(None, None),
        ] {
            assert!(!bound.equals(&other));
        }
    }
}
