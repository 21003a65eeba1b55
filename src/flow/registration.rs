//! Accounts that people make themselves, where the operator lets them. An account is made by a link from the mailbox, so
//! that an address is its owner's; until then nothing of it is in the users' table, and the answer is the same whether name
//! or address are taken.

use secrecy::SecretString;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::crypto::password::Verdict;
use crate::domain::ids::UserId;
use crate::domain::link::LinkKind;
use crate::domain::password::Refusal;
use crate::domain::throttle::Bucket;
use crate::domain::user::{User, check_chosen_name, check_email, domain_on_the_wire};
use crate::protocol::error::OAuthError;
use crate::store::{Failure, NewUser, Registration as Stored, Request};

use super::links::{Found, find, read};
use super::mail::{Asked, Letter, Registration, queue};
use super::password::Accepted;
use super::recovery::count_mail;
use super::session::Browser;
use super::{Context, password};

/// What asking for an account came to.
pub enum Asking {
    /// A mail is on its way; what it says depends on what is taken.
    Sent,
    /// Something that was typed is not right, whoever types it.
    Username(&'static str),
    Email(String),
    Password(Refusal),
    Wait(UnixTime),
}

/// Queues the wish for an account, without a look at the others.
///
/// # Errors
/// When the machinery fails or its queue is full.
pub async fn ask(
    ctx: &Context,
    username: &str,
    email: &str,
    new_password: SecretString,
    browser: &Browser,
    now: UnixTime,
) -> Result<Asking, OAuthError> {
    let (username, email) = (username.trim(), email.trim());
    if let Err(why) = check_chosen_name(username) {
        return Ok(Asking::Username(why));
    }
    if check_email(email).is_err() {
        return Ok(Asking::Email("An e-mail address looks like name@example.com.".to_owned()));
    }
    let domains = &ctx.config.registration.email_domains;
    let own = domain_on_the_wire(email.rsplit('@').next().unwrap_or_default());
    if !domains.is_empty() && domains.iter().all(|domain| domain_on_the_wire(domain) != own) {
        return Ok(Asking::Email(format!("Only addresses of {} can be used here.", domains.join(", "))));
    }
    let waits = ctx.store.throttled_until(vec![Bucket::mails_from(&browser.network)], now).await?;
    if let Some(until) = waits {
        return Ok(Asking::Wait(until));
    }
    let password_hash = match password::accept(ctx, new_password, &[username, email], browser, now).await? {
        Accepted::Hash(hash) => hash,
        Accepted::Refused(refusal) => return Ok(Asking::Password(refusal)),
        Accepted::Wait(until) => return Ok(Asking::Wait(until)),
    };
    if let Some(until) = count_mail(ctx, browser, now).await? {
        return Ok(Asking::Wait(until));
    }
    let letter = Letter::Registration(Registration {
        username: username.to_owned(),
        email: email.to_owned(),
        password_hash,
        browser: browser.digest().as_bytes().to_vec(),
        origin: Asked::new(&browser.origin, now),
    });
    let request = Request { mails: vec![queue(&ctx.sealing, &letter, None, now)?], activity: None };
    ctx.store.request_by_mail(request, now).await?;
    Ok(Asking::Sent)
}

/// An account that waits for its confirmation.
pub struct Pending {
    digest: Digest,
    asked: Registration,
    /// Whether this browser asked for it. From any other the password must be shown: else whoever knows another's address
    /// could have them confirm an account that is not theirs alone.
    pub is_own: bool,
}

impl Pending {
    #[must_use]
    pub fn username(&self) -> &str {
        &self.asked.username
    }

    #[must_use]
    pub fn email(&self) -> &str {
        &self.asked.email
    }
}

/// What a link that makes an account leads to.
pub enum Opened {
    Open(Box<Pending>),
    Gone,
    Wait(UnixTime),
}

/// Looks at a link without using it.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn open(ctx: &Context, secret: &str, browser: &Browser, now: UnixTime) -> Result<Opened, OAuthError> {
    let (digest, link) = match find(ctx, LinkKind::Register, secret, browser, now).await? {
        Found::Open { digest, link } => (digest, link),
        Found::Gone => return Ok(Opened::Gone),
        Found::Wait(until) => return Ok(Opened::Wait(until)),
    };
    let Some(asked) = read::<Registration>(ctx, &digest, &link)? else { return Ok(Opened::Gone) };
    let is_own = Digest::from_stored(&asked.browser).is_some_and(|asker| asker.equals(&browser.digest()));
    Ok(Opened::Open(Box::new(Pending { digest, asked, is_own })))
}

/// What confirming came to.
pub enum Confirming {
    Done,
    WrongPassword,
    /// Somebody else took the name or the address meanwhile.
    Taken,
    Gone,
    Wait(UnixTime),
}

/// Makes the account; its address is confirmed by this.
///
/// # Errors
/// When the machinery fails or its queue is full.
pub async fn confirm(
    ctx: &Context,
    pending: Pending,
    typed_password: Option<&str>,
    browser: &Browser,
    now: UnixTime,
) -> Result<Confirming, OAuthError> {
    let Pending { digest, asked, is_own } = pending;
    let mut password_hash = asked.password_hash;
    if !is_own {
        let buckets = vec![Bucket::network(&browser.network), Bucket::account(&asked.username, Some(&asked.email))];
        if let Some(until) = ctx.store.throttled_until(buckets.clone(), now).await? {
            return Ok(Confirming::Wait(until));
        }
        let typed = SecretString::from(typed_password.unwrap_or_default());
        match ctx.hasher.verify(typed, Some(password_hash.clone())).await? {
            Verdict::Right { rehashed } => password_hash = rehashed.unwrap_or(password_hash),
            Verdict::Wrong => {
                let failure = Failure { buckets, account: None, origin: browser.origin.clone() };
                let blocked = ctx.store.record_failure(failure, now).await?;
                return Ok(blocked.map_or(Confirming::WrongPassword, Confirming::Wait));
            }
        }
    }
    let user = User {
        id: UserId::random(),
        username: asked.username,
        email: Some(asked.email),
        email_verified: true,
        is_admin: false,
        claims: serde_json::Map::new(),
        disabled_at: None,
        created_at: now,
        updated_at: now,
        has_second_factor: false,
    };
    let id = user.id.clone();
    let new = NewUser { user, password_hash: Some(password_hash) };
    Ok(match ctx.store.register(digest, new, browser.origin.clone(), now).await? {
        Stored::Done => {
            tracing::info!(user.id = %id, network = browser.network, "an account was made by its owner");
            Confirming::Done
        }
        Stored::Taken => Confirming::Taken,
        Stored::Gone => Confirming::Gone,
    })
}
