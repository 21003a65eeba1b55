//! The token endpoint: RFC 6749 3.2 to 6, RFC 7523, RFC 8707, RFC 9068, RFC 9700.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::app::{Tokens, basic};
use support::jose::{header, now, verify};
use support::{App, Browser, ClientKey, HTTP, World, claims, post, send, wait_for, wait_until, word, world};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[test]
fn a_code_brings_the_tokens_that_the_specifications_describe() {
    let w = world();
    let answer = w.web.redeem(&w.web.code(&w.browser(), "openid email offline_access"));
    let body = answer.ok();
    assert!(answer.header("cache-control").contains("no-store"), "{answer:?}");
    assert!(answer.header("content-type").starts_with("application/json"), "{answer:?}");
    assert_eq!(answer.header("set-cookie"), "");
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(600)));
    let tokens = Tokens(body);
    assert!(tokens.refresh().starts_with("cs_rt_"));

    let jwks = w.jwks();
    let access = verify(tokens.access(), &jwks);
    assert_eq!((&header(tokens.access())["typ"], &header(tokens.access())["alg"]), (&json!("at+jwt"), &json!("ES256")));
    let id = verify(tokens.id(), &jwks);
    assert_eq!(header(tokens.id())["alg"], "RS256");
    for claims in [&access, &id] {
        assert_eq!(claims["iss"], w.server.issuer);
        assert!(claims["iat"].as_u64().unwrap().abs_diff(now()) < 30, "{claims}");
    }
    assert_eq!(access["sub"], id["sub"]);
    assert_eq!((&access["client_id"], &access["aud"]), (&json!(w.web.id), &json!(w.server.issuer)));
    assert_eq!(access["exp"].as_u64().unwrap() - access["iat"].as_u64().unwrap(), 600);
    assert_eq!(access["jti"].as_str().unwrap().as_bytes()[14], b'7', "jti is a UUIDv7: {access}");
    let mut scope: Vec<_> = access["scope"].as_str().unwrap().split(' ').collect();
    scope.sort_unstable();
    assert_eq!(scope, ["email", "offline_access", "openid"]);
    assert_eq!(id["aud"], w.web.id);
    assert_eq!(id["nonce"], "a-nonce");
    for name in ["sid", "acr"] {
        assert!(id[name].is_string(), "{name}: {id}");
    }
    assert_eq!(id["amr"], json!(["pwd"]));
    assert!(id["auth_time"].is_u64());
    assert!(id["at_hash"].is_string());
}

#[test]
fn s11_code_is_redeemed_once_and_a_second_use_revokes_what_it_gave() {
    let w = world();
    let code = w.web.code(&w.browser(), "openid offline_access");
    let tokens = Tokens(w.web.redeem(&code).ok());
    assert!(w.web.is_active(tokens.access()) && w.web.is_active(tokens.refresh()));
    w.web.redeem(&code).refused(400, "invalid_grant");
    assert!(!w.web.is_active(tokens.access()) && !w.web.is_active(tokens.refresh()));
    assert_eq!(w.web.userinfo(tokens.access()).status, 401);
    w.web.refresh(tokens.refresh()).refused(400, "invalid_grant");
}

#[test]
fn s11_code_is_bound_to_client_and_redirect_uri() {
    let w = world();
    let browser = w.browser();
    let code = w.web.code(&browser, "openid");
    w.spa.redeem_with(&code, &[]).refused(400, "invalid_grant");
    let mut other = w.web.clone();
    "https://web.example/other".clone_into(&mut other.redirect_uri);
    other.redeem(&w.web.code(&browser, "openid")).refused(400, "invalid_grant");
    let code = w.web.code(&browser, "openid");
    let fields = [("grant_type", "authorization_code"), ("code", &*code), ("code_verifier", support::VERIFIER)];
    let answer = w.web.post("/token", &fields);
    assert_eq!(answer.status, 400, "a redirect_uri that was sent must be repeated: {answer:?}");
}

#[test]
fn s11_code_ends_with_its_lifetime() {
    let w = World::new(&[("COUNTERSIGN_AUTHORIZATION_CODE__LIFETIME", "1s")]);
    let browser = w.browser();
    let code = w.web.code(&browser, "openid");
    wait_until(Instant::now() + Duration::from_millis(2100));
    w.web.redeem(&code).refused(400, "invalid_grant");
}

