//! What people do to their own account. Every operation is for the person signed in, never for one named by a request.

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::{Map, Value, json};
use unicode_normalization::UnicodeNormalization as _;

use crate::clock::UnixTime;
use crate::crypto::opaque::{Digest, SessionSecret, browser_mark};
use crate::domain::activity::{Activity, Event};
use crate::domain::client::Client;
use crate::domain::grant::Consent;
use crate::domain::ids::{ClientId, SessionId};
use crate::domain::link::LinkKind;
use crate::domain::password::Refusal;
use crate::domain::session::SignedIn;
use crate::domain::throttle::Bucket;
use crate::domain::zone::Zone;
use crate::protocol::error::OAuthError;
use crate::protocol::text::misleads;
use crate::store::{Actor, Deletion, Failure, OpenSession, OwnPassword, Request};

use super::links::{Found, find};
use super::login::{mark_owner, strong_owner};
use super::mail::{Asked, Letter, notice, queue};
use super::password::Accepted;
use super::session::{Browser, SessionCookie};
use super::{Context, password};

/// The claims of OpenID Connect Core section 5.1 that people write themselves.
pub const PROFILE: [&str; 5] = ["name", "given_name", "family_name", "locale", "zoneinfo"];
/// In characters.
const LONGEST_NAME: usize = 200;

/// What is wrong with one field of a form.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub field: &'static str,
    pub words: &'static str,
}

/// What was typed, as it is kept; `null` for what was left empty.
fn profile_claim(field: &'static str, typed: Option<&str>) -> Result<Value, Problem> {
    let text: String = typed.unwrap_or_default().trim().nfc().collect();
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let wrong = |words| Err(Problem { field, words });
    match field {
        "zoneinfo" if !Zone::is_known(&text) => wrong("Choose a time zone from the list."),
        "locale" if !is_language_tag(&text) => wrong("A language is written like en or pt-BR."),
        _ if misleads(&text) => wrong("This has characters that cannot be shown. Please type it again."),
        _ if text.chars().count() > LONGEST_NAME => wrong("This is too long; 200 characters are the most."),
        _ => Ok(text.into()),
    }
}

/// The shape of a tag of BCP 47 (RFC 5646 section 2.1), whatever it means.
fn is_language_tag(text: &str) -> bool {
    let mut parts = text.split('-');
    let language = parts.next().unwrap_or_default();
    text.len() <= 35
        && (2..=8).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_alphabetic())
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Keeps what a person typed about themselves; nothing is written where nothing changed.
///
/// # Errors
/// When the database cannot be written.
pub async fn change_profile<'a>(
    ctx: &Context,
    signed_in: &SignedIn,
    typed: impl Fn(&str) -> Option<&'a str>,
    browser: &Browser,
    now: UnixTime,
) -> Result<Result<(), Problem>, OAuthError> {
    let mut changes = Map::new();
    for field in PROFILE {
        // Left as it is, it is nobody's business here, whoever set it by which rule.
        if typed(field) == signed_in.user.claims.get(field).and_then(Value::as_str) {
            continue;
        }
        match profile_claim(field, typed(field)) {
            Err(problem) => return Ok(Err(problem)),
            Ok(value) if signed_in.user.claims.get(field).unwrap_or(&Value::Null) == &value => {}
            Ok(value) => drop(changes.insert(field.to_owned(), value)),
        }
    }
    if !changes.is_empty() {
        ctx.store.set_claims(signed_in.user.id.clone(), changes, browser.origin.clone(), now).await?;
    }
    Ok(Ok(()))
}

/// A session whose password was changed in it: its new cookie, and the mark by which this browser stays known.
pub struct Renewed {
    pub cookie: SessionCookie,
    pub known: String,
}

/// What came of choosing a new password.
pub enum PasswordChange {
    Changed(Renewed),
    Refused(Refusal),
    Wait(UnixTime),
    /// The session ended meanwhile.
    Gone,
}

