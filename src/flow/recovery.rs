//! A forgotten password: asked for by name or address, set by a link from the owner's mailbox. The link gives no session:
//! who has a second factor still needs it at the sign-in that follows.

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::domain::activity::Event;
use crate::domain::link::LinkKind;
use crate::domain::password::Refusal;
use crate::domain::throttle::Bucket;
use crate::domain::user::User;
use crate::protocol::error::OAuthError;
use crate::store::{Failure, PasswordReset, Request};

use super::links::{Found, find};
use super::mail::{Asked, Letter, notice, queue};
use super::password::Accepted;
use super::session::Browser;
use super::{Context, password};

/// As long as an address can be, or a user name.
const LONGEST: usize = 254;

/// Queues the wish for a link as it was typed, without a look at the accounts. Gives the instant from which on, where too
/// many have been asked for from this network.
///
/// # Errors
/// When the database cannot be written.
pub async fn forgot(
    ctx: &Context,
    typed: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<Option<UnixTime>, OAuthError> {
    let typed: String = typed.trim().chars().take(LONGEST).collect();
    if let Some(until) = count_mail(ctx, browser, now).await? {
        return Ok(Some(until));
    }
    let letter = Letter::Forgotten { typed, origin: Asked::new(&browser.origin, now) };
    let request = Request { mails: vec![queue(&ctx.sealing, &letter, None, now)?], activity: None };
    ctx.store.request_by_mail(request, now).await?;
    Ok(None)
}

/// Counts a mail that somebody in this network asks for.
pub(super) async fn count_mail(
    ctx: &Context,
    browser: &Browser,
    now: UnixTime,
) -> Result<Option<UnixTime>, OAuthError> {
    let buckets = vec![Bucket::mails_from(&browser.network)];
    let count = Failure { buckets, account: None, origin: browser.origin.clone() };
    Ok(ctx.store.record_failure(count, now).await?)
}

/// What a link to reset a password leads to.
pub enum Opened {
    /// It can be used, for this account.
    For(Box<User>),
    Gone,
    Wait(UnixTime),
}

/// Looks at a link without using it.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn open(ctx: &Context, secret: &str, browser: &Browser, now: UnixTime) -> Result<Opened, OAuthError> {
    match find(ctx, LinkKind::ResetPassword, secret, browser, now).await? {
        Found::Open { link, .. } => {
            let user = match link.user_id {
                Some(id) => ctx.store.find_user(id).await?.filter(|user| user.disabled_at.is_none()),
                None => None,
            };
            Ok(user.map_or(Opened::Gone, |user| Opened::For(Box::new(user))))
        }
        Found::Gone => Ok(Opened::Gone),
        Found::Wait(until) => Ok(Opened::Wait(until)),
    }
}

/// What using a link came to.
pub enum Reset {
    Done,
    /// The password is not taken; the link can still be used.
    Refused {
        user: Box<User>,
        why: Refusal,
    },
    Gone,
    Wait(UnixTime),
}

/// Sets a new password by a link, which is used up with it. Every session and grant of the person ends.
///
/// # Errors
/// When the machinery fails or its queue is full.
pub async fn reset(
    ctx: &Context,
    secret: &str,
    new_password: SecretString,
    browser: &Browser,
    now: UnixTime,
) -> Result<Reset, OAuthError> {
    let (digest, user_id) = match find(ctx, LinkKind::ResetPassword, secret, browser, now).await? {
        Found::Open { digest, link: crate::store::Link { user_id: Some(user_id), .. } } => (digest, user_id),
        Found::Open { .. } | Found::Gone => return Ok(Reset::Gone),
        Found::Wait(until) => return Ok(Reset::Wait(until)),
    };
    let user = ctx.store.find_user(user_id).await?.filter(|user| user.disabled_at.is_none());
    let Some(user) = user else { return Ok(Reset::Gone) };
    let names = [user.username.as_str(), user.email.as_deref().unwrap_or_default()];
    let password_hash = match password::accept(ctx, new_password, &names, browser, now).await? {
        Accepted::Hash(hash) => hash,
        Accepted::Refused(why) => return Ok(Reset::Refused { user: Box::new(user), why }),
        Accepted::Wait(until) => return Ok(Reset::Wait(until)),
    };
    // Hashing took its time; what was issued meanwhile ends as well.
    let now = ctx.now();
    let reset = PasswordReset {
        link: digest,
        user_id: user.id.clone(),
        password_hash,
        origin: browser.origin.clone(),
        mail: notice(ctx, &user, Event::PasswordReset, "", &browser.origin, now)?,
    };
    if !ctx.store.reset_password(reset, now).await? {
        return Ok(Reset::Gone);
    }
    tracing::info!(user.id = %user.id, network = browser.network, "a password was reset by mail");
    Ok(Reset::Done)
}
