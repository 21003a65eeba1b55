//! Second factors of a person: authenticator apps, recovery codes, trusted browsers.

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;

/// An authenticator app that makes one-time codes.
#[derive(Clone, Debug)]
pub struct TotpDevice {
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    pub sealed_secret: Vec<u8>,
    /// The newest time step whose code was taken.
    pub last_step: i64,
    pub created_at: UnixTime,
    pub last_used_at: Option<UnixTime>,
}

/// A device whose first code was right.
#[derive(Clone, Debug)]
pub struct NewDevice {
    pub device_id: String,
    pub name: String,
    /// Where its secret was shown: one flow or one session, of one person.
    pub binding: Digest,
    pub sealed_secret: Vec<u8>,
    /// Of that first code.
    pub step: i64,
    /// The recovery codes that count if there are none yet.
    pub recovery_codes: Vec<Digest>,
}

/// A right code, about to be spent.
#[derive(Clone, Debug)]
pub enum FactorUse {
    Code { device_id: String, step: i64 },
    RecoveryCode { digest: Digest },
}

/// A browser that its person trusts to need no second factor for a while.
#[derive(Clone, Debug)]
pub struct TrustedBrowser {
    pub id: String,
    pub address: String,
    pub user_agent: String,
    pub created_at: UnixTime,
    pub expires_at: UnixTime,
}

/// What a device is called: as given, without what no page should show.
#[must_use]
pub fn device_name(text: &str) -> String {
    let name: String = text.trim().chars().filter(|c| !c.is_control()).take(60).collect();
    if name.is_empty() { "Authenticator app".to_owned() } else { name }
}
