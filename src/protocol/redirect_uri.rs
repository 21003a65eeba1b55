//! Redirection URIs: what may be registered (RFC 7591 section 5, RFC 8252 section 7) and what matches (RFC 9700 section 4.1).

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::error::OAuthError;

const MAX_LENGTH: usize = 2048;
/// What an authorization response adds to a redirection URI: RFC 6749 sections 4.1.2 and 4.1.2.1, RFC 9207 section 2, OpenID
/// Connect Session Management section 2.
pub const RESPONSE_PARAMETERS: [&str; 7] =
    ["code", "state", "iss", "error", "error_description", "error_uri", "session_state"];

/// A registered redirection URI, kept byte for byte as it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RedirectUri(String);

impl RedirectUri {
    /// Takes https anywhere, http on the loopback only, and private-use schemes that hold a dot (RFC 8252 section 7.1);
    /// so `javascript:` and `data:` never become an address that we send a browser to.
    ///
    /// # Errors
    /// `invalid_redirect_uri` saying what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, OAuthError> {
        let refuse = |why: &'static str| Err(OAuthError::invalid_redirect_uri(why));
        let legal =
            |b: u8| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}');
        if text.len() > MAX_LENGTH {
            return refuse("A redirect URI is longer than 2048 bytes.");
        }
        if !text.bytes().all(legal) {
            return refuse("A redirect URI has a character that must be percent-encoded.");
        }
        let Ok(url) = Url::parse(text) else { return refuse("A redirect URI is not an absolute URI.") };
        if url.fragment().is_some() || text.contains('#') {
            return refuse("A redirect URI must not have a fragment.");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("A redirect URI must not have user information.");
        }
        if text.contains('*') {
            return refuse("A redirect URI is compared as a whole; it cannot have a wildcard.");
        }
        match url.scheme() {
            "https" if url.host().is_some() => {}
            "http" if is_loopback(&url) => {}
            "http" => return refuse("A redirect URI must be https, except on the loopback interface."),
            private if private.contains('.') => {}
            _ => {
                return refuse(
                    "A redirect URI must be https, http on the loopback interface, or a private-use scheme with a dot.",
                );
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The same for one that is registered now, which must also be written as RFC 3986 has it, lest one program read it
    /// otherwise than another, and hold none of the parameters that are `added` to it.
    ///
    /// # Errors
    /// `invalid_redirect_uri` saying what is wrong with it.
    pub fn register(text: &str, added: &[&str]) -> Result<Self, OAuthError> {
        let uri = Self::parse(text)?;
        // Section 3: `//` before the host, which is not empty. What mends it for a browser is not what was registered.
        let authority = text.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//"));
        if uri.origin().is_some() && authority.is_none_or(|rest| rest.starts_with('/')) {
            return Err(OAuthError::invalid_redirect_uri(
                "A redirect URI has two slashes and a host after its scheme.",
            ));
        }
        // Section 2.1.
        let encoded = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        if !text.split('%').skip(1).all(encoded) {
            return Err(OAuthError::invalid_redirect_uri(
                "A redirect URI has a `%` that two hexadecimal digits do not follow.",
            ));
        }
        let query = Url::parse(text).ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
        if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| added.contains(&&*name)) {
            return Err(OAuthError::invalid_redirect_uri(format!(
                "A redirect URI cannot have a parameter that is added to it later: {}.",
                added.join(", ")
            )));
        }
        Ok(uri)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Byte-for-byte equality. For a native app's loopback IP literal the port may be any (RFC 8252 section 7.3);
    /// everything else, `localhost` too, is compared as it stands.
    #[must_use]
    pub fn matches(&self, requested: &str, any_loopback_port: bool) -> bool {
        if self.0 == requested {
            return true;
        }
        any_loopback_port
            && match (split_loopback(&self.0), split_loopback(requested)) {
                (Some(registered), Some(requested)) => registered == requested,
                _ => false,
            }
    }

    /// The origin that browser code at this address has; `None` for private-use schemes.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        origin_of(&self.0)
    }

    /// Whether only the owner of a domain can receive what is sent here, so that the client's identity is assured
    /// (RFC 8252 section 8.6).
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

/// The origin of an http(s) address, as browsers write it.
#[must_use]
pub fn origin_of(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    matches!(url.scheme(), "http" | "https").then(|| url.origin().ascii_serialization())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `http://127.0.0.1:4711/cb` as (`127.0.0.1`, `/cb`); only for the two loopback literals as RFC 8252 writes them.
fn split_loopback(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("http://")?;
    let host = ["127.0.0.1", "[::1]"].into_iter().find(|host| rest.starts_with(host))?;
    let rest = rest.get(host.len()..)?;
    let path = match rest.strip_prefix(':') {
        Some(after) => {
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            after.get(..digits)?.parse::<u16>().ok()?;
            after.get(digits..)?
        }
        None => rest,
    };
    (path.is_empty() || path.starts_with(['/', '?'])).then_some((host, path))
}

/// An address to show or link to (`client_uri`, `tos_uri`, `policy_uri`, `logo_uri`): http(s) only.
///
/// # Errors
/// `invalid_client_metadata` for anything else.
pub fn parse_link(name: &str, text: &str) -> Result<String, OAuthError> {
    match Url::parse(text) {
        Ok(url) if text.len() <= MAX_LENGTH && matches!(url.scheme(), "https" | "http") => Ok(text.to_owned()),
        _ => Err(OAuthError::invalid_client_metadata(format!("`{name}` must be an http or https address."))),
    }
}

impl TryFrom<String> for RedirectUri {
    type Error = OAuthError;
    fn try_from(text: String) -> Result<Self, OAuthError> {
        Self::parse(&text)
    }
}

impl From<RedirectUri> for String {
    fn from(uri: RedirectUri) -> Self {
        uri.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn s3_only_https_loopback_http_and_dotted_private_schemes_are_registered() {
        for good in [
            "https://app.example/cb",
            "https://app.example:8443/cb?x=1",
            "http://localhost:3000/cb",
            "http://127.0.0.1/cb",
            "http://[::1]:9/cb",
            "com.example.app:/cb",
        ] {
            assert!(RedirectUri::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "http://app.example/cb",
            "/cb",
            "app:/cb",
            "https://app.example/cb#f",
            "https://app.example/cb#",
            "https://user@app.example/cb",
            "https://user:pw@app.example/cb",
            "https://app.example\\@evil.example/",
            "https://app.example/c b",
            "https://*.app.example/cb",
            "https://",
            "",
            "https://äpp.example/",
        ] {
            assert!(RedirectUri::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_registered_is_read_the_same_everywhere_and_gets_no_parameter_twice() {
        for good in [
            "https://app.example/c%2Fb?x=%20",
            "https://app.example?statement=1",
            "com.example.app:/cb",
            "http://[::1]/",
        ] {
            assert!(RedirectUri::register(good, &RESPONSE_PARAMETERS).is_ok(), "{good}");
        }
        for bad in [
            "https:///app.example/cb",
            "https:/app.example/cb",
            "https:app.example/cb",
            "https:app.example/cb?u=x://y",
            "http:/localhost/cb",
            "https://app.example/%",
            "https://app.example/%2",
            "https://app.example/%zz",
            "https://app.example/cb?x=1&state=2",
            "https://app.example/cb?%63ode=1",
            "com.example.app:/cb?iss",
        ] {
            assert!(RedirectUri::register(bad, &RESPONSE_PARAMETERS).is_err(), "{bad}");
        }
    }

    #[test]
    fn s1_a_redirect_uri_matches_byte_for_byte() {
        let registered = RedirectUri::parse("https://app.example/cb").unwrap();
        assert!(registered.matches("https://app.example/cb", true));
        for near in [
            "https://app.example/cb/",
            "https://app.example/cb?x=1",
            "https://app.example/cb#",
            "https://APP.example/cb",
            "HTTPS://app.example/cb",
            "https://app.example:443/cb",
            "https://app.example./cb",
            "https://app.example/%63b",
            "https://app.example/x/../cb",
            "https://app.example/cb%2e",
            "https://user@app.example/cb",
            "https://app.example\\cb",
            "https://app.example/cbx",
            "https://app.example.evil.example/cb",
            "http://app.example/cb",
        ] {
            assert!(!registered.matches(near, true), "{near}");
        }
    }

    #[test]
    fn a_native_apps_loopback_port_is_free_and_nothing_else_is() {
        let registered = RedirectUri::parse("http://127.0.0.1/cb").unwrap();
        assert!(registered.matches("http://127.0.0.1:51004/cb", true));
        assert!(!registered.matches("http://127.0.0.1:51004/cb", false));
        for near in [
            "http://127.0.0.1:51004/cbx",
            "http://127.0.0.1:51004",
            "http://127.0.0.1:99999/cb",
            "http://127.0.0.1:/cb",
            "http://127.0.0.1.evil.example/cb",
            "http://127.0.0.1@evil.example/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://localhost:51004/cb",
            "http://[::1]:51004/cb",
            "https://127.0.0.1:51004/cb",
        ] {
            assert!(!registered.matches(near, true), "{near}");
        }
        let localhost = RedirectUri::parse("http://localhost:1/cb").unwrap();
        assert!(!localhost.matches("http://localhost:2/cb", true));
    }

    proptest! {
        #[test]
        fn only_the_same_bytes_match_a_web_redirect_uri(path in "[a-z/%.?=&]{0,20}", other in "[a-z/%.?=&#@:\\\\]{0,20}") {
            if let Ok(registered) = RedirectUri::parse(&format!("https://app.example/{path}")) {
                let requested = format!("https://app.example/{other}");
                prop_assert_eq!(registered.matches(&requested, true), path == other);
            }
        }
        #[test]
        fn any_text_is_answered_without_a_panic(text in ".{0,100}") {
            let _ = RedirectUri::parse(&text);
            let _ = split_loopback(&text);
        }
        #[test]
        fn a_loopback_match_differs_in_the_port_alone(port in 0u16.., path in "/[a-z]{0,8}") {
            let registered = RedirectUri::parse(&format!("http://127.0.0.1:1{path}")).unwrap();
            let requested = format!("http://127.0.0.1:{port}{path}");
            prop_assert!(registered.matches(&requested, true));
        }
    }
}
