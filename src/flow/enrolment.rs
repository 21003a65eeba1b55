//! Setting up an authenticator app: a secret is shown, and becomes a factor once a code of it was right. Until then it
//! waits in the database, for one person in one flow or one session, so that a page loaded again shows the same.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::clock::UnixTime;
use crate::crypto::CryptoError;
use crate::crypto::opaque::{Digest, SessionSecret};
use crate::crypto::recovery_code;
use crate::crypto::totp::{TotpSecret, typed_code};
use crate::domain::ids::{UserId, uuid_v7};
use crate::domain::second_factor::{NewDevice, device_name};
use crate::domain::session::{Authentication, Session};
use crate::protocol::acr::{AMR_MFA, AMR_OTP, AMR_PASSWORD};
use crate::protocol::error::OAuthError;
use crate::store::SessionRise;

use super::Context;
use super::session::SessionCookie;

/// How long a secret that was shown can be confirmed.
const CONFIRM_WITHIN: Duration = Duration::from_mins(30);

/// What a sealed secret is, and whose.
#[must_use]
pub fn label(user: &UserId) -> String {
    format!("totp {user}")
}

fn binding(user: &UserId, place: &str) -> Digest {
    Digest::of(format!("totp enrolment\n{user}\n{place}").as_bytes())
}

async fn pending(
    ctx: &Context,
    user: &UserId,
    place: &str,
    now: UnixTime,
) -> Result<(Vec<u8>, TotpSecret), OAuthError> {
    let fresh = ctx.sealing.seal(&label(user), TotpSecret::mint()?.as_bytes())?;
    let until = now.plus(CONFIRM_WITHIN);
    let sealed = ctx.store.open_enrolment(binding(user, place), user.clone(), fresh, until, now).await?;
    let secret = TotpSecret::from_opened(&ctx.sealing.open(&label(user), &sealed)?)?;
    Ok((sealed, secret))
}

/// The secret to show to this person at this place.
///
/// # Errors
/// When the machinery fails.
pub async fn show(ctx: &Context, user: &UserId, place: &str, now: UnixTime) -> Result<TotpSecret, OAuthError> {
    pending(ctx, user, place, now).await.map(|(_, secret)| secret)
}

/// A device that is ready to be added, and the recovery codes that would go with it.
pub struct Confirmed {
    pub device: NewDevice,
    pub codes: Vec<SecretString>,
}

/// Checks the first code of an app against the secret that was shown; `None` when it is wrong.
///
/// # Errors
/// When the machinery fails.
pub async fn confirm(
    ctx: &Context,
    user: &UserId,
    place: &str,
    code: &str,
    name: &str,
    now: UnixTime,
) -> Result<Option<Confirmed>, OAuthError> {
    let (sealed_secret, secret) = pending(ctx, user, place, now).await?;
    let Some(step) = secret.step_of(&typed_code(code), -1, now) else { return Ok(None) };
    let (codes, recovery_codes) = new_codes(user)?;
    let binding = binding(user, place);
    let device =
        NewDevice { device_id: uuid_v7(now), name: device_name(name), binding, sealed_secret, step, recovery_codes };
    Ok(Some(Confirmed { device, codes }))
}

/// What a session that adds its person's first app becomes: the password was proven in it, and now a code. `None` where it
/// has shown a second factor before.
///
/// # Errors
/// When the system has no randomness to give.
pub fn rise(
    ctx: &Context,
    session: &Session,
    now: UnixTime,
) -> Result<(Option<SessionRise>, Option<SessionCookie>), CryptoError> {
    if session.authentication.is_multi_factor() {
        return Ok((None, None));
    }
    let secret = SessionSecret::mint()?;
    let authentication = Authentication::by(&format!("{AMR_PASSWORD} {AMR_OTP} {AMR_MFA}"), now);
    let cookie = SessionCookie::new(ctx, &secret, session, now);
    Ok((Some(SessionRise { cookie: secret.digest(), authentication }), Some(cookie)))
}

/// A new set of recovery codes, and their digests.
///
/// # Errors
/// When the system has no randomness to give.
pub fn new_codes(user: &UserId) -> Result<(Vec<SecretString>, Vec<Digest>), CryptoError> {
    let codes = (0..recovery_code::SET).map(|_| recovery_code::mint()).collect::<Result<Vec<_>, _>>()?;
    let digests = codes.iter().filter_map(|code| recovery_code::digest(user, code.expose_secret())).collect();
    Ok((codes, digests))
}
