//! Password hashes of other systems, taken over by `user import` and replaced by our own at the first sign-in. They rest in
//! one form each: bcrypt as it is, PBKDF2 and scrypt as PHC strings, whatever system they came from.
//!
//! Until that sign-in a check takes the time of the foreign hash and of ours, so where the foreign one is dear, it tells a
//! stranger that there is such an account which nobody has signed in to yet; nothing can hide that but a hash of our own.

use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::domain::password::normal;

use super::CryptoError;

// Who verifies a hash pays its cost at each guess: these bounds hold what other systems use by default (Django 6: 1,200,000 of
// SHA-256, Keycloak 26: 210,000 of SHA-512) and less than what would make a sign-in take about a second.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 4..=14;
/// In bytes.
const BCRYPT_READS: usize = 72;
const MOST_ITERATIONS: u32 = 1_500_000;
const MOST_ITERATIONS_OF_SHA512: u32 = 500_000;
const MOST_MEMORY_KIB: u32 = 128 * 1024;
/// Memory times passes.
const MOST_FILLED_KIB: u32 = 512 * 1024;
const MOST_LANES: u32 = 16;
/// How strings begin that are taken as they are.
const FORMS: [&str; 10] =
    ["2a", "2b", "2y", "argon2id", "argon2i", "argon2d", "scrypt", "pbkdf2-sha1", "pbkdf2-sha256", "pbkdf2-sha512"];
/// In bytes; less is hardly a hash.
const OUTPUT: std::ops::RangeInclusive<usize> = 16..=64;

/// Reads a hash as another system wrote it: a string, or a credential of Keycloak as JSON. Gives the form that rests.
///
/// # Errors
/// Says what is wrong with it, and never what it is.
pub fn import(value: &Value) -> Result<String, String> {
    let stored = match value {
        Value::String(text) => of_text(text)?,
        Value::Object(_) => of_keycloak(value)?,
        _ => return Err("is neither text nor a credential of Keycloak".to_owned()),
    };
    check(&stored)?;
    Ok(stored)
}

fn of_text(text: &str) -> Result<String, String> {
    const UNKNOWN: &str = "is of no form that we know: bcrypt ($2b$…), Django's pbkdf2_sha256$…, pbkdf2_sha1$… or scrypt$…, \
                           or a PHC string ($argon2id$…, $scrypt$…, $pbkdf2-sha256$…)";
    let parts: Vec<&str> = text.split('$').collect();
    match parts.as_slice() {
        // Django writes a salt as text and a hash in base64.
        [algorithm @ ("pbkdf2_sha256" | "pbkdf2_sha1"), iterations, salt, hash] => {
            let name = algorithm.replace('_', "-");
            pbkdf2_phc(&name, iterations, salt.as_bytes(), &decode(hash)?)
        }
        ["scrypt", n, salt, r, p, hash] => {
            let n: u64 = n.parse().map_err(|_number| "has a cost that is no number".to_owned())?;
            if !n.is_power_of_two() {
                return Err("has a cost that is no power of two".to_owned());
            }
            let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(decode(hash)?));
            Ok(format!("$scrypt$ln={},r={r},p={p}${salt}${hash}", n.trailing_zeros()))
        }
        // Django puts its own name before the PHC string.
        ["argon2", ..] => Ok(text.trim_start_matches("argon2").to_owned()),
        ["", known, ..] if FORMS.contains(known) => Ok(text.to_owned()),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// Keycloak's export has the parts as JSON inside of JSON; its API and others flat.
fn of_keycloak(credential: &Value) -> Result<String, String> {
    let inner = |name: &str| {
        let text = credential.get(name).and_then(Value::as_str);
        text.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default()
    };
    let (secret, data) = (inner("secretData"), inner("credentialData"));
    let find = |name: &str| [credential, &data, &secret].into_iter().find_map(|part| part.get(name));
    let text = |name: &str| find(name).and_then(Value::as_str).ok_or_else(|| format!("has no `{name}`"));
    let (algorithm, salt, hash) = (text("algorithm")?, decode(text("salt")?)?, decode(text("value")?)?);
    let iterations = find("hashIterations").and_then(Value::as_u64).ok_or("has no `hashIterations`")?.to_string();
    match algorithm {
        "pbkdf2" => pbkdf2_phc("pbkdf2-sha1", &iterations, &salt, &hash),
        "pbkdf2-sha256" | "pbkdf2-sha512" => pbkdf2_phc(algorithm, &iterations, &salt, &hash),
        "argon2" => {
            let more = find("additionalParameters").cloned().unwrap_or_default();
            let more = |name: &str| {
                let first = more.get(name).and_then(|values| values.get(0)).and_then(Value::as_str);
                first.ok_or_else(|| format!("has no `{name}` among its parameters"))
            };
            let version = if more("version")? == "1.0" { 16 } else { 19 };
            let (kind, memory, lanes) = (more("type")?, more("memory")?, more("parallelism")?);
            let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
            Ok(format!("$argon2{kind}$v={version}$m={memory},t={iterations},p={lanes}${salt}${hash}"))
        }
        _ => Err("has an `algorithm` that is none of pbkdf2, pbkdf2-sha256, pbkdf2-sha512 and argon2".to_owned()),
    }
}

/// Whether a hash that this password fits says that it is the right one to its last letter. bcrypt's does not beyond 72 bytes:
/// what was typed there, perhaps wrongly, must not become the password.
#[must_use]
pub fn is_whole(stored: &str, password: &SecretString) -> bool {
    !stored.starts_with("$2") || password.expose_secret().len() <= BCRYPT_READS
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|_base64| "has a salt or hash that is not base64".to_owned())
}

