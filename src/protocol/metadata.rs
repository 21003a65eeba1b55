//! Client metadata, RFC 7591 section 2 and OpenID Connect Dynamic Client Registration section 2: checked once, when a
//! client is registered, and trusted after that.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::claims::scope_of_claim;
use super::client_auth::AuthMethod;
use super::error::OAuthError;
use super::jose::SigningAlgorithm;
use super::logout::check_frontchannel_uri;
use super::redirect_uri::{RESPONSE_PARAMETERS, RedirectUri, parse_link};
use super::scope::{OFFLINE_ACCESS, Scope};
use super::text::misleads;

const MAX_URIS: usize = 100;
const MAX_KEYS: usize = 20;
const MAX_NAME: usize = 200;
/// What a client may ask for that was registered without `scope` (RFC 7591 section 2 leaves it to us).
const DEFAULT_SCOPE: &str = "openid profile email address phone";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    AuthorizationCode,
    RefreshToken,
    ClientCredentials,
}

impl GrantType {
    /// `grant_type`, RFC 6749.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplicationType {
    #[default]
    Web,
    Native,
}

/// Our own: what follows when a session or a refresh token is used from another network than the one that it was given to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkBinding {
    #[default]
    Off,
    /// A line in the log.
    Log,
    /// The person must prove once more that it is them; a refresh token is refused, so that its client sends them to do so.
    Ask,
    /// The session is refused, unless the client asks for a sign-in by `prompt=login`; so is the refresh token.
    Refuse,
}

/// Our own: how much of an address must stay the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkExtent {
    Address,
    /// The first 24 bits of an IPv4 address, 64 of an IPv6 address.
    #[default]
    Prefix,
}

/// What a client registered. Members that we do not know are left out, as RFC 7591 section 2 asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is one member of the specifications")]
pub struct ClientMetadata {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirect_uris: Vec<RedirectUri>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_logout_redirect_uris: Vec<RedirectUri>,
    /// OpenID Connect Front-Channel Logout section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontchannel_logout_uri: Option<String>,
    /// Kept as it was registered; `iss` and `sid` are always sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub frontchannel_logout_session_required: bool,
    #[serde(default)]
    pub token_endpoint_auth_method: AuthMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint_auth_signing_alg: Option<SigningAlgorithm>,
    #[serde(default = "default_grant_types")]
    pub grant_types: Vec<GrantType>,
    #[serde(default = "default_response_types")]
    pub response_types: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// Every scope that the client may ever ask for; filled in by [`ClientMetadata::parse`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    #[serde(default)]
    pub application_type: ApplicationType,
    #[serde(default = "default_subject_type")]
    pub subject_type: String,
    #[serde(default = "default_id_token_alg")]
    pub id_token_signed_response_alg: SigningAlgorithm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userinfo_signed_response_alg: Option<SigningAlgorithm>,
    /// Where this client is told of sign-outs, OpenID Connect Back-Channel Logout 1.0 section 2.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backchannel_logout_uri: Option<String>,
    /// Taken note of; every logout token of ours has `sid`.
    #[serde(default)]
    pub backchannel_logout_session_required: bool,
    /// Seconds, OpenID Connect Registration section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_max_age: Option<u32>,
    #[serde(default)]
    pub require_auth_time: bool,
    /// Our own: the algorithm of this client's access tokens.
    #[serde(default = "default_access_token_alg")]
    pub access_token_signing_alg: SigningAlgorithm,
    /// Our own: false lets a confidential OpenID Connect client of the older kind go without PKCE.
    #[serde(default = "yes")]
    pub require_pkce: bool,
    /// Our own: a first-party client whose people are not asked for consent.
    #[serde(default)]
    pub skip_consent: bool,
    /// Our own: people show their second factor for this client, or set one up.
    #[serde(default)]
    pub require_mfa: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub network_binding: NetworkBinding,
    #[serde(default, skip_serializing_if = "is_default")]
    pub network_binding_extent: NetworkExtent,
    /// Our own: the resources this client may have tokens for; absent, any registered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<String>>,
}