#[test]
fn s10_a_client_uses_only_its_registered_grants() {
    let w = world();
    w.web.post("/token", &[("grant_type", "client_credentials")]).refused(400, "unauthorized_client");
    let code_only = w.server.client(&json!({"redirect_uris": ["https://code.example/"], "skip_consent": true}));
    let browser = w.browser();
    let tokens = code_only.redeem(&code_only.code(&browser, "openid")).ok();
    assert!(tokens.get("refresh_token").is_none(), "{tokens}");
    let refresh = w.web.tokens(&browser, "openid").refresh().to_owned();
    code_only.refresh(&refresh).refused(400, "unauthorized_client");
    let answer = w
        .machine
        .post("/token", &[("grant_type", "authorization_code"), ("code", "x"), ("redirect_uri", "https://x.example/")]);
    answer.refused(400, "unauthorized_client");
}

#[test]
fn s29_s46_other_grants_are_absent() {
    let w = world();
    for grant in [
        "password",
        "implicit",
        "",
        "nonsense",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
    ] {
        let answer =
            w.web.post("/token", &[("grant_type", grant), ("username", "ada"), ("password", support::PASSWORD)]);
        assert_eq!(answer.status, 400, "{grant}: {answer:?}");
        assert!(matches!(&*answer.text("error"), "unsupported_grant_type" | "invalid_request"), "{grant}: {answer:?}");
    }
    w.web.post("/token", &[("scope", "openid")]).refused(400, "invalid_request");
}

#[test]
fn refreshing_gives_new_tokens_of_the_same_person() {
    let w = world();
    for app in [&w.web, &w.spa] {
        let first = app.tokens(&w.browser(), "openid email");
        let second = Tokens(app.refresh(first.refresh()).ok());
        assert_ne!(first.refresh(), second.refresh());
        assert_ne!(claims(first.access())["jti"], claims(second.access())["jti"]);
        let (before, after) = (claims(first.id()), verify(second.id(), &w.jwks()));
        for same in ["iss", "sub", "aud", "auth_time", "sid"] {
            assert_eq!(before[same], after[same], "OIDC Core 12.2: {same}");
        }
        app.refresh(second.refresh()).ok();
    }
}

#[test]
fn s24_within_the_leeway_a_repeated_refresh_gets_the_same_successor() {
    let w = world();
    let first = w.web.tokens(&w.browser(), "openid");
    let successors: Vec<_> = (0..3).map(|_| Tokens(w.web.refresh(first.refresh()).ok()).refresh().to_owned()).collect();
    assert!(successors.iter().all(|token| *token == successors[0]), "never two branches: {successors:?}");
    let third = Tokens(w.web.refresh(&successors[0]).ok());
    assert!(w.web.is_active(third.refresh()));
    // Its successor is spent: this is no lost answer any more, but reuse.
    w.web.refresh(first.refresh()).refused(400, "invalid_grant");
    assert!(!w.web.is_active(third.refresh()) && !w.web.is_active(third.access()));
}

#[test]
fn s24_reuse_of_a_spent_refresh_token_kills_the_family() {
    let w = World::new(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    let browser = w.browser();
    let first = w.web.tokens(&browser, "openid offline_access");
    let other = w.web.tokens(&browser, "openid offline_access");
    let second = Tokens(w.web.refresh(first.refresh()).ok());
    w.web.refresh(first.refresh()).refused(400, "invalid_grant");
    w.web.refresh(second.refresh()).refused(400, "invalid_grant");
    for token in [first.access(), second.access(), second.refresh()] {
        assert!(!w.web.is_active(token), "{token}");
    }
    assert_eq!(w.web.userinfo(second.access()).status, 401);
    assert!(w.web.is_active(other.refresh()), "another sign-in is another family");
}

#[test]
fn s24_reuse_after_the_leeway_kills_the_family() {
    let w = World::new(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "1s")]);
    let first = w.web.tokens(&w.browser(), "openid");
    let second = Tokens(w.web.refresh(first.refresh()).ok());
    wait_until(Instant::now() + Duration::from_millis(2100));
    w.web.refresh(first.refresh()).refused(400, "invalid_grant");
    assert!(!w.web.is_active(second.refresh()));
}

