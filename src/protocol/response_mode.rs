//! `response_mode`: how an authorization response travels (OAuth 2.0 Multiple Response Types section 2.1, Form Post).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::OAuthError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseMode {
    /// The default of `response_type=code`.
    #[default]
    Query,
    Fragment,
    FormPost,
}

impl ResponseMode {
    /// # Errors
    /// `invalid_request` for a mode that is not offered.
    pub fn parse(text: Option<&str>) -> Result<Self, OAuthError> {
        match text {
            None | Some("query") => Ok(Self::Query),
            Some("fragment") => Ok(Self::Fragment),
            Some("form_post") => Ok(Self::FormPost),
            Some(_) => Err(OAuthError::invalid_request("`response_mode` must be query, fragment or form_post.")),
        }
    }
}

/// An authorization response on its way to a proven redirect URI. Only code that has checked the URI can build one, so
/// an open redirect cannot be written down.
#[derive(Clone, Debug)]
pub struct AuthorizationResponse {
    pub redirect_uri: String,
    pub mode: ResponseMode,
    pub parameters: Vec<(&'static str, String)>,
    /// What `session_state` was made of (OpenID Connect Session Management section 3.2).
    pub browser_state: Option<BrowserState>,
}

/// What a browser is to keep for its pages to read, and how long: `None`, until it closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserState {
    pub value: String,
    pub max_age: Option<Duration>,
}

impl AuthorizationResponse {
    /// The address for the `query` and `fragment` modes. The registered URI stays as it is; parameters are appended to
    /// its own query (RFC 6749 section 3.1.2).
    #[must_use]
    pub fn location(&self) -> String {
        let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.parameters).finish();
        let separator = match self.mode {
            ResponseMode::Fragment => '#',
            _ if self.redirect_uri.contains('?') => '&',
            _ => '?',
        };
        format!("{}{separator}{encoded}", self.redirect_uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_appended_and_encoded() {
        let mut response = AuthorizationResponse {
            redirect_uri: "https://app.example/cb".into(),
            mode: ResponseMode::Query,
            parameters: vec![("code", "a b".into()), ("state", "x&y=#".into())],
            browser_state: None,
        };
        assert_eq!(response.location(), "https://app.example/cb?code=a+b&state=x%26y%3D%23");
        response.redirect_uri.push_str("?own=1");
        assert_eq!(response.location(), "https://app.example/cb?own=1&code=a+b&state=x%26y%3D%23");
        response.mode = ResponseMode::Fragment;
        assert_eq!(response.location(), "https://app.example/cb?own=1#code=a+b&state=x%26y%3D%23");
    }
}
