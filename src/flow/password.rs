//! The one judgement of a new password, whoever sets it: a command, a registration, a reset, the account.

use secrecy::{ExposeSecret as _, SecretString};
use sha1::{Digest as _, Sha1};
use url::Url;

use crate::clock::UnixTime;
use crate::config::Config;
use crate::crypto::CryptoError;
use crate::crypto::password::PasswordHasher;
use crate::domain::password::{Refusal, normal};
use crate::domain::throttle::Bucket;
use crate::outbound::{Outbound, OutboundError};
use crate::protocol::error::OAuthError;
use crate::store::Failure;

use super::Context;
use super::session::Browser;

/// As it stands on the pages.
const PRODUCT: &str = "countersign";

/// Judges a password for a person with these names and addresses.
///
/// # Errors
/// When the queue of password checks is full or its threads are gone.
pub async fn judge(
    hasher: &PasswordHasher,
    config: &Config,
    outbound: &Outbound,
    password: &SecretString,
    names: &[&str],
) -> Result<Result<(), Refusal>, CryptoError> {
    // What the service is called is tried first by whoever guesses here (NIST SP 800-63B-4 section 3.1.1.2).
    let service = [PRODUCT, config.issuer.url().host_str().unwrap_or_default()];
    let names = names.iter().chain(&service).map(|&name| name.to_owned()).collect();
    if let Err(refusal) = hasher.judge(password.clone(), names, config.password.min_length).await? {
        return Ok(Err(refusal));
    }
    let Some(corpus) = &config.password.breach_url else { return Ok(Ok(())) };
    match is_breached(outbound, corpus, password).await {
        Ok(true) => Ok(Err(Refusal::Breached)),
        Ok(false) => Ok(Ok(())),
        // The other rules hold; a corpus that is away must not keep people from their accounts.
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the breach corpus does not answer; not asked");
            Ok(Ok(()))
        }
    }
}

/// What came of a password that somebody wants to have.
pub enum Accepted {
    /// It is good; its hash, to be stored.
    Hash(String),
    Refused(Refusal),
    /// Too many were judged for this network; not before this instant.
    Wait(UnixTime),
}

/// Judges a password and hashes it. Both are dear, and on a page like that of registration free to anybody, so each counts
/// against the network as a wrong guess does, before any of it is done.
///
/// # Errors
/// When the queue of password checks is full or its threads are gone, or the database cannot be written.
pub async fn accept(
    ctx: &Context,
    password: SecretString,
    names: &[&str],
    browser: &Browser,
    now: UnixTime,
) -> Result<Accepted, OAuthError> {
    let buckets = vec![Bucket::network(&browser.network)];
    let count = Failure { buckets, account: None, origin: browser.origin.clone() };
    if let Some(until) = ctx.store.record_failure(count, now).await? {
        return Ok(Accepted::Wait(until));
    }
    Ok(match judge(&ctx.hasher, &ctx.config, &ctx.outbound, &password, names).await? {
        Ok(()) => Accepted::Hash(ctx.hasher.hash(password).await?),
        Err(refusal) => Accepted::Refused(refusal),
    })
}

/// Whether the corpus has it: asked by the first five digits of its SHA-1, which some hundred others share, so the corpus
/// learns next to nothing (k-anonymity). SHA-1, because that is what it is sorted by.
async fn is_breached(outbound: &Outbound, corpus: &Url, password: &SecretString) -> Result<bool, OutboundError> {
    let digest = Sha1::digest(normal(password.expose_secret()).as_bytes());
    let hex = format!("{digest:X}");
    let (prefix, suffix) = hex.split_at(5);
    let mut address = corpus.clone();
    address.set_path(&format!("{}{prefix}", corpus.path()));
    // With padding not even the length of the answer tells which digits were asked for; what pads it was seen 0 times.
    let answer = outbound.get_text(&address, ("add-padding", "true")).await?;
    let seen = |line: &str| {
        line.trim().split_once(':').is_some_and(|(end, times)| end.eq_ignore_ascii_case(suffix) && times != "0")
    };
    Ok(answer.lines().any(seen))
}