#[test]
fn s25_spent_and_revoked_stay_so_after_a_restart() {
    let w = World::new(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    let browser = w.browser();
    let (spent, revoked) = (w.web.tokens(&browser, "openid"), w.web.tokens(&browser, "openid"));
    let code = w.web.code(&browser, "openid");
    w.web.redeem(&code).ok();
    let living = Tokens(w.web.refresh(spent.refresh()).ok());
    w.web.revoke(revoked.refresh());
    w.server.restart();
    assert!(w.web.is_active(living.access()), "keys and grants live on");
    assert!(!w.web.is_active(revoked.access()));
    w.web.refresh(revoked.refresh()).refused(400, "invalid_grant");
    w.web.refresh(spent.refresh()).refused(400, "invalid_grant");
    w.web.redeem(&code).refused(400, "invalid_grant");
}

#[test]
fn s26_a_disabled_user_and_a_deleted_client_refresh_no_more() {
    let w = world();
    w.server.user("frances");
    let app = w.server.client(&json!({
        "redirect_uris": ["https://gone.example/"], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true, "scope": "openid offline_access",
    }));
    let tokens = |app: &App, user: &str| {
        let page = w.browser().through_as(app.request().with("scope", "openid offline_access").url(), user);
        Tokens(app.redeem(&page.code()).ok()).refresh().to_owned()
    };
    let refused = |app: &App, mut token: String| {
        wait_for("the refusal", || {
            let answer = app.refresh(&token);
            if answer.status == 200 {
                token = answer.text("refresh_token");
                return None;
            }
            // Its tokens went with the client; that the client is gone, the server learns a moment later.
            (answer.status == 401 || app.id == w.web.id).then_some(answer)
        })
    };
    let (of_user, of_client) = (tokens(&w.web, "frances"), tokens(&app, "ada"));
    w.server.cli_ok(&["user", "disable", "frances"], "");
    refused(&w.web, of_user).refused(400, "invalid_grant");
    w.server.cli_ok(&["client", "delete", &app.id], "");
    refused(&app, of_client).refused(401, "invalid_client");
}

#[test]
fn s26_a_session_takes_its_refresh_tokens_along_unless_offline_access_was_granted() {
    let w = world();
    let browser = w.browser();
    let bound = w.web.tokens(&browser, "openid");
    let offline = w.web.tokens(&browser, "openid offline_access");
    let home = browser.open(w.server.url("/"));
    let button = home.is("home-page");
    browser.press(button, "sign-out", &[]);
    w.web.refresh(bound.refresh()).refused(400, "invalid_grant");
    w.web.refresh(offline.refresh()).ok();
}

#[test]
fn s27_scope_is_narrowed_and_never_widened_at_refresh() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid email");
    w.web.refresh_with(tokens.refresh(), &[("scope", "openid email phone")]).refused(400, "invalid_scope");
    let narrow = w.web.refresh_with(tokens.refresh(), &[("scope", "openid")]).ok();
    assert_eq!(claims(narrow["access_token"].as_str().unwrap())["scope"], "openid");
    // RFC 6749 6: the refresh token keeps its scope.
    let wide = w.web.refresh(narrow["refresh_token"].as_str().unwrap()).ok();
    assert!(claims(wide["access_token"].as_str().unwrap())["scope"].as_str().unwrap().contains("email"));
}

#[test]
fn s28_a_refresh_token_serves_its_own_client_only() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    w.third.refresh(tokens.refresh()).refused(400, "invalid_grant");
    w.spa.refresh(tokens.refresh()).refused(400, "invalid_grant");
    w.web.refresh(tokens.refresh()).ok();
}

#[test]
fn mistyped_tokens_are_refused() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    let mut mistyped = tokens.refresh().to_owned();
    let last = if mistyped.pop() == Some('A') { 'B' } else { 'A' };
    mistyped.push(last);
    for token in [&*mistyped, "", "x", "cs_rt_", "cs_rt_é", tokens.access(), &"x".repeat(10_000)] {
        let answer = w.web.refresh(token);
        assert_eq!(answer.status, 400, "{token}: {answer:?}");
        assert!(matches!(&*answer.text("error"), "invalid_grant" | "invalid_request"), "{token}: {answer:?}");
    }
    w.web.refresh(tokens.refresh()).ok();
}

#[test]
fn s30_client_credentials_speak_for_the_client_alone() {
    let w = world();
    let answer = w.machine.post("/token", &[("grant_type", "client_credentials"), ("scope", "jobs.read")]);
    let body = answer.ok();
    assert!(body.get("refresh_token").is_none() && body.get("id_token").is_none(), "{body}");
    let access = verify(body["access_token"].as_str().unwrap(), &w.jwks());
    assert_eq!((&access["client_id"], &access["scope"]), (&json!(w.machine.id), &json!("jobs.read")));
    assert!(access["sub"].as_str().unwrap().contains(&w.machine.id), "{access}");
    for scope in ["openid", "offline_access", "jobs.read openid", "profile", "unknown"] {
        w.machine
            .post("/token", &[("grant_type", "client_credentials"), ("scope", scope)])
            .refused(400, "invalid_scope");
    }
    // Scopes of people are for people, also where the client may ask for them.
    let both = w.server.client(&json!({
        "redirect_uris": ["https://both.example/"], "grant_types": ["authorization_code", "client_credentials"],
        "scope": "openid profile email jobs.read",
    }));
    assert_eq!(both.post("/token", &[("grant_type", "client_credentials")]).text("scope"), "jobs.read");
    both.post("/token", &[("grant_type", "client_credentials"), ("scope", "email")]).refused(400, "invalid_scope");
    let public = send(post(w.server.url("/token"), &[("grant_type", "client_credentials"), ("client_id", &w.spa.id)]));
    assert!(matches!(&*public.text("error"), "unauthorized_client" | "invalid_client"), "{public:?}");
}

