//! Signing out: at our own page, and asked for by a client (OpenID Connect RP-Initiated Logout 1.0).

use std::sync::Arc;

use crate::clock::UnixTime;
use crate::domain::client::Client;
use crate::domain::session::SignedIn;
use crate::protocol::authorization::shown;
use crate::protocol::error::OAuthError;
use crate::protocol::params::Params;

use super::Context;
use super::session::{Browser, current, end};

/// Where the browser goes when it is signed out: an address that its client registered, with `state`.
pub struct Return {
    pub location: String,
}

/// A checked request to sign out.
pub struct LogoutRequest {
    pub client: Option<Arc<Client>>,
    /// The way back, proven to be the client's; `None`, our own page.
    pub back: Option<Return>,
    /// The `sid` of a valid `id_token_hint`.
    hinted_session: Option<String>,
}

/// What a request to sign out leads to.
pub enum Outcome {
    /// Nobody is signed in here, or was a moment ago.
    SignedOut,
    /// Ask the person first: only a hint of this very session proves that a client of it asks (section 2).
    Confirm(Box<SignedIn>),
}

/// Checks the parameters of section 2.
///
/// # Errors
/// `invalid_request`, for our own error page: an address that is not registered is never redirected to (section 3).
pub fn parse(ctx: &Context, params: &Params) -> Result<LogoutRequest, OAuthError> {
    params.refuse_repeated()?;
    let registry = ctx.registry();
    let hint = match params.get("id_token_hint") {
        None => None,
        Some(hint) => match registry.keyring.verify_hint(hint, ctx.issuer()) {
            // A hint that proves nothing counts as none where `client_id` says who asks; the person is asked then.
            None if params.get("client_id").is_none() => {
                return Err(OAuthError::invalid_request("`id_token_hint` is not an ID token of this server."));
            }
            proven => proven,
        },
    };
    let of_hint = |name: &str| hint.as_ref().and_then(|hint| hint.get(name)).and_then(serde_json::Value::as_str);
    let (named, hinted) = (params.get("client_id"), of_hint("aud"));
    if named.is_some() && hinted.is_some() && named != hinted {
        return Err(OAuthError::invalid_request(
            "`client_id` is not the client that the `id_token_hint` was issued to.",
        ));
    }
    let client = match named.or(hinted) {
        None => None,
        Some(id) => Some(
            registry
                .client(id)
                .cloned()
                .ok_or_else(|| OAuthError::invalid_request("No application is registered under this `client_id`."))?,
        ),
    };
    let back = match (params.get("post_logout_redirect_uri"), &client) {
        (None, _) => None,
        (Some(uri), Some(client))
            if client.metadata.post_logout_redirect_uris.iter().any(|own| own.as_str() == uri) =>
        {
            Some(Return { location: with_state(uri, params.get("state")) })
        }
        (Some(uri), Some(_)) => {
            return Err(OAuthError::invalid_request(format!(
                "The `post_logout_redirect_uri` {} is not one that this application registered; they are compared letter by letter.",
                shown(uri)
            )));
        }
        (Some(_), None) => {
            return Err(OAuthError::invalid_request(
                "`post_logout_redirect_uri` needs `id_token_hint` or `client_id` beside it.",
            ));
        }
    };
    Ok(LogoutRequest { client, back, hinted_session: of_hint("sid").map(str::to_owned) })
}

fn with_state(uri: &str, state: Option<&str>) -> String {
    let Some(state) = state else { return uri.to_owned() };
    let encoded = form_urlencoded::Serializer::new(String::new()).append_pair("state", state).finish();
    format!("{uri}{}{encoded}", if uri.contains('?') { '&' } else { '?' })
}

/// Signs out at once where the hint is of this browser's session, or the person has confirmed; else asks.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn sign_out(
    ctx: &Context,
    request: &LogoutRequest,
    browser: &Browser,
    confirmed: bool,
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    match current(ctx, browser, now).await? {
        Some(signed_in) if !confirmed && request.hinted_session.as_deref() != Some(signed_in.session.id.as_str()) => {
            Ok(Outcome::Confirm(Box::new(signed_in)))
        }
        _ => {
            end(ctx, browser, now).await?;
            Ok(Outcome::SignedOut)
        }
    }
}