/// Sets a password that its owner chose, having just proven who they are.
///
/// # Errors
/// When the machinery fails or its queue is full.
pub async fn change_password(
    ctx: &Context,
    signed_in: &SignedIn,
    new: SecretString,
    end_others: bool,
    browser: &Browser,
    now: UnixTime,
) -> Result<PasswordChange, OAuthError> {
    let user = &signed_in.user;
    let name = user.claims.get("name").and_then(Value::as_str);
    let names: Vec<&str> = [Some(user.username.as_str()), user.email.as_deref(), name].into_iter().flatten().collect();
    let password_hash = match password::accept(ctx, new, &names, browser, now).await? {
        Accepted::Hash(password_hash) => password_hash,
        Accepted::Refused(refusal) => return Ok(PasswordChange::Refused(refusal)),
        Accepted::Wait(until) => return Ok(PasswordChange::Wait(until)),
    };
    // Hashing took its time; what was issued meanwhile ends as well.
    let now = ctx.now();
    let multi_factor = signed_in.session.authentication.is_multi_factor();
    let owner = if multi_factor { strong_owner } else { mark_owner }(&signed_in.user.username, &password_hash);
    let known = browser_mark(&ctx.known_browser_key, &owner)?;
    let cookie = SessionSecret::mint()?;
    let new = OwnPassword {
        user: signed_in.user.id.clone(),
        password_hash,
        session: signed_in.session.id.clone(),
        cookie: cookie.digest(),
        end_others,
        origin: browser.origin.clone(),
        mail: notice(ctx, &signed_in.user, Event::PasswordChanged, "", &browser.origin, now)?,
    };
    if !ctx.store.set_own_password(new, now).await? {
        return Ok(PasswordChange::Gone);
    }
    tracing::info!(user.id = %signed_in.user.id, end_others, "a person changed their password");
    let cookie = SessionCookie::new(ctx, &cookie, &signed_in.session, now);
    Ok(PasswordChange::Changed(Renewed { cookie, known }))
}

/// The living sessions of the person, this one first.
///
/// # Errors
/// When the database cannot be read.
pub async fn sessions(ctx: &Context, signed_in: &SignedIn, now: UnixTime) -> Result<Vec<OpenSession>, OAuthError> {
    let idle_since = now.minus(ctx.config.session.idle);
    let mut sessions = ctx.store.list_own_sessions(signed_in.user.id.clone(), idle_since, now).await?;
    sessions.sort_by_key(|session| session.id != signed_in.session.id);
    Ok(sessions)
}

/// The applications that could not be told that the person was signed out, by name, and when that was.
///
/// # Errors
/// When the database cannot be read.
pub async fn untold(ctx: &Context, signed_in: &SignedIn) -> Result<Vec<(String, UnixTime)>, OAuthError> {
    let untold = ctx.store.list_untold(signed_in.user.id.clone()).await?;
    let registry = ctx.registry.load();
    let known = untold.into_iter().filter_map(|untold| {
        let client = registry.client(untold.client_id.as_str())?;
        Some((client.name().to_owned(), untold.ended_at))
    });
    Ok(known.collect())
}

