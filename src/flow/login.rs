//! Signing in by password.

use secrecy::{ExposeSecret as _, SecretString};
use unicode_normalization::UnicodeNormalization as _;

use crate::clock::UnixTime;
use crate::crypto::opaque::{SessionSecret, browser_mark, is_browser_mark};
use crate::crypto::password::{MAX_LENGTH, Verdict};
use crate::domain::flow::Progress;
use crate::domain::ids::SessionId;
use crate::domain::session::{Authentication, Session};
use crate::domain::throttle::Bucket;
use crate::domain::user::normal_name;
use crate::protocol::acr::{ACR_PASSWORD, AMR_PASSWORD};
use crate::protocol::error::OAuthError;
use crate::store::{Failure, NewSession, SignIn};

use super::Context;
use super::interaction::{Situation, Step};
use super::session::{Browser, SessionCookie};

/// What a sign-in came to.
pub enum Outcome {
    /// The new session's cookie, and the mark by which this browser is known to the account from now on.
    SignedIn { cookie: SessionCookie, known: String },
    /// Name or password is wrong; which of them is not said.
    Wrong,
    /// Too many wrong guesses; not before this instant.
    Wait(UnixTime),
    /// There was nothing to sign in for: the flow has moved on.
    Elsewhere,
}

impl Outcome {
    /// As it is counted.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::SignedIn { .. } => "signed_in",
            Self::Wrong => "wrong",
            Self::Wait(_) => "wait",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// Checks a password and signs in. An account that does not exist costs and answers the same as a wrong password.
///
/// # Errors
/// When the machinery fails or its queue is full.
pub async fn sign_in(
    ctx: &Context,
    situation: &Situation,
    browser: &Browser,
    username: Option<&str>,
    password: SecretString,
    keep: bool,
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    let name = match (&situation.step, &situation.signed_in) {
        (Step::Reauthenticate, Some(signed_in)) => signed_in.user.username.clone(),
        (Step::SignIn, _) => username.unwrap_or_default().to_owned(),
        _ => return Ok(Outcome::Elsewhere),
    };
    let credential = ctx.store.find_credential(&name).await?.filter(|credential| !credential.disabled);
    let stored = credential.as_ref().and_then(|credential| credential.password_hash.clone());
    let known = browser.known.as_deref().filter(|mark| {
        let owner = stored.as_deref().map(|hash| mark_owner(&name, hash));
        owner.is_some_and(|owner| is_browser_mark(&ctx.known_browser_key, &owner, mark))
    });
    // A browser that the account knows is judged by its own guesses alone, never by its neighbours'.
    let account = Bucket::account(&name, known);
    let network = known.is_none().then(|| Bucket::network(&browser.network));
    let buckets: Vec<Bucket> = [account.clone()].into_iter().chain(network).collect();
    if let Some(until) = ctx.store.throttled_until(buckets.clone(), now).await? {
        return Ok(Outcome::Wait(until));
    }
    // An over-long password is wrong, at the price of any other.
    let fits = password.expose_secret().nfc().count() <= MAX_LENGTH;
    let account_id = credential.as_ref().map(|credential| credential.user_id.clone());
    let verdict = ctx.hasher.verify(if fits { password } else { SecretString::default() }, stored.clone()).await?;
    let (Verdict::Right { rehashed }, Some(credential), Some(verified_hash), true) =
        (verdict, credential, stored, fits)
    else {
        let failure = Failure { buckets, account: account_id, origin: browser.origin.clone() };
        let blocked = ctx.store.record_failure(failure, now).await?;
        // Never the name as it was typed: it may be a password in the wrong field.
        tracing::warn!(network = browser.network, slowed = blocked.is_some(), "a sign-in failed");
        return Ok(blocked.map_or(Outcome::Wrong, Outcome::Wait));
    };
    let owner = mark_owner(&name, rehashed.as_ref().unwrap_or(&verified_hash));
    let cookie = SessionSecret::mint()?;
    let before = situation.signed_in.as_ref().map(|signed_in| &signed_in.session);
    let continues = before.is_some_and(|session| session.user_id == credential.user_id);
    let id = before.filter(|_| continues).map_or_else(SessionId::random, |session| session.id.clone());
    // Asked where a sign-in begins; proving oneself again changes nothing about it.
    let is_kept = match situation.step {
        Step::Reauthenticate => continues && before.is_some_and(|session| session.is_kept),
        _ => keep && !ctx.config.session.keep.is_zero(),
    };
    let session = Session {
        id: id.clone(),
        user_id: credential.user_id.clone(),
        authentication: Authentication { at: now, acr: ACR_PASSWORD.to_owned(), amr: AMR_PASSWORD.to_owned() },
        proven_at: now,
        last_seen_at: now,
        expires_at: now.plus(if is_kept { ctx.config.session.keep } else { ctx.config.session.lifetime }),
        is_kept,
        auth_address: browser.origin.address.clone(),
    };
    let session_cookie = SessionCookie::new(&cookie, &session, now);
    let stored = ctx.store.sign_in(
        NewSession {
            cookie: cookie.digest(),
            origin: browser.origin.clone(),
            continues,
            replaces: before.filter(|_| !continues).map(|session| session.id.clone()),
            verified_hash,
            rehashed,
            account,
            buckets,
            flow: situation.id,
            progress: Progress { session_id: Some(id), signed_in: true, ..Progress::default() },
            session,
        },
        now,
    );
    match stored.await? {
        SignIn::Done => {
            tracing::info!(user.id = %credential.user_id, network = browser.network, "signed in");
            let known = browser_mark(&ctx.known_browser_key, &owner)?;
            Ok(Outcome::SignedIn { cookie: session_cookie, known })
        }
        SignIn::Blocked(until) => Ok(Outcome::Wait(until)),
        SignIn::Gone => Ok(Outcome::Wrong),
    }
}

/// Whose browser a mark says it is: the account's, as long as it has this password.
pub(super) fn mark_owner(name: &str, password_hash: &str) -> String {
    format!("{}\n{password_hash}", normal_name(name))
}
