//! Opaque secrets that we hand out: a prefix that secret scanners know, random bytes, a checksum that catches a mistyped
//! or cut one before any look-up. Only SHA-256 digests of them are stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{CryptoError, random};

/// SHA-256 of a secret, the only form in which it rests. In JSON, base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        URL_SAFE_NO_PAD.encode(digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = base64::DecodeSliceError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes)? {
            32 => Ok(Self(bytes)),
            short => Err(base64::DecodeError::InvalidLength(short).into()),
        }
    }
}

impl Digest {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads a stored digest; anything but 32 bytes equals no secret.
    #[must_use]
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

fn write(prefix: &str, body: &[u8]) -> SecretString {
    let mut text = String::with_capacity(prefix.len() + body.len() * 4 / 3 + 8);
    text.push_str(prefix);
    URL_SAFE_NO_PAD.encode_string(body, &mut text);
    let checksum = checksum(text.as_bytes());
    text.extend(checksum.map(char::from));
    text.into()
}

/// The body of a token of this kind; `None` when prefix, length, alphabet or checksum is not right.
fn read<const N: usize>(prefix: &str, text: &str) -> Option<Zeroizing<[u8; N]>> {
    let (signed, sum) = text.split_at_checked(text.len().checked_sub(6)?)?;
    if checksum(signed.as_bytes()) != sum.as_bytes() {
        return None;
    }
    let mut bytes = Zeroizing::new([0; N]);
    let decoded = URL_SAFE_NO_PAD.decode_slice(signed.strip_prefix(prefix)?, bytes.as_mut_slice()).ok()?;
    (decoded == N).then_some(bytes)
}

/// CRC-32 in six characters of base 62, as other vendors' tokens carry it. Finds typing errors; protects nothing.
fn checksum(bytes: &[u8]) -> [u8; 6] {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut sum = crc32fast::hash(bytes) as usize;
    let mut text = [b'0'; 6];
    for slot in text.iter_mut().rev() {
        *slot = ALPHABET.get(sum % 62).copied().unwrap_or(b'0');
        sum /= 62;
    }
    text
}

macro_rules! opaque_secret {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        pub struct $name(Zeroizing<[u8; 32]>);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// # Errors
            /// When the system has no randomness to give.
            pub fn mint() -> Result<Self, CryptoError> {
                Ok(Self(Zeroizing::new(random()?)))
            }

            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                read(Self::PREFIX, text).map(Self)
            }

            #[must_use]
            pub fn digest(&self) -> Digest {
                Digest::of(self.0.as_slice())
            }

