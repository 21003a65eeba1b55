//! An application registered at the server, and the world of applications that most tests share.

use std::sync::{Arc, Mutex, Weak};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::blocking::RequestBuilder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded::byte_serialize;

use super::http::{Answer, HTTP, form, post, send};
use super::{Browser, TestServer};

pub const PASSWORD: &str = "correct horse battery staple";
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// The S256 challenge of a verifier (RFC 7636 4.2).
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

/// A Basic header whose both halves are form-encoded first (RFC 6749 2.3.1).
pub fn basic(id: &str, secret: &str) -> String {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(id), encode(secret))))
}

#[derive(Debug, Clone)]
pub struct App {
    pub id: String,
    pub secret: Option<String>,
    /// The first that is registered, or "".
    pub redirect_uri: String,
    /// The registration response (RFC 7591 3.2.1).
    pub registration: Value,
    pub issuer: String,
}

impl App {
    pub fn new(issuer: &str, registration: Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            id: text(&registration["client_id"]).unwrap_or_else(|| panic!("no client_id: {registration}")),
            secret: text(&registration["client_secret"]),
            redirect_uri: text(&registration["redirect_uris"][0]).unwrap_or_default(),
            issuer: issuer.to_owned(),
            registration,
        }
    }

    /// The same application, talking to one server of several.
    pub fn at(&self, server: &TestServer) -> Self {
        Self { issuer: server.url(""), ..self.clone() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    /// A good authorization request: code, PKCE, `openid`, state and nonce.
    pub fn request(&self) -> AuthorizationRequest {
        let request = AuthorizationRequest { endpoint: self.url("/authorize"), parameters: Vec::new() };
        request
            .with("response_type", "code")
            .with("client_id", &self.id)
            .with("redirect_uri", &self.redirect_uri)
            .with("scope", "openid")
            .with("state", "a state & more")
            .with("nonce", "a-nonce")
            .with("code_challenge", &challenge(VERIFIER))
            .with("code_challenge_method", "S256")
    }

    /// Adds what proves that the request comes from this client.
    pub fn authenticated(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.secret {
            Some(secret) => request.header("authorization", basic(&self.id, secret)),
            None => request,
        }
    }

    /// A request at the token, introspection or revocation endpoint, by the registered method of secrets.
    pub fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut fields = fields.to_vec();
        let method = self.registration["token_endpoint_auth_method"].as_str();
        if method != Some("client_secret_basic") {
            fields.push(("client_id", &self.id));
        }
        if let (Some("client_secret_post"), Some(secret)) = (method, &self.secret) {
            fields.push(("client_secret", secret));
            return send(post(self.url(path), &fields));
        }
        send(self.authenticated(post(self.url(path), &fields)))
    }

    /// Redeems a code; `more` is added to the good request.
    pub fn redeem_with(&self, code: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", self.redirect_uri.as_str()),
            ("code_verifier", VERIFIER),
        ];
        fields.extend(more);
        self.post("/token", &fields)
    }

    pub fn redeem(&self, code: &str) -> Answer {
        self.redeem_with(code, &[])
    }

    pub fn refresh_with(&self, token: &str, more: &[(&str, &str)]) -> Answer {
        let mut fields = vec![("grant_type", "refresh_token"), ("refresh_token", token)];
        fields.extend(more);
        self.post("/token", &fields)
    }

    pub fn refresh(&self, token: &str) -> Answer {
        self.refresh_with(token, &[])
    }

    pub fn introspect(&self, token: &str) -> Value {
        self.post("/introspect", &[("token", token)]).ok()
    }

    #[track_caller]
    pub fn is_active(&self, token: &str) -> bool {
        self.introspect(token)["active"].as_bool().unwrap()
    }

    #[track_caller]
    pub fn revoke(&self, token: &str) {
        let answer = self.post("/revoke", &[("token", token)]);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A code for `scope`, by a browser in which "ada" signs in where she has not.
    #[track_caller]
    pub fn code(&self, browser: &Browser, scope: &str) -> String {
        browser.through(self.request().with("scope", scope).url()).code()
    }

    /// The token response for `scope`.
    #[track_caller]
    pub fn tokens(&self, browser: &Browser, scope: &str) -> Tokens {
        Tokens(self.redeem(&self.code(browser, scope)).ok())
    }

    pub fn userinfo(&self, access_token: &str) -> Answer {
        send(HTTP.get(self.url("/userinfo")).header("authorization", format!("Bearer {access_token}")))
    }
}

