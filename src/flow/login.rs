//! Signing in by password.

use secrecy::{ExposeSecret as _, SecretString};
use unicode_normalization::UnicodeNormalization as _;

use crate::clock::UnixTime;
use crate::crypto::opaque::{Digest, SessionSecret, StepSecret, browser_mark, is_browser_mark};
use crate::crypto::password::{MAX_LENGTH, Verdict};
use crate::domain::flow::{Progress, ProvenPassword};
use crate::domain::ids::{SessionId, UserId};
use crate::domain::session::{Authentication, Session, SignedIn};
use crate::domain::throttle::Bucket;
use crate::domain::user::normal_name;
use crate::protocol::acr::AMR_PASSWORD;
use crate::protocol::error::OAuthError;
use crate::protocol::response_mode::AuthorizationResponse;
use crate::store::{Credential, Failure, HalfSignIn, NewSession, SecondFactor, SignIn};

use super::Context;
use super::assurance::{Missing, Person, is_trusted, missing};
use super::interaction::{Situation, Step, foreseen};
use super::session::{Browser, SessionCookie};

/// What a sign-in came to.
pub enum Outcome {
    SignedIn(Entry),
    /// The password is right, and a second factor is due: what this browser must show to go on.
    Half(SecretString),
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
            Self::SignedIn(_) => "signed_in",
            Self::Half(_) => "half",
            Self::Wrong => "wrong",
            Self::Wait(_) => "wait",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// What a browser is given with a sign-in.
pub struct Entry {
    pub cookie: SessionCookie,
    /// The mark by which it is known to the account from now on.
    pub known: Option<String>,
    /// That it needs no second factor for a while.
    pub trust: Option<SecretString>,
    /// Where it is sent with them; `None` where that is still to be judged.
    pub answer: Option<AuthorizationResponse>,
}

/// Checks a password and signs in, or halfway in where a second factor is due. An account that does not exist costs and
/// answers the same as a wrong password.
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
    let credential = ctx.store.find_credential(&name).await?.filter(|credential| credential.user.disabled_at.is_none());
    let stored = credential.as_ref().and_then(|credential| credential.password_hash.clone());
    let known = known_mark(ctx, browser, &name, stored.as_deref());
    // A browser that the account knows is judged by its own guesses alone, never by its neighbours'.
    let account = Bucket::account(&name, known);
    let network = known.is_none().then(|| Bucket::network(&browser.network));
    let buckets: Vec<Bucket> = [account.clone()].into_iter().chain(network).collect();
    if let Some(until) = ctx.store.throttled_until(buckets.clone(), now).await? {
        return Ok(Outcome::Wait(until));
    }
    // An over-long password is wrong, at the price of any other.
    let fits = password.expose_secret().nfc().count() <= MAX_LENGTH;
    let account_id = credential.as_ref().map(|credential| credential.user.id.clone());
    let verdict = ctx.hasher.verify(if fits { password } else { SecretString::default() }, stored.clone()).await?;
    let (Verdict::Right { rehashed }, Some(Credential { user, .. }), Some(verified_hash), true) =
        (verdict, credential, stored, fits)
    else {
        let failure = Failure { buckets, account: account_id, origin: browser.origin.clone() };
        let blocked = ctx.store.record_failure(failure, now).await?;
        // Never the name as it was typed: it may be a password in the wrong field.
        tracing::warn!(network = browser.network, slowed = blocked.is_some(), "a sign-in failed");
        return Ok(blocked.map_or(Outcome::Wrong, Outcome::Wait));
    };
    let person = Person::from(&user);
    let before = situation.signed_in.as_ref().map(|signed_in| &signed_in.session);
    let before = before.filter(|session| session.user_id == user.id);
    // Asked where a sign-in begins; proving oneself again changes nothing about it.
    let is_kept = match situation.step {
        Step::Reauthenticate => before.is_some_and(|session| session.is_kept),
        _ => keep && !ctx.config.session.keep.is_zero(),
    };
    // A session that has shown a second factor is not made weaker by proving a part of it again.
    let trusted = before.is_none_or(|session| !session.authentication.is_multi_factor())
        && is_trusted(ctx, browser, &user.id, person, now).await?;
    let verified = Digest::of(verified_hash.as_bytes());
    let owner = if trusted { strong_owner } else { mark_owner }(&name, rehashed.as_ref().unwrap_or(&verified_hash));
    match missing(&ctx.config.mfa, person, situation.demand, false, trusted) {
        Missing::Nothing | Missing::Unmeetable => {}
        Missing::SecondFactor | Missing::Enrolment => {
            let step = StepSecret::mint()?;
            // The password that the second step will be held against is the one that is stored then.
            let hash = rehashed.as_ref().map_or(verified, |rehashed| Digest::of(rehashed.as_bytes()));
            let proof =
                ProvenPassword { user_id: user.id.clone(), at: now, secret: step.digest(), hash, keep: is_kept };
            let half = HalfSignIn {
                user_id: user.id,
                verified_hash: verified,
                rehashed,
                buckets,
                account,
                flow: situation.id,
                progress: Progress { password: Some(proof), ..situation.flow.progress.clone() },
            };
            return Ok(match ctx.store.prove_password(half, now).await? {
                SignIn::Blocked(until) => Outcome::Wait(until),
                SignIn::Done => Outcome::Half(step.reveal()),
                _ => Outcome::Wrong,
            });
        }
    }
    let cookie = SessionSecret::mint()?;
    let Renewed { session, continues, replaces } =
        renew(ctx, situation, browser, &user.id, Authentication::by(AMR_PASSWORD, now), is_kept);
    let session_cookie = SessionCookie::new(ctx, &cookie, &session, now);
    let progress = Progress { session_id: Some(session.id.clone()), signed_in: true, ..Progress::default() };
    let signed_in = SignedIn { session: session.clone(), user, address: browser.origin.address.clone() };
    let prepared = foreseen(ctx, situation, &signed_in, &progress, trusted, now).await?;
    let (grant, answer) = prepared.map(|prepared| (prepared.grant, prepared.answer)).unzip();
    let stored = ctx.store.sign_in(
        NewSession {
            cookie: cookie.digest(),
            origin: browser.origin.clone(),
            continues,
            replaces,
            verified_hash: Some(verified),
            second_factor: if person.has_second_factor { SecondFactor::Waived } else { SecondFactor::None },
            trust: None,
            notices: Vec::new(),
            rehashed,
            account,
            buckets,
            flow: situation.id,
            progress,
            session,
            grant,
        },
        now,
    );
    match stored.await? {
        stored @ (SignIn::Done | SignIn::Granted) => {
            tracing::info!(user.id = %signed_in.user.id, network = browser.network, "signed in");
            let known = Some(browser_mark(&ctx.known_browser_key, &owner)?);
            let answer = answer.filter(|_| stored == SignIn::Granted);
            Ok(Outcome::SignedIn(Entry { cookie: session_cookie, known, trust: None, answer }))
        }
        SignIn::Blocked(until) => Ok(Outcome::Wait(until)),
        SignIn::Gone | SignIn::Spent | SignIn::Enrolled { .. } => Ok(Outcome::Wrong),
    }
}

