//! Writing the mails that wait, beside the requests. What strangers asked for is looked up only here; a link is made at the
//! moment at which it is sent, so that its secret rests nowhere, and a mail that is tried again carries a new one, which
//! ends the one before. What would have ended the link meanwhile ends the mail.

use crate::clock::UnixTime;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::UserId;
use crate::domain::link::LinkKind;
use crate::domain::throttle::Bucket;
use crate::domain::user::{User, normal_email};
use crate::protocol::error::OAuthError;
use crate::store::Failure;

use super::email_change::NewAddress;
use super::mail::{Asked, Letter, Link, Registration, Text, Written, facts};
use super::{Context, links};

const NOT_YOU: &str = "If this was not you, do nothing: without the link nothing changes.";

/// Writes what a waiting mail comes to: none where there is nobody to write to. `first` is its first try.
///
/// # Errors
/// When the machinery fails; the mail waits on.
pub async fn write(ctx: &Context, letter: Letter, first: bool, now: UnixTime) -> Result<Vec<Written>, OAuthError> {
    match letter {
        Letter::Written(written) => Ok(vec![written]),
        Letter::Forgotten { typed, origin } => forgotten(ctx, &typed, &origin, first, now).await,
        Letter::Registration(asked) => Ok(registration(ctx, asked, first, now).await?.into_iter().collect()),
        Letter::NewEmail { user_id, email, origin } => {
            Ok(new_email(ctx, user_id, email, &origin, first, now).await?.into_iter().collect())
        }
        Letter::Deletion { user_id, origin } => Ok(deletion(ctx, user_id, &origin, now).await?.into_iter().collect()),
    }
}

/// Whether another mail may go to this mailbox or account; counted at the first try.
async fn may_send(ctx: &Context, whom: &str, first: bool, now: UnixTime) -> Result<bool, OAuthError> {
    if !first {
        return Ok(true);
    }
    let count = Failure { buckets: vec![Bucket::mails_to(whom)], account: None, origin: Origin::default() };
    Ok(ctx.store.record_failure(count, now).await?.is_none())
}

/// Whether what ends such a link (SECURITY row 64) has happened to the account since it was asked for.
async fn is_past(ctx: &Context, user: &UserId, kind: LinkKind, asked: &Asked) -> Result<bool, OAuthError> {
    let ends: &[Event] = match kind {
        LinkKind::ResetPassword => &[
            Event::PasswordChanged,
            Event::PasswordReset,
            Event::EmailChanged,
            Event::AccountDisabled,
            Event::SignedIn,
        ],
        LinkKind::ConfirmEmail => {
            &[Event::PasswordChanged, Event::PasswordReset, Event::EmailChanged, Event::AccountDisabled]
        }
        _ => &[Event::PasswordChanged, Event::PasswordReset, Event::AccountDisabled],
    };
    Ok(ctx.store.has_happened(user.clone(), ends, asked.at()).await?)
}

async fn forgotten(
    ctx: &Context,
    typed: &str,
    asked: &Asked,
    first: bool,
    now: UnixTime,
) -> Result<Vec<Written>, OAuthError> {
    let mut users = ctx.store.find_users_by_email(typed).await?;
    if let Some(user) =
        ctx.store.find_user_by_name(typed).await?.filter(|user| users.iter().all(|other| other.id != user.id))
    {
        users.push(user);
    }
    let mut written = Vec::new();
    for user in users.into_iter().filter(|user| user.disabled_at.is_none()) {
        let Some(email) = user.email.clone() else { continue };
        if is_past(ctx, &user.id, LinkKind::ResetPassword, asked).await? {
            continue;
        }
        // By the account, not by what was typed: name and address are two ways to the same mailbox.
        if !may_send(ctx, &format!("reset {}", user.id), first, now).await? {
            continue;
        }
        let Some(href) = links::create(ctx, LinkKind::ResetPassword, Some(user.id.clone()), None, now).await? else {
            continue;
        };
        if first {
            ctx.store.note_activity(user.id.clone(), Event::PasswordResetAsked, asked.origin(), now).await?;
        }
        let text = Text {
            title: "Reset your password",
            name: &user.username,
            words: vec![
                format!(
                    "Somebody, perhaps you, forgot the password of the account {}. The link below sets a new one.",
                    user.username
                ),
                "The link works once, for 15 minutes, and signs you out everywhere.".to_owned(),
            ],
            link: Some(Link { label: "Choose a new password", href }),
            facts: facts(&asked.origin(), asked.at()),
            advice: NOT_YOU,
            service: ctx.service(),
        };
        written.push(text.write(&email)?);
    }
    Ok(written)
}