fn pbkdf2_phc(name: &str, iterations: &str, salt: &[u8], hash: &[u8]) -> Result<String, String> {
    let (length, salt, hash) = (hash.len(), STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    if iterations.is_empty() || !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("has a number of iterations that is no number".to_owned());
    }
    Ok(format!("${name}$i={iterations},l={length}${salt}${hash}"))
}

/// What a resting hash says.
enum Foreign {
    Bcrypt,
    Pbkdf2 { hash: Sha, iterations: u32, salt: Vec<u8>, expected: Vec<u8> },
    Scrypt { params: scrypt::Params, salt: Vec<u8>, expected: Vec<u8> },
    Argon2 { algorithm: Algorithm, version: Version, params: Params, salt: Vec<u8>, expected: Vec<u8> },
}

enum Sha {
    One,
    Two256,
    Two512,
}

impl Foreign {
    fn parse(stored: &str) -> Option<Self> {
        if stored.starts_with("$2") {
            return Some(Self::Bcrypt);
        }
        let phc = PasswordHash::new(stored).ok()?;
        let mut buffer = [0; 64];
        let salt = phc.salt?.decode_b64(&mut buffer).ok()?.to_vec();
        let expected = phc.hash?.as_bytes().to_vec();
        let number = |name: &str| phc.params.get_decimal(name);
        let hash = match phc.algorithm.as_str() {
            "pbkdf2-sha1" => Sha::One,
            "pbkdf2-sha256" => Sha::Two256,
            "pbkdf2-sha512" => Sha::Two512,
            "scrypt" => {
                let log_n = u8::try_from(number("ln")?).ok()?;
                let params = scrypt::Params::new(log_n, number("r")?, number("p")?, expected.len()).ok()?;
                return Some(Self::Scrypt { params, salt, expected });
            }
            // The library multiplies the lanes before it judges them.
            _ if number("p").is_some_and(|lanes| lanes > MOST_LANES) => return None,
            _ => {
                let algorithm = Algorithm::try_from(phc.algorithm).ok()?;
                // Without a version it is the first, as the reference implementation reads it.
                let version = phc.version.map_or(Ok(Version::V0x10), Version::try_from).ok()?;
                return Some(Self::Argon2 { algorithm, version, params: Params::try_from(&phc).ok()?, salt, expected });
            }
        };
        Some(Self::Pbkdf2 { hash, iterations: number("i")?, salt, expected })
    }

