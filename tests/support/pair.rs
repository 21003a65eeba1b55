//! Two running servers of one issuer, on one PostgreSQL.

use serde_json::json;

use super::{App, TestServer};

pub struct Pair {
    pub a: TestServer,
    pub b: TestServer,
    /// First-party and confidential, at the issuer.
    pub web: App,
}

impl Pair {
    /// Each by its own way to the database; `env` for both, `env_of_b` for the second one alone.
    pub fn start(issuer: &str, urls: [&str; 2], env: &[(&str, &str)], env_of_b: &[(&str, &str)]) -> Self {
        let node = |url, more: &[(&str, &str)]| {
            let mut env: Vec<(&str, &str)> = env.to_vec();
            env.extend(more);
            env.push(("COUNTERSIGN_DATABASE_URL", url));
            env.push(("COUNTERSIGN_DATABASE__CONNECTIONS", "8"));
            env.push(("COUNTERSIGN_KEY_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="));
            TestServer::node(issuer, &env)
        };
        let (a, b) = (node(urls[0], &[]), node(urls[1], env_of_b));
        a.user("ada");
        let web = a.client(&json!({
            "client_name": "Web", "redirect_uris": ["https://web.example/callback"], "skip_consent": true,
            "grant_types": ["authorization_code", "refresh_token"], "scope": "openid offline_access",
        }));
        // At once, as a supervisor starts them.
        std::thread::scope(|scope| {
            scope.spawn(|| a.start());
            scope.spawn(|| b.start());
        });
        Self { a, b, web }
    }
}
