//! Signing keys as they rest: when each is published, signs, and is gone.

use serde_json::Value;

use crate::clock::UnixTime;
use crate::protocol::jose::SigningAlgorithm;

/// One signing key. Published from its making; signs from `active_at` until a newer one does; stays published until
/// `expires_at`, when the last token that it signed is dead.
#[derive(Clone, Debug)]
pub struct SigningKey {
    pub key_id: String,
    pub algorithm: SigningAlgorithm,
    pub public_jwk: Value,
    /// The private key (PKCS #8) under the key-encryption key.
    pub sealed_private: Vec<u8>,
    pub created_at: UnixTime,
    pub active_at: UnixTime,
    /// Set when a successor is made.
    pub expires_at: Option<UnixTime>,
}

impl SigningKey {
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    #[must_use]
    pub fn signs_at(&self, now: UnixTime) -> bool {
        self.active_at <= now && !self.is_expired(now)
    }
}
