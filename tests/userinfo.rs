//! The `UserInfo` endpoint: OIDC Core 5.3, RFC 6750.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::jose::{header, tampered, unsigned, verify};
use support::{Answer, HTTP, World, claims, post, send, world};

/// RFC 6750 3: the challenge, and the error it names.
#[track_caller]
fn challenged(answer: &Answer, status: u16, error: Option<&str>) {
    assert_eq!(answer.status, status, "{answer:?}");
    let challenge = answer.header("www-authenticate");
    assert!(challenge.starts_with("Bearer"), "{challenge}");
    match error {
        Some(error) => assert!(challenge.contains(&format!("error=\"{error}\"")), "{challenge}"),
        None => assert!(!challenge.contains("error"), "{challenge}"),
    }
}

#[test]
fn a_resource_of_the_default_audience_takes_nothing_from_userinfo() {
    for audience in [None, Some("https://api.example.com")] {
        let w = World::new(
            &audience.map(|audience| ("COUNTERSIGN_ACCESS_TOKEN__AUDIENCE", audience)).into_iter().collect::<Vec<_>>(),
        );
        let audience = audience.unwrap_or(&w.server.issuer);
        w.server.cli_ok(&["resource", "create", audience, "--scope", "orders.read"], "");
        w.server.cli_ok(&["user", "set-email", "ada", "ada@example.com", "--verified"], "");
        let app = w
            .server
            .client(&json!({"redirect_uris": ["https://both.example/callback"], "scope": "openid email orders.read"}));
        let tokens = app.tokens(&w.browser(), "openid email orders.read");
        let mut carried: Vec<String> =
            claims(tokens.access())["scope"].as_str().unwrap().split(' ').map(str::to_owned).collect();
        carried.sort();
        assert_eq!(
            (carried, claims(tokens.access())["aud"].as_str()),
            (vec!["email".to_owned(), "openid".into(), "orders.read".into()], Some(audience))
        );
        assert_eq!(app.userinfo(tokens.access()).ok()["email"], "ada@example.com");
        // Who asks for none of its scopes is asking for UserInfo alone, and of that the page speaks in its own words.
        w.server.resource("https://other.example", "other.read", &[]);
        let caller = w.server.client(&json!({
            "redirect_uris": ["https://caller.example/callback"], "scope": "openid orders.read other.read",
        }));
        let consent = |scope: &str| {
            let browser = w.browser();
            let page = browser.open(caller.request().with("scope", scope).url());
            let page = browser.sign_in_as(&page, "ada", support::PASSWORD);
            page.is("consent-page");
            page.answer.body
        };
        let page = consent("openid other.read");
        assert!(page.contains("https://other.example") && !page.contains("Act for you"), "{page}");
        assert!(consent("openid orders.read").contains("orders.read"));
    }
}

#[test]
fn each_scope_opens_its_claims() {
    let w = world();
    w.server.user("mary");
    w.server.set_claims(
        "mary",
        &json!({
            "name": "Mary Somerville", "given_name": "Mary", "family_name": "Somerville", "nickname": "M",
            "picture": "https://example.com/mary.png", "website": "https://example.com/", "gender": "female",
            "birthdate": "1780-12-26", "zoneinfo": "Europe/London", "locale": "en-GB", "profile": "https://example.com/m",
            "middle_name": "F", "address": {"locality": "Jedburgh", "country": "Scotland"}, "phone_number": "+441234567",
        }),
    );
    let browser = w.browser();
    browser.through_as(w.web.request().url(), "mary").code();
    let info = |scope: &str| {
        let tokens = w.web.tokens(&browser, scope);
        let info = w.web.userinfo(tokens.access()).ok();
        assert_eq!(info["sub"], claims(tokens.id())["sub"], "OIDC Core 5.3.2");
        info
    };
    let names = |info: &Value| info.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&info("openid")), ["sub"]);
    let profile = info("openid profile");
    for name in [
        "name",
        "given_name",
        "family_name",
        "nickname",
        "picture",
        "website",
        "gender",
        "birthdate",
        "zoneinfo",
        "locale",
        "profile",
        "middle_name",
    ] {
        assert!(profile[name].is_string(), "{name}: {profile}");
    }
    assert_eq!(profile["preferred_username"], "mary");
    assert!(profile["updated_at"].is_number(), "{profile}");
    assert!(profile.get("email").is_none() && profile.get("address").is_none(), "{profile}");
    let email = info("openid email");
    assert_eq!(email["email"], "mary@example.com");
    assert!(email["email_verified"].is_boolean(), "{email}");
    assert_eq!(info("openid address")["address"]["locality"], "Jedburgh");
    assert_eq!(info("openid phone")["phone_number"], "+441234567");
}