#[test]
fn s37_tokens_go_to_registered_resources_only() {
    let w = world();
    let (api, other) = (format!("https://{}.example/", word()), format!("https://{}.example/", word()));
    w.server.resource(&api, "read write", &[]);
    w.server.resource(&other, "browse", &[]);
    let app = w.server.client(&json!({
        "redirect_uris": ["https://resources.example/"], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true, "scope": "openid read write browse", "resources": [api.clone()],
    }));
    let browser = w.browser();
    let request = app.request().with("scope", "openid read");
    let page = wait_for("the server to know the resource", || {
        let page = browser.through(request.clone().with("resource", &api).url());
        (!page.url.as_str().contains("invalid_target")).then_some(page)
    });
    let tokens = Tokens(app.redeem_with(&page.code(), &[("resource", &api)]).ok());
    let access = claims(tokens.access());
    assert_eq!(
        (&access["aud"], &access["scope"]),
        (&json!(api), &json!("read")),
        "only the resource's scopes: {access}"
    );
    assert_eq!(w.web.userinfo(tokens.access()).status, 401, "made for another audience");
    let again = Tokens(app.refresh_with(tokens.refresh(), &[("resource", &api)]).ok());
    assert_eq!(claims(again.access())["aud"], api);
    app.refresh_with(again.refresh(), &[("resource", &other)]).refused(400, "invalid_target");
    app.refresh_with(again.refresh(), &[("resource", "https://unknown.example/")]).refused(400, "invalid_target");
    assert_eq!(browser.open(request.with("resource", &other).url()).error(), "invalid_target");
    let code = app.code(&browser, "openid");
    app.redeem_with(&code, &[("resource", "https://unknown.example/")]).refused(400, "invalid_target");
    w.machine
        .post("/token", &[("grant_type", "client_credentials"), ("resource", "https://unknown.example/")])
        .refused(400, "invalid_target");
}

/// Two APIs with a scope each, one without, and a name for the client's places.
fn apis(w: &World) -> (String, String, String, String) {
    let name = word();
    let api = |what: &str| format!("https://{what}.{name}.example/");
    w.server.resource(&api("a"), &format!("{name}.a"), &[]);
    w.server.resource(&api("b"), &format!("{name}.b"), &[]);
    w.server.resource(&api("bare"), "", &[]);
    (api("a"), api("b"), api("bare"), name)
}

#[test]
fn s37_a_client_for_itself_gets_no_token_without_any_of_its_scope() {
    let w = world();
    let (a, b, bare, name) = apis(&w);
    let (scope_a, scope_b) = (format!("{name}.a"), format!("{name}.b"));
    let app = |resources: Value| {
        w.server.client(&json!({
            "grant_types": ["client_credentials"], "scope": format!("{scope_a} {scope_b} {name}.own"), "resources": resources,
        }))
    };
    let (narrow, wide) = (app(json!([a])), app(Value::Null));
    let ask = |app: &App, more: &[(&str, &str)]| {
        app.post("/token", &[&[("grant_type", "client_credentials")], more].concat())
    };
    ask(&narrow, &[("scope", &scope_b)]).refused(400, "invalid_scope");
    ask(&narrow, &[("scope", &scope_b), ("resource", &a)]).refused(400, "invalid_scope");
    ask(&wide, &[("scope", &scope_b), ("resource", &a)]).refused(400, "invalid_scope");
    let both = format!("{scope_a} {scope_b}");
    ask(&wide, &[("scope", &both)]).refused(400, "invalid_scope");
    // RFC 6749 5.1: what is given instead of what was asked for is said.
    assert_eq!(ask(&wide, &[("scope", &both), ("resource", &b)]).text("scope"), scope_b);
    assert_eq!(ask(&narrow, &[("scope", &scope_a)]).text("scope"), scope_a);
    assert_eq!(ask(&wide, &[("scope", &format!("{both} {name}.own"))]).text("scope"), format!("{name}.own"));
    // Nothing was asked for, and nothing differs.
    let access = ask(&wide, &[("resource", &bare)]).ok();
    assert_eq!(claims(access["access_token"].as_str().unwrap())["aud"], bare);
}