fn default_grant_types() -> Vec<GrantType> {
    vec![GrantType::AuthorizationCode]
}
fn default_response_types() -> Vec<String> {
    vec!["code".to_owned()]
}
fn default_subject_type() -> String {
    "public".to_owned()
}
const fn default_id_token_alg() -> SigningAlgorithm {
    SigningAlgorithm::Rs256
}
const fn default_access_token_alg() -> SigningAlgorithm {
    SigningAlgorithm::Es256
}
const fn yes() -> bool {
    true
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> OAuthError {
    OAuthError::invalid_client_metadata(why)
}

/// Names the member that does not read, all by itself, and says what would. What it takes is tried.
fn wrong_member(members: &Map<String, Value>) -> Option<OAuthError> {
    let read = |name: &String, value: Value| {
        serde_json::from_value::<ClientMetadata>(Value::Object(Map::from_iter([(name.clone(), value)])))
    };
    members.iter().find_map(|(name, value)| {
        let error = read(name, value.clone()).err()?;
        let takes = |value: Value| read(name, value).is_ok();
        Some(invalid(if takes(true.into()) {
            format!("`{name}` must be true or false.")
        } else if takes(0.into()) {
            format!("`{name}` must be a whole number of seconds, not negative.")
        } else if takes(Value::Array(Vec::new())) {
            if value.is_array() { format!("`{name}`: {error}.") } else { format!("`{name}` must be a list.") }
        } else if value.is_string() {
            let why = error.to_string();
            let why = why.strip_prefix("invalid_scope: ").unwrap_or(&why);
            format!("`{name}`: {}.", why.trim_end_matches('.'))
        } else {
            format!("`{name}` must be text.")
        }))
    })
}

/// The address, alone wrong, that makes the metadata so.
#[must_use]
pub fn wrong_uri(members: &Map<String, Value>) -> Option<(&str, OAuthError)> {
    let lists: [(&str, &[&str]); 2] =
        [("redirect_uris", &RESPONSE_PARAMETERS), ("post_logout_redirect_uris", &["state"])];
    lists.into_iter().find_map(|(name, added)| {
        let uris = members.get(name)?.as_array()?.iter().filter_map(Value::as_str);
        uris.into_iter().find_map(|uri| Some((uri, RedirectUri::register(uri, added).err()?)))
    })
}

impl ClientMetadata {
    /// Reads and checks metadata as a client (or its operator) wrote it.
    ///
    /// # Errors
    /// `invalid_redirect_uri` or `invalid_client_metadata`, RFC 7591 section 3.2.2, naming the member that is wrong.
    pub fn parse(members: &Map<String, Value>) -> Result<Self, OAuthError> {
        if let Some((_, error)) = wrong_uri(members) {
            return Err(error);
        }
        // RFC 7591 section 2 knows members by null as little as by absence.
        let present: Map<_, _> =
            members.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        if present.get("grant_types").is_some_and(|types| {
            types.as_array().is_some_and(|all| all.iter().any(|one| one == "implicit" || one == "password"))
        }) {
            return Err(invalid("The implicit and password grants are not offered (RFC 9700 sections 2.1.2 and 2.4)."));
        }
        let mut metadata: Self = serde_json::from_value(Value::Object(present.clone())).map_err(|error| {
            wrong_member(&present).unwrap_or_else(|| invalid(format!("The client metadata is not valid: {error}.")))
        })?;
        if !present.contains_key("scope") {
            metadata.scope = Some(metadata.default_scope()?);
        }
        // RFC 7591 section 2.1: a client without a redirect has no response type.
        if !present.contains_key("response_types") && !metadata.grants(GrantType::AuthorizationCode) {
            metadata.response_types = Vec::new();
        }
        metadata.check()?;
        Ok(metadata)
    }

    fn default_scope(&self) -> Result<Scope, OAuthError> {
        if !self.grants(GrantType::AuthorizationCode) {
            return Ok(Scope::default());
        }
        let scope = Scope::parse(DEFAULT_SCOPE)?;
        Ok(if self.grants(GrantType::RefreshToken) { scope.union(&Scope::parse(OFFLINE_ACCESS)?) } else { scope })
    }

    fn check(&self) -> Result<(), OAuthError> {
        if self.redirect_uris.len() > MAX_URIS || self.post_logout_redirect_uris.len() > MAX_URIS {
            return Err(invalid("There are more than 100 redirect URIs."));
        }
        if self.grants(GrantType::AuthorizationCode) == self.redirect_uris.is_empty() {
            return Err(OAuthError::invalid_redirect_uri(if self.redirect_uris.is_empty() {
                "The authorization_code grant needs at least one entry in `redirect_uris`."
            } else {
                "`redirect_uris` go with the authorization_code grant, which is not among `grant_types`."
            }));
        }
        if self.grants(GrantType::RefreshToken) && !self.grants(GrantType::AuthorizationCode) {
            return Err(invalid("The refresh_token grant goes with authorization_code."));
        }
        let wanted: &[&str] = if self.grants(GrantType::AuthorizationCode) { &["code"] } else { &[] };
        let response_types_fit =
            self.response_types == wanted || (wanted.is_empty() && self.response_types == ["code"]);
        if !response_types_fit {
            return Err(invalid("`response_types` must be [\"code\"]."));
        }
        let mut uris = self.redirect_uris.iter().chain(&self.post_logout_redirect_uris);
        if self.application_type == ApplicationType::Web && uris.any(|uri| uri.origin().is_none()) {
            return Err(OAuthError::invalid_redirect_uri(
                "A private-use scheme is for native apps: set `application_type` to \"native\".",
            ));
        }
        if self.subject_type != "public" {
            return Err(invalid("`subject_type` must be \"public\"."));
        }
        if let Some(uri) = &self.frontchannel_logout_uri {
            check_frontchannel_uri(uri, &self.redirect_uris)?;
        }
        self.check_authentication()?;
        self.check_texts()?;
        if let Some(uri) = &self.backchannel_logout_uri {
            // Absolute and without a fragment (section 2.2). Http reaches as far as this machine, for development.
            let uri = RedirectUri::register(uri, &[]).map_err(|error| {
                invalid(format!(
                    "`backchannel_logout_uri`: {}",
                    error.description.replace("redirect URI", "logout URI")
                ))
            })?;
            if uri.origin().is_none() {
                return Err(invalid("`backchannel_logout_uri` must be an https address."));
            }
        }
        if self.access_token_signing_alg == SigningAlgorithm::Ps256 {
            return Err(invalid("`access_token_signing_alg` must be ES256, RS256 or EdDSA."));
        }
        Ok(())
    }

    fn check_authentication(&self) -> Result<(), OAuthError> {
        let method = self.token_endpoint_auth_method;
        if method == AuthMethod::None && self.grants(GrantType::ClientCredentials) {
            return Err(invalid("The client_credentials grant is for confidential clients (RFC 6749 section 4.4)."));
        }
        if method == AuthMethod::None && !self.require_pkce {
            return Err(invalid("A public client cannot go without PKCE (RFC 9700 section 2.1.1)."));
        }
        if !self.require_pkce && !self.scope.as_ref().is_some_and(|scope| scope.contains(super::scope::OPENID)) {
            return Err(invalid("Only an OpenID Connect client, which has `nonce`, may go without PKCE."));
        }
        if (method == AuthMethod::PrivateKeyJwt) == (self.jwks.is_none() && self.jwks_uri.is_none()) {
            return Err(invalid(if method == AuthMethod::PrivateKeyJwt {
                "private_key_jwt needs `jwks` or `jwks_uri`."
            } else {
                "`jwks` and `jwks_uri` go with private_key_jwt."
            }));
        }
        if self.jwks.is_some() && self.jwks_uri.is_some() {
            return Err(invalid("`jwks` and `jwks_uri` cannot both be given (RFC 7591 section 2)."));
        }
        if let Some(uri) = &self.jwks_uri {
            // Http reaches as far as this machine, for development (see `outbound.allow_private`).
            let loopback =
                ["http://localhost:", "http://127.0.0.1:", "http://[::1]:"].iter().any(|own| uri.starts_with(own));
            if parse_link("jwks_uri", uri).is_err() || !(uri.starts_with("https://") || loopback) {
                return Err(invalid("`jwks_uri` must be an https address."));
            }
        }
        let Some(jwks) = &self.jwks else { return Ok(()) };
        let keys = jwks.get("keys").and_then(Value::as_array).filter(|keys| !keys.is_empty() && keys.len() <= MAX_KEYS);
        let keys = keys.ok_or_else(|| invalid("`jwks` must be a JWK Set of 1 to 20 keys."))?;
        let modulus = |key: &Value| key.get("n").and_then(Value::as_str).map_or(usize::MAX, str::len);
        // 2048 bits are 256 bytes, 342 characters of base64url (RFC 7518 section 3.3).
        if keys.iter().any(|key| modulus(key) < 342) {
            return Err(invalid("`jwks` holds an RSA key of less than 2048 bits."));
        }
        let private = ["d", "p", "q", "dp", "dq", "qi", "k"];
        if keys.iter().any(|key| private.iter().any(|member| key.get(member).is_some())) {
            return Err(invalid("`jwks` holds a private or symmetric key; register public keys only."));
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), OAuthError> {
        if self.client_name.as_ref().is_some_and(|name| name.trim().is_empty() || name.chars().count() > MAX_NAME) {
            return Err(invalid("`client_name` must have 1 to 200 characters."));
        }
        if self.client_name.as_deref().is_some_and(misleads) {
            return Err(invalid("`client_name` has control characters, or such as change the direction of writing."));
        }
        let links = [
            ("client_uri", &self.client_uri),
            ("logo_uri", &self.logo_uri),
            ("tos_uri", &self.tos_uri),
            ("policy_uri", &self.policy_uri),
        ];
        for (name, link) in links {
            if let Some(link) = link {
                parse_link(name, link)?;
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn grants(&self, grant_type: GrantType) -> bool {
        self.grant_types.contains(&grant_type)
    }

    #[must_use]
    pub fn is_public(&self) -> bool {
        self.token_endpoint_auth_method == AuthMethod::None
    }

    #[must_use]
    pub fn allows_scope(&self, token: &str) -> bool {
        self.scope.as_ref().is_some_and(|scope| scope.contains(token))
    }

    /// Whether the client may ask for a claim by its name: one that a scope stands for only where it may ask for that scope,
    /// lest `claims` be the way around its registration.
    #[must_use]
    pub fn allows_claim(&self, name: &str) -> bool {
        scope_of_claim(name).is_none_or(|scope| self.allows_scope(scope))
    }

    /// The registered URI that a request's `redirect_uri` is, if any.
    #[must_use]
    pub fn match_redirect_uri(&self, requested: &str) -> Option<&RedirectUri> {
        let any_port = self.is_public() || self.application_type == ApplicationType::Native;
        self.redirect_uris.iter().find(|uri| uri.matches(requested, any_port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<ClientMetadata, OAuthError> {
        ClientMetadata::parse(value.as_object().unwrap())
    }

    #[test]
    fn the_defaults_are_those_of_the_rfc() {
        let metadata = parse(&json!({"redirect_uris": ["https://a.example/cb"], "unknown_member": 1})).unwrap();
        assert_eq!(metadata.token_endpoint_auth_method, AuthMethod::ClientSecretBasic);
        assert_eq!(metadata.grant_types, [GrantType::AuthorizationCode]);
        assert_eq!(metadata.id_token_signed_response_alg, SigningAlgorithm::Rs256);
        assert!(metadata.require_pkce && !metadata.skip_consent);
        assert_eq!(metadata.scope.unwrap().as_str(), "address email openid phone profile");
    }

    #[test]
    fn metadata_that_would_weaken_the_client_is_refused() {
        let with = |extra: Value| {
            let mut base = json!({"redirect_uris": ["https://a.example/cb"]});
            base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            parse(&base)
        };
        for bad in [
            json!({"redirect_uris": []}),
            json!({"redirect_uris": ["javascript:alert(1)"]}),
            json!({"redirect_uris": ["app.example:/cb"]}),
            json!({"redirect_uris": "https://a.example/cb"}),
            json!({"post_logout_redirect_uris": ["data:text/html,x"]}),
            json!({"post_logout_redirect_uris": ["app.example:/bye"]}),
            json!({"frontchannel_logout_uri": "https://b.example/out"}),
            json!({"tos_uri": "javascript:alert(1)"}),
            json!({"logo_uri": "data:image/png;base64,x"}),
            json!({"grant_types": ["implicit"]}),
            json!({"grant_types": ["password"]}),
            json!({"grant_types": ["authorization_code", "client_credentials"], "token_endpoint_auth_method": "none"}),
            json!({"response_types": ["token"]}),
            json!({"response_types": ["code", "code id_token"]}),
            json!({"token_endpoint_auth_method": "none", "require_pkce": false}),
            json!({"require_pkce": false, "scope": "email"}),
            json!({"token_endpoint_auth_method": "client_secret_jwt"}),
            json!({"token_endpoint_auth_method": "private_key_jwt"}),
            json!({"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": []}}),
            json!({"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [{"kty": "EC", "d": "x"}]}}),
            json!({"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "file:///x"}),
            json!({"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://a.example/jwks"}),
            json!({"id_token_signed_response_alg": "none"}),
            json!({"id_token_signed_response_alg": "HS256"}),
            json!({"subject_type": "pairwise"}),
            json!({"scope": "a\"b"}),
            json!({"client_name": ""}),
            json!({"client_name": "Shop\u{202e}knaB"}),
            json!({"client_name": "Shop\u{2066}"}),
            json!({"client_name": "Shop\nof others"}),
        ] {
            assert!(with(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_member_of_the_wrong_type_is_named_with_what_would_be_right() {
        for (name, value, right) in [
            ("require_pkce", json!("no"), "`require_pkce` must be true or false."),
            ("require_mfa", json!(1), "`require_mfa` must be true or false."),
            ("default_max_age", json!("60"), "`default_max_age` must be a whole number of seconds, not negative."),
            ("default_max_age", json!(-1), "`default_max_age` must be a whole number of seconds, not negative."),
            ("redirect_uris", json!("https://a.example/cb"), "`redirect_uris` must be a list."),
            ("resources", json!(true), "`resources` must be a list."),
            ("client_name", json!({"en": "Shop"}), "`client_name` must be text."),
            ("scope", json!(["openid"]), "`scope` must be text."),
            ("application_type", json!(3), "`application_type` must be text."),
            (
                "application_type",
                json!("ios"),
                "`application_type`: unknown variant `ios`, expected `web` or `native`.",
            ),
            ("scope", json!("a\"b"), "`scope`: The scope has a character that scopes cannot have."),
            ("contacts", json!([1]), "`contacts`: invalid type: integer `1`, expected a string."),
        ] {
            let mut members = json!({"redirect_uris": ["https://a.example/cb"], "client_uri": "https://a.example"});
            members[name] = value;
            assert_eq!(parse(&members).unwrap_err().description, right);
        }
    }

    #[test]
    fn a_native_app_may_come_back_to_its_own_scheme_after_signing_out() {
        let native = json!({"redirect_uris": ["app.example:/cb"], "post_logout_redirect_uris": ["app.example:/bye"],
            "application_type": "native"});
        assert!(parse(&native).is_ok());
    }

    #[test]
    fn what_was_stored_reads_back_the_same() {
        let metadata = parse(&json!({
            "redirect_uris": ["com.example.app:/cb", "http://127.0.0.1/cb"], "application_type": "native",
            "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"],
            "client_name": "App", "default_max_age": 60
        }))
        .unwrap();
        let stored = serde_json::to_string(&metadata).unwrap();
        let read: ClientMetadata = serde_json::from_str(&stored).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), stored);
        assert!(read.match_redirect_uri("http://127.0.0.1:5000/cb").is_some());
        assert!(read.allows_scope("offline_access"));
    }
}
