//! The second step of a sign-in: a code of an authenticator app, a recovery code, or setting up the first app. Only here
//! does half a sign-in become a session.

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::crypto::opaque::{Digest, SessionSecret, TrustSecret, browser_mark, is_browser_mark};
use crate::crypto::recovery_code;
use crate::crypto::totp::{TotpSecret, typed_code};
use crate::domain::activity::Event;
use crate::domain::flow::{Progress, ProvenPassword};
use crate::domain::ids::uuid_v7;
use crate::domain::second_factor::{FactorUse, TrustedBrowser};
use crate::domain::session::{Authentication, Session, SignedIn};
use crate::domain::throttle::Bucket;
use crate::domain::user::User;
use crate::protocol::acr::{AMR_MFA, AMR_OTP, AMR_PASSWORD, AMR_RECOVERY_CODE};
use crate::protocol::error::OAuthError;
use crate::store::{Failure, NewSession, NewTrust, SecondFactor, SignIn};

use super::Context;
use super::enrolment::{self, Confirmed};
use super::interaction::{Half, Situation, Step, foreseen};
use super::login::{Entry, Renewed, renew, strong_owner};
use super::mail::notice;
use super::session::{Browser, SessionCookie};

/// What a person shows beside the password.
pub enum Shown<'a> {
    /// `trust`: whether this browser is to need none for a while.
    Code {
        code: &'a str,
        trust: bool,
    },
    RecoveryCode(&'a str),
}

/// What the second step came to.
pub enum Outcome {
    SignedIn(Entry),
    /// Signed in with an app that was just set up; the recovery codes, where they are new.
    Enrolled(Entry, Vec<SecretString>),
    Wrong,
    /// Too many wrong guesses; not before this instant.
    Wait(UnixTime),
    /// This step is not what comes next.
    Elsewhere,
}