#[test]
fn s37_a_grant_for_several_apis_waits_until_one_is_named_and_spends_nothing_before() {
    let w = world();
    let (a, b, bare, name) = apis(&w);
    let (scope_a, scope_b) = (format!("{name}.a"), format!("{name}.b"));
    let app = w.server.client(&json!({
        "redirect_uris": [format!("https://{name}.example/")], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true, "scope": format!("openid {scope_a} {scope_b}"), "resources": [a, b, bare],
    }));
    let browser = w.browser();
    let told = |answer: &support::Answer| {
        answer.refused(400, "invalid_target");
        answer.text("error_description")
    };
    // A plain OAuth request for two APIs.
    let plain = app.request().with("scope", &format!("{scope_a} {scope_b}"));
    let code = browser.through(plain.url()).code();
    app.redeem_with(&code, &[("resource", &bare)]).refused(400, "invalid_target");
    let tokens = app.redeem_with(&code, &[("resource", &a)]).ok();
    assert_eq!(
        (&tokens["scope"], &claims(tokens["access_token"].as_str().unwrap())["aud"]),
        (&json!(scope_a), &json!(a))
    );
    let code = browser.through(plain.url()).code();
    let description = told(&app.redeem(&code));
    assert!(description.contains(&a) && description.contains(&b) && !description.contains(&bare), "{description}");
    let tokens = Tokens(app.redeem_with(&code, &[("resource", &b)]).ok());
    told(&app.refresh(tokens.refresh()));
    told(&app.refresh_with(tokens.refresh(), &[("resource", &b), ("scope", &scope_a)]));
    let again = Tokens(app.refresh_with(tokens.refresh(), &[("resource", &a)]).ok());
    assert_eq!(again.0["scope"], scope_a);
    // Two resources, of which the one that is named has none of the scope.
    for scope in [scope_b.clone(), format!("openid {scope_b}")] {
        let request = app.request().with("scope", &scope).with("resource", &a).and("resource", &b);
        let code = browser.through(request.url()).code();
        let description = told(&app.redeem_with(&code, &[("resource", &a)]));
        assert!(description.contains(&b) && !description.contains(&a), "{description}");
        assert_eq!(app.redeem_with(&code, &[("resource", &b)]).text("scope"), scope_b);
    }
    // Scopes of an API that the request is not for.
    let foreign = app.request().with("scope", &scope_b).with("resource", &a);
    assert_eq!(browser.open(foreign.url()).error(), "invalid_scope");
    // An API without scopes: `openid` is answered by the ID token.
    let code = browser.through(app.request().with("resource", &bare).url()).code();
    let tokens = Tokens(app.redeem(&code).ok());
    assert_eq!((&tokens.0["scope"], &claims(tokens.access())["aud"]), (&json!("openid"), &json!(bare)));
    assert_eq!(claims(tokens.id())["aud"], app.id);
}

#[test]
fn s17_scopes_of_an_api_beside_openid_are_granted_for_it_and_its_token_is_one_refresh_away() {
    let w = world();
    let (a, b, _, name) = apis(&w);
    let scope = format!("{name}.a");
    let app = w.server.client(&json!({
        "redirect_uris": [format!("https://{name}.example/")], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true, "scope": format!("openid email {name}.a {name}.b"), "resources": [a, b],
    }));
    let browser = w.browser();
    let request = app.request().with("scope", &format!("openid email {scope}"));
    let code = browser.through(request.url()).code();
    let first = Tokens(app.redeem(&code).ok());
    assert_eq!((&claims(first.access())["aud"], &first.0["scope"]), (&json!(app.issuer), &json!("email openid")));
    w.web.userinfo(first.access()).ok();
    app.refresh_with(first.refresh(), &[("resource", &b)]).refused(400, "invalid_target");
    let second = Tokens(app.refresh_with(first.refresh(), &[("resource", &a)]).ok());
    assert_eq!((&claims(second.access())["aud"], &second.0["scope"]), (&json!(a), &json!(scope)));
    // Or at once.
    let code = browser.open(request.url()).code();
    assert_eq!(app.redeem_with(&code, &[("resource", &a)]).text("scope"), scope);
}

/// A client that signs its assertions.
fn signer(w: &World) -> (App, ClientKey) {
    let key = ClientKey::generate();
    let app = w.server.client(&json!({
        "redirect_uris": ["https://signer.example/"], "grant_types": ["authorization_code", "client_credentials"],
        "scope": "openid jobs", "token_endpoint_auth_method": "private_key_jwt", "jwks": key.jwks(),
        "token_endpoint_auth_signing_alg": "ES256",
    }));
    assert_eq!(app.secret, None);
    (app, key)
}

fn assert_with(app: &App, assertion: &str) -> support::Answer {
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", assertion),
    ];
    send(post(app.url("/token"), &fields))
}

