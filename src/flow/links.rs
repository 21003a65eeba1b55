//! Links of mails as they come back. They hold 256 random bits, of which the database has the digest.

use secrecy::ExposeSecret as _;

use crate::clock::UnixTime;
use crate::crypto::opaque::{Digest, MailLink};
use crate::domain::ids::UserId;
use crate::domain::link::LinkKind;
use crate::domain::throttle::Bucket;
use crate::protocol::error::OAuthError;
use crate::store::{Failure, Link, NewLink};

use super::Context;
use super::session::Browser;

/// What became of a link.
pub enum Found {
    /// It can be used.
    Open { digest: Digest, link: Link },
    /// It was used, has run out, was replaced by a newer one, or never was.
    Gone,
    /// Too many that never were have come from there; not before this instant.
    Wait(UnixTime),
}

/// Looks for a link. Guessing at one is counted like guessing at a password, though it is beyond anybody.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn find(
    ctx: &Context,
    kind: LinkKind,
    secret: &str,
    browser: &Browser,
    now: UnixTime,
) -> Result<Found, OAuthError> {
    let Some(secret) = MailLink::parse(secret) else { return Ok(Found::Gone) };
    let buckets = vec![Bucket::network(&browser.network)];
    if let Some(until) = ctx.store.throttled_until(buckets.clone(), now).await? {
        return Ok(Found::Wait(until));
    }
    let digest = secret.digest();
    if let Some(link) = ctx.store.find_link(digest, kind, now).await? {
        return Ok(Found::Open { digest, link });
    }
    let failure = Failure { buckets, account: None, origin: browser.origin.clone() };
    Ok(ctx.store.record_failure(failure, now).await?.map_or(Found::Gone, Found::Wait))
}

/// Makes a link and stores it; its address, or `None` when there is no such account any more. What it will do is sealed
/// under the link itself.
///
/// # Errors
/// When the database cannot be written.
pub(super) async fn create(
    ctx: &Context,
    kind: LinkKind,
    user_id: Option<UserId>,
    what: Option<&[u8]>,
    now: UnixTime,
) -> Result<Option<String>, OAuthError> {
    let secret = MailLink::mint()?;
    let digest = secret.digest();
    let sealed = what.map(|what| ctx.sealing.seal(&label(&digest), what)).transpose()?;
    let link = NewLink { digest, kind, user_id, sealed, expires_at: now.plus(kind.lifetime()) };
    let stored = ctx.store.create_link(link).await?;
    // From the configured issuer: whoever sends another Host does not choose where a link leads.
    let address = || format!("{}?token={}", ctx.config.issuer.at(kind.path()), secret.reveal().expose_secret());
    Ok(stored.then(address))
}

/// What a link will do.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    ctx: &Context,
    digest: &Digest,
    link: &Link,
) -> Result<Option<T>, OAuthError> {
    let Some(sealed) = &link.sealed else { return Ok(None) };
    let opened = ctx.sealing.open(&label(digest), sealed)?;
    serde_json::from_slice(&opened).map(Some).map_err(OAuthError::server_error)
}

fn label(digest: &Digest) -> String {
    use base64::Engine as _;
    format!("link {}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.as_bytes()))
}
