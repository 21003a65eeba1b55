//! Who this browser is signed in as.

use std::time::Duration;

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::config::SidScope;
use crate::crypto::opaque::{
    BrowserSecret, Digest, SessionSecret, StepSecret, TrustSecret, browser_state, csrf_token, sid_of_client,
};
use crate::domain::activity::Origin;
use crate::domain::ids::{ClientId, SessionId};
use crate::domain::session::{Session, SignedIn};
use crate::store::StoreError;

use super::Context;

/// A session is noted as seen at most so often: a page costs no write each time.
const NOTE_EVERY: Duration = Duration::from_mins(1);

/// What a browser brought in its cookies, already read.
pub struct Browser {
    /// Ties flows and forms to this browser; made anew where it was absent or malformed.
    pub secret: SecretString,
    /// Whether it was made just now and the browser must be told.
    pub is_new: bool,
    pub session: Option<Digest>,
    /// That this browser took the first step of a flow; see [`crate::domain::flow::ProvenPassword`].
    pub step: Option<Digest>,
    /// That its person trusts it to need no second factor.
    pub trust: Option<Digest>,
    pub known: Option<String>,
    /// The address or /64 network that guesses are counted against.
    pub network: String,
    /// The address itself and the browser's description, for the owner of the account to see.
    pub origin: Origin,
}

impl Browser {
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(
        flow_cookie: Option<&str>,
        session_cookie: Option<&str>,
        known: Option<String>,
        network: String,
        origin: Origin,
    ) -> Result<Self, crate::crypto::CryptoError> {
        let secret = flow_cookie.filter(|text| BrowserSecret::parse(text).is_some()).map(SecretString::from);
        Ok(Self {
            is_new: secret.is_none(),
            secret: match secret {
                Some(secret) => secret,
                None => BrowserSecret::mint()?.reveal(),
            },
            session: session_cookie.and_then(SessionSecret::parse).map(|secret| secret.digest()),
            step: None,
            trust: None,
            known,
            network,
            origin,
        })
    }

    /// With what the cookies of the second step hold.
    #[must_use]
    pub fn with_second_step(mut self, step_cookie: Option<&str>, trust_cookie: Option<&str>) -> Self {
        self.step = step_cookie.and_then(StepSecret::parse).map(|secret| secret.digest());
        self.trust = trust_cookie.and_then(TrustSecret::parse).map(|secret| secret.digest());
        self
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        use secrecy::ExposeSecret as _;
        Digest::of(self.secret.expose_secret().as_bytes())
    }

    /// The form token for one purpose (a flow, signing out) in this browser.
    #[must_use]
    pub fn csrf(&self, purpose: &str) -> String {
        use secrecy::ExposeSecret as _;
        csrf_token(self.secret.expose_secret(), purpose)
    }
}

/// What a client is told a session is called, in ID tokens, logout tokens and front-channel logout alike. Derived, so that
/// nothing needs to be stored; whoever judges a token goes by its grant, never by this.
#[must_use]
pub fn sid(ctx: &Context, session: &SessionId, client: &ClientId) -> String {
    match ctx.config.session.sid {
        SidScope::Shared => session.as_str().to_owned(),
        SidScope::PerClient => sid_of_client(&ctx.session_key, session.as_str(), client.as_str()),
    }
}

/// The cookie of a session, as its browser is to keep it.
pub struct SessionCookie {
    pub value: SecretString,
    /// `None`: until the browser closes.
    pub max_age: Option<Duration>,
    /// Of the cookie beside it that pages can read, where Session Management is offered.
    pub state: Option<String>,
}

impl SessionCookie {
    #[must_use]
    pub fn new(ctx: &Context, secret: &SessionSecret, session: &Session, now: UnixTime) -> Self {
        let state = || browser_state(&ctx.session_key, session.id.as_str());
        Self {
            value: secret.reveal(),
            max_age: session.kept_for(now),
            state: ctx.config.session.management.then(state),
        }
    }
}

/// The live session of this browser.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn current(ctx: &Context, browser: &Browser, now: UnixTime) -> Result<Option<SignedIn>, StoreError> {
    let Some(cookie) = browser.session else { return Ok(None) };
    let mut found = ctx.store.find_session(cookie, now.minus(ctx.config.session.idle), now).await?;
    if let Some(signed_in) = &mut found {
        signed_in.address.clone_from(&browser.origin.address);
    }
    if let Some(signed_in) = &found
        && now.since(signed_in.session.last_seen_at) > NOTE_EVERY
    {
        let address = browser.origin.address.clone();
        ctx.store.touch_session(signed_in.session.id.clone(), address, now).await?;
    }
    Ok(found)
}