#[test]
fn s38_s39_an_assertion_names_the_issuer_and_is_used_once() {
    let w = world();
    let (app, key) = signer(&w);
    for typ in ["JWT", "client-authentication+jwt"] {
        let assertion = key.sign(typ, &ClientKey::assertion_claims(&app.issuer, &app.id));
        assert_with(&app, &assertion).ok();
        assert_with(&app, &assertion).refused(401, "invalid_client");
    }
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut claims = ClientKey::assertion_claims(&app.issuer, &app.id);
        change(&mut claims);
        key.sign("JWT", &claims)
    };
    let without = |name: &'static str| changed(&move |claims| drop(claims.as_object_mut().unwrap().remove(name)));
    let token_url = app.url("/token");
    for bad in [
        changed(&|claims| claims["aud"] = json!(token_url)),
        changed(&|claims| claims["aud"] = json!([app.issuer])),
        changed(&|claims| claims["aud"] = json!([app.issuer, token_url])),
        changed(&|claims| claims["aud"] = json!(format!("{}/", app.issuer))),
        changed(&|claims| claims["exp"] = json!(now() - 10)),
        changed(&|claims| claims["exp"] = json!(now() + 3600)),
        changed(&|claims| claims["iat"] = json!(now() + 600)),
        changed(&|claims| claims["nbf"] = json!(now() + 600)),
        without("aud"),
        without("exp"),
        without("jti"),
        without("sub"),
        without("iss"),
        support::jose::unsigned(&changed(&|_| ())),
        support::jose::tampered(&changed(&|_| ()), |claims| claims["jti"] = json!("other")),
        ClientKey::generate().sign("JWT", &ClientKey::assertion_claims(&app.issuer, &app.id)),
        String::new(),
        "a.b.c".to_owned(),
        "x".repeat(17_000),
    ] {
        let answer = assert_with(&app, &bad);
        assert!(matches!(answer.status, 400 | 401), "{bad}: {answer:?}");
        assert!(matches!(&*answer.text("error"), "invalid_client" | "invalid_request"), "{bad}: {answer:?}");
    }
}

#[test]
fn s40_one_method_the_registered_one_with_matching_names() {
    let w = world();
    let (app, key) = signer(&w);
    let good = || key.sign("JWT", &ClientKey::assertion_claims(&app.issuer, &app.id));
    for (name, value) in [("sub", &w.web.id), ("iss", &w.web.id)] {
        let mut claims = ClientKey::assertion_claims(&app.issuer, &app.id);
        claims[name] = json!(value);
        assert_with(&app, &key.sign("JWT", &claims)).refused(401, "invalid_client");
    }
    let assertion = good();
    let mut fields = vec![
        ("grant_type", "client_credentials"),
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", &assertion),
    ];
    fields.push(("client_id", &w.web.id));
    let answer = send(post(app.url("/token"), &fields));
    assert!(matches!(&*answer.text("error"), "invalid_client" | "invalid_request"), "{answer:?}");

    let (id, secret) = (w.web.id.as_str(), w.web.secret.as_deref().unwrap());
    let refresh = ("grant_type", "refresh_token");
    let two = post(w.server.url("/token"), &[refresh, ("client_id", id), ("client_secret", secret)]);
    send(two.header("authorization", basic(id, secret))).refused(400, "invalid_request");
    // Registered for Basic: the same secret in the body is not its method.
    let other = post(w.server.url("/token"), &[refresh, ("client_id", id), ("client_secret", secret)]);
    send(other).refused(401, "invalid_client");
    let third = post(w.server.url("/token"), &[refresh]);
    let in_header = third.header("authorization", basic(&w.third.id, w.third.secret.as_deref().unwrap()));
    send(in_header).refused(401, "invalid_client");
    // A confidential client without any proof, and a public client with one.
    send(post(w.server.url("/token"), &[refresh, ("client_id", id)])).refused(401, "invalid_client");
    let proof = post(w.server.url("/token"), &[refresh]).header("authorization", basic(&w.spa.id, "secret"));
    send(proof).refused(401, "invalid_client");
    let mismatch = post(w.server.url("/token"), &[refresh, ("client_id", &w.spa.id)]);
    let answer = send(mismatch.header("authorization", basic(id, secret)));
    assert!(matches!(&*answer.text("error"), "invalid_client" | "invalid_request"), "{answer:?}");
}

#[test]
fn s41_wrong_secrets_are_refused_alike() {
    let w = world();
    let secret = w.web.secret.as_deref().unwrap();
    assert!(secret.starts_with("cs_cs_"));
    let shown = w.server.cli_ok(&["client", "show", &w.web.id], "");
    assert!(!shown.contains(secret) && !shown.contains("client_secret\""), "shown once only: {shown}");
    let mut descriptions = Vec::new();
    for (id, secret) in [
        (&*w.web.id, ""),
        (&*w.web.id, "cs_cs_wrong"),
        (&*w.web.id, &secret[..secret.len() - 1]),
        (&*w.web.id, &secret.to_ascii_uppercase()),
        (&*w.web.id, w.machine.secret.as_deref().unwrap()),
        ("nobody", secret),
    ] {
        let request = post(w.server.url("/token"), &[("grant_type", "refresh_token"), ("refresh_token", "x")]);
        let answer = send(request.header("authorization", basic(id, secret)));
        answer.refused(401, "invalid_client");
        assert!(answer.header("www-authenticate").starts_with("Basic"), "RFC 6749 5.2: {answer:?}");
        descriptions.push(answer.body);
    }
    assert!(descriptions.windows(2).all(|pair| pair[0] == pair[1]), "{descriptions:?}");
}

