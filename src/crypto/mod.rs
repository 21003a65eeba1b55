//! Everything that touches key material: random tokens and their digests, signing keys, JWTs, passwords, sealing at rest.

pub mod client_keys;
pub mod foreign;
pub mod jwt;
pub mod keyring;
pub mod opaque;
pub mod password;
pub mod recovery_code;
pub mod seal;
pub mod totp;

use thiserror::Error;

/// An operation of the cryptographic machinery failed. What a stranger sent wrong is never one of these.
#[derive(Debug, Error)]
pub enum CryptoError {
    #[error("the operating system's random generator failed: {0}")]
    Random(getrandom::Error),
    #[error("a {operation} with an {algorithm} key failed")]
    Key { operation: &'static str, algorithm: &'static str, source: josekit::JoseError },
    #[error("there is no {0} signing key")]
    NoKey(&'static str),
    #[error("a stored secret does not open with the key-encryption key in {0}; is it the key of another database?")]
    Unseal(String),
    #[error("hashing a password failed")]
    Password(#[source] argon2::Error),
    #[error("a stored password hash is malformed")]
    PasswordHash(#[source] argon2::password_hash::Error),
    #[error("a stored password hash of another system is malformed")]
    ForeignHash,
    #[error("more passwords are to be checked than can be in time")]
    PasswordQueueFull,
    #[error("a thread that checks passwords is gone")]
    PasswordThread,
    #[error("reading or writing the key-encryption key in {path}: {source}")]
    KeyFile { path: String, source: std::io::Error },
    #[error("the key-encryption key in {0} must be readable by its owner alone (mode 0600)")]
    KeyFileMode(String),
    #[error("the key-encryption key in {0} is not the base64 of 32 bytes")]
    KeyFormat(String),
    #[error("making a one-time password")]
    Totp(#[source] totp_rs::TotpError),
    #[error("writing JSON")]
    Json(#[from] serde_json::Error),
}

/// Fills an array from the operating system's generator.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    #[expect(clippy::disallowed_methods, reason = "the one place where chance comes in")]
    getrandom::fill(&mut bytes).map_err(CryptoError::Random)?;
    Ok(bytes)
}
