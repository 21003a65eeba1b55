//! Mail: what is told to whom, and how it reads. Here a mail is sealed and handed to the store, which queues it in the
//! transaction of the fact that it tells; `delivery/mail` sends it. Nothing is sent inside a request.
//!
//! What a stranger asks for by name or address (a reset, an account of their own) is queued as it was asked, without a
//! look at the accounts: whoever writes the mail looks later, beside the requests. So the answer and its time cannot tell
//! whether there is such an account.

use std::time::Duration;

use askama::Template;
use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::crypto::seal::SealingKey;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::UserId;
use crate::domain::user::User;
use crate::protocol::error::OAuthError;
use crate::store::{NewOutboxItem, OutboxItem, OutboxKind};

use super::Context;

/// A notice is tried for so long; a link is of no use so late.
const NOTICE_LIFETIME: Duration = Duration::from_hours(72);
const REQUEST_LIFETIME: Duration = Duration::from_hours(1);

/// A mail as it waits, sealed.
#[derive(Serialize, Deserialize)]
pub enum Letter {
    /// Ready to be sent.
    Written(Written),
    /// Somebody forgot the password of the account of this name or address.
    Forgotten { typed: String, origin: Asked },
    /// Somebody wants an account.
    Registration(Registration),
    /// A person wants another address, which must be shown to be theirs.
    NewEmail { user_id: UserId, email: String, origin: Asked },
    /// A person wants their account deleted.
    Deletion { user_id: UserId, origin: Asked },
}

/// A mail, ready to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// When and from where something was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    pub at: i64,
    pub address: String,
    pub user_agent: String,
}

/// What a person typed who wants an account, the password as its hash.
#[derive(Clone, Serialize, Deserialize)]
pub struct Registration {
    pub username: String,
    pub email: String,
    pub password_hash: String,
    /// The digest of the browser: whoever confirms from another must know the password.
    pub browser: Vec<u8>,
    pub origin: Asked,
}

impl Asked {
    #[must_use]
    pub fn new(origin: &Origin, now: UnixTime) -> Self {
        Self { at: now.millis(), address: origin.address.clone(), user_agent: origin.user_agent.clone() }
    }

    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { address: self.address.clone(), user_agent: self.user_agent.clone() }
    }

    #[must_use]
    pub fn at(&self) -> UnixTime {
        UnixTime::from_millis(self.at)
    }
}

/// Seals a mail for the queue. `user` is whom it is for, where that is known.
///
/// # Errors
/// When the system has no randomness to give.
pub fn queue(
    sealing: &SealingKey,
    letter: &Letter,
    user: Option<&UserId>,
    now: UnixTime,
) -> Result<NewOutboxItem, CryptoError> {
    let subject = user.map(ToString::to_string).unwrap_or_default();
    let lifetime = if matches!(letter, Letter::Written(_)) { NOTICE_LIFETIME } else { REQUEST_LIFETIME };
    Ok(NewOutboxItem {
        kind: OutboxKind::Mail,
        destination: String::new(),
        payload: sealing.seal(&label(&subject), &serde_json::to_vec(letter)?)?,
        subject,
        session_id: None,
        created_at: now,
        expires_at: now.plus(lifetime),
    })
}

/// Opens a mail of the queue.
///
/// # Errors
/// When it was sealed under another key or for somebody else.
pub fn open(sealing: &SealingKey, item: &OutboxItem) -> Result<Letter, CryptoError> {
    Ok(serde_json::from_slice(&sealing.open(&label(&item.subject), &item.payload)?)?)
}

fn label(subject: &str) -> String {
    format!("mail {subject}")
}

/// Tells the owner of an account what happened to it. `None` where mail goes nowhere, the person has no address, or the
/// event is not one that is told. `detail` names what it was about: a factor's name, the new address.
///
/// # Errors
/// When the mail cannot be sealed.
pub fn notice(
    ctx: &Context,
    user: &User,
    event: Event,
    detail: &str,
    origin: &Origin,
    now: UnixTime,
) -> Result<Option<NewOutboxItem>, OAuthError> {
    notice_by(&ctx.config, &ctx.sealing, user, event, detail, origin, now)
}

/// The same for a command, which has no more than this. What it did has no origin.
///
/// # Errors
/// When the mail cannot be sealed.
pub fn notice_by(
    config: &Config,
    sealing: &SealingKey,
    user: &User,
    event: Event,
    detail: &str,
    origin: &Origin,
    now: UnixTime,
) -> Result<Option<NewOutboxItem>, OAuthError> {
    let (Some(_), Some(email), Some((subject, words))) = (&config.mail, &user.email, in_words(event, detail)) else {
        return Ok(None);
    };
    let service = config.issuer.url().authority();
    let advice = match event {
        Event::AccountDeleted => format!("If this was not you, tell the people who run {service} at once."),
        // A link for a new password goes to the new address by now.
        Event::EmailChanged => format!(
            "If this was not you, tell the people who run {service} at once: a link for a new password no longer comes to this address."
        ),
        Event::AccountDisabled => format!("If you do not know why, ask the people who run {service}."),
        _ => format!(
            "If this was not you, set a new password at {} right away, and tell the people who run {service}.",
            config.issuer.at("/password/forgot")
        ),
    };
    let text = Text {
        title: subject,
        name: &user.username,
        words: vec![words],
        link: None,
        facts: facts(origin, now),
        advice: &advice,
        service,
    };
    let letter = Letter::Written(text.write(email)?);
    Ok(Some(queue(sealing, &letter, Some(&user.id), now)?))
}