    fn is_right(&self, stored: &str, password: &[u8], memory: &mut Vec<Block>) -> Result<bool, CryptoError> {
        let expected = match self {
            // bcrypt reads 72 bytes and has never read more.
            Self::Bcrypt => return bcrypt::verify(password, stored).map_err(|_bcrypt| CryptoError::ForeignHash),
            Self::Pbkdf2 { expected, .. } | Self::Scrypt { expected, .. } | Self::Argon2 { expected, .. } => expected,
        };
        let mut output = Zeroizing::new(vec![0; expected.len()]);
        match self {
            Self::Bcrypt => {}
            Self::Pbkdf2 { hash, iterations, salt, .. } => {
                let derive = match hash {
                    Sha::One => pbkdf2::pbkdf2_hmac::<sha1::Sha1>,
                    Sha::Two256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>,
                    Sha::Two512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>,
                };
                derive(password, salt, *iterations, &mut output);
            }
            Self::Scrypt { params, salt, .. } => {
                scrypt::scrypt(password, salt, params, &mut output).map_err(|_length| CryptoError::ForeignHash)?;
            }
            Self::Argon2 { algorithm, version, params, salt, .. } => {
                memory.resize(params.block_count(), Block::default());
                let argon2 = Argon2::new(*algorithm, *version, params.clone());
                let done = argon2.hash_password_into_with_memory(password, salt, &mut output, memory.as_mut_slice());
                done.map_err(CryptoError::Password)?;
            }
        }
        Ok(output.as_slice().ct_eq(expected).into())
    }
}

/// Whether a resting hash reads, and costs no more than we can pay.
fn check(stored: &str) -> Result<(), String> {
    const BROKEN: &str = "is malformed";
    let too_dear = |what: &str| Err(format!("costs too much to check ({what}); have its owner reset the password"));
    let long_enough = |expected: &[u8]| {
        if OUTPUT.contains(&expected.len()) {
            Ok(())
        } else {
            Err("is shorter than 16 or longer than 64 bytes".to_owned())
        }
    };
    match Foreign::parse(stored).ok_or(BROKEN)? {
        Foreign::Bcrypt => {
            let parts: bcrypt::HashParts = stored.parse().map_err(|_bcrypt| BROKEN.to_owned())?;
            if BCRYPT_COST.contains(&parts.get_cost()) { Ok(()) } else { too_dear("bcrypt's cost must be 4 to 14") }
        }
        Foreign::Pbkdf2 { hash, iterations, expected, .. } => {
            long_enough(&expected)?;
            let most = if matches!(hash, Sha::Two512) { MOST_ITERATIONS_OF_SHA512 } else { MOST_ITERATIONS };
            if (1..=most).contains(&iterations) {
                Ok(())
            } else {
                too_dear("PBKDF2: at most 1,500,000 iterations, 500,000 with SHA-512")
            }
        }
        Foreign::Scrypt { params, expected, .. } => {
            long_enough(&expected)?;
            let memory = 1u64.checked_shl(u32::from(params.log_n())).unwrap_or(u64::MAX);
            let memory = memory.saturating_mul(u64::from(params.r())) / 8;
            let filled = memory.saturating_mul(u64::from(params.p()));
            let dear = memory > u64::from(MOST_MEMORY_KIB) || filled > u64::from(MOST_FILLED_KIB / 2);
            if dear { too_dear("scrypt: at most 128 MiB, and 256 MiB times p") } else { Ok(()) }
        }
        Foreign::Argon2 { params, expected, .. } => {
            long_enough(&expected)?;
            let dear = params.m_cost() > MOST_MEMORY_KIB
                || params.m_cost().saturating_mul(params.t_cost()) > MOST_FILLED_KIB
                || params.p_cost() > MOST_LANES;
            if dear { too_dear("Argon2: at most 128 MiB, 512 MiB over all passes, 16 lanes") } else { Ok(()) }
        }
    }
}

