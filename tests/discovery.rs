//! Metadata (OIDC Discovery, RFC 8414), JWKS, and cross-origin access (row 99).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use reqwest::Method;
use serde_json::{Value, json};
use support::{Answer, HTTP, World, send, world};

const PUBLIC: [&str; 3] = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/jwks"];

fn has(list: &Value, value: &str) -> bool {
    list.as_array().is_some_and(|list| list.iter().any(|other| other == value))
}

#[test]
fn the_metadata_is_complete_and_true() {
    let w = world();
    let metadata = w.get(PUBLIC[0]).ok();
    let issuer = &w.server.issuer;
    assert_eq!(metadata["issuer"], *issuer);
    for (name, path) in [
        ("authorization_endpoint", "/authorize"),
        ("token_endpoint", "/token"),
        ("userinfo_endpoint", "/userinfo"),
        ("jwks_uri", "/jwks"),
        ("revocation_endpoint", "/revoke"),
        ("introspection_endpoint", "/introspect"),
        ("end_session_endpoint", "/logout"),
    ] {
        assert_eq!(metadata[name], format!("{issuer}{path}"), "{name}");
    }
    for (name, values) in [
        ("response_types_supported", &["code"][..]),
        ("response_modes_supported", &["query", "fragment", "form_post"]),
        ("grant_types_supported", &["authorization_code", "refresh_token", "client_credentials"]),
        ("subject_types_supported", &["public"]),
        ("id_token_signing_alg_values_supported", &["RS256", "ES256", "PS256", "EdDSA"]),
        ("scopes_supported", &["openid", "profile", "email", "address", "phone", "offline_access"]),
        ("code_challenge_methods_supported", &["S256"]),
        ("prompt_values_supported", &["none", "login", "consent", "select_account"]),
        (
            "claims_supported",
            &["sub", "name", "email", "email_verified", "address", "phone_number", "auth_time", "acr"],
        ),
    ] {
        for value in values {
            assert!(has(&metadata[name], value), "{name} lacks {value}: {}", metadata[name]);
        }
    }
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["response_types_supported"], json!(["code"]));
    for endpoint in ["token", "revocation", "introspection"] {
        let methods = &metadata[format!("{endpoint}_endpoint_auth_methods_supported")];
        for method in ["client_secret_basic", "client_secret_post", "private_key_jwt"] {
            assert!(has(methods, method), "{endpoint}: {methods}");
        }
        let algorithms = &metadata[format!("{endpoint}_endpoint_auth_signing_alg_values_supported")];
        assert!(has(algorithms, "ES256") && !has(algorithms, "none") && !has(algorithms, "HS256"), "{algorithms}");
    }
    for flag in ["authorization_response_iss_parameter_supported", "claims_parameter_supported"] {
        assert_eq!(metadata[flag], true, "{flag}");
    }
    for flag in ["request_parameter_supported", "request_uri_parameter_supported"] {
        assert_eq!(metadata[flag], false, "{flag}");
    }
    let oauth = w.get(PUBLIC[1]).ok();
    for (name, value) in oauth.as_object().unwrap() {
        if metadata.get(name).is_some() {
            assert_eq!(metadata[name], *value, "{name}");
        }
    }
    assert_eq!(oauth["issuer"], *issuer);
}

#[test]
fn s93_the_key_set_is_public_in_every_sense() {
    let w = world();
    let jwks = w.jwks();
    let keys = jwks["keys"].as_array().unwrap();
    for alg in ["RS256", "ES256", "EdDSA"] {
        assert!(keys.iter().any(|key| key["alg"] == alg), "{alg}: {jwks}");
    }
    for key in keys {
        assert!(key["kid"].is_string() && key["use"] == "sig", "{key}");
        for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert!(key.get(private).is_none(), "{private}: {key}");
        }
    }
}