#[test]
fn s42_basic_credentials_are_decoded_strictly() {
    let w = world();
    let (id, secret) = (w.web.id.as_str(), w.web.secret.as_deref().unwrap());
    let encode = |bytes: &[u8]| format!("Basic {}", STANDARD.encode(bytes));
    let good = encode(format!("{id}:{secret}").as_bytes());
    for bad in [
        "Basic".to_owned(),
        "Basic ".to_owned(),
        "Basic !!!!".to_owned(),
        format!("{good}="),
        format!("{good}*"),
        good.trim_end_matches('=').to_owned() + "\u{7f}",
        encode(id.as_bytes()),
        encode(b"\xff\xfe:secret"),
        encode(format!("{id}\0:{secret}").as_bytes()),
        encode(format!("{id}:{secret}\0").as_bytes()),
        encode(format!("{id}:%zz").as_bytes()),
        encode(format!("{id}:%ff").as_bytes()),
        format!("Bearer {secret}"),
    ] {
        let request = post(w.server.url("/token"), &[("grant_type", "refresh_token"), ("refresh_token", "x")]);
        let Ok(answer) = support::http::try_send(request.header("authorization", bad.as_bytes())) else { continue };
        assert!(matches!(answer.status, 400 | 401), "{bad}: {answer:?}");
        assert!(matches!(&*answer.text("error"), "invalid_client" | "invalid_request"), "{bad}: {answer:?}");
    }
    let request = || post(w.server.url("/token"), &[("grant_type", "refresh_token"), ("refresh_token", "x")]);
    let twice = request().header("authorization", &good).header("authorization", &good);
    assert!(matches!(send(twice).status, 400 | 401), "two Authorization headers");
    // The scheme's name knows no case, and both halves are form-encoded (RFC 6749 2.3.1).
    let encoded: Vec<_> = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let encoded = encoded.concat();
    let odd = encode(format!("{id}:{encoded}").as_bytes()).replacen("Basic", "bAsIc", 1);
    send(request().header("authorization", odd)).refused(400, "invalid_grant");
}

#[test]
fn s47_scope_is_bounded() {
    let w = world();
    let many: Vec<_> = (0..101).map(|n| format!("s{n}")).collect();
    for scope in [many.join(" "), "x".repeat(4097)] {
        w.machine
            .post("/token", &[("grant_type", "client_credentials"), ("scope", &scope)])
            .refused(400, "invalid_scope");
    }
}