            #[must_use]
            pub fn reveal(&self) -> SecretString {
                write(Self::PREFIX, self.0.as_slice())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

opaque_secret!(
    /// `client_secret`.
    ClientSecret,
    "cs_cs_"
);
opaque_secret!(
    /// The value of the session cookie.
    SessionSecret,
    "cs_ss_"
);
opaque_secret!(
    /// The name of one sign-in flow, in its address.
    FlowId,
    "cs_fl_"
);
opaque_secret!(
    /// The name of one sign-out, in the address of the page after it.
    SignOutId,
    "cs_so_"
);
opaque_secret!(
    /// What proves that this browser took a flow's first step: new at each step, so that no planted name of a flow leads on
    /// to the next one.
    StepSecret,
    "cs_st_"
);
opaque_secret!(
    /// What a browser shows that a person trusts it to need no second factor for a while.
    TrustSecret,
    "cs_tb_"
);
opaque_secret!(
    /// What ties sign-in flows to one browser: the value of the flow cookie.
    BrowserSecret,
    "cs_br_"
);

opaque_secret!(
    /// The secret of a link that a mail carries.
    MailLink,
    "cs_ml_"
);

/// A code or a refresh token: 128 random bits that name the grant and 256 that prove this very link of it. The handle
/// lets a spent token still find the grant that its reuse must end.
pub struct GrantSecret(Zeroizing<[u8; 48]>);

/// `code`, RFC 6749 section 4.1.2.
pub const CODE_PREFIX: &str = "cs_ac_";
/// `refresh_token`, RFC 6749 section 1.5.
pub const REFRESH_TOKEN_PREFIX: &str = "cs_rt_";

/// A key derived for one purpose: refresh tokens' successors, browsers' marks, what is told of sessions.
#[derive(Clone)]
pub struct DerivedKey(pub(super) Zeroizing<[u8; 32]>);

impl GrantSecret {
    /// A new handle and a new proof.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn mint() -> Result<Self, CryptoError> {
        Ok(Self(Zeroizing::new(random()?)))
    }

    #[must_use]
    pub fn parse(prefix: &str, text: &str) -> Option<Self> {
        read(prefix, text).map(Self)
    }

    #[must_use]
    pub fn reveal(&self, prefix: &str) -> SecretString {
        write(prefix, self.0.as_slice())
    }

    /// The same proof under another's handle: a grant's refresh tokens carry the handle that its code had.
    #[must_use]
    pub fn with_handle_of(mut self, other: &Self) -> Self {
        self.0.split_at_mut(16).0.copy_from_slice(other.handle());
        self
    }

    fn handle(&self) -> &[u8] {
        self.0.split_at(16).0
    }

    #[must_use]
    pub fn handle_digest(&self) -> Digest {
        Digest::of(self.handle())
    }

    /// Of the whole, handle and proof.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_slice())
    }

    /// The next link of the chain, always the same for the same link: whoever lost an answer and repeats the request gets
    /// the very same successor, and a chain can never fork. Without the key nothing follows from a link.
    #[must_use]
    pub fn successor(&self, key: &DerivedKey) -> Self {
        let mut next = Zeroizing::new([0; 48]);
        let (handle, proof) = next.split_at_mut(16);
        handle.copy_from_slice(self.handle());
        proof.copy_from_slice(&keyed_hash(&key.0, self.0.as_slice()));
        Self(next)
    }
}

/// HMAC-SHA-256.
pub(super) fn keyed_hash(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // A key shorter than the block is padded with zeros, RFC 2104 section 2.
    let mut block = Zeroizing::new([0; 64]);
    block.split_at_mut(32).0.copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The form token of one flow in one browser. Whoever cannot read the browser's cookie cannot know it.
#[must_use]
pub fn csrf_token(browser: &str, purpose: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("csrf\n{browser}\n{purpose}")))
}

/// A mark for a browser that signed in to an account: a random number and our word that it did.
///
/// # Errors
/// When the system has no randomness to give.
pub fn browser_mark(key: &DerivedKey, account: &str) -> Result<String, CryptoError> {
    let number = URL_SAFE_NO_PAD.encode(random::<16>()?);
    let word = keyed_hash(&key.0, format!("{number}\n{account}").as_bytes());
    Ok(format!("{number}.{}", URL_SAFE_NO_PAD.encode(word)))
}

/// Whether a browser's mark is for this account.
#[must_use]
pub fn is_browser_mark(key: &DerivedKey, account: &str, mark: &str) -> bool {
    let Some((number, word)) = mark.split_once('.') else { return false };
    let expected = keyed_hash(&key.0, format!("{number}\n{account}").as_bytes());
    number.len() == 22 && same_text(&URL_SAFE_NO_PAD.encode(expected), word)
}

/// A session's `sid` for one client alone: nobody can tell from two of them that they are of one session.
#[must_use]
pub fn sid_of_client(key: &DerivedKey, session: &str, client: &str) -> String {
    URL_SAFE_NO_PAD.encode(keyed_hash(&key.0, format!("sid\n{client}\n{session}").as_bytes()))
}

/// What stands for a session where its browser's pages can read it (OpenID Connect Session Management section 3.2): another
/// for each session, and good for nothing else.
#[must_use]
pub fn browser_state(key: &DerivedKey, session: &str) -> String {
    URL_SAFE_NO_PAD.encode(keyed_hash(&key.0, format!("state\n{session}").as_bytes()))
}

