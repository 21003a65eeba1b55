//! `application/x-www-form-urlencoded` parameters of a query or a body, decoded strictly and bounded.

use std::borrow::Cow;

use super::error::OAuthError;

/// More parameters than any request of ours has; past it the sender is not a client.
const MAX_PARAMETERS: usize = 64;

/// Decoded parameters. One without a value counts as omitted (RFC 6749 section 3.1).
#[derive(Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    repeated: Option<String>,
}

impl Params {
    /// Decodes a query or a form body.
    ///
    /// # Errors
    /// `invalid_request` for a broken percent-encoding, bytes that are not UTF-8, NUL, or too many parameters.
    pub fn parse(encoded: &[u8]) -> Result<Self, OAuthError> {
        let mut params = Self::default();
        for pair in encoded.split(|&b| b == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |&b| b == b'=');
            let name = decode(halves.next().unwrap_or_default())?;
            let value = decode(halves.next().unwrap_or_default())?;
            if value.is_empty() {
                continue;
            }
            if params.pairs.len() >= MAX_PARAMETERS {
                return Err(OAuthError::invalid_request("There are too many parameters."));
            }
            // RFC 6749 section 3.1: no parameter more than once; RFC 8707 section 2 exempts `resource`.
            if name != "resource" && params.repeated.is_none() && params.get(&name).is_some() {
                params.repeated = Some(name.clone().into_owned());
            }
            params.pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(params)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The parameter, which must be there.
    ///
    /// # Errors
    /// `invalid_request` naming the missing parameter.
    pub fn require(&self, name: &'static str) -> Result<&str, OAuthError> {
        self.get(name).ok_or_else(|| OAuthError::invalid_request(format!("The parameter `{name}` is missing.")))
    }

    /// The same parameters, encoded anew.
    #[must_use]
    pub fn encode(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.pairs).finish()
    }

    /// Whether this very parameter was sent more than once.
    #[must_use]
    pub fn is_repeated(&self, name: &str) -> bool {
        self.all(name).nth(1).is_some()
    }

    /// RFC 6749 sections 3.1 and 3.2: parameters must not be included more than once.
    ///
    /// # Errors
    /// `invalid_request` when one was.
    pub fn refuse_repeated(&self) -> Result<(), OAuthError> {
        match self.repeated {
            Some(_) => Err(OAuthError::invalid_request("A parameter was sent more than once.")),
            None => Ok(()),
        }
    }
}

/// Decodes one form-encoded name or value: `+` is a space, `%XX` a byte, and the whole must be UTF-8 without NUL.
///
/// # Errors
/// `invalid_request` for anything else.
pub fn decode(encoded: &[u8]) -> Result<Cow<'_, str>, OAuthError> {
    let bad = || OAuthError::invalid_request("A parameter is not valid form encoding of UTF-8 text.");
    if encoded.iter().all(|b| !matches!(b, b'%' | b'+' | 0)) {
        return std::str::from_utf8(encoded).map(Cow::Borrowed).map_err(|_utf8| bad());
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = rest.next().and_then(hex).ok_or_else(bad)?;
                let low = rest.next().and_then(hex).ok_or_else(bad)?;
                high << 4 | low
            }
            other => other,
        });
    }
    if bytes.contains(&0) {
        return Err(bad());
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_utf8| bad())
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_parameter_without_a_value_counts_as_omitted() {
        let params = Params::parse(b"state=&scope&a=1").unwrap();
        assert_eq!(params.get("state"), None);
        assert_eq!(params.get("scope"), None);
        assert_eq!(params.get("a"), Some("1"));
    }

    #[test]
    fn repeated_parameters_are_refused_except_resource() {
        assert!(Params::parse(b"a=1&a=1").unwrap().refuse_repeated().is_err());
        assert!(Params::parse(b"resource=1&resource=2").unwrap().refuse_repeated().is_ok());
    }

    #[test]
    fn broken_encodings_are_refused() {
        for bad in [&b"a=%"[..], b"a=%4", b"a=%zz", b"a=%ff", b"a=%00", b"a=\xff", b"a=%c3%28"] {
            assert!(Params::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(name in "[a-z_]{1,12}", value in "[^\0]{1,60}") {
            let encoded = form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            let params = Params::parse(encoded.as_bytes()).unwrap();
            prop_assert_eq!(params.get(&name), Some(value.as_str()));
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Params::parse(&bytes);
        }
    }
}