#[test]
fn s50_a_refresh_family_ends_absolutely() {
    let w = World::new(&[("COUNTERSIGN_REFRESH_TOKEN__LIFETIME", "3s"), ("COUNTERSIGN_REFRESH_TOKEN__IDLE", "3s")]);
    let mut token = w.web.tokens(&w.browser(), "openid offline_access").refresh().to_owned();
    let start = Instant::now();
    let end = wait_for("the end of the family", || {
        let answer = w.web.refresh(&token);
        if answer.status == 200 {
            token = answer.text("refresh_token");
            return None;
        }
        Some(answer)
    });
    end.refused(400, "invalid_grant");
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[test]
fn s102_bodies_are_judged_before_they_are_believed() {
    let w = world();
    let url = w.server.url("/token");
    let good = "grant_type=client_credentials";
    for body in [
        "grant_type=client_credentials&grant_type=client_credentials",
        "grant_type=client_credentials&scope=jobs.read&scope=jobs.write",
        "grant_type=client_credentials&scope=%ff",
        "",
    ] {
        let request = HTTP.post(&url).header("content-type", "application/x-www-form-urlencoded").body(body);
        send(w.machine.authenticated(request)).refused(400, "invalid_request");
    }
    for kind in
        ["application/json", "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencodedx"]
    {
        let request = w.machine.authenticated(HTTP.post(&url).header("content-type", kind).body(good));
        let answer = send(request);
        assert!(matches!(answer.status, 400 | 415), "{kind}: {answer:?}");
        assert_eq!(answer.text("error"), "invalid_request", "{kind}");
    }
    send(w.machine.authenticated(HTTP.post(&url).body(good))).refused(400, "invalid_request");
    let charset = HTTP.post(&url).header("content-type", "application/x-www-form-urlencoded; charset=UTF-8").body(good);
    send(w.machine.authenticated(charset)).ok();
    let padded = |size: usize| format!("{good}&padding={}", "x".repeat(size - good.len() - 9));
    let sized = |size| HTTP.post(&url).header("content-type", "application/x-www-form-urlencoded").body(padded(size));
    send(w.machine.authenticated(sized(65_536))).ok();
    send(w.machine.authenticated(sized(65_537))).refused(413, "invalid_request");
    let in_query = HTTP.post(format!("{url}?{good}")).header("content-type", "application/x-www-form-urlencoded");
    send(w.machine.authenticated(in_query)).refused(400, "invalid_request");
}

#[test]
fn other_methods_are_405() {
    let w = world();
    for path in ["/token", "/revoke", "/introspect"] {
        for method in [reqwest::Method::GET, reqwest::Method::PUT, reqwest::Method::DELETE] {
            let answer = send(HTTP.request(method, w.server.url(path)));
            assert_eq!(answer.status, 405, "{path}: {answer:?}");
            assert!(answer.header("allow").contains("POST"), "{path}: {answer:?}");
        }
    }
}

#[test]
fn s84_each_client_gets_the_algorithms_it_registered() {
    let w = world();
    let browser = w.browser();
    for (id_alg, access_alg) in [("ES256", "RS256"), ("PS256", "EdDSA"), ("EdDSA", "ES256")] {
        let app = w.server.client(&json!({
            "redirect_uris": [format!("https://{}.example/", word())], "skip_consent": true,
            "id_token_signed_response_alg": id_alg, "access_token_signing_alg": access_alg,
        }));
        let tokens = app.tokens(&browser, "openid");
        assert_eq!(
            (&header(tokens.id())["alg"], &header(tokens.access())["alg"]),
            (&json!(id_alg), &json!(access_alg))
        );
        verify(tokens.id(), &w.jwks());
        verify(tokens.access(), &w.jwks());
        app.userinfo(tokens.access()).ok();
    }
    for alg in ["none", "HS256"] {
        let metadata = json!({"redirect_uris": ["https://x.example/"], "id_token_signed_response_alg": alg});
        assert!(!w.server.cli(&["client", "create", "-"], &metadata.to_string()).status.success(), "{alg}");
    }
}

#[test]
fn s110_s112_secrets_are_neither_stored_nor_logged() {
    let w = World::new(&[("COUNTERSIGN_LOG__LEVEL", "trace")]);
    let browser = w.browser();
    let code = w.web.code(&browser, "openid offline_access");
    let tokens = Tokens(w.web.redeem(&code).ok());
    let next = Tokens(w.web.refresh(tokens.refresh()).ok());
    let cookies: Vec<_> = browser.cookies().into_values().filter(|value| value.len() > 16).collect();
    let mut secrets = vec![
        code.as_str(),
        tokens.access(),
        tokens.id(),
        tokens.refresh(),
        next.refresh(),
        w.web.secret.as_deref().unwrap(),
        support::PASSWORD,
    ];
    secrets.extend(cookies.iter().map(String::as_str));
    w.web.redeem(&code).refused(400, "invalid_grant");
    let log = w.server.log();
    assert!(log.contains("DEBUG") && !log.contains('\u{1b}'), "colours are for terminals");
    let mut places = vec![("the log".to_owned(), log.into_bytes())];
    for file in std::fs::read_dir(w.server.data_dir()).unwrap() {
        let path = file.unwrap().path();
        places.push((path.display().to_string(), std::fs::read(path).unwrap_or_default()));
    }
    for secret in secrets {
        for (place, bytes) in &places {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {place}");
        }
    }
}

#[test]
fn rotate_secret_replaces_the_secret() {
    let w = world();
    let app = w.server.client(&json!({
        "grant_types": ["client_credentials"], "response_types": [], "redirect_uris": [], "scope": "jobs",
    }));
    let rotated: Value = serde_json::from_str(&w.server.cli_ok(&["client", "rotate-secret", &app.id], "")).unwrap();
    let mut renewed = app.clone();
    renewed.secret = rotated["client_secret"].as_str().map(str::to_owned);
    assert_ne!(app.secret, renewed.secret);
    wait_for("the new secret", || {
        (renewed.post("/token", &[("grant_type", "client_credentials")]).status == 200).then_some(())
    });
}

#[test]
fn two_browsers_are_two_grants() {
    let w = world();
    let sign_in = |browser: &Browser| w.web.tokens(browser, "openid");
    let (one, two) = (sign_in(&w.browser()), sign_in(&w.browser()));
    assert_ne!(claims(one.id())["sid"], claims(two.id())["sid"]);
    w.web.revoke(one.refresh());
    assert!(w.web.is_active(two.access()));
}