/// What an owner is told; not that they signed in, which they know.
fn in_words(event: Event, detail: &str) -> Option<(&'static str, String)> {
    let named = if detail.is_empty() { String::new() } else { format!(" “{detail}”") };
    Some(match event {
        Event::PasswordChanged => ("Your password was changed", "The password of your account was changed.".to_owned()),
        Event::PasswordReset => (
            "Your password was reset",
            "A new password was set for your account by a link from your mailbox. Every browser and app was signed out.".to_owned(),
        ),
        Event::EmailChanged if detail.is_empty() => (
            "Your e-mail address was taken away",
            "Your account has no e-mail address any more. This is the last message to this one.".to_owned(),
        ),
        Event::EmailChanged => (
            "Your e-mail address was changed",
            format!("The e-mail address of your account is now {detail}. This is the last message to this one."),
        ),
        Event::EmailChangeAsked => (
            "A new e-mail address was asked for",
            format!("Somebody signed in to your account asked to change its e-mail address to {detail}. It changes once that address is confirmed."),
        ),
        Event::FactorAdded => (
            "A second step was added to your sign-in",
            format!("The authenticator{named} was added. From now on it can be asked for when you sign in. With the first one, whatever your password alone had opened was signed out."),
        ),
        Event::FactorRemoved if detail.is_empty() => (
            "Your second step was reset",
            "Every authenticator and recovery code was removed from your account, and every browser and app was signed out.".to_owned(),
        ),
        Event::FactorRemoved => (
            "A second step was removed from your sign-in",
            format!("The authenticator{named} was removed and is no longer asked for."),
        ),
        Event::RecoveryCodesMade => (
            "You have new recovery codes",
            "New recovery codes were made for your account. Those from before no longer work.".to_owned(),
        ),
        Event::RecoveryCodeUsed => (
            "A recovery code was used",
            format!("Somebody signed in to your account with one of its recovery codes. It does not work a second time; {}", codes_left(detail)),
        ),
        Event::BrowserTrusted => (
            "A browser skips your second step",
            "A browser was marked as trusted: for some days it signs in to your account by password alone.".to_owned(),
        ),
        Event::AccountDisabled => (
            "Your account was shut",
            "Nobody can sign in to your account until it is opened again. Every browser and app was signed out.".to_owned(),
        ),
        Event::AccountDeleted => (
            "Your account was deleted",
            "Your account and all that belonged to it were deleted. Every browser and app was signed out.".to_owned(),
        ),
        _ => return None,
    })
}

fn codes_left(number: &str) -> String {
    match number {
        "0" => "it was the last one, so make new ones on the page of your second step.".to_owned(),
        "1" => "1 is left.".to_owned(),
        many => format!("{many} are left."),
    }
}

/// When, from where, with what.
pub(super) fn facts(origin: &Origin, at: UnixTime) -> Vec<(&'static str, String)> {
    let mut facts = vec![("When", at.in_words())];
    if origin.address.is_empty() {
        // By command.
        facts.push(("By", "the people who run this service".to_owned()));
    } else {
        facts.extend([("From", origin.address.clone()), ("Browser", origin.device())]);
    }
    facts
}

/// A link with its text.
pub(super) struct Link {
    pub label: &'static str,
    pub href: String,
}

/// A mail before it is written out, as text and as HTML.
pub(super) struct Text<'a> {
    pub title: &'static str,
    pub name: &'a str,
    pub words: Vec<String>,
    pub link: Option<Link>,
    pub facts: Vec<(&'static str, String)>,
    pub advice: &'a str,
    /// The host that people know us by.
    pub service: &'a str,
}

#[derive(Template)]
#[template(path = "email/letter.txt")]
struct PlainText<'a> {
    title: &'a str,
    name: &'a str,
    words: &'a [String],
    link: Option<&'a Link>,
    facts: &'a [(&'static str, String)],
    advice: &'a str,
    service: &'a str,
}

#[derive(Template)]
#[template(path = "email/letter.html")]
struct Html<'a> {
    title: &'a str,
    name: &'a str,
    words: &'a [String],
    link: Option<&'a Link>,
    facts: &'a [(&'static str, String)],
    advice: &'a str,
    service: &'a str,
}

impl Text<'_> {
    pub(super) fn write(&self, to: &str) -> Result<Written, OAuthError> {
        let Self { title, name, words, link, facts, advice, service } = self;
        let link = link.as_ref();
        let text = PlainText { title, name, words, link, facts, advice, service }.render();
        let html = Html { title, name, words, link, facts, advice, service }.render();
        Ok(Written {
            to: to.to_owned(),
            subject: format!("{title} – {service}"),
            text: text.map_err(OAuthError::server_error)?,
            html: html.map_err(OAuthError::server_error)?,
        })
    }
}
