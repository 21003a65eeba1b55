//! Sealing secrets at rest: AES-256-GCM under a key-encryption key that lives outside the database.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use crate::config::KeySource;

use super::opaque::{DerivedKey, keyed_hash};
use super::{CryptoError, random};

const NONCE_LENGTH: usize = 12;

/// The key-encryption key. Other secrets of the server are derived from it, each for one purpose.
pub struct SealingKey {
    key: Zeroizing<[u8; 32]>,
    /// Where it was found.
    place: String,
}

impl SealingKey {
    /// Reads the key from where the configuration says; a key file that does not exist yet is made, with mode 0600.
    ///
    /// # Errors
    /// When the file cannot be read or written, is open to others, or does not hold the base64 of 32 bytes.
    pub fn load(source: &KeySource) -> Result<Self, CryptoError> {
        match source {
            KeySource::Inline(text) => {
                Self::decode(text.expose_secret(), "key_encryption_key (COUNTERSIGN_KEY_ENCRYPTION_KEY)")
            }
            KeySource::File(path) => {
                let shown = path.display().to_string();
                let failed = |source| CryptoError::KeyFile { path: shown.clone(), source };
                if !path.exists() {
                    Self::create(path).map_err(failed)?;
                }
                let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(CryptoError::KeyFileMode(shown));
                }
                Self::decode(&Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?), &shown)
            }
        }
    }

    /// Writes a new key beside its final name and links it there, so that of two starters both read the winner's.
    fn create(path: &Path) -> std::io::Result<()> {
        let key: Zeroizing<[u8; 32]> = Zeroizing::new(random().map_err(std::io::Error::other)?);
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{}", *Zeroizing::new(STANDARD.encode(key.as_slice())))?;
        file.sync_all()?;
        let linked = std::fs::hard_link(&draft, path);
        std::fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The directory too, or a power cut could leave a database that no key opens.
        path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
    }

    fn decode(text: &str, place: &str) -> Result<Self, CryptoError> {
        let mut key = Zeroizing::new([0; 32]);
        match STANDARD.decode_slice(text.trim(), key.as_mut_slice()) {
            Ok(32) => Ok(Self { key, place: place.to_owned() }),
            _ => Err(CryptoError::KeyFormat(place.to_owned())),
        }
    }

    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(keyed_hash(&self.key, purpose.as_bytes()))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.derive("countersign sealing 1")).into())
    }

    #[must_use]
    pub fn rotation_key(&self) -> DerivedKey {
        DerivedKey(self.derive("countersign refresh token rotation 1"))
    }

    /// The key that marks browsers which have signed in before.
    #[must_use]
    pub fn known_browser_key(&self) -> DerivedKey {
        DerivedKey(self.derive("countersign known browser 1"))
    }

    /// The key behind what clients and their pages are told of a session.
    #[must_use]
    pub fn session_key(&self) -> DerivedKey {
        DerivedKey(self.derive("countersign session 1"))
    }

    /// Seals `secret`; `label` (what it is, and whose) must be given again to open it, so that a sealed value moved to
    /// another row opens there for nobody.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn seal(&self, label: &str, secret: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let nonce: [u8; NONCE_LENGTH] = random()?;
        let payload = Payload { msg: secret, aad: label.as_bytes() };
        let sealed = self.cipher().encrypt(Nonce::from_slice(&nonce), payload).map_err(|_aead| self.refused())?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// # Errors
    /// When the value was sealed under another key or label, or was altered.
    pub fn open(&self, label: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LENGTH).ok_or_else(|| self.refused())?;
        let payload = Payload { msg: ciphertext, aad: label.as_bytes() };
        let opened = self.cipher().decrypt(Nonce::from_slice(nonce), payload);
        opened.map(Zeroizing::new).map_err(|_aead| self.refused())
    }

    fn refused(&self) -> CryptoError {
        CryptoError::Unseal(self.place.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s112_a_sealed_secret_opens_under_its_own_key_and_label_only() {
        let of = |byte| SealingKey { key: Zeroizing::new([byte; 32]), place: "x.key".to_owned() };
        let key = of(1);
        let sealed = key.seal("key a", b"secret").unwrap();
        assert_eq!(key.open("key a", &sealed).unwrap().as_slice(), b"secret");
        assert!(key.open("key b", &sealed).is_err());
        let refused = of(2).open("key a", &sealed).unwrap_err().to_string();
        assert!(refused.contains("x.key"), "{refused}");
        let mut altered = sealed;
        *altered.last_mut().unwrap() ^= 1;
        assert!(key.open("key a", &altered).is_err());
        assert!(key.open("key a", &[]).is_err());
    }

    #[test]
    fn s93_the_key_file_is_made_for_its_owner_alone_and_refused_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key-encryption.key");
        let source = KeySource::File(path.clone());
        let sealed = SealingKey::load(&source).unwrap().seal("x", b"y").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(SealingKey::load(&source).unwrap().open("x", &sealed).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(SealingKey::load(&source).is_err());
    }
}