impl Outcome {
    /// As it is counted.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::SignedIn(_) | Self::Enrolled(..) => "signed_in",
            Self::Wrong => "wrong_code",
            Self::Wait(_) => "wait",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// What the second factor is added to.
enum Basis<'a> {
    /// A password proven in this flow.
    Half(&'a Half),
    /// A running session, which rises.
    Session(&'a SignedIn),
}

impl<'a> Basis<'a> {
    fn of(situation: &'a Situation) -> Option<Self> {
        let session = || situation.signed_in.as_ref().map(Self::Session);
        situation.half.as_ref().map(Self::Half).or_else(session)
    }

    fn user(&self) -> &'a User {
        match self {
            Self::Half(half) => &half.user,
            Self::Session(signed_in) => &signed_in.user,
        }
    }
}

/// The account that guesses are counted against, as it is now.
struct Account {
    password_hash: String,
    bucket: Bucket,
    buckets: Vec<Bucket>,
}

/// `None` for an account that is shut, and for a password that is another one by now.
async fn account(ctx: &Context, browser: &Browser, basis: &Basis<'_>) -> Result<Option<Account>, OAuthError> {
    let user = basis.user();
    let credential = ctx.store.find_credential(&user.username).await?;
    let credential =
        credential.filter(|credential| credential.user.disabled_at.is_none() && credential.user.id == user.id);
    let Some(password_hash) = credential.and_then(|credential| credential.password_hash) else { return Ok(None) };
    if let Basis::Half(Half { proof, .. }) = basis
        && !proof.hash.equals(&Digest::of(password_hash.as_bytes()))
    {
        return Ok(None);
    }
    let owner = strong_owner(&user.username, &password_hash);
    let is_known = |mark: &&str| is_browser_mark(&ctx.known_browser_key, &owner, mark);
    let known = browser.known.as_deref().filter(is_known);
    let bucket = Bucket::second_factor(&user.id, known);
    let network = known.is_none().then(|| Bucket::network(&browser.network));
    let buckets = [bucket.clone()].into_iter().chain(network).collect();
    Ok(Some(Account { password_hash, bucket, buckets }))
}

/// Takes a code, and signs in or lifts the session. Wrong ones are counted against the account, whatever they are shown
/// for.
///
/// # Errors
/// When the machinery fails.
pub async fn show(
    ctx: &Context,
    situation: &Situation,
    browser: &Browser,
    shown: Shown<'_>,
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    let (Step::SecondFactor, Some(basis)) = (&situation.step, Basis::of(situation)) else {
        return Ok(Outcome::Elsewhere);
    };
    let Some(account) = account(ctx, browser, &basis).await? else { return start_over(ctx, situation).await };
    if let Some(until) = ctx.store.throttled_until(account.buckets.clone(), now).await? {
        return Ok(Outcome::Wait(until));
    }
    let user = basis.user();
    let (used, method, trust) = match shown {
        Shown::Code { code, trust } => (find_step(ctx, user, code, now).await?, AMR_OTP, trust),
        Shown::RecoveryCode(code) => {
            let digest = recovery_code::digest(&user.id, code);
            (digest.map(|digest| FactorUse::RecoveryCode { digest }), AMR_RECOVERY_CODE, false)
        }
    };
    let Some(used) = used else { return wrong(ctx, user, browser, account, now).await };
    let rise = Rise { second_factor: SecondFactor::Spend(used), method, trust };
    match complete(ctx, situation, browser, &basis, &account, rise, now).await? {
        (SignIn::Done | SignIn::Granted, Some(entry)) => Ok(Outcome::SignedIn(entry)),
        (SignIn::Spent, _) => wrong(ctx, user, browser, account, now).await,
        (SignIn::Blocked(until), _) => Ok(Outcome::Wait(until)),
        _ => start_over(ctx, situation).await,
    }
}

/// Which device a code is of, and which step. Every device is tried, whether one has fit or not.
async fn find_step(ctx: &Context, user: &User, code: &str, now: UnixTime) -> Result<Option<FactorUse>, OAuthError> {
    let code = typed_code(code);
    let mut found = None;
    for device in ctx.store.list_totp_devices(user.id.clone()).await? {
        let secret = ctx.sealing.open(&enrolment::label(&user.id), &device.sealed_secret)?;
        if let Some(step) = TotpSecret::from_opened(&secret)?.step_of(&code, device.last_step, now) {
            found = found.or(Some(FactorUse::Code { device_id: device.id, step }));
        }
    }
    Ok(found)
}

async fn wrong(
    ctx: &Context,
    user: &User,
    browser: &Browser,
    account: Account,
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    let failure = Failure { buckets: account.buckets, account: Some(user.id.clone()), origin: browser.origin.clone() };
    let blocked = ctx.store.record_failure(failure, now).await?;
    tracing::warn!(user.id = %user.id, network = browser.network, slowed = blocked.is_some(), "a second factor failed");
    Ok(blocked.map_or(Outcome::Wrong, Outcome::Wait))
}

/// Half a sign-in that has nothing to stand on any more is forgotten.
async fn start_over(ctx: &Context, situation: &Situation) -> Result<Outcome, OAuthError> {
    if situation.half.is_some() {
        let progress = Progress { password: None, ..situation.flow.progress.clone() };
        ctx.store.record_progress(situation.id, progress).await?;
    }
    Ok(Outcome::Elsewhere)
}

/// Confirms the app that the page showed, and signs in with it.
///
/// # Errors
/// When the machinery fails.
pub async fn enrol(
    ctx: &Context,
    situation: &Situation,
    browser: &Browser,
    code: &str,
    name: &str,
    now: UnixTime,
) -> Result<Outcome, OAuthError> {
    let (Step::Enrol, Some(basis)) = (&situation.step, Basis::of(situation)) else { return Ok(Outcome::Elsewhere) };
    let Some(account) = account(ctx, browser, &basis).await? else { return start_over(ctx, situation).await };
    let place = enrolment_place(situation);
    let Some(Confirmed { device, codes }) = enrolment::confirm(ctx, &basis.user().id, &place, code, name, now).await?
    else {
        return Ok(Outcome::Wrong);
    };
    let rise = Rise { second_factor: SecondFactor::Enrol(device), method: AMR_OTP, trust: false };
    match complete(ctx, situation, browser, &basis, &account, rise, now).await? {
        (SignIn::Enrolled { codes: new }, Some(entry)) => {
            Ok(Outcome::Enrolled(entry, if new { codes } else { Vec::new() }))
        }
        (SignIn::Blocked(until), _) => Ok(Outcome::Wait(until)),
        _ => start_over(ctx, situation).await,
    }
}

/// What an app that is set up in a flow is shown for.
#[must_use]
pub fn enrolment_place(situation: &Situation) -> String {
    format!("flow {}", String::from(situation.id))
}

/// What makes a session of more than one factor.
struct Rise {
    second_factor: SecondFactor,
    method: &'static str,
    trust: bool,
}

/// One transaction: the factor is spent or added, the session stored under a new cookie, the step recorded.
async fn complete(
    ctx: &Context,
    situation: &Situation,
    browser: &Browser,
    basis: &Basis<'_>,
    account: &Account,
    rise: Rise,
    now: UnixTime,
) -> Result<(SignIn, Option<Entry>), OAuthError> {
    let user_id = &basis.user().id;
    let authentication = Authentication::by(&format!("{AMR_PASSWORD} {} {AMR_MFA}", rise.method), now);
    let owner = strong_owner(&basis.user().username, &account.password_hash);
    let known = Some(browser_mark(&ctx.known_browser_key, &owner)?);
    let (renewed, verified_hash) = match basis {
        Basis::Half(Half { proof: ProvenPassword { hash, keep, .. }, .. }) => {
            (renew(ctx, situation, browser, user_id, authentication, *keep), Some(*hash))
        }
        Basis::Session(SignedIn { session, .. }) => {
            // The password was proven when it was; the session ends when it would have.
            let auth_address = browser.origin.address.clone();
            let session = Session { authentication, auth_address, last_seen_at: now, ..session.clone() };
            (Renewed { session, continues: true, replaces: None }, None)
        }
    };
    let session_id = Some(renewed.session.id.clone());
    let progress = match basis {
        Basis::Half(_) => Progress { session_id, signed_in: true, ..Progress::default() },
        Basis::Session(_) if situation.flow.progress.session_id == session_id => situation.flow.progress.clone(),
        Basis::Session(_) => Progress { session_id, ..Progress::default() },
    };
    let trusts = rise.trust && !ctx.config.mfa.trust_browser.is_zero();
    let secret = trusts.then(TrustSecret::mint).transpose()?;
    let trust = secret.as_ref().map(|secret| new_trust(ctx, browser, secret, now));
    let trust_secret = secret.map(|secret| secret.reveal());
    let told = match &rise.second_factor {
        SecondFactor::Spend(FactorUse::RecoveryCode { .. }) => {
            let left = ctx.store.count_recovery_codes(user_id.clone()).await?.saturating_sub(1);
            Some((Event::RecoveryCodeUsed, left.to_string()))
        }
        SecondFactor::Enrol(device) => Some((Event::FactorAdded, device.name.clone())),
        _ => trust.as_ref().map(|_| (Event::BrowserTrusted, String::new())),
    };
    let notice = told.map(|(event, detail)| notice(ctx, basis.user(), event, &detail, &browser.origin, now));
    let cookie = SessionSecret::mint()?;
    let session_cookie = SessionCookie::new(ctx, &cookie, &renewed.session, now);
    let prepared = match &rise.second_factor {
        SecondFactor::Spend(_) => {
            let address = browser.origin.address.clone();
            let signed_in = SignedIn { session: renewed.session.clone(), user: basis.user().clone(), address };
            foreseen(ctx, situation, &signed_in, &progress, false, now).await?
        }
        // The recovery codes are shown first.
        _ => None,
    };
    let (grant, answer) = prepared.map(|prepared| (prepared.grant, prepared.answer)).unzip();
    let new = NewSession {
        grant,
        notices: notice.transpose()?.flatten().into_iter().collect(),
        cookie: cookie.digest(),
        origin: browser.origin.clone(),
        continues: renewed.continues,
        replaces: renewed.replaces,
        verified_hash,
        second_factor: rise.second_factor,
        trust,
        rehashed: None,
        account: account.bucket.clone(),
        buckets: account.buckets.clone(),
        flow: situation.id,
        progress,
        session: renewed.session,
    };
    let stored = ctx.store.sign_in(new, now).await?;
    let done = matches!(stored, SignIn::Done | SignIn::Granted | SignIn::Enrolled { .. });
    let answer = answer.filter(|_| stored == SignIn::Granted);
    if done {
        tracing::info!(user.id = %user_id, network = browser.network, method = rise.method, "signed in");
    }
    Ok((stored, done.then_some(Entry { cookie: session_cookie, known, trust: trust_secret, answer })))
}

fn new_trust(ctx: &Context, browser: &Browser, secret: &TrustSecret, now: UnixTime) -> NewTrust {
    NewTrust {
        token: secret.digest(),
        browser: TrustedBrowser {
            id: uuid_v7(now),
            address: browser.origin.address.clone(),
            user_agent: browser.origin.user_agent.clone(),
            created_at: now,
            expires_at: now.plus(ctx.config.mfa.trust_browser),
        },
    }
}
