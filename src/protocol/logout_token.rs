//! Logout tokens, OpenID Connect Back-Channel Logout 1.0 section 2.4: who was signed out of which session, told to one client.

use serde::Serialize;

/// Seconds that a logout token is good for; section 2.4 wants few, so that a stolen one is of little use.
const LIFETIME: i64 = 120;

/// The claims. There is no `nonce`, so that none is ever taken for an ID token (section 2.4).
#[derive(Debug, Serialize)]
pub struct LogoutToken<'a> {
    pub iss: &'a str,
    pub sub: &'a str,
    pub aud: &'a str,
    pub iat: i64,
    pub exp: i64,
    /// The same on each try, so that the receiver can drop a double.
    pub jti: &'a str,
    pub sid: &'a str,
    events: Events,
}

#[derive(Debug, Default, Serialize)]
struct Events {
    #[serde(rename = "http://schemas.openid.net/event/backchannel-logout")]
    logout: Empty,
}

#[derive(Debug, Default, Serialize)]
struct Empty {}

impl<'a> LogoutToken<'a> {
    #[must_use]
    pub fn new(iss: &'a str, sub: &'a str, aud: &'a str, jti: &'a str, sid: &'a str, iat: i64) -> Self {
        Self { iss, sub, aud, iat, exp: iat + LIFETIME, jti, sid, events: Events::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn s114_a_logout_token_has_the_claims_of_section_2_4_and_no_others() {
        let token = LogoutToken::new("https://i.example", "user", "client", "j", "s", 1_000);
        let event = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
        assert_eq!(
            serde_json::to_value(token).unwrap(),
            json!({"iss": "https://i.example", "sub": "user", "aud": "client", "iat": 1_000, "exp": 1_120, "jti": "j",
                   "sid": "s", "events": event})
        );
    }
}
