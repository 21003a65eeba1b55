//! Signing out: at our own page, and asked for by a client (OpenID Connect RP-Initiated Logout 1.0). What follows at the
//! other clients of the session: Front-Channel Logout 1.0 by frames on our page; Back-Channel Logout is `delivery`'s.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::crypto::opaque::SignOutId;
use crate::domain::client::Client;
use crate::domain::ids::SessionId;
use crate::domain::session::SignedIn;
use crate::domain::user::normal_name;
use crate::protocol::authorization::shown;
use crate::protocol::error::OAuthError;
use crate::protocol::logout::{Hint, frontchannel_location, with_state};
use crate::protocol::params::Params;
use crate::store::{Delivery, NewSignOut};

use super::Context;
use super::session::{Browser, current, sid};

/// How long the page after a sign-out can be looked at again.
const PAGE_LIFETIME: Duration = Duration::from_mins(30);

/// A checked request to sign out.
#[derive(Default)]
pub struct LogoutRequest {
    pub client: Option<Arc<Client>>,
    /// The way back, proven to be the client's, with `state`; `None`, our own page.
    pub back: Option<String>,
    hint: Option<Hint>,
    logout_hint: Option<String>,
}

/// What a request to sign out leads to.
pub enum Outcome {
    /// Nobody is signed in here any more.
    SignedOut(Farewell),
    /// Ask the person first; `other_account` when the client seems to mean somebody else.
    Confirm { signed_in: Box<SignedIn>, other_account: bool },
}

/// Where a browser goes that is signed out.
pub enum Farewell {
    /// To the page that says which applications are told, under this name.
    Page(SecretString),
    /// Back to the client at once: nothing is left to be done in this browser.
    Back(String),
    /// To a page that has nothing to add.
    Done,
}

/// Checks the parameters of RP-Initiated Logout section 2.
///
/// # Errors
/// `invalid_request`, for our own error page: an address that is not registered is never redirected to (section 3).
pub fn parse(ctx: &Context, params: &Params) -> Result<LogoutRequest, OAuthError> {
    params.refuse_repeated()?;
    for (name, most) in [("state", 4096), ("logout_hint", 2048), ("ui_locales", 2048)] {
        if params.get(name).is_some_and(|value| value.len() > most) {
            return Err(OAuthError::invalid_request(format!("`{name}` is longer than {most} bytes.")));
        }
    }
    let registry = ctx.registry();
    let named = params.get("client_id");
    let hint = match params.get("id_token_hint") {
        None => None,
        Some(text) => match registry.keyring.verify_hint(text, ctx.issuer()).as_ref().and_then(Hint::read) {
            // A hint that proves nothing counts as none where `client_id` says who asks; the person is asked then.
            None if named.is_none() => {
                return Err(OAuthError::invalid_request("`id_token_hint` is not an ID token of this server."));
            }
            proven => proven,
        },
    };
    if let (Some(named), Some(hint)) = (named, &hint)
        && named != hint.client_id
    {
        return Err(OAuthError::invalid_request(
            "`client_id` is not the client that the `id_token_hint` was issued to.",
        ));
    }
    let client = match (named, &hint) {
        (Some(id), _) => Some(
            registry
                .client(id)
                .cloned()
                .ok_or_else(|| OAuthError::invalid_request("No app is registered under this `client_id`."))?,
        ),
        // The client may be gone since: then nobody asks, but a person may still want to sign out.
        (None, Some(hint)) => registry.client(&hint.client_id).cloned(),
        (None, None) => None,
    };
    let back = match (params.get("post_logout_redirect_uri"), &client) {
        (None, _) => None,
        (Some(uri), Some(client))
            if client.metadata.post_logout_redirect_uris.iter().any(|own| own.as_str() == uri) =>
        {
            Some(with_state(uri, params.get("state")))
        }
        (Some(uri), Some(_)) => {
            return Err(OAuthError::invalid_request(format!(
                "The `post_logout_redirect_uri` {} is not one that this app registered; they are compared letter by letter.",
                shown(uri)
            )));
        }
        (Some(_), None) => {
            return Err(OAuthError::invalid_request(
                "`post_logout_redirect_uri` needs a `client_id`, or an `id_token_hint` of a registered client, beside it.",
            ));
        }
    };
    // A hint of a client that is gone speaks for nobody.
    let hint = hint.filter(|_| client.is_some());
    Ok(LogoutRequest { client, back, hint, logout_hint: params.get("logout_hint").map(str::to_owned) })
}

