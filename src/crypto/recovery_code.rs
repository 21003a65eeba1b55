//! Recovery codes: what a person keeps on paper for the day the phone is gone. 80 random bits each (NIST SP 800-63B-4
//! section 3.1.2 asks for 64 where only a digest is kept), in an alphabet without look-alikes.

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::opaque::Digest;
use super::{CryptoError, random};
use crate::domain::ids::UserId;

/// Crockford's base 32.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 16;
/// How many make a set.
pub const SET: usize = 10;

/// A new code, as it is shown: four groups of four.
///
/// # Errors
/// When the system has no randomness to give.
pub fn mint() -> Result<SecretString, CryptoError> {
    let bytes: Zeroizing<[u8; LENGTH]> = Zeroizing::new(random()?);
    let mut text = Zeroizing::new(String::with_capacity(LENGTH + 3));
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 && at % 4 == 0 {
            text.push('-');
        }
        // 32 divides 256, so no letter is likelier than another.
        let letter = ALPHABET.get(usize::from(byte % 32)).copied().unwrap_or(b'0');
        text.push(char::from(letter));
    }
    Ok(SecretString::from(text.as_str()))
}

/// The digest of a code of this person, however it is typed; `None` for what is none by its form.
#[must_use]
pub fn digest(user: &UserId, typed: &str) -> Option<Digest> {
    let mut code = Zeroizing::new(String::with_capacity(LENGTH));
    for c in typed.chars().filter(|c| !c.is_whitespace() && *c != '-').take(LENGTH + 1) {
        code.push(match c.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        });
    }
    let fits = code.len() == LENGTH && code.bytes().all(|byte| ALPHABET.contains(&byte));
    fits.then(|| Digest::of(Zeroizing::new(format!("recovery code\n{user}\n{}", *code)).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn s62_a_code_has_80_bits_and_is_read_however_it_is_typed() {
        let (ada, bob) = (UserId::from_stored("ada"), UserId::from_stored("bob"));
        let code = mint().unwrap();
        let code = code.expose_secret();
        assert_eq!(code.len(), 19);
        assert_ne!(code, mint().unwrap().expose_secret());
        let own = digest(&ada, code).unwrap();
        assert!(digest(&bob, code).unwrap() != own, "a code is its owner's alone");
        for typed in [code.to_uppercase(), code.replace('-', ""), code.replace('-', " "), format!(" {code}\n")] {
            assert_eq!(digest(&ada, &typed), Some(own), "{typed}");
        }
        let (alike, plain) = (digest(&ada, "OIL0-0000-0000-0000"), digest(&ada, "0110-0000-0000-0000"));
        assert!(alike.is_some() && alike == plain);
        for wrong in ["", "0110-0000-0000-000", "0110-0000-0000-00000", "u110-0000-0000-0000", "é110-0000-0000-0000"] {
            assert_eq!(digest(&ada, wrong), None, "{wrong}");
        }
    }
}
