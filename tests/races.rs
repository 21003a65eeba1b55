//! One-time things under 32 hands at once: one winner (RFC 9700 4.14.2, reliability rule 2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Barrier;

use serde_json::json;
use support::{Answer, ClientKey, World, post, send, world};

/// 32 threads that ask at the same moment.
fn race(ask: impl Fn() -> Answer + Sync) -> Vec<Answer> {
    let start = Barrier::new(32);
    std::thread::scope(|scope| {
        let racer = || {
            start.wait();
            ask()
        };
        let racers: Vec<_> = (0..32).map(|_| scope.spawn(racer)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn winners(answers: &[Answer], status: u16, error: &str) -> usize {
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    for answer in lost {
        answer.refused(status, error);
    }
    won.len()
}

#[test]
fn s11_of_32_only_one_redeems_a_code() {
    let w = world();
    let browser = w.browser();
    for _ in 0..5 {
        let code = w.web.code(&browser, "openid");
        let answers = race(|| w.web.redeem(&code));
        assert_eq!(winners(&answers, 400, "invalid_grant"), 1);
    }
}

#[test]
fn s24_of_32_only_one_spends_a_refresh_token() {
    let w = World::new(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    let browser = w.browser();
    for _ in 0..5 {
        let tokens = w.web.tokens(&browser, "openid");
        let answers = race(|| w.web.refresh(tokens.refresh()));
        assert_eq!(winners(&answers, 400, "invalid_grant"), 1);
        let won = answers.iter().find(|answer| answer.status == 200).unwrap();
        assert!(!w.web.is_active(&won.text("refresh_token")), "the losers were reuse: the family is dead");
    }
}

#[test]
fn s24_with_leeway_32_get_one_and_the_same_successor() {
    let w = world();
    let browser = w.browser();
    for _ in 0..5 {
        let tokens = w.web.tokens(&browser, "openid");
        let answers = race(|| w.web.refresh(tokens.refresh()));
        let successors: BTreeSet<_> = answers.iter().map(|answer| answer.text("refresh_token")).collect();
        assert_eq!(successors.len(), 1, "never two living branches: {successors:?}");
        w.web.refresh(successors.first().unwrap()).ok();
    }
}

#[test]
fn s39_of_32_only_one_uses_an_assertion() {
    let w = world();
    let key = ClientKey::generate();
    let app = w.server.client(&json!({
        "redirect_uris": ["https://signer.example/"], "grant_types": ["authorization_code", "client_credentials"],
        "scope": "openid jobs", "token_endpoint_auth_method": "private_key_jwt", "jwks": key.jwks(),
        "token_endpoint_auth_signing_alg": "ES256",
    }));
    let assertion = key.sign("JWT", &ClientKey::assertion_claims(&app.issuer, &app.id));
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", &assertion),
    ];
    let answers = race(|| send(post(w.server.url("/token"), &fields)));
    assert_eq!(winners(&answers, 401, "invalid_client"), 1);
}

#[test]
fn s34_after_a_revocation_no_racing_refresh_leaves_a_living_token() {
    let w = world();
    let browser = w.browser();
    for _ in 0..5 {
        let tokens = w.web.tokens(&browser, "openid");
        let answers = race(|| {
            let answer = w.web.refresh(tokens.refresh());
            w.web.revoke(tokens.refresh());
            answer
        });
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            assert!(!w.web.is_active(&answer.text("refresh_token")));
            assert!(!w.web.is_active(&answer.text("access_token")));
        }
    }
}