impl LogoutRequest {
    /// Whether the hint is of this very session and person (section 2: otherwise the person must be asked).
    fn proves(&self, ctx: &Context, signed_in: &SignedIn) -> bool {
        self.hint.as_ref().zip(self.client.as_ref()).is_some_and(|(hint, client)| {
            hint.subject == signed_in.user.id.as_str() && hint.sid == sid(ctx, &signed_in.session.id, &client.id)
        })
    }

    /// Whether one of the hints names another person than the one signed in. `logout_hint` may be a user name, an e-mail
    /// address, a `sub` or a `sid`.
    fn means_another(&self, ctx: &Context, signed_in: &SignedIn) -> bool {
        let user = &signed_in.user;
        let other_subject = self.hint.as_ref().is_some_and(|hint| hint.subject != user.id.as_str());
        let other_name = self.logout_hint.as_deref().is_some_and(|hint| {
            let sid = self.client.as_ref().map(|client| sid(ctx, &signed_in.session.id, &client.id));
            let email = user.email.as_deref().is_some_and(|email| email.eq_ignore_ascii_case(hint));
            let known = email || hint == user.id.as_str() || sid.as_deref() == Some(hint);
            !known && normal_name(hint) != normal_name(&user.username)
        });
        other_subject || other_name
    }
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
    if !confirmed && let Some(signed_in) = current(ctx, browser, now).await? {
        let other_account = request.means_another(ctx, &signed_in);
        if other_account || !request.proves(ctx, &signed_in) {
            return Ok(Outcome::Confirm { signed_in: Box::new(signed_in), other_account });
        }
    }
    end(ctx, request, browser, now).await.map(Outcome::SignedOut)
}

/// Ends this browser's session, also one that has been idle for too long.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn end(
    ctx: &Context,
    request: &LogoutRequest,
    browser: &Browser,
    now: UnixTime,
) -> Result<Farewell, OAuthError> {
    let elsewhere = request.back.clone().map_or(Farewell::Done, Farewell::Back);
    let Some(cookie) = browser.session else { return Ok(elsewhere) };
    let registry = ctx.registry();
    let clients = ctx.store.clients_of_cookie(cookie).await?;
    let mut known = clients.iter().filter_map(|id| registry.client(id.as_str()));
    // Back at once where nothing is left to be done in this browser: the server itself tells whom it can.
    let worth_a_page = if request.back.is_none() {
        known.next().is_some()
    } else {
        known.any(|client| client.metadata.frontchannel_logout_uri.is_some())
    };
    let id = SignOutId::mint()?;
    let page = worth_a_page.then(|| NewSignOut {
        id: id.digest(),
        browser: browser.digest(),
        client_id: request.client.as_ref().map(|client| client.id.clone()),
        back: request.back.clone(),
        expires_at: now.plus(PAGE_LIFETIME),
    });
    let ended = ctx.store.end_session(cookie, browser.origin.clone(), page, now).await?;
    tracing::info!(network = browser.network, "signed out");
    Ok(if worth_a_page && ended { Farewell::Page(id.reveal()) } else { elsewhere })
}

/// The page after a sign-out.
pub struct SignedOut {
    /// The way back, and whose it is.
    pub back: Option<(String, String)>,
    pub applications: Vec<Application>,
}

/// A client of the session that ended.
pub struct Application {
    pub name: String,
    pub delivery: Option<Delivery>,
    /// `frontchannel_logout_uri` with `iss` and `sid`, to be shown in a frame.
    pub frame: Option<String>,
}

/// What became of a sign-out of this browser. `None` for another browser's, or after a while.
///
/// # Errors
/// When the database cannot be read.
pub async fn signed_out(
    ctx: &Context,
    id: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<Option<SignedOut>, OAuthError> {
    let Some(id) = SignOutId::parse(id) else { return Ok(None) };
    let Some(found) = ctx.store.find_sign_out(id.digest(), browser.digest(), now).await? else { return Ok(None) };
    let registry = ctx.registry();
    let name = |client: &Client| client.name().to_owned();
    let asked = found.client_id.as_ref().and_then(|id| registry.client(id.as_str())).map(|client| name(client));
    let application = |client: &Client, delivery: Option<Delivery>| Application {
        name: name(client),
        delivery,
        frame: frame(ctx, client, &found.session_id),
    };
    let mut applications: Vec<Application> = found
        .clients
        .iter()
        .filter_map(|(id, delivery)| Some(application(registry.client(id.as_str())?, *delivery)))
        .collect();
    applications.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(SignedOut { back: found.back.zip(asked), applications }))
}

fn frame(ctx: &Context, client: &Client, session: &SessionId) -> Option<String> {
    let uri = client.metadata.frontchannel_logout_uri.as_deref()?;
    Some(frontchannel_location(uri, ctx.issuer(), &sid(ctx, session, &client.id)))
}