/// A session as a full sign-in makes it.
pub(super) struct Renewed {
    pub session: Session,
    pub continues: bool,
    pub replaces: Option<SessionId>,
}

/// The same person goes on in the session that this browser has; another one replaces it.
pub(super) fn renew(
    ctx: &Context,
    situation: &Situation,
    browser: &Browser,
    user_id: &UserId,
    authentication: Authentication,
    is_kept: bool,
) -> Renewed {
    let now = authentication.at;
    let before = situation.signed_in.as_ref().map(|signed_in| &signed_in.session);
    let continues = before.is_some_and(|session| session.user_id == *user_id);
    let session = Session {
        id: before.filter(|_| continues).map_or_else(SessionId::random, |session| session.id.clone()),
        user_id: user_id.clone(),
        authentication,
        proven_at: now,
        last_seen_at: now,
        expires_at: now.plus(if is_kept { ctx.config.session.keep } else { ctx.config.session.lifetime }),
        is_kept,
        auth_address: browser.origin.address.clone(),
    };
    Renewed { session, continues, replaces: before.filter(|_| !continues).map(|session| session.id.clone()) }
}

/// The mark that this browser has signed in to the account before, with the password that it still has.
pub(super) fn known_mark<'a>(
    ctx: &Context,
    browser: &'a Browser,
    name: &str,
    password_hash: Option<&str>,
) -> Option<&'a str> {
    let hash = password_hash?;
    let owners = [mark_owner(name, hash), strong_owner(name, hash)];
    let is_known = |mark: &&str| owners.iter().any(|owner| is_browser_mark(&ctx.known_browser_key, owner, mark));
    browser.known.as_deref().filter(is_known)
}

/// Whose browser a mark says it is: the account's, as long as it has this password.
pub(super) fn mark_owner(name: &str, password_hash: &str) -> String {
    format!("{}\n{password_hash}", normal_name(name))
}

/// The same of a browser that has shown a second factor there. Only such a one is counted by itself when codes are guessed:
/// whoever knows the password can have as many of the other marks as they like.
pub(super) fn strong_owner(name: &str, password_hash: &str) -> String {
    format!("{}\nmfa", mark_owner(name, password_hash))
}

/// The mark of a browser that has just shown a second factor; `None` for an account without a password.
///
/// # Errors
/// When the machinery fails.
pub async fn strong_mark(ctx: &Context, username: &str) -> Result<Option<String>, OAuthError> {
    let credential = ctx.store.find_credential(username).await?;
    let hash = credential.and_then(|credential| credential.password_hash);
    Ok(hash.map(|hash| browser_mark(&ctx.known_browser_key, &strong_owner(username, &hash))).transpose()?)
}