async fn registration(
    ctx: &Context,
    asked: Registration,
    first: bool,
    now: UnixTime,
) -> Result<Option<Written>, OAuthError> {
    if !may_send(ctx, &format!("register {}", normal_email(&asked.email)), first, now).await? {
        return Ok(None);
    }
    let (email, facts) = (asked.email.clone(), facts(&asked.origin.origin(), asked.origin.at()));
    let text =
        |title, name, words, link, advice| Text { title, name, words, link, facts, advice, service: ctx.service() };
    let holders = ctx.store.find_users_by_email(&email).await?;
    if let Some(User { username, email: Some(own), .. }) = holders.first() {
        let words = vec![
            format!(
                "Somebody, perhaps you, asked for a new account with this address. You have one already: {username}."
            ),
            "If you forgot its password, choose a new one by the link below.".to_owned(),
        ];
        let link = Link { label: "Forgot your password?", href: ctx.config.issuer.at("/password/forgot") };
        let mail = text(
            "You have an account already",
            username.as_str(),
            words,
            Some(link),
            "If this was not you, do nothing: nothing was changed.",
        );
        return Ok(Some(mail.write(own)?));
    }
    if ctx.store.find_user_by_name(&asked.username).await?.is_some() {
        let words = vec!["You asked for an account, but its name is taken. Please choose another name.".to_owned()];
        let link = Link { label: "Choose another name", href: ctx.config.issuer.at("/register") };
        let mail = text(
            "Choose another user name",
            "there",
            words,
            Some(link),
            "If this was not you, do nothing: no account was made.",
        );
        return Ok(Some(mail.write(&email)?));
    }
    let what = serde_json::to_vec(&asked).map_err(OAuthError::server_error)?;
    let Some(href) = links::create(ctx, LinkKind::Register, None, Some(&what), now).await? else { return Ok(None) };
    // Not the name that was asked for: a stranger chose it, and mail readers make a link of one like www.example.com.
    let words = vec![
        "An account was asked for, with this address. The link below makes it.".to_owned(),
        "The link works once, for 24 hours.".to_owned(),
    ];
    let link = Link { label: "Confirm your address", href };
    let mail = text(
        "Confirm your address",
        "there",
        words,
        Some(link),
        "If this was not you, do nothing: without the link no account is made.",
    );
    Ok(Some(mail.write(&email)?))
}

async fn new_email(
    ctx: &Context,
    user_id: UserId,
    email: String,
    asked: &Asked,
    first: bool,
    now: UnixTime,
) -> Result<Option<Written>, OAuthError> {
    let Some(user) = ctx.store.find_user(user_id).await? else { return Ok(None) };
    if is_past(ctx, &user.id, LinkKind::ConfirmEmail, asked).await? {
        return Ok(None);
    }
    // By the mailbox too: it is another's until the link is opened, however many accounts ask for it.
    if !may_send(ctx, &format!("change {}", normal_email(&email)), first, now).await? {
        return Ok(None);
    }
    let facts = facts(&asked.origin(), asked.at());
    let service = ctx.service();
    if ctx.store.find_users_by_email(&email).await?.iter().any(|other| other.id != user.id) {
        let text = Text {
            title: "This address is in use",
            name: "there",
            words: vec!["Somebody asked to use this address for their account, but another account has it. Nothing was changed.".to_owned()],
            link: None,
            facts,
            advice: "If this was you, sign in to the account that has the address, and change it there first.",
            service,
        };
        return Ok(Some(text.write(&email)?));
    }
    let what = serde_json::to_vec(&NewAddress { email: email.clone() }).map_err(OAuthError::server_error)?;
    let link = links::create(ctx, LinkKind::ConfirmEmail, Some(user.id.clone()), Some(&what), now).await?;
    let Some(href) = link else { return Ok(None) };
    let text = Text {
        title: "Confirm your new address",
        name: "there",
        words: vec![
            "An account here is to have this address. Open the link below in a browser in which you are signed in to it.".to_owned(),
            "The link works once, for 24 hours.".to_owned(),
        ],
        link: Some(Link { label: "Confirm the address", href }),
        facts,
        advice: NOT_YOU,
        service,
    };
    Ok(Some(text.write(&email)?))
}

async fn deletion(ctx: &Context, user_id: UserId, asked: &Asked, now: UnixTime) -> Result<Option<Written>, OAuthError> {
    let Some(User { id, username, email: Some(email), .. }) = ctx.store.find_user(user_id).await? else {
        return Ok(None);
    };
    if is_past(ctx, &id, LinkKind::DeleteAccount, asked).await? {
        return Ok(None);
    }
    let Some(href) = links::create(ctx, LinkKind::DeleteAccount, Some(id), None, now).await? else { return Ok(None) };
    let text = Text {
        title: "Delete your account?",
        name: &username,
        words: vec![
            format!(
                "The account {username} is to be deleted, with everything in it. Open the link below in a browser in which you are signed in."
            ),
            "The link works once and for 15 minutes. What is deleted cannot be brought back.".to_owned(),
        ],
        link: Some(Link { label: "Delete the account", href }),
        facts: facts(&asked.origin(), asked.at()),
        advice: "If this was not you, do not open the link, and change your password: somebody knows it.",
        service: ctx.service(),
    };
    Ok(Some(text.write(&email)?))
}