/// Ends one session of the person; false when they have none such.
///
/// # Errors
/// When the database cannot be written.
pub async fn end_session(
    ctx: &Context,
    signed_in: &SignedIn,
    session: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<bool, OAuthError> {
    let (user, session) = (signed_in.user.id.clone(), SessionId::from_stored(session));
    let ended = ctx.store.end_session_by_owner(user, session, browser.origin.clone(), now).await?;
    if ended {
        tracing::info!(user.id = %signed_in.user.id, "a person ended a session of theirs");
    }
    Ok(ended)
}

/// Ends every session of the person but this one; how many there were.
///
/// # Errors
/// When the database cannot be written.
pub async fn end_other_sessions(
    ctx: &Context,
    signed_in: &SignedIn,
    browser: &Browser,
    now: UnixTime,
) -> Result<usize, OAuthError> {
    let (user, kept) = (signed_in.user.id.clone(), signed_in.session.id.clone());
    let ended = ctx.store.end_other_sessions(user, kept, browser.origin.clone(), now).await?.sessions;
    tracing::info!(user.id = %signed_in.user.id, ended, "a person ended their other sessions");
    Ok(ended)
}

/// An application that may do something for the person.
pub struct Application {
    pub client: Arc<Client>,
    pub what: Consent,
    pub since: UnixTime,
    /// Whether the person said so; else the people who run this service let it in.
    pub by_consent: bool,
}

/// The applications that may do something for the person.
///
/// # Errors
/// When the database cannot be read.
pub async fn applications(ctx: &Context, signed_in: &SignedIn, now: UnixTime) -> Result<Vec<Application>, OAuthError> {
    let allowed = ctx.store.list_allowed(signed_in.user.id.clone(), now).await?;
    let registry = ctx.registry.load();
    let known = allowed.into_iter().filter_map(|allowed| {
        let client = registry.client(allowed.client.as_str())?.clone();
        Some(Application { client, what: allowed.what, since: allowed.since, by_consent: allowed.by_consent })
    });
    Ok(known.collect())
}

/// Takes back what the person allowed an application: its grants and tokens end with it. False when it had nothing.
///
/// # Errors
/// When the database cannot be written.
pub async fn revoke_application(
    ctx: &Context,
    signed_in: &SignedIn,
    client: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<bool, OAuthError> {
    let Some(client) = ctx.registry.load().client(client).cloned() else { return Ok(false) };
    let (user, name) = (signed_in.user.id.clone(), client.name().to_owned());
    let revoked = ctx.store.revoke_consent(user, client.id.clone(), name, browser.origin.clone(), now).await?;
    if revoked {
        tracing::info!(user.id = %signed_in.user.id, client.id = %client.id, "a person took a consent back");
    }
    Ok(revoked)
}

/// What happened to the account, the newest first.
///
/// # Errors
/// When the database cannot be read.
pub async fn activity(ctx: &Context, signed_in: &SignedIn, limit: u32) -> Result<Vec<Activity>, OAuthError> {
    Ok(ctx.store.list_activity(signed_in.user.id.clone(), limit).await?)
}

/// Everything that is kept about the person, to be taken away. No secret, no digest of one.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn export(
    ctx: &Context,
    signed_in: &SignedIn,
    browser: &Browser,
    now: UnixTime,
) -> Result<Value, OAuthError> {
    let user = &signed_in.user;
    ctx.store.note_activity(user.id.clone(), Event::DataDownloaded, browser.origin.clone(), now).await?;
    let sessions = sessions(ctx, signed_in, now).await?;
    let allowed = ctx.store.list_allowed(user.id.clone(), now).await?;
    let activity = activity(ctx, signed_in, u32::MAX).await?;
    let factors = ctx.store.list_totp_devices(user.id.clone()).await?;
    let trusted = ctx.store.list_trusted_browsers(user.id.clone(), ctx.config.mfa.trust_browser, now).await?;
    let registry = ctx.registry.load();
    let name_of = |id: &ClientId| registry.client(id.as_str()).map(|client| client.name().to_owned());
    Ok(json!({
        "issuer": ctx.issuer(),
        "exported_at": now.to_string(),
        "account": {
            "sub": user.id.as_str(),
            "user_name": user.username,
            "email": user.email,
            "email_verified": user.email_verified,
            "administrator": user.is_admin,
            "created_at": user.created_at.to_string(),
            "updated_at": user.updated_at.to_string(),
            "claims": user.claims,
        },
        "sessions": sessions.iter().map(|session| json!({
            "session_id": session.id.as_str(),
            "this_one": session.id == signed_in.session.id,
            "first_seen_at": session.created_at.to_string(),
            "first_seen_from": session.created_address,
            "last_seen_at": session.last_seen_at.to_string(),
            "last_seen_from": session.origin.address,
            "user_agent": session.origin.user_agent,
            "ends_at": session.expires_at.to_string(),
        })).collect::<Vec<_>>(),
        "second_factors": factors.iter().map(|device| json!({
            "name": device.name,
            "since": device.created_at.to_string(),
            "last_used_at": device.last_used_at.map(|at| at.to_string()),
        })).collect::<Vec<_>>(),
        "recovery_codes_left": ctx.store.count_recovery_codes(user.id.clone()).await?,
        "trusted_browsers": trusted.iter().map(|browser| json!({
            "address": browser.address,
            "user_agent": browser.user_agent,
            "since": browser.created_at.to_string(),
            "until": browser.expires_at.to_string(),
        })).collect::<Vec<_>>(),
        "applications": allowed.iter().map(|allowed| json!({
            "client_id": allowed.client.as_str(),
            "name": name_of(&allowed.client),
            "scope": allowed.what.scope.as_str(),
            "resources": allowed.what.resources,
            "claims": allowed.what.claims,
            "since": allowed.since.to_string(),
            "by_consent": allowed.by_consent,
        })).collect::<Vec<_>>(),
        "activity": activity.iter().map(|activity| json!({
            "at": activity.at.to_string(),
            "what": activity.event.as_str(),
            "detail": activity.detail,
            "address": activity.origin.address,
            "user_agent": activity.origin.user_agent,
        })).collect::<Vec<_>>(),
    }))
}

/// What asking for the end of an account came to.
pub enum Leaving {
    /// A mail with a link is on its way.
    Asked,
    /// There is no mailbox to ask: the sign-in a moment ago is all the proof that there can be.
    Deleted,
    LastAdministrator,
    Wait(UnixTime),
}

/// A person who has just proven who they are wants their account deleted: confirmed by a link where they have a confirmed
/// address and mail goes out, at once where not.
///
/// # Errors
/// When the database cannot be written.
pub async fn leave(
    ctx: &Context,
    signed_in: &SignedIn,
    browser: &Browser,
    now: UnixTime,
) -> Result<Leaving, OAuthError> {
    let user = &signed_in.user;
    if ctx.store.is_last_administrator(user.id.clone()).await? {
        return Ok(Leaving::LastAdministrator);
    }
    if ctx.config.mail.is_none() || user.email.is_none() || !user.email_verified {
        return Ok(match delete(ctx, signed_in, None, browser, now).await? {
            Deletion::LastAdministrator => Leaving::LastAdministrator,
            Deletion::Deleted | Deletion::Gone => Leaving::Deleted,
        });
    }
    let buckets = vec![Bucket::mails_to(&format!("delete {}", user.id))];
    let count = Failure { buckets, account: None, origin: browser.origin.clone() };
    if let Some(until) = ctx.store.record_failure(count, now).await? {
        return Ok(Leaving::Wait(until));
    }
    let letter = Letter::Deletion { user_id: user.id.clone(), origin: Asked::new(&browser.origin, now) };
    let mails = vec![queue(&ctx.sealing, &letter, Some(&user.id), now)?];
    let activity = Some((user.id.clone(), Event::DeletionAsked, browser.origin.clone()));
    ctx.store.request_by_mail(Request { mails, activity }, now).await?;
    Ok(Leaving::Asked)
}

/// What a link that deletes an account leads to.
pub enum Leave {
    /// It is for the person signed in.
    Open(Digest),
    OtherAccount,
    Gone,
    Wait(UnixTime),
}

/// Looks at a link without using it.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn open_leave(
    ctx: &Context,
    signed_in: &SignedIn,
    secret: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<Leave, OAuthError> {
    Ok(match find(ctx, LinkKind::DeleteAccount, secret, browser, now).await? {
        Found::Open { digest, link } if link.user_id.as_ref() == Some(&signed_in.user.id) => Leave::Open(digest),
        Found::Open { .. } => Leave::OtherAccount,
        Found::Gone => Leave::Gone,
        Found::Wait(until) => Leave::Wait(until),
    })
}

/// Deletes the account of the person, by the link that they were sent, where one was.
///
/// # Errors
/// When the database cannot be written.
pub async fn delete(
    ctx: &Context,
    signed_in: &SignedIn,
    link: Option<Digest>,
    browser: &Browser,
    now: UnixTime,
) -> Result<Deletion, OAuthError> {
    let mail = notice(ctx, &signed_in.user, Event::AccountDeleted, "", &browser.origin, now)?;
    let deletion = ctx.store.delete_user(signed_in.user.id.clone(), link, Actor::Owner, mail, now).await?;
    if deletion == Deletion::Deleted {
        tracing::info!(user.id = %signed_in.user.id, "a person deleted their account");
    }
    Ok(deletion)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_takes_names_languages_and_zones_and_nothing_odd() {
        let read = |field, typed| profile_claim(field, Some(typed));
        assert_eq!(read("name", "  Ada Lovelace "), Ok("Ada Lovelace".into()));
        assert_eq!(read("name", "  "), Ok(Value::Null));
        assert_eq!(read("name", "עדה\u{200f} 1"), Ok("עדה\u{200f} 1".into()));
        assert_eq!(profile_claim("name", None), Ok(Value::Null));
        assert_eq!(read("locale", "pt-BR"), Ok("pt-BR".into()));
        assert_eq!(read("zoneinfo", "Europe/Amsterdam"), Ok("Europe/Amsterdam".into()));
        let long = "x".repeat(201);
        for (field, bad) in [
            ("name", "a\u{0}b"),
            ("name", "Ada\u{202e}nimda"),
            ("family_name", "\u{2066}King"),
            ("given_name", long.as_str()),
            ("locale", "e"),
            ("locale", "en_GB"),
            ("locale", "en-<b>"),
            ("zoneinfo", "Mars/Olympus"),
            ("zoneinfo", "../../etc/passwd"),
        ] {
            assert_eq!(read(field, bad).unwrap_err().field, field, "{bad}");
        }
    }
}