/// `session_state`, OpenID Connect Session Management section 2; `static/check-session.js` computes the same.
///
/// # Errors
/// When the system has no randomness to give.
pub fn session_state(client: &str, origin: &str, browser_state: &str) -> Result<String, CryptoError> {
    let salt = URL_SAFE_NO_PAD.encode(random::<16>()?);
    let digest = Sha256::digest(format!("{client} {origin} {browser_state} {salt}"));
    Ok(format!("{}.{salt}", URL_SAFE_NO_PAD.encode(digest)))
}

/// Compares two texts in a time that tells nothing of where they differ.
#[must_use]
pub fn same_text(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// The digest of a secret as it was presented, if it has the right form.
#[must_use]
pub fn client_secret_digest(presented: &SecretString) -> Option<Digest> {
    ClientSecret::parse(presented.expose_secret()).map(|secret| secret.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_secret_reads_back_and_one_mistyped_letter_is_noticed() {
        let secret = ClientSecret::mint().unwrap();
        let text = secret.reveal().expose_secret().to_owned();
        assert!(text.starts_with("cs_cs_") && text.len() == 6 + 43 + 6);
        assert_eq!(ClientSecret::parse(&text).unwrap().digest(), secret.digest());
        for at in 0..text.len() {
            let mut typed = text.clone().into_bytes();
            typed[at] = if typed[at] == b'x' { b'y' } else { b'x' };
            assert!(ClientSecret::parse(std::str::from_utf8(&typed).unwrap()).is_none(), "{at}");
        }
        assert!(SessionSecret::parse(&text).is_none());
        assert!(!format!("{secret:?}").contains(&text[6..20]));
    }

    #[test]
    fn a_refresh_token_has_one_successor_and_keeps_its_handle() {
        let key = DerivedKey(Zeroizing::new([7; 32]));
        let token = GrantSecret::mint().unwrap();
        let next = token.successor(&key);
        assert_eq!(next.digest(), token.successor(&key).digest());
        assert_ne!(next.digest(), token.digest());
        assert_eq!(next.handle_digest(), token.handle_digest());
        assert_ne!(next.digest(), token.successor(&DerivedKey(Zeroizing::new([8; 32]))).digest());
        let text = next.reveal(REFRESH_TOKEN_PREFIX);
        assert_eq!(GrantSecret::parse(REFRESH_TOKEN_PREFIX, text.expose_secret()).unwrap().digest(), next.digest());
        assert!(GrantSecret::parse(CODE_PREFIX, text.expose_secret()).is_none());
    }

    #[test]
    fn s54_a_browser_is_known_to_its_own_account_only() {
        let key = DerivedKey(Zeroizing::new([7; 32]));
        let mark = browser_mark(&key, "ada").unwrap();
        assert!(is_browser_mark(&key, "ada", &mark));
        assert!(!is_browser_mark(&key, "bob", &mark));
        assert!(!is_browser_mark(&DerivedKey(Zeroizing::new([8; 32])), "ada", &mark));
        assert!(!is_browser_mark(&key, "ada", "."));
    }

    #[test]
    fn the_keyed_hash_is_hmac() {
        // RFC 4231 test case 1 has a 20-byte key of 0x0b; padding with zeros does not change an HMAC key.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let mac = keyed_hash(&key, b"Hi There");
        assert_eq!(mac[..8], [0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53]);
    }

    #[test]
    fn s49_secrets_do_not_repeat() {
        let mut seen = std::collections::HashSet::new();
        assert!((0..100_000).all(|_| seen.insert(GrantSecret::mint().unwrap().digest())));
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,90}") {
            prop_assert!(ClientSecret::parse(&text).is_none());
            prop_assert!(GrantSecret::parse(CODE_PREFIX, &text).is_none());
        }
    }
}