#[test]
fn get_and_post_answer_the_same_and_nothing_is_stored() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid email");
    let url = w.server.url("/userinfo");
    let bearer = format!("Bearer {}", tokens.access());
    let get = send(HTTP.get(&url).header("authorization", &bearer));
    let posted = send(HTTP.post(&url).header("authorization", &bearer));
    let lower = send(HTTP.get(&url).header("authorization", bearer.replacen("Bearer", "bearer", 1)));
    let in_body = send(post(&url, &[("access_token", tokens.access())]));
    for answer in [&posted, &lower, &in_body] {
        assert_eq!(answer.ok(), get.ok());
    }
    assert!(get.header("cache-control").contains("no-store"), "{get:?}");
    assert!(get.header("content-type").starts_with("application/json"), "{get:?}");
}

#[test]
fn a_client_may_have_it_signed() {
    let w = world();
    let app = w.server.client(&json!({
        "redirect_uris": ["https://signed.example/"], "skip_consent": true, "userinfo_signed_response_alg": "ES256",
    }));
    let tokens = app.tokens(&w.browser(), "openid email");
    let answer = app.userinfo(tokens.access());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").starts_with("application/jwt"), "{answer:?}");
    let info = verify(&answer.body, &w.jwks());
    assert_eq!(header(&answer.body)["alg"], "ES256");
    assert_eq!((&info["iss"], &info["aud"]), (&json!(w.server.issuer), &json!(app.id)));
    assert_eq!((&info["sub"], &info["email"]), (&claims(tokens.id())["sub"], &json!("ada@example.com")));
}

#[test]
fn without_a_token_it_asks_for_one() {
    let w = world();
    challenged(&w.get("/userinfo"), 401, None);
    challenged(&send(HTTP.post(w.server.url("/userinfo"))), 401, None);
}

#[test]
fn s35_only_our_live_access_tokens_open_it() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    let altered = tampered(tokens.access(), |claims| claims["sub"] = json!("other"));
    for token in
        [tokens.id(), tokens.refresh(), &*altered, &unsigned(tokens.access()), "x", "a.b.c", &"x".repeat(20_000)]
    {
        let Ok(answer) = support::http::try_send(HTTP.get(w.server.url("/userinfo")).bearer_auth(token)) else {
            continue;
        };
        // A header beyond all bounds may be refused before it is read as a token.
        if answer.status != 431 && token.len() < 20_000 {
            challenged(&answer, 401, Some("invalid_token"));
        }
    }
}

#[test]
fn s35_a_token_without_openid_has_insufficient_scope() {
    let w = world();
    let machine = w.machine.post("/token", &[("grant_type", "client_credentials")]).ok();
    let answer = w.web.userinfo(machine["access_token"].as_str().unwrap());
    challenged(&answer, 403, Some("insufficient_scope"));
    let page = w.browser().through(w.web.request().with("scope", "notes").url());
    let tokens = w.web.redeem(&page.code()).ok();
    assert!(tokens.get("id_token").is_none(), "no openid, no ID token: {tokens}");
    challenged(&w.web.userinfo(tokens["access_token"].as_str().unwrap()), 403, Some("insufficient_scope"));
}

#[test]
fn s36_a_token_in_the_url_is_refused() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    let url = w.server.url(&format!("/userinfo?access_token={}", tokens.access()));
    let answer = support::get(&url);
    assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    assert!(!answer.body.contains("sub"), "{answer:?}");
    let both = post(w.server.url("/userinfo"), &[("access_token", tokens.access())]).bearer_auth(tokens.access());
    challenged(&send(both), 400, Some("invalid_request"));
}

#[test]
fn an_expired_token_is_invalid() {
    let w = support::World::new(&[("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "1s")]);
    let tokens = w.web.tokens(&w.browser(), "openid");
    let answer = support::wait_for("the end of the token", || {
        let answer = w.web.userinfo(tokens.access());
        (answer.status != 200).then_some(answer)
    });
    challenged(&answer, 401, Some("invalid_token"));
    assert!(!w.web.is_active(tokens.access()));
}

#[test]
fn s26_a_disabled_user_is_told_of_no_more() {
    let w = world();
    w.server.user("sofya");
    let page = w.browser().through_as(w.web.request().url(), "sofya");
    let tokens = w.web.redeem(&page.code()).ok();
    let token = tokens["access_token"].as_str().unwrap();
    w.web.userinfo(token).ok();
    w.server.cli_ok(&["user", "disable", "sofya"], "");
    support::wait_for("the refusal", || (w.web.userinfo(token).status == 401).then_some(()));
}
