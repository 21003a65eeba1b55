//! The authorization request: RFC 6749 section 4.1.1, RFC 7636, RFC 8707, OpenID Connect Core section 3.1.2.1.

use serde::{Deserialize, Serialize};

use super::claims::ClaimsRequest;
use super::error::OAuthError;
use super::metadata::{ClientMetadata, GrantType};
use super::params::Params;
use super::pkce::CodeChallenge;
use super::response_mode::{AuthorizationResponse, ResponseMode};
use super::scope::{OPENID, Scope};

/// More resources than one request has a use for.
const MAX_RESOURCES: usize = 10;

/// Where the answer goes: a redirect URI proven to be the client's, and what must be echoed. Everything that answers by
/// redirect starts from one of these.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResponseTarget {
    pub redirect_uri: String,
    /// Whether the request named it; then the token request must repeat it (RFC 6749 section 4.1.3).
    pub redirect_uri_sent: bool,
    pub response_mode: ResponseMode,
    pub state: Option<String>,
}

impl ResponseTarget {
    /// Proves the redirect URI, before anything else is looked at (RFC 6749 section 4.1.2.1).
    ///
    /// # Errors
    /// Says why there is nowhere safe to send an answer; it belongs on our own error page.
    pub fn prove(params: &Params, client: &ClientMetadata) -> Result<Self, OAuthError> {
        if params.is_repeated("redirect_uri") {
            return Err(OAuthError::invalid_request("`redirect_uri` was sent more than once."));
        }
        let requested = params.get("redirect_uri");
        let redirect_uri = match (requested, client.redirect_uris.as_slice()) {
            (Some(requested), _) if client.match_redirect_uri(requested).is_some() => requested.to_owned(),
            (Some(requested), _) => {
                return Err(OAuthError::invalid_request(format!(
                    "The `redirect_uri` {} is not one that this app registered; they are compared letter by letter.",
                    shown(requested)
                )));
            }
            // RFC 6749 section 3.1.2.3; an OpenID Connect request must always name it (Core section 3.1.2.1).
            (None, [only]) if !asks_openid(params) => only.as_str().to_owned(),
            (None, _) => return Err(OAuthError::invalid_request("`redirect_uri` is missing.")),
        };
        let once = |name: &str| params.get(name).filter(|_| !params.is_repeated(name));
        Ok(Self {
            redirect_uri,
            redirect_uri_sent: requested.is_some(),
            response_mode: ResponseMode::parse(once("response_mode")).unwrap_or_default(),
            state: once("state").map(str::to_owned),
        })
    }

    /// An answer with `state` and, always, `iss` (RFC 9207 section 2).
    #[must_use]
    pub fn respond(&self, issuer: &str, mut parameters: Vec<(&'static str, String)>) -> AuthorizationResponse {
        if let Some(state) = &self.state {
            parameters.push(("state", state.clone()));
        }
        parameters.push(("iss", issuer.to_owned()));
        AuthorizationResponse {
            redirect_uri: self.redirect_uri.clone(),
            mode: self.response_mode,
            parameters,
            browser_state: None,
        }
    }

    /// RFC 6749 section 4.1.2.1.
    #[must_use]
    pub fn refuse(&self, issuer: &str, error: &OAuthError) -> AuthorizationResponse {
        let description = error.description.clone().into_owned();
        self.respond(issuer, vec![("error", error.code.as_str().to_owned()), ("error_description", description)])
    }
}

/// An address as an error may repeat it: without its query, and not at length.
#[must_use]
pub fn shown(address: &str) -> String {
    address.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect()
}

fn asks_openid(params: &Params) -> bool {
    params.get("scope").is_some_and(|scope| scope.split(' ').any(|token| token == OPENID))
}

/// `prompt`, OpenID Connect Core section 3.1.2.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four independent values of the specification")]
pub struct Prompt {
    pub none: bool,
    pub login: bool,
    pub consent: bool,
    pub select_account: bool,
}

impl Prompt {
    fn parse(text: Option<&str>) -> Result<Self, OAuthError> {
        let mut prompt = Self::default();
        for value in text.unwrap_or_default().split(' ').filter(|value| !value.is_empty()) {
            match value {
                "none" => prompt.none = true,
                "login" => prompt.login = true,
                "consent" => prompt.consent = true,
                "select_account" => prompt.select_account = true,
                _ => {
                    return Err(OAuthError::invalid_request(
                        "`prompt` must be none, login, consent or select_account.",
                    ));
                }
            }
        }
        if prompt.none && (prompt.login || prompt.consent || prompt.select_account) {
            return Err(OAuthError::invalid_request("`prompt=none` stands alone."));
        }
        Ok(prompt)
    }
}

/// A checked request, as it waits while the person signs in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    pub target: ResponseTarget,
    pub scope: Scope,
    pub nonce: Option<String>,
    pub code_challenge: Option<CodeChallenge>,
    pub prompt: Prompt,
    /// Seconds.
    pub max_age: Option<u64>,
    pub login_hint: Option<String>,
    pub acr_values: Vec<String>,
    pub claims: ClaimsRequest,
    pub resources: Vec<String>,
}