/// A token response.
#[derive(Debug, Clone)]
pub struct Tokens(pub Value);

impl Tokens {
    #[track_caller]
    fn member(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", self.0))
    }

    #[track_caller]
    pub fn access(&self) -> &str {
        self.member("access_token")
    }

    #[track_caller]
    pub fn refresh(&self) -> &str {
        self.member("refresh_token")
    }

    #[track_caller]
    pub fn id(&self) -> &str {
        self.member("id_token")
    }
}

/// The parameters of an authorization request, to be bent by the test.
#[derive(Debug, Clone)]
pub struct AuthorizationRequest {
    endpoint: String,
    pub parameters: Vec<(String, String)>,
}

impl AuthorizationRequest {
    /// Sets a parameter, once.
    pub fn with(self, name: &str, value: &str) -> Self {
        self.without(name).and(name, value)
    }

    /// Adds a parameter beside those of the same name.
    pub fn and(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.parameters.retain(|(other, _)| other != name);
        self
    }

    pub fn url(&self) -> String {
        format!("{}?{}", self.endpoint, form(&self.parameters))
    }

    pub fn as_post(&self) -> RequestBuilder {
        post(&self.endpoint, &self.parameters)
    }
}

/// A running server, the user "ada" and one application of each kind.
pub struct World {
    pub server: TestServer,
    /// Confidential, first-party: no consent page.
    pub web: App,
    /// Public, in the browser.
    pub spa: App,
    /// Confidential, of somebody else: asks for consent.
    pub third: App,
    pub native: App,
    /// `client_credentials` only, scope `jobs.read jobs.write`.
    pub machine: App,
    /// Confidential, may go without PKCE.
    pub legacy: App,
}

impl World {
    pub fn new(env: &[(&str, &str)]) -> Self {
        let server = TestServer::prepare(env);
        server.user("ada");
        let both = json!(["authorization_code", "refresh_token"]);
        let scope = "openid profile email address phone offline_access notes";
        let web = server.client(&json!({
            "client_name": "Web", "redirect_uris": ["https://web.example/callback"], "grant_types": both,
            "post_logout_redirect_uris": ["https://web.example/bye"], "scope": scope, "skip_consent": true,
        }));
        let spa = server.client(&json!({
            "client_name": "Single page", "redirect_uris": ["https://spa.example/callback"], "grant_types": both,
            "token_endpoint_auth_method": "none", "scope": scope, "skip_consent": true,
        }));
        let third = server.client(&json!({
            "client_name": "Third <b>Party</b>", "redirect_uris": ["https://third.example/callback?tenant=1"],
            "grant_types": both, "scope": scope, "token_endpoint_auth_method": "client_secret_post",
        }));
        let native = server.client(&json!({
            "client_name": "Native", "application_type": "native", "token_endpoint_auth_method": "none",
            "redirect_uris": ["http://127.0.0.1/callback", "http://[::1]/callback", "com.example.app:/callback"],
            "grant_types": both, "skip_consent": true,
        }));
        let machine = server.client(&json!({
            "client_name": "Machine", "grant_types": ["client_credentials"], "response_types": [],
            "redirect_uris": [], "scope": "jobs.read jobs.write",
        }));
        let legacy = server.client(&json!({
            "client_name": "Legacy", "redirect_uris": ["https://legacy.example/callback"], "grant_types": both,
            "require_pkce": false, "skip_consent": true,
        }));
        server.start();
        Self { server, web, spa, third, native, machine, legacy }
    }

    pub fn browser(&self) -> Browser {
        Browser::new(&self.server)
    }

    pub fn get(&self, path: &str) -> Answer {
        super::get(self.server.url(path))
    }

    pub fn jwks(&self) -> Value {
        self.get("/jwks").ok()
    }
}

/// The world that the tests of one file share. It ends with the last test that holds it, so that no server outlives
/// the test program.
pub fn world() -> Arc<World> {
    static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let world = Arc::new(World::new(&[]));
        *shared = Arc::downgrade(&world);
        world
    })
}
