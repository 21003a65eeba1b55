//! Signing in by password.

use secrecy::{ExposeSecret as _, SecretString};
use unicode_normalization::UnicodeNormalization as _;

use crate::clock::UnixTime;
use crate::crypto::opaque::{Digest, SessionSecret, browser_mark, is_browser_mark};
use crate::crypto::password::{MAX_LENGTH, Verdict};
use crate::domain::flow::Progress;
use crate::domain::ids::SessionId;
use crate::domain::session::{Authentication, Session};
use crate::domain::user::normal_name;
use crate::protocol::discovery::ACR_PASSWORD;
use crate::protocol::error::OAuthError;
use crate::store::{NewSession, SignIn};

use super::Context;
use super::interaction::{Situation, Step};
use super::session::Browser;

/// So many wrong guesses from one network count as one of an account: many people may share an address.
const NETWORK_WEIGHT: i64 = 20;
/// `amr`, RFC 8176.
const AMR_PASSWORD: &str = "pwd";

/// What a sign-in came to.
pub enum Outcome {
    /// The new session's cookie, and the mark by which this browser is known to the account from now on.
    SignedIn { cookie: SecretString, known: String },
    /// Name or password is wrong; which of them is not said.
    Wrong,
    /// Too many wrong guesses; not before this instant.
    Wait(UnixTime),
    /// There was nothing to sign in for: the flow has moved on.
    Elsewhere,
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
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    let name = match (&situation.step, &situation.signed_in) {
        (Step::Reauthenticate, Some(signed_in)) => signed_in.user.username.clone(),
        (Step::SignIn, _) => username.unwrap_or_default().to_owned(),
        _ => return Ok(Outcome::Elsewhere),
    };
    let account = bucket_of(ctx, &name, browser);
    let network = format!("network {}", browser.network);
    if let Some(until) = ctx.store.throttled_until(vec![account.clone(), network.clone()], now).await? {
        return Ok(Outcome::Wait(until));
    }
    let credential = ctx.store.find_credential(&name).await?.filter(|credential| !credential.disabled);
    let stored = credential.as_ref().and_then(|credential| credential.password_hash.clone());
    // An over-long password is wrong, at the price of any other.
    let fits = password.expose_secret().nfc().count() <= MAX_LENGTH;
    let verdict = ctx.hasher.verify(if fits { password } else { SecretString::default() }, stored.clone()).await?;
    let (Verdict::Right { rehashed }, Some(credential), true) = (verdict, credential, fits) else {
        ctx.store.record_failure(vec![(account, 1), (network, NETWORK_WEIGHT)], now).await?;
        return Ok(Outcome::Wrong);
    };
    let cookie = SessionSecret::mint()?;
    let before = situation.signed_in.as_ref().map(|signed_in| &signed_in.session);
    let continues = before.is_some_and(|session| session.user_id == credential.user_id);
    let id = before.filter(|_| continues).map_or_else(SessionId::random, |session| session.id.clone());
    let stored = ctx.store.sign_in(
        NewSession {
            cookie: cookie.digest(),
            continues,
            replaces: before.filter(|_| !continues).map(|session| session.id.clone()),
            rehashed: stored.zip(rehashed),
            throttle: account,
            flow: situation.id,
            progress: Progress { session_id: Some(id.clone()), signed_in: true, ..Progress::default() },
            session: Session {
                id,
                user_id: credential.user_id.clone(),
                authentication: Authentication { at: now, acr: ACR_PASSWORD.to_owned(), amr: AMR_PASSWORD.to_owned() },
                last_seen_at: now,
                expires_at: now.plus(ctx.config.session.lifetime),
            },
        },
        now,
    );
    match stored.await? {
        SignIn::Done => {
            let known = browser_mark(&ctx.known_browser_key, &normal_name(&name))?;
            Ok(Outcome::SignedIn { cookie: cookie.reveal(), known })
        }
        SignIn::Blocked(until) => Ok(Outcome::Wait(until)),
        SignIn::Gone => Ok(Outcome::Wrong),
    }
}

/// The count that a guess at this account goes to. A browser that has signed in to it before has a count of its own, so
/// that no stranger's guesses lock its person out. By digest: people type their passwords into the wrong field.
fn bucket_of(ctx: &Context, name: &str, browser: &Browser) -> String {
    use base64::Engine as _;
    let account = normal_name(name);
    let known = browser.known.as_deref().filter(|mark| is_browser_mark(&ctx.known_browser_key, &account, mark));
    let digest = Digest::of(format!("{account}\n{}", known.unwrap_or_default()).as_bytes());
    format!("account {}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.as_bytes()))
}