/// Checks a password against a hash of another system: as it was typed, which is how others hash it, and in the normal form
/// where that is something else.
pub(super) fn verify(stored: &str, password: &SecretString, memory: &mut Vec<Block>) -> Result<bool, CryptoError> {
    let foreign = Foreign::parse(stored).ok_or(CryptoError::ForeignHash)?;
    let typed = password.expose_secret();
    let normal = normal(typed);
    if foreign.is_right(stored, typed.as_bytes(), memory)? {
        return Ok(true);
    }
    Ok(normal.as_str() != typed && foreign.is_right(stored, normal.as_bytes(), memory)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn is_right(hash: &Value, password: &str) -> bool {
        let stored = import(hash).unwrap_or_else(|why| panic!("{hash} {why}"));
        verify(&stored, &SecretString::from(password), &mut Vec::new()).unwrap()
    }

    /// Made by the systems themselves, or their Python libraries: bcrypt, Django 5, hashlib, argon2-cffi.
    fn known() -> Vec<Value> {
        serde_json::from_str(include_str!("foreign_hashes.json")).unwrap()
    }

    #[test]
    fn hashes_of_other_systems_are_recognised() {
        for hash in known() {
            assert!(is_right(&hash, "correct horse é"), "{hash}");
            assert!(!is_right(&hash, "correct horse e"), "{hash}");
            assert!(!is_right(&hash, ""), "{hash}");
        }
    }

    #[test]
    fn a_foreign_hash_is_checked_as_typed_and_in_the_normal_form() {
        for hash in known() {
            assert!(is_right(&hash, "correct horse e\u{301}"), "{hash}");
        }
    }

    #[test]
    fn hashes_that_are_broken_or_cost_too_much_are_refused_without_a_word_of_them() {
        let hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let short = hash.trim_end_matches('=');
        for bad in [
            json!(""),
            json!("secret"),
            json!(7),
            json!({}),
            json!("$2b$15$KIXIvn5CAtxeCXGcWVGDEeN4Xd6pRbsG9PgUhXyl0Qy.rHb2JUoSO"),
            json!("$2b$10$short"),
            // Of a library that read letters beyond ASCII wrongly.
            json!("$2x$04$BEem1n9nTuvl.eX1i6pDIerwtlceuselfndRQJ7xBZBQET.WVJy5e"),
            json!(format!("pbkdf2_sha256$99999999$salt1234${hash}")),
            json!(format!("pbkdf2_sha256$1500001$salt1234${hash}")),
            json!(format!("pbkdf2_sha256$0$salt1234${hash}")),
            json!(format!("pbkdf2_sha256$-1$salt1234${hash}")),
            json!("pbkdf2_sha256$1000$salt1234$QUJD"),
            json!(format!("pbkdf2_md5$1000$salt1234${hash}")),
            json!(format!("scrypt$1048576$salt1234$8$1${hash}")),
            json!(format!("scrypt$1000$salt1234$8$1${hash}")),
            json!(format!("scrypt$16384$salt1234$8$1000${hash}")),
            json!(format!("scrypt$131072$salt1234$8$3${hash}")),
            json!(format!("$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ${short}")),
            json!(format!("$argon2id$v=19$m=1024,t=1000,p=1$c2FsdHNhbHQ${short}")),
            json!(format!("$argon2id$v=19$m=131072,t=5,p=1$c2FsdHNhbHQ${short}")),
            json!(format!("$argon2id$v=19$m=8,t=1,p=4294967295$c2FsdHNhbHQ${short}")),
            json!({"algorithm": "pbkdf2-sha256", "hashIterations": 99_999_999, "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "value": hash}),
            json!({"algorithm": "pbkdf2-sha512", "hashIterations": 500_001, "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "value": hash}),
            json!({"algorithm": "md5", "hashIterations": 1, "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "value": hash}),
        ] {
            let complaint = import(&bad).expect_err(&bad.to_string());
            assert!(!complaint.contains("salt1234") && !complaint.contains("AAAA"), "{complaint}");
        }
        for good in [
            json!(format!("pbkdf2_sha256$1500000$salt1234${hash}")),
            json!(format!("scrypt$131072$salt1234$8$2${hash}")),
            json!(format!("$argon2id$v=19$m=131072,t=4,p=1$c2FsdHNhbHQ${short}")),
            json!({"algorithm": "pbkdf2-sha512", "hashIterations": 500_000, "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "value": hash}),
        ] {
            import(&good).unwrap();
        }
    }
}