impl AuthorizationRequest {
    /// Checks everything that needs no look-up. The target is proven already, so each refusal may travel there.
    ///
    /// # Errors
    /// The code of RFC 6749 section 4.1.2.1 or OpenID Connect Core section 3.1.2.6 that fits.
    pub fn parse(params: &Params, target: ResponseTarget, client: &ClientMetadata) -> Result<Self, OAuthError> {
        params.refuse_repeated()?;
        for (name, most) in
            [("state", 4096), ("nonce", 2048), ("login_hint", 2048), ("acr_values", 2048), ("ui_locales", 2048)]
        {
            if params.get(name).is_some_and(|value| value.len() > most) {
                return Err(OAuthError::invalid_request(format!("`{name}` is longer than {most} bytes.")));
            }
        }
        ResponseMode::parse(params.get("response_mode"))?;
        if params.get("request").is_some() {
            return Err(OAuthError::request_not_supported("Request objects are not supported."));
        }
        if params.get("request_uri").is_some() {
            return Err(OAuthError::request_uri_not_supported("`request_uri` is not supported."));
        }
        if params.get("registration").is_some() {
            return Err(OAuthError::registration_not_supported("`registration` is not supported."));
        }
        if params.require("response_type")? != "code" {
            return Err(OAuthError::unsupported_response_type("`response_type` must be code."));
        }
        if !client.grants(GrantType::AuthorizationCode) {
            return Err(OAuthError::unauthorized_client("This client is not registered for authorization codes."));
        }
        let max_age = match params.get("max_age") {
            None => client.default_max_age.map(u64::from),
            Some(text) => {
                let digits = text.bytes().all(|b| b.is_ascii_digit());
                let seconds = text.parse().ok().filter(|_| digits);
                Some(seconds.ok_or_else(|| OAuthError::invalid_request("`max_age` must be a number of seconds."))?)
            }
        };
        let resources: Vec<String> = params.all("resource").map(str::to_owned).collect();
        if resources.len() > MAX_RESOURCES {
            return Err(OAuthError::invalid_target("There are too many resources."));
        }
        let owned = |name| params.get(name).map(str::to_owned);
        Ok(Self {
            scope: Scope::parse(params.get("scope").unwrap_or_default())?,
            nonce: owned("nonce"),
            code_challenge: Self::parse_challenge(params, client)?,
            prompt: Prompt::parse(params.get("prompt"))?,
            max_age,
            login_hint: owned("login_hint"),
            acr_values: params.get("acr_values").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            claims: params.get("claims").map(ClaimsRequest::parse).transpose()?.unwrap_or_default(),
            resources,
            target,
        })
    }

    fn parse_challenge(params: &Params, client: &ClientMetadata) -> Result<Option<CodeChallenge>, OAuthError> {
        match params.get("code_challenge") {
            Some(challenge) => CodeChallenge::parse(challenge, params.get("code_challenge_method")).map(Some),
            None if client.require_pkce => {
                Err(OAuthError::invalid_request("`code_challenge` is missing: PKCE with S256 is required (RFC 7636)."))
            }
            None if params.get("code_challenge_method").is_some() => {
                Err(OAuthError::invalid_request("`code_challenge_method` came without `code_challenge`."))
            }
            // RFC 9700 section 2.1.1: without PKCE, OpenID Connect's `nonce` is what is left against injected codes.
            None if !asks_openid(params) => {
                Err(OAuthError::invalid_request("Without PKCE the request must be an OpenID Connect one."))
            }
            None => Ok(None),
        }
    }

