//! A new mail address: asked for by whoever has just signed in, in force once a link that went to it was opened in a
//! session of the same person. The address of before hears of both.

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::Event;
use crate::domain::link::LinkKind;
use crate::domain::session::SignedIn;
use crate::domain::throttle::Bucket;
use crate::domain::user::{User, check_email, normal_email};
use crate::protocol::error::OAuthError;
use crate::store::{EmailConfirmation, Failure, Request};

use super::Context;
use super::links::{Found, find, read};
use super::mail::{Asked, Letter, notice, queue};
use super::session::Browser;

/// What the link holds.
#[derive(Serialize, Deserialize)]
pub(super) struct NewAddress {
    pub email: String,
}

/// What asking for a new address came to.
pub enum Asking {
    /// A mail is on its way to the new address.
    Sent,
    /// What was typed is not right; says what would be.
    Refused(&'static str),
    Wait(UnixTime),
}

/// Asks for another address. The caller has made sure of a recent sign-in (`flow/recent`). Whether another account has the
/// address is not said; its owner hears it by mail.
///
/// # Errors
/// When the database cannot be written.
pub async fn ask(
    ctx: &Context,
    user: &User,
    email: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<Asking, OAuthError> {
    let email = email.trim();
    if check_email(email).is_err() {
        return Ok(Asking::Refused("An e-mail address looks like name@example.com."));
    }
    if user.email_verified && user.email.as_deref().is_some_and(|current| normal_email(current) == normal_email(email))
    {
        return Ok(Asking::Refused("This is your address already."));
    }
    let buckets = vec![Bucket::mails_to(&format!("change {}", user.id)), Bucket::mails_from(&browser.network)];
    let count = Failure { buckets, account: None, origin: browser.origin.clone() };
    if let Some(until) = ctx.store.record_failure(count, now).await? {
        return Ok(Asking::Wait(until));
    }
    let origin = Asked::new(&browser.origin, now);
    let letter = Letter::NewEmail { user_id: user.id.clone(), email: email.to_owned(), origin };
    let mut mails = vec![queue(&ctx.sealing, &letter, Some(&user.id), now)?];
    mails.extend(notice(ctx, user, Event::EmailChangeAsked, email, &browser.origin, now)?);
    let activity = Some((user.id.clone(), Event::EmailChangeAsked, browser.origin.clone()));
    ctx.store.request_by_mail(Request { mails, activity }, now).await?;
    Ok(Asking::Sent)
}

/// What a link that confirms an address leads to.
pub enum Opened {
    /// It can be used by the person signed in, for this address.
    Open(Box<Pending>),
    /// It was sent for another account than the one signed in.
    OtherAccount,
    Gone,
    Wait(UnixTime),
}

/// An address that waits for its confirmation.
pub struct Pending {
    digest: Digest,
    email: String,
}

impl Pending {
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }
}

/// Looks at a link without using it.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn open(
    ctx: &Context,
    signed_in: &SignedIn,
    secret: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<Opened, OAuthError> {
    let (digest, link) = match find(ctx, LinkKind::ConfirmEmail, secret, browser, now).await? {
        Found::Open { digest, link } => (digest, link),
        Found::Gone => return Ok(Opened::Gone),
        Found::Wait(until) => return Ok(Opened::Wait(until)),
    };
    if link.user_id.as_ref() != Some(&signed_in.user.id) {
        return Ok(Opened::OtherAccount);
    }
    let Some(NewAddress { email }) = read(ctx, &digest, &link)? else { return Ok(Opened::Gone) };
    Ok(Opened::Open(Box::new(Pending { digest, email })))
}

/// Puts the address in force; false when the link is no longer good, or somebody else has the address by now.
///
/// # Errors
/// When the database cannot be written.
pub async fn confirm(
    ctx: &Context,
    signed_in: &SignedIn,
    pending: Pending,
    browser: &Browser,
    now: UnixTime,
) -> Result<bool, OAuthError> {
    let Pending { digest, email } = pending;
    let user = &signed_in.user;
    let mail = notice(ctx, user, Event::EmailChanged, &email, &browser.origin, now)?;
    let (user_id, origin) = (user.id.clone(), browser.origin.clone());
    Ok(ctx.store.confirm_email(EmailConfirmation { link: digest, user_id, email, origin, mail }, now).await?)
}
