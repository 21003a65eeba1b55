//! Revocation (RFC 7009) and introspection (RFC 7662).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use serde_json::json;
use support::app::Tokens;
use support::jose::{tampered, unsigned};
use support::{HTTP, claims, post, send, wait_for, word, world};

#[test]
fn introspection_tells_the_owner_what_the_token_is() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid email");
    let answer = w.web.post("/introspect", &[("token", tokens.access())]);
    let body = answer.ok();
    assert!(answer.header("cache-control").contains("no-store"), "{answer:?}");
    let access = claims(tokens.access());
    assert_eq!((&body["active"], &body["token_type"]), (&json!(true), &json!("Bearer")));
    for same in ["iss", "sub", "aud", "exp", "iat", "jti", "client_id", "scope"] {
        assert_eq!(body[same], access[same], "{same}: {body}");
    }
    let refresh = w.web.introspect(tokens.refresh());
    assert_eq!((&refresh["active"], &refresh["client_id"]), (&json!(true), &json!(w.web.id)));
    assert_eq!(refresh["sub"], access["sub"]);
    for hint in ["refresh_token", "access_token", "nonsense"] {
        let body = w.web.post("/introspect", &[("token", tokens.access()), ("token_type_hint", hint)]).ok();
        assert_eq!(body["active"], true, "a wrong hint hinders nothing: {hint}");
    }
}

#[test]
fn s31_introspection_answers_the_right_party_only() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    for token in [tokens.access(), tokens.refresh()] {
        for stranger in [&w.third, &w.machine] {
            assert_eq!(stranger.introspect(token), json!({"active": false}));
        }
        send(post(w.server.url("/introspect"), &[("token", token)])).refused(401, "invalid_client");
        w.spa.post("/introspect", &[("token", token)]).refused(401, "invalid_client");
        let bearer = post(w.server.url("/introspect"), &[("token", token)]);
        let answer = send(bearer.header("authorization", format!("Bearer {}", tokens.access())));
        assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    }
}

#[test]
fn s31_the_resource_server_of_the_audience_may_ask() {
    let w = world();
    let server = w.server.client(&json!({
        "grant_types": ["client_credentials"], "response_types": [], "redirect_uris": [], "scope": "none",
    }));
    let identifier = format!("https://{}.example/", word());
    w.server.resource(&identifier, "jobs.read", &["--resource-server", &server.id]);
    let answer = wait_for("the server to know the resource", || {
        let fields = [("grant_type", "client_credentials"), ("scope", "jobs.read"), ("resource", &identifier)];
        let answer = w.machine.post("/token", &fields);
        (answer.status == 200).then_some(answer)
    });
    let token = answer.text("access_token");
    assert_eq!(server.introspect(&token)["aud"], identifier);
    assert_eq!(w.web.introspect(&token), json!({"active": false}));
    let other = w.web.tokens(&w.browser(), "openid");
    assert_eq!(server.introspect(other.access()), json!({"active": false}), "not its audience");
}

#[test]
fn what_is_no_token_of_ours_is_inactive_and_says_no_more() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    let altered = tampered(tokens.access(), |claims| claims["scope"] = json!("openid admin"));
    for token in [&*altered, &unsigned(tokens.access()), tokens.id(), "x", "a.b.c", "cs_rt_x", "\u{e9}"] {
        assert_eq!(w.web.introspect(token), json!({"active": false}), "{token}");
    }
    w.web.post("/introspect", &[("token_type_hint", "access_token")]).refused(400, "invalid_request");
    w.web.post("/introspect", &[("token", "x"), ("token", "y")]).refused(400, "invalid_request");
}

#[test]
fn s34_a_revoked_refresh_token_takes_its_access_tokens_along_at_once() {
    let w = world();
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let next = Tokens(w.web.refresh(tokens.refresh()).ok());
    // Asked before, so that any cache holds the wrong answer.
    for token in [tokens.access(), next.access(), next.refresh()] {
        assert!(w.web.is_active(token));
    }
    w.web.userinfo(next.access()).ok();
    w.web.revoke(next.refresh());
    for token in [tokens.access(), next.access(), next.refresh()] {
        assert!(!w.web.is_active(token), "{token}");
    }
    assert_eq!(w.web.userinfo(next.access()).status, 401);
    w.web.refresh(next.refresh()).refused(400, "invalid_grant");
}

#[test]
fn s34_a_revoked_access_token_is_dead_at_once() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    assert!(w.web.is_active(tokens.access()));
    w.web.revoke(tokens.access());
    assert!(!w.web.is_active(tokens.access()));
    assert_eq!(w.web.userinfo(tokens.access()).status, 401);
}

#[test]
fn revoking_a_spent_refresh_token_still_ends_the_grant() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    let next = Tokens(w.web.refresh(tokens.refresh()).ok());
    w.web.revoke(tokens.refresh());
    assert!(!w.web.is_active(next.refresh()));
}

#[test]
fn s33_a_foreign_client_revokes_nothing() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    for token in [tokens.access(), tokens.refresh()] {
        for stranger in [&w.third, &w.spa] {
            let answer = stranger.post("/revoke", &[("token", token)]);
            assert!(matches!(answer.status, 200 | 400), "{answer:?}");
        }
        send(post(w.server.url("/revoke"), &[("token", token)])).refused(401, "invalid_client");
        assert!(w.web.is_active(token));
    }
}

#[test]
fn revocation_of_an_unknown_token_is_a_success() {
    let w = world();
    for token in ["x", "cs_rt_unknown", "a.b.c"] {
        w.web.revoke(token);
    }
    let tokens = w.spa.tokens(&w.browser(), "openid");
    let hinted = w.spa.post("/revoke", &[("token", tokens.refresh()), ("token_type_hint", "access_token")]);
    assert_eq!(hinted.status, 200, "a public client revokes its own: {hinted:?}");
    w.spa.refresh(tokens.refresh()).refused(400, "invalid_grant");
    w.web.post("/revoke", &[("token_type_hint", "access_token")]).refused(400, "invalid_request");
    w.web.post("/revoke", &[("token", "x"), ("token", "y")]).refused(400, "invalid_request");
    let json = HTTP.post(w.server.url("/revoke")).header("content-type", "application/json").body("{}");
    assert!(matches!(send(w.web.authenticated(json)).status, 400 | 415));
}

#[test]
fn a_token_of_client_credentials_is_introspected_and_revoked_by_its_client() {
    let w = world();
    let body = w.machine.post("/token", &[("grant_type", "client_credentials")]).ok();
    let token = body["access_token"].as_str().unwrap();
    assert!(w.machine.is_active(token));
    w.machine.revoke(token);
    assert!(!w.machine.is_active(token));
}