    #[must_use]
    pub fn is_openid(&self) -> bool {
        self.scope.contains(OPENID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn client(extra: &serde_json::Value) -> ClientMetadata {
        let mut metadata = json!({"redirect_uris": ["https://a.example/cb"]});
        metadata.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        ClientMetadata::parse(metadata.as_object().unwrap()).unwrap()
    }

    fn parse(client: &ClientMetadata, query: &str) -> Result<AuthorizationRequest, OAuthError> {
        let params = Params::parse(query.as_bytes()).unwrap();
        let target = ResponseTarget::prove(&params, client).unwrap();
        AuthorizationRequest::parse(&params, target, client)
    }

    #[test]
    fn requests_outside_the_specifications_are_refused_by_the_right_code() {
        let base = "redirect_uri=https://a.example/cb&scope=openid";
        let pkce = format!("code_challenge={CHALLENGE}&code_challenge_method=S256");
        let good = format!("{base}&response_type=code&{pkce}");
        assert!(parse(&client(&json!({})), &good).is_ok());
        for (query, code) in [
            (format!("{base}&{pkce}"), "invalid_request"),
            (format!("{base}&response_type=token&{pkce}"), "unsupported_response_type"),
            (format!("{base}&response_type=code%20id_token&{pkce}"), "unsupported_response_type"),
            (format!("{base}&response_type=code"), "invalid_request"),
            (format!("{base}&response_type=code&code_challenge={CHALLENGE}"), "invalid_request"),
            (
                format!("{base}&response_type=code&code_challenge={CHALLENGE}&code_challenge_method=plain"),
                "invalid_request",
            ),
            (format!("{good}&prompt=none%20login"), "invalid_request"),
            (format!("{good}&prompt=sing"), "invalid_request"),
            (format!("{good}&max_age=-1"), "invalid_request"),
            (format!("{good}&max_age=%2B1"), "invalid_request"),
            (format!("{good}&request=x"), "request_not_supported"),
            (format!("{good}&request_uri=https://x.example"), "request_uri_not_supported"),
            (format!("{good}&registration=%7B%7D"), "registration_not_supported"),
            (format!("{good}&response_mode=web_message"), "invalid_request"),
            (format!("{good}&nonce=a&nonce=b"), "invalid_request"),
            (format!("{good}&claims=x"), "invalid_request"),
        ] {
            assert_eq!(parse(&client(&json!({})), &query).unwrap_err().code.as_str(), code, "{query}");
        }
    }

    #[test]
    fn only_an_openid_client_registered_for_it_goes_without_pkce() {
        let old = client(&json!({"require_pkce": false}));
        assert!(parse(&old, "redirect_uri=https://a.example/cb&response_type=code&scope=openid").is_ok());
        assert!(parse(&old, "redirect_uri=https://a.example/cb&response_type=code&scope=email").is_err());
    }

    #[test]
    fn s2_an_unproven_redirect_uri_gives_no_target() {
        let client = client(&json!({}));
        for query in [
            "redirect_uri=https://evil.example/",
            "redirect_uri=https://a.example/cb&redirect_uri=https://a.example/cb",
            "scope=openid",
        ] {
            assert!(ResponseTarget::prove(&Params::parse(query.as_bytes()).unwrap(), &client).is_err(), "{query}");
        }
        assert!(ResponseTarget::prove(&Params::parse(b"scope=email").unwrap(), &client).is_ok());
    }

    #[test]
    fn s7_every_answer_names_the_issuer_and_echoes_state() {
        let target = ResponseTarget {
            redirect_uri: "https://a.example/cb".into(),
            redirect_uri_sent: true,
            response_mode: ResponseMode::Query,
            state: Some("s".into()),
        };
        let location = target.refuse("https://idp.example", &OAuthError::access_denied("No.")).location();
        assert_eq!(
            location,
            "https://a.example/cb?error=access_denied&error_description=No.&state=s&iss=https%3A%2F%2Fidp.example"
        );
    }
}