#[test]
fn s98_public_documents_are_cacheable_and_the_same_for_everybody() {
    let w = world();
    for path in PUBLIC {
        let plain = w.get(path);
        assert_eq!(plain.status, 200, "{path}: {plain:?}");
        assert!(plain.header("content-type").starts_with("application/"), "{path}: {plain:?}");
        let cache = plain.header("cache-control");
        assert!(cache.contains("public") && cache.contains("max-age="), "{path}: {cache}");
        assert_eq!(plain.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(plain.header("access-control-allow-credentials"), "", "{path}");
        assert_eq!(plain.header("set-cookie"), "", "{path}");
        let etag = plain.header("etag");
        assert!(etag.contains('"'), "{path}: {plain:?}");
        for matching in [etag, "*", &format!("\"other\", {etag}")] {
            let again = send(HTTP.get(w.server.url(path)).header("if-none-match", matching));
            assert_eq!((again.status, &*again.body), (304, ""), "{path}: {again:?}");
            assert_eq!(again.header("etag"), etag, "{path}");
        }
        assert_eq!(send(HTTP.get(w.server.url(path)).header("if-none-match", "\"other\"")).status, 200, "{path}");
        let poisoned = HTTP
            .get(w.server.url(path) + "?x=1")
            .header("host", "evil.example")
            .header("x-forwarded-host", "evil.example")
            .header("x-forwarded-proto", "https")
            .header("forwarded", "host=evil.example;proto=https")
            .header("origin", "https://evil.example");
        let poisoned = send(poisoned);
        assert_eq!((poisoned.body, poisoned.headers.get("etag")), (plain.body.clone(), plain.headers.get("etag")));
        let head = send(HTTP.head(w.server.url(path)));
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
        assert_eq!(send(HTTP.post(w.server.url(path))).status, 405, "{path}");
    }
}

fn preflight(w: &World, path: &str, origin: &str) -> Answer {
    let request = HTTP
        .request(Method::OPTIONS, w.server.url(path))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization, content-type");
    send(request)
}

#[test]
fn s99_cross_origin_calls_are_for_registered_origins_and_never_with_credentials() {
    let w = world();
    let tokens = w.spa.tokens(&w.browser(), "openid");
    for path in ["/token", "/revoke", "/userinfo"] {
        let allowed = preflight(&w, path, "https://spa.example");
        assert!(matches!(allowed.status, 200 | 204), "{path}: {allowed:?}");
        assert_eq!(allowed.header("access-control-allow-origin"), "https://spa.example", "{path}");
        assert!(allowed.header("access-control-allow-methods").contains("POST"), "{path}: {allowed:?}");
        let headers = allowed.header("access-control-allow-headers").to_ascii_lowercase();
        assert!(headers.contains("authorization") && headers.contains("content-type"), "{path}: {allowed:?}");
        assert_eq!(allowed.header("access-control-allow-methods").contains("GET"), path == "/userinfo", "{path}");
        for origin in [
            "https://evil.example",
            "null",
            "https://spa.example.evil.example",
            "http://spa.example",
            "https://spa.example:444",
        ] {
            let refused = preflight(&w, path, origin);
            assert_eq!(refused.header("access-control-allow-origin"), "", "{path} {origin}");
        }
        for origin in ["https://spa.example", "https://evil.example", "null"] {
            let request = match path {
                "/userinfo" => HTTP.get(w.server.url(path)).bearer_auth(tokens.access()),
                _ => {
                    support::post(w.server.url(path), &[("client_id", &*w.spa.id), ("grant_type", "x"), ("token", "x")])
                }
            };
            let answer = send(request.header("origin", origin));
            let expected = if origin == "https://spa.example" { origin } else { "" };
            assert_eq!(answer.header("access-control-allow-origin"), expected, "{path} {origin}");
            assert_eq!(answer.header("access-control-allow-credentials"), "", "{path} {origin}");
            assert!(answer.header("vary").to_ascii_lowercase().contains("origin"), "{path}: {answer:?}");
        }
    }
    for path in ["/introspect", "/authorize"] {
        assert_eq!(preflight(&w, path, "https://spa.example").header("access-control-allow-origin"), "", "{path}");
    }
}

#[test]
fn s99_what_is_refused_before_the_client_is_known_is_readable_for_registered_origins() {
    let w = world();
    let form = "application/x-www-form-urlencoded";
    for path in ["/token", "/revoke", "/userinfo"] {
        let url = w.server.url(path);
        let mut requests = vec![(405, HTTP.delete(&url))];
        if path != "/userinfo" {
            requests.extend([
                (405, HTTP.get(&url)),
                (400, HTTP.post(&url).header("content-type", "text/plain").body("x")),
                (400, HTTP.post(&url).header("content-type", form).body("x=%ff")),
                (413, HTTP.post(&url).header("content-type", form).body("x".repeat(65_537))),
            ]);
        }
        for (status, request) in requests {
            for origin in ["https://spa.example", "https://evil.example", "null"] {
                let answer = send(request.try_clone().unwrap().header("origin", origin));
                assert_eq!(answer.status, status, "{path}: {answer:?}");
                let expected = if origin == "https://spa.example" { origin } else { "" };
                assert_eq!(answer.header("access-control-allow-origin"), expected, "{path} {origin}: {answer:?}");
                assert_eq!(answer.header("access-control-allow-credentials"), "", "{path}");
                assert_eq!(answer.header("vary"), "Origin", "{path}: {answer:?}");
            }
        }
    }
    let answer = send(HTTP.get(w.server.url("/introspect")).header("origin", "https://spa.example"));
    assert_eq!(answer.header("access-control-allow-origin"), "", "{answer:?}");
}

#[test]
fn health_tells_life_and_readiness_and_nothing_else() {
    let w = world();
    for path in ["/health/live", "/health/ready"] {
        let answer = w.get(path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.len() < 100, "{answer:?}");
        assert!(answer.header("cache-control").contains("no-store"), "{answer:?}");
    }
}
