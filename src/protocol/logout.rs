//! The words of OpenID Connect RP-Initiated Logout 1.0 and Front-Channel Logout 1.0.

use serde_json::{Map, Value};
use url::Url;

use super::error::OAuthError;
use super::redirect_uri::{RedirectUri, origin_of};

/// What a verified `id_token_hint` says.
pub struct Hint {
    pub client_id: String,
    pub subject: String,
    pub sid: String,
}

impl Hint {
    /// Reads the payload of an ID token.
    #[must_use]
    pub fn read(payload: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| payload.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self { client_id: text("aud")?, subject: text("sub")?, sid: text("sid")? })
    }
}

fn with_query(uri: &str, pairs: &[(&str, &str)]) -> String {
    let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    format!("{uri}{}{encoded}", if uri.contains('?') { '&' } else { '?' })
}

/// A registered `post_logout_redirect_uri` with `state`, RP-Initiated Logout section 3.
#[must_use]
pub fn with_state(uri: &str, state: Option<&str>) -> String {
    state.map_or_else(|| uri.to_owned(), |state| with_query(uri, &[("state", state)]))
}

/// The address of a client's frame. Front-Channel Logout section 2 lets `iss` and `sid` out where the client does not
/// require them; we always send them, for without them any page could sign its people out.
#[must_use]
pub fn frontchannel_location(uri: &str, issuer: &str, sid: &str) -> String {
    with_query(uri, &[("iss", issuer), ("sid", sid)])
}

/// Checks a `frontchannel_logout_uri`: scheme, host and port are those of a registered redirect URI (Front-Channel Logout
/// section 2), so that our page opens a frame for nobody else.
///
/// # Errors
/// `invalid_client_metadata` saying what is wrong with it.
pub fn check_frontchannel_uri(uri: &str, redirect_uris: &[RedirectUri]) -> Result<(), OAuthError> {
    let refuse = |why| Err(OAuthError::invalid_client_metadata(why));
    let Some(origin) = RedirectUri::register(uri, &["iss", "sid"]).ok().and_then(|_| origin_of(uri)) else {
        return refuse(
            "`frontchannel_logout_uri` must be an https address, or http on the loopback, without a fragment, `iss` or `sid`.",
        );
    };
    // Content-Security-Policy has no way to write one.
    if Url::parse(uri).is_ok_and(|url| matches!(url.host(), Some(url::Host::Ipv6(_)))) {
        return refuse("`frontchannel_logout_uri` cannot have an IPv6 address; write a host name.");
    }
    if redirect_uris.iter().any(|own| own.origin().as_ref() == Some(&origin)) {
        Ok(())
    } else {
        refuse("`frontchannel_logout_uri` must have the scheme, host and port of one of the `redirect_uris`.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_join_the_registered_query() {
        assert_eq!(with_state("https://a.example/bye", None), "https://a.example/bye");
        assert_eq!(with_state("https://a.example/bye?x=1", Some("s & t")), "https://a.example/bye?x=1&state=s+%26+t");
        assert_eq!(
            frontchannel_location("https://a.example/out", "https://idp.example", "s1"),
            "https://a.example/out?iss=https%3A%2F%2Fidp.example&sid=s1"
        );
    }

    #[test]
    fn s116_a_frame_opens_for_origins_of_redirect_uris_only() {
        let own = ["https://a.example/cb", "http://127.0.0.1:3000/cb", "com.example.app:/cb"];
        let own = own.map(|uri| RedirectUri::parse(uri).unwrap());
        for good in ["https://a.example/out", "https://a.example:443/out?x=1", "http://127.0.0.1:3000/"] {
            assert!(check_frontchannel_uri(good, &own).is_ok(), "{good}");
        }
        for bad in [
            "https://b.example/out",
            "http://a.example/out",
            "https://a.example:444/out",
            "https://a.example.evil.example/",
            "https://a.example@evil.example/",
            "https://a.example/out#x",
            "http://127.0.0.1:3001/",
            "http://[::1]:3000/",
            "com.example.app:/out",
            "javascript:alert(1)",
            "data:text/html,x",
            "//a.example/out",
            "",
        ] {
            assert!(check_frontchannel_uri(bad, &own).is_err(), "{bad}");
        }
    }
}
