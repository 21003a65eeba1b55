//! The authorization endpoint: RFC 6749 3.1 and 4.1, OIDC Core 3.1.2, RFC 7636, RFC 8252, RFC 9207.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use support::app::Tokens;
use support::browser::{tags, unescape};
use support::http::{post, query};
use support::postgres::amid;
use support::{HTTP, PASSWORD, VERIFIER, World, challenge, claims, get, send, wait_until, word, world};
use url::Url;

#[test]
fn a_person_signs_in_and_the_client_gets_a_code_with_state_and_iss() {
    let w = world();
    let browser = w.browser();
    let callback = browser.through(w.web.request().url()).callback();
    assert_eq!(callback["state"], "a state & more");
    assert_eq!(callback["iss"], w.server.issuer);
    assert!(callback["code"].starts_with("cs_ac_"));
    assert_eq!(callback.len(), 3, "{callback:?}");
    // The session lives: the second time nothing is asked.
    assert!(browser.open(w.web.request().url()).foreign);
}

#[test]
fn the_request_may_come_by_post() {
    let w = world();
    let browser = w.browser();
    let answer = browser.send(w.web.request().as_post());
    assert_eq!(answer.status, 303, "{answer:?}");
    let page = browser.follow(Url::parse(&w.server.url("/authorize")).unwrap(), answer);
    let page = browser.sign_in_as(&page, "ada", PASSWORD);
    assert_eq!(page.callback()["state"], "a state & more");
}

#[test]
fn s1_redirect_uri_is_compared_byte_for_byte() {
    let w = world();
    for wrong in [
        "https://web.example/callback/",
        "https://web.example/callback/more",
        "https://web.example/callback?x=1",
        "https://web.example/callback?",
        "https://web.example/callback#",
        "https://web.example/callback#fragment",
        "https://user@web.example/callback",
        "https://web.example@evil.example/callback",
        "https://web.example\\@evil.example/callback",
        "https://web.example\\callback",
        "https://web.example/%63allback",
        "https://web.example/%2e/callback",
        "https://web.example/./callback",
        "https://web.example/x/../callback",
        "https://web.example//callback",
        "https://web.example/Callback",
        "https://WEB.example/callback",
        "HTTPS://web.example/callback",
        "https://web.example:443/callback",
        "https://web.example:8443/callback",
        "https://web.example./callback",
        "https://web.example.evil.example/callback",
        "https://evil.example/callback",
        "https://xn--wb-xka.example/callback",
        "https://wéb.example/callback",
        "http://web.example/callback",
        "//web.example/callback",
        "/callback",
        "javascript:alert(1)",
        "data:text/html,x",
        " https://web.example/callback",
        "https://web.example/callback\n",
        "https://web.example/call\tback",
        "https://web.example/callback\0",
        "",
    ] {
        let url = w.web.request().with("redirect_uri", wrong).url();
        let page = w.browser().open(&url);
        assert_eq!(page.url.as_str(), Url::parse(&url).unwrap().as_str(), "{wrong:?} moved the browser");
        page.is_error_page();
    }
}

#[test]
fn s1_a_doubled_redirect_uri_is_refused() {
    let w = world();
    let request = w.web.request();
    w.browser().open(request.clone().and("redirect_uri", &w.web.redirect_uri).url()).is_error_page();
    w.browser().open(request.clone().and("redirect_uri", "https://evil.example/").url()).is_error_page();
    w.browser().open(request.and("client_id", &w.spa.id).url()).is_error_page();
}

#[test]
fn s2_bad_client_or_redirect_uri_stays_on_our_page() {
    let w = world();
    let request = w.web.request();
    for bad in [
        request.clone().with("client_id", "nobody"),
        request.clone().without("client_id"),
        request.clone().without("redirect_uri"),
        request.clone().with("client_id", &w.spa.id),
        w.machine.request().with("redirect_uri", "https://web.example/callback"),
        request.with("redirect_uri", "https://evil.example/").with("response_type", "nonsense"),
    ] {
        w.browser().open(bad.url()).is_error_page();
        let answer = w.browser().send(bad.as_post());
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

#[test]
fn other_faults_go_to_the_client_with_state_and_iss() {
    let w = world();
    let request = w.web.request();
    for (bad, error) in [
        (request.clone().without("response_type"), "invalid_request"),
        (request.clone().and("scope", "openid"), "invalid_request"),
        (request.clone().and("nonce", "other"), "invalid_request"),
        (request.clone().with("scope", "email not-registered"), "invalid_scope"),
        (request.clone().with("scope", "openid \"quoted\""), "invalid_scope"),
        (request.clone().with("prompt", "none login"), "invalid_request"),
        (request.clone().with("prompt", "nonsense"), "invalid_request"),
        (request.clone().with("max_age", "-1"), "invalid_request"),
        (request.clone().with("max_age", "soon"), "invalid_request"),
        (request.clone().with("response_mode", "nonsense"), "invalid_request"),
        (request.clone().with("claims", "{"), "invalid_request"),
        (request.clone().with("request", "e30.e30."), "request_not_supported"),
        (request.clone().with("request_uri", "https://web.example/r"), "request_uri_not_supported"),
        (request.clone().with("registration", "{}"), "registration_not_supported"),
        (request.with("prompt", "none"), "login_required"),
    ] {
        // By GET and by POST alike (Core section 3.1.2.1).
        let (by_get, by_post) = (w.browser().open(bad.url()), w.browser());
        let answer = by_post.send(bad.as_post());
        for page in [by_get, by_post.follow(w.server.url("/authorize").parse().unwrap(), answer)] {
            assert_eq!(page.error(), error, "{:?}", bad.parameters);
            let callback = page.callback();
            assert_eq!((&*callback["iss"], &*callback["state"]), (&*w.server.issuer, "a state & more"));
            assert!(page.url.as_str().starts_with("https://web.example/callback?"), "{}", page.url);
        }
    }
}

#[test]
fn s10_s46_implicit_and_hybrid_are_absent() {
    let w = world();
    for response_type in ["token", "id_token", "code token", "code id_token", "code id_token token", "none", "nonsense"]
    {
        let page = w.browser().open(w.web.request().with("response_type", response_type).url());
        // A refused response type of the fragment family may be answered in the fragment.
        let text = page.url.as_str();
        assert!(page.foreign && text.contains("error=unsupported_response_type"), "{response_type}: {text}");
        assert!(!text.contains("token="), "{text}");
    }
}

#[test]
fn s3_registration_refuses_dangerous_uris() {
    let w = world();
    for uri in [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "http://web.example/callback",
        "https://web.example/callback#fragment",
        "https://user@web.example/callback",
        "https://*.web.example/callback",
        "/callback",
        "myapp:/callback",
    ] {
        for member in ["redirect_uris", "post_logout_redirect_uris"] {
            let mut metadata = json!({"redirect_uris": ["https://web.example/callback"]});
            metadata[member] = json!([uri]);
            let output = w.server.cli(&["client", "create", "-"], &metadata.to_string());
            assert!(!output.status.success() && output.stdout.is_empty(), "{member} {uri}: {output:?}");
        }
    }
    for member in ["client_uri", "logo_uri", "tos_uri", "policy_uri"] {
        let metadata = json!({"redirect_uris": ["https://web.example/callback"], member: "javascript:alert(1)"});
        let output = w.server.cli(&["client", "create", "-"], &metadata.to_string());
        assert!(!output.status.success() && output.stdout.is_empty(), "{member}: {output:?}");
    }
}

#[test]
fn s5_flow_state_stays_at_the_server() {
    let w = world();
    let page = w.browser().open(w.web.request().url());
    assert!(page.is("login-page").url.path().starts_with("/flow/"), "{}", page.url);
    assert_eq!(page.url.query(), None);
    assert!(!page.answer.body.contains("web.example/callback"), "the redirect_uri is in the page");
    // Another browser has no part in this flow.
    let stranger = w.browser().open(page.url.as_str());
    assert!(!stranger.foreign && !stranger.has("login-form"), "{stranger:?}");
}

#[test]
fn the_last_form_of_a_sign_in_is_answered_by_the_way_to_the_client() {
    let w = world();
    let answered = |browser: &support::Browser, page: &support::Page, button: &str, values: &[(&str, &str)]| {
        let form = page.form_of(button);
        let request = post(page.url.join(&form.action).unwrap().as_str(), &form.filled(values));
        let answer = browser.send(request.header("origin", &w.server.issuer));
        assert_eq!(answer.status, 303, "{answer:?}");
        answer.header("location").to_owned()
    };
    let person = [("username", "ada"), ("password", PASSWORD)];
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let location = answered(&browser, &page, "login-submit", &person);
    assert!(location.starts_with("https://web.example/callback?") && location.contains("code="), "{location}");
    assert!(browser.cookies().contains_key("cs_session"), "{:?}", browser.cookies());
    let app = w.server.client(&json!({"redirect_uris": ["https://last.example/callback"]}));
    let page = browser.open(app.request().url());
    let location = answered(&browser, page.is("consent-page"), "consent-allow", &[]);
    assert!(location.starts_with("https://last.example/callback?") && location.contains("code="), "{location}");
    // Where a page is left, that page comes by an address of its own.
    let (browser, app) = (w.browser(), w.server.client(&json!({"redirect_uris": ["https://last.example/callback"]})));
    let page = browser.open(app.request().url());
    assert!(answered(&browser, &page, "login-submit", &person).starts_with("/flow/"));
}

#[test]
fn a_button_that_is_pressed_twice_leads_to_the_client_both_times() {
    let w = world();
    let app = w.server.client(&json!({"redirect_uris": ["https://twice.example/callback"]}));
    let browser = w.browser();
    let page = browser.open(app.request().url());
    let before = browser.cookies();
    let consent = browser.sign_in_as(&page, "ada", PASSWORD);
    let first = browser.press(consent.is("consent-page"), "consent-allow", &[]).code();
    // The browser has thrown the first answer away, or only where it led.
    let again = browser.press(&consent, "consent-allow", &[]).code();
    browser.set_cookies(before);
    let anew = browser.sign_in_as(&page, "ada", PASSWORD).code();
    assert!(first != again && again != anew);
    Tokens(app.redeem(&anew).ok()).id();
    // Who changes their mind is not answered by what they allowed.
    let app = w.server.client(&json!({"redirect_uris": ["https://twice.example/callback"]}));
    let consent = browser.open(app.request().url());
    browser.press(consent.is("consent-page"), "consent-allow", &[]).code();
    assert_eq!(browser.press(&consent, "consent-deny", &[]).error(), "access_denied");
    // A wrong password leads nowhere, also then.
    let other = w.browser();
    let page = other.open(w.web.request().url());
    let before = other.cookies();
    other.sign_in_as(&page, "ada", PASSWORD).code();
    other.set_cookies(before);
    other.sign_in_as(&page, "ada", "not the password at all").is("login-page");
}

#[test]
fn a_flow_that_was_cancelled_is_over_at_once() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    assert_eq!(browser.press(&page, "login-cancel", &[]).error(), "access_denied");
    let form = page.form_of("login-submit");
    let url = page.url.join(&form.action).unwrap();
    let fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
    let answer = browser.send(post(url.as_str(), &fields).header("origin", w.server.url("")));
    browser.follow(url, answer).is_error_page();
}

#[test]
fn s6_nothing_sent_is_reflected_as_markup() {
    let w = world();
    let evil = "\"><script>alert(1)</script>";
    let request = w.web.request().with("state", evil).with("login_hint", evil);
    let pages = [
        w.browser().open(request.url()),
        w.browser().open(request.clone().with("client_id", evil).url()),
        w.browser().open(request.clone().with("redirect_uri", evil).url()),
        w.browser().open(w.third.request().with("login_hint", evil).url()),
    ];
    for page in pages {
        assert!(!page.answer.body.contains("<script>alert"), "{page:?}");
    }
    let browser = w.browser();
    let page = browser.open(request.with("response_mode", "form_post").url());
    let page = browser.sign_in_as(&page, "ada", PASSWORD);
    assert!(!page.answer.body.contains("<script>alert"), "{page:?}");
    assert!(unescape(&page.answer.body).contains(evil), "{page:?}");
}

#[test]
fn s7_iss_comes_with_every_response() {
    let w = world();
    let browser = w.browser();
    for mode in ["query", "fragment"] {
        let page = browser.through(w.web.request().with("response_mode", mode).url());
        let sent = page.url[url::Position::BeforePath..].to_owned();
        let separator = if mode == "query" { "/callback?" } else { "/callback#" };
        let parameters = sent.strip_prefix(separator).unwrap_or_else(|| panic!("{mode}: {sent}"));
        let parameters = query(&Url::parse(&format!("x:?{parameters}")).unwrap());
        assert_eq!(parameters["iss"], w.server.issuer, "{mode}");
        assert_eq!(parameters["state"], "a state & more", "{mode}");
        assert!(parameters.contains_key("code"), "{mode}");
    }
    let fault = w.browser().open(w.web.request().with("prompt", "none").with("response_mode", "fragment").url());
    let fragment = fault.url.fragment().unwrap();
    assert!(fragment.contains("error=login_required") && fragment.contains("iss=http"), "{fragment}");
}

#[test]
fn form_post_is_a_page_that_posts_to_the_client() {
    let w = world();
    let page = w.browser().through(w.web.request().with("response_mode", "form_post").url());
    assert_eq!((page.foreign, page.answer.status), (false, 200), "{page:?}");
    assert!(page.answer.header("cache-control").contains("no-store"));
    let policy = page.answer.header("content-security-policy");
    assert!(policy.contains("form-action") && policy.contains("https://web.example"), "{policy}");
    assert!(!policy.contains("unsafe-inline"), "{policy}");
    let tags: Vec<_> = tags(&page.answer.body).collect();
    let form = tags.iter().find(|tag| tag.name == "form").unwrap();
    assert_eq!(form.attributes["action"], w.web.redirect_uri);
    assert_eq!(form.attributes["method"].to_ascii_lowercase(), "post");
    let value = |name: &str| {
        let input = tags.iter().find(|tag| tag.attributes.get("name").is_some_and(|other| other == name));
        input.unwrap_or_else(|| panic!("no {name}")).attributes["value"].clone()
    };
    assert_eq!((value("state").as_str(), value("iss")), ("a state & more", w.server.issuer.clone()));
    assert_eq!(w.web.redeem(&value("code")).status, 200);
}

#[test]
fn the_redirect_uri_keeps_its_own_query() {
    let w = world();
    let callback = w.browser().through(w.third.request().url()).callback();
    assert_eq!(callback["tenant"], "1");
    assert!(callback.contains_key("code"));
}

#[test]
fn s8_the_nonce_comes_back_and_the_code_needs_its_verifier() {
    let w = world();
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    assert_eq!(claims(tokens.id())["nonce"], "a-nonce");
    for verifier in ["", "too-short", &"x".repeat(43), &"x".repeat(129), &format!("{VERIFIER} ")] {
        let code = w.web.code(&browser, "openid");
        let answer = w.web.post(
            "/token",
            &[
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("redirect_uri", &w.web.redirect_uri),
                ("code_verifier", verifier),
            ],
        );
        assert_eq!(answer.status, 400, "{verifier}: {answer:?}");
    }
}

#[test]
fn s9_pkce_cannot_be_downgraded() {
    let w = world();
    for app in [&w.web, &w.spa, &w.native] {
        for bad in [
            app.request().without("code_challenge").without("code_challenge_method"),
            app.request().without("code_challenge"),
            app.request().with("code_challenge_method", "plain"),
            app.request().without("code_challenge_method"),
            app.request().with("code_challenge_method", "S512"),
            app.request().with("code_challenge", "short"),
            app.request().with("code_challenge", &"=".repeat(43)),
        ] {
            assert_eq!(w.browser().open(bad.url()).error(), "invalid_request", "{:?}", bad.parameters);
        }
    }
}

#[test]
fn s9_without_challenge_no_verifier_is_taken_and_with_challenge_it_is_required() {
    let w = world();
    let browser = w.browser();
    let bare = w.legacy.request().without("code_challenge").without("code_challenge_method");
    let redirect_uri = w.legacy.redirect_uri.as_str();
    let fields = |code| [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", redirect_uri)];

    let code = browser.through(bare.url()).code();
    w.legacy.redeem(&code).refused(400, "invalid_grant");
    let code = browser.through(bare.url()).code();
    w.legacy.post("/token", &fields(&code)).ok();
    let code = browser.through(w.legacy.request().url()).code();
    w.legacy.post("/token", &fields(&code)).refused(400, "invalid_grant");
    let plain = bare.with("code_challenge", &challenge(VERIFIER)).with("code_challenge_method", "plain");
    assert_eq!(browser.open(plain.url()).error(), "invalid_request");
}

#[test]
fn a_public_client_cannot_be_registered_without_pkce() {
    let w = world();
    let metadata = json!({
        "redirect_uris": ["https://x.example/"], "token_endpoint_auth_method": "none", "require_pkce": false,
    });
    assert!(!w.server.cli(&["client", "create", "-"], &metadata.to_string()).status.success());
}

#[test]
fn a_native_app_may_choose_its_loopback_port() {
    let w = world();
    let browser = w.browser();
    for uri in [
        "http://127.0.0.1:51234/callback",
        "http://127.0.0.1/callback",
        "http://[::1]:8/callback",
        "com.example.app:/callback",
    ] {
        let page = browser.through(w.native.request().with("redirect_uri", uri).url());
        assert!(page.url.as_str().starts_with(uri), "{}", page.url);
        // The token request names the very URI that was used.
        let mut app = w.native.clone();
        uri.clone_into(&mut app.redirect_uri);
        app.redeem(&page.code()).ok();
    }
    for uri in [
        "http://127.0.0.1:51234/other",
        "http://localhost:51234/callback",
        "http://127.0.0.2:51234/callback",
        "https://127.0.0.1:51234/callback",
        "http://127.0.0.1:51234/callback?x=1",
        "http://user@127.0.0.1:51234/callback",
        "http://127.0.0.1:/callback",
        "http://127.0.0.1:99999/callback",
        "http://127.0.0.1:0x50/callback",
        "http://127.1:51234/callback",
        "http://127.0.0.1:51234:1/callback",
        "http://127.0.0.1.evil.example:1/callback",
        "com.example.app:/callback/",
        "com.example.app://callback",
    ] {
        w.browser().open(w.native.request().with("redirect_uri", uri).url()).is_error_page();
    }
}

#[test]
fn s78_prompt_login_asks_again_and_auth_time_is_true() {
    let w = world();
    let browser = w.browser();
    let before = claims(w.web.tokens(&browser, "openid").id());
    let page = browser.open(w.web.request().with("prompt", "login").url());
    page.is("login-page");
    // Going on without the password leads nowhere.
    browser.open(page.url.as_str()).is("login-page");
    let since = before["auth_time"].as_u64().unwrap();
    wait_until(std::time::Instant::now() + std::time::Duration::from_millis(1100));
    let page = browser.press(&page, "login-submit", &[("password", PASSWORD)]);
    let after = claims(w.web.redeem(&page.code()).text("id_token").as_str());
    assert!(after["auth_time"].as_u64().unwrap() > since, "{before} {after}");
    assert_eq!(after["sub"], before["sub"]);
}

#[test]
fn s78_max_age_asks_again_when_the_sign_in_is_too_old() {
    let w = world();
    let browser = w.browser();
    browser.through(w.web.request().url()).code();
    let page = browser.open(w.web.request().with("max_age", "1000").url());
    let id_token = w.web.redeem(&page.code()).text("id_token");
    assert!(claims(&id_token)["auth_time"].is_u64(), "{id_token}");
    browser.open(w.web.request().with("max_age", "0").url()).is("login-page");
    wait_until(std::time::Instant::now() + std::time::Duration::from_millis(2100));
    browser.open(w.web.request().with("max_age", "1").url()).is("login-page");
    let silent = browser.open(w.web.request().with("max_age", "1").with("prompt", "none").url());
    assert_eq!(silent.error(), "login_required");
}

#[test]
fn prompt_none_never_shows_a_page() {
    let w = world();
    let browser = w.browser();
    let silent = w.web.request().with("prompt", "none");
    assert_eq!(browser.open(silent.url()).error(), "login_required");
    browser.through(w.web.request().url()).code();
    browser.open(silent.url()).code();
    let app = w.server.client(&json!({"redirect_uris": ["https://silent.example/callback"]}));
    assert_eq!(browser.open(app.request().with("prompt", "none").url()).error(), "consent_required");
}

#[test]
fn prompt_select_account_and_consent_show_their_pages() {
    let w = world();
    let browser = w.browser();
    browser.through(w.third.request().url()).code();
    browser.open(w.third.request().url()).code();
    browser.open(w.third.request().with("prompt", "consent").url()).is("consent-page");
    let select = w.web.request().with("prompt", "select_account").url();
    let page = browser.open(&select);
    browser.press(page.is("select-page"), "account-continue", &[]).code();
    let page = browser.press(&browser.open(&select), "account-other", &[]);
    browser.sign_in_as(&page, "ada", PASSWORD).code();
}

#[test]
fn s17_consent_is_remembered_for_what_was_shown_and_never_widened() {
    let w = world();
    let browser = w.browser();
    let app = w.server.client(&json!({
        "client_name": "Wide", "redirect_uris": ["https://wide.example/callback"], "scope": "openid email phone notes",
    }));
    let page = browser.sign_in_as(&browser.open(app.request().with("scope", "openid email").url()), "ada", PASSWORD);
    page.is("consent-page");
    let text = &page.answer.body;
    assert!(text.contains("Wide") && text.contains("ada"), "{text}");
    let page = browser.press(&page, "consent-allow", &[]);
    assert_eq!(app.redeem(&page.code()).text("scope"), "email openid");
    browser.open(app.request().with("scope", "openid").url()).code();
    let wider = app.request().with("scope", "openid email phone");
    assert_eq!(browser.open(wider.clone().with("prompt", "none").url()).error(), "consent_required");
    let page = browser.open(wider.url());
    let denied = browser.press(page.is("consent-page"), "consent-deny", &[]);
    assert_eq!(denied.error(), "access_denied");
    assert_eq!(denied.callback()["iss"], w.server.issuer);
    browser.open(wider.url()).is("consent-page");
}

#[test]
fn s18_an_app_that_anybody_can_pretend_to_be_gets_no_silent_consent() {
    let w = world();
    let browser = w.browser();
    browser.through(w.native.request().url()).code();
    // RFC 8252 8.6: neither the remembered consent nor `skip_consent` speaks for whoever listens on a loopback port.
    browser.open(w.native.request().url()).is("consent-page");
}

#[test]
fn cancelling_the_sign_in_is_access_denied() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let page = browser.press(&page, "login-cancel", &[]);
    assert_eq!(page.error(), "access_denied");
    assert_eq!(page.callback()["state"], "a state & more");
}

#[test]
fn login_hint_fills_the_form() {
    let w = world();
    let page = w.browser().open(w.web.request().with("login_hint", "grace").url());
    assert_eq!(page.form_of("login-submit").value("username"), Some("grace"));
}

#[test]
fn id_token_hint_must_name_the_person_who_is_signed_in() {
    let w = world();
    w.server.user("hedy");
    let (ada, hedy) = (w.browser(), w.browser());
    let hint = w.web.tokens(&ada, "openid");
    hedy.through_as(w.web.request().url(), "hedy").code();
    let request = w.web.request().with("prompt", "none").with("id_token_hint", hint.id());
    ada.open(request.url()).code();
    assert_eq!(hedy.open(request.url()).error(), "login_required");
    let forged = support::jose::tampered(hint.id(), |claims| claims["sub"] = json!("other"));
    assert_eq!(ada.open(request.with("id_token_hint", &forged).url()).error(), "invalid_request");

    // Core 3.1.2.2 and 5.5.1: `claims` may name them too, and several.
    let ada_is = claims(hint.id())["sub"].clone();
    let silent = w.web.request().with("prompt", "none");
    let ask = |claims: serde_json::Value| silent.clone().with("claims", &claims.to_string());
    for named in [json!({"value": ada_is}), json!({"values": ["other", ada_is]})] {
        for place in ["id_token", "userinfo"] {
            let request = ask(json!({place: {"sub": named}}));
            ada.open(request.url()).code();
            assert_eq!(hedy.open(request.url()).error(), "login_required", "{place} {named}");
        }
    }
    let two = json!({"id_token": {"sub": {"value": ada_is}}, "userinfo": {"sub": {"value": "other"}}});
    for nobody in [two, json!({"id_token": {"sub": {"value": 7}}}), json!({"id_token": {"sub": {"values": []}}})] {
        assert_eq!(ada.open(ask(nobody.clone()).url()).error(), "invalid_request", "{nobody}");
    }
    let another = ask(json!({"id_token": {"sub": {"value": "other"}}})).with("id_token_hint", hint.id());
    assert_eq!(ada.open(another.url()).error(), "invalid_request");
}

#[test]
fn claims_may_be_asked_one_by_one() {
    let w = world();
    let browser = w.browser();
    let asked = json!({"userinfo": {"email": null}, "id_token": {"auth_time": {"essential": true}, "email": null}});
    let page = browser.through(w.web.request().with("claims", &asked.to_string()).url());
    let tokens = w.web.redeem(&page.code()).ok();
    let id = claims(tokens["id_token"].as_str().unwrap());
    assert_eq!(id["email"], "ada@example.com");
    assert!(id["auth_time"].is_u64(), "{id}");
    let info = w.web.userinfo(tokens["access_token"].as_str().unwrap()).ok();
    assert_eq!(info["email"], "ada@example.com");
}

#[test]
fn s17_the_page_shows_the_apis_that_are_granted_and_no_others() {
    let w = world();
    let name = word();
    let api = |what: &str| format!("https://{what}.{name}.example/");
    for (what, scope) in [("one", "read one"), ("two", "read"), ("never", "read one")] {
        let scope: Vec<_> = scope.split(' ').map(|scope| format!("{name}.{scope}")).collect();
        w.server.resource(&api(what), &scope.join(" "), &[]);
    }
    let app = w.server.client(&json!({
        "client_name": "Caller", "redirect_uris": [format!("https://{name}.example/callback")],
        "scope": format!("openid {name}.read {name}.one"), "resources": [api("one"), api("two")],
    }));
    let browser = w.browser();
    browser.through(w.web.request().url()).code();
    let asks = |scope: &str, resource: Option<&str>| {
        let request = app.request().with("scope", scope);
        let request = resource.iter().fold(request, |request, what| request.with("resource", &api(what)));
        let page = browser.open(request.url());
        page.is("consent-page");
        let shown: Vec<_> =
            ["one", "two", "never"].into_iter().filter(|what| page.answer.body.contains(&api(what))).collect();
        (page, shown)
    };
    let read = format!("openid {name}.read {name}.one");
    assert_eq!(asks(&read, None).1, ["one", "two"], "only those that the client may have tokens for");
    let plain = format!("{name}.read");
    assert_eq!(asks(&plain, None).1, ["one", "two"]);
    // What belongs to another API alone is neither shown nor granted.
    let (page, shown) = asks(&read, Some("two"));
    assert_eq!(shown, ["two"]);
    let tokens = app.redeem(&browser.press(&page, "consent-allow", &[]).code()).ok();
    assert_eq!(
        (&tokens["scope"], &claims(tokens["access_token"].as_str().unwrap())["aud"]),
        (&json!(plain), &json!(api("two")))
    );
    asks(&read, Some("one"));
}

#[test]
fn s17_claims_open_nothing_beyond_the_registered_scope() {
    let w = world();
    w.server.user("iris");
    w.server.cli_ok(&["user", "set-claims", "iris", "-"], r#"{"phone_number": "+441234567", "name": "Iris"}"#);
    let app = w.server.client(&json!({
        "client_name": "Narrow", "redirect_uris": ["https://narrow.example/callback"], "scope": "openid phone",
    }));
    let names = json!({"email": {"essential": true}, "name": null, "address": null, "phone_number": null});
    let mut in_id_token = names.clone();
    in_id_token["auth_time"] = json!({"essential": true});
    let asked = json!({"userinfo": names, "id_token": in_id_token}).to_string();
    let browser = w.browser();
    let page = browser.sign_in_as(&browser.open(app.request().with("claims", &asked).url()), "iris", PASSWORD);
    page.is("consent-page");
    let text = &page.answer.body;
    assert!(text.contains("See your phone number"), "{text}");
    for hidden in ["See your email", "See your name", "See your address"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    let tokens = app.redeem(&browser.press(&page, "consent-allow", &[]).code()).ok();
    let id = claims(tokens["id_token"].as_str().unwrap());
    let info = app.userinfo(tokens["access_token"].as_str().unwrap()).ok();
    for opened in [&id, &info] {
        assert_eq!(opened["phone_number"], "+441234567");
        assert!(["email", "name", "address"].iter().all(|name| opened.get(name).is_none()), "{opened}");
    }
    assert!(id["auth_time"].is_u64(), "{id}");
}

#[test]
fn s78_acr_values_are_wishes_and_an_essential_acr_is_a_condition() {
    let w = world();
    let browser = w.browser();
    let wish = w.web.request().with("acr_values", "urn:example:unknown").with("ui_locales", "de fr");
    browser.through(wish.url()).code();
    let essential = json!({"id_token": {"acr": {"essential": true, "value": "urn:example:unknown"}}});
    let page = browser.open(w.web.request().with("claims", &essential.to_string()).url());
    assert_eq!(page.error(), "unmet_authentication_requirements");
}

#[test]
fn s47_scope_and_claims_are_bounded() {
    let w = world();
    let scope: Vec<_> = (0..101).map(|n| format!("s{n}")).collect();
    let many = w.web.request().with("scope", &scope.join(" "));
    assert_eq!(w.browser().open(many.url()).error(), "invalid_scope");
    let long = w.web.request().with("scope", &"x".repeat(4097));
    assert_eq!(w.browser().open(long.url()).error(), "invalid_scope");
    let deep = format!("{}1{}", "{\"a\":".repeat(6), "}".repeat(6));
    assert_eq!(w.browser().open(w.web.request().with("claims", &deep).url()).error(), "invalid_request");
}

#[test]
fn s20_web_message_is_not_offered() {
    let w = world();
    let browser = w.browser();
    browser.through(w.web.request().url()).code();
    for mode in ["web_message", "web_message.jwt", "post_message"] {
        // Even to somebody signed in: a fault brought by redirect to the registered address, and no page that posts.
        let page = browser.open(w.web.request().with("response_mode", mode).url());
        assert_eq!(page.error(), "invalid_request", "{mode}");
        assert!(page.url.as_str().starts_with(&w.web.redirect_uri), "{mode}: {}", page.url);
    }
    let offered = w.get("/.well-known/openid-configuration").ok()["response_modes_supported"].clone();
    assert_eq!(offered, json!(["query", "fragment", "form_post"]));
}

#[test]
fn s21_request_objects_are_refused_whole() {
    let w = world();
    let browser = w.browser();
    browser.through(w.web.request().url()).code();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let inside = json!({
        "client_id": w.web.id, "redirect_uri": w.web.redirect_uri, "response_type": "code", "state": "inside",
        "scope": "openid email", "prompt": "login", "response_mode": "form_post",
    });
    let object = format!("{}.{}.", part(json!({"alg": "none"})), part(inside));
    let reference = "urn:ietf:params:oauth:request_uri:6esc_11ACC5bwc014ltc14eY22c";
    for (name, value, error) in [
        ("request", object.as_str(), "request_not_supported"),
        ("request_uri", "https://web.example/request.jwt", "request_uri_not_supported"),
        ("request_uri", reference, "request_uri_not_supported"),
    ] {
        // Nothing of what it says counts: not where the answer goes, not how, not its `state`.
        let page = browser.open(w.web.request().with(name, value).url());
        assert_eq!(page.error(), error, "{value}");
        assert_eq!(page.callback()["state"], "a state & more", "{value}");
        assert!(page.url.as_str().starts_with("https://web.example/callback?"), "{}", page.url);
        // And nothing is filled in from it.
        for missing in ["client_id", "redirect_uri"] {
            browser.open(w.web.request().with(name, value).without(missing).url()).is_error_page();
        }
    }
    let metadata = w.get("/.well-known/openid-configuration").ok();
    for member in ["request_parameter_supported", "request_uri_parameter_supported"] {
        assert_eq!(metadata[member], false, "{member}");
    }
}

#[test]
fn s37_an_unknown_resource_is_an_invalid_target() {
    let w = world();
    for bad in ["https://unknown.example/", "relative", "https://api.example/#fragment"] {
        assert_eq!(w.browser().open(w.web.request().with("resource", bad).url()).error(), "invalid_target", "{bad}");
    }
}

#[test]
fn s99_other_methods_and_origins_find_nothing() {
    let w = world();
    for method in [reqwest::Method::PUT, reqwest::Method::DELETE, reqwest::Method::PATCH] {
        let answer = send(HTTP.request(method, w.server.url("/authorize")));
        assert_eq!(answer.status, 405, "{answer:?}");
        assert!(answer.header("allow").contains("GET"), "{answer:?}");
    }
    let answer = send(HTTP.get(w.web.request().url()).header("origin", "https://spa.example"));
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[test]
fn s105_broken_requests_are_refused_and_never_an_internal_error() {
    let w = world();
    let base = w.server.url("/authorize");
    for query in ["", "?", "?client_id=%ff%fe", "?client_id=%zz", "?%00=%00", "?&&&==", "?client_id[]=x"] {
        assert_eq!(get(format!("{base}{query}")).status, 400, "{query}");
    }
    let broken = get(format!("{}&state=%ff", w.web.request().without("state").url()));
    assert!(matches!(broken.status, 303 | 400), "{broken:?}");
    let request = HTTP.post(&base).header("content-type", "application/json").body("{}");
    assert!(matches!(send(request).status, 400 | 415));
    let huge = HTTP.post(&base).header("content-type", "application/x-www-form-urlencoded").body("x".repeat(65537));
    assert_eq!(send(huge).status, 413);
    for path in ["/flow/unknown", "/flow/..%2f..", "/static/..%2fCargo.toml", "/nonsense"] {
        let status = get(w.server.url(path)).status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[test]
fn what_is_kept_of_a_strangers_request_is_bounded() {
    let w = world();
    for (name, most) in [("state", 4096), ("nonce", 2048), ("login_hint", 2048), ("acr_values", 2048)] {
        let fits = w.web.request().with(name, &"x".repeat(most));
        w.browser().open(fits.url()).is("login-page");
        let too_long = w.web.request().with(name, &"x".repeat(most + 1));
        assert_eq!(w.browser().open(too_long.url()).error(), "invalid_request", "{name}");
    }
}

/// Of everybody: the account's row is held, as whoever changes what hangs on it does.
const HOLD: &str = "UPDATE users SET updated_at = updated_at";

#[test]
fn s59_what_was_decided_before_the_session_rose_in_another_tab_is_decided_again() {
    let w = World::new(&[]);
    let browser = w.browser();
    let waiting = browser.open(w.web.request().url());
    waiting.is("login-page");
    browser.sign_in_as(&browser.open(w.server.url("/")), "ada", PASSWORD).is("home-page");
    let rise = |amr: &str| format!("{HOLD}; UPDATE sessions SET amr = '{amr}'");
    // A flow that waited in another tab, and a request that needs none.
    let amid = |amr: &str, url: &str| amid(&w.server.database_url(), &rise(amr), || browser.open(url));
    let flow = amid("pwd otp mfa", waiting.url.as_str());
    assert_eq!(claims(Tokens(w.web.redeem(&flow.code()).ok()).id())["amr"], json!(["pwd", "otp", "mfa"]));
    let silent = amid("pwd", &w.web.request().with("prompt", "none").url());
    assert_eq!(claims(Tokens(w.web.redeem(&silent.code()).ok()).id())["amr"], json!(["pwd"]));
}

#[test]
fn s17_nothing_is_given_by_a_consent_that_was_taken_back_a_moment_before() {
    let w = World::new(&[]);
    let browser = w.browser();
    let app = w.server.client(&json!({"redirect_uris": ["https://asks.example/callback"]}));
    let request = app.request().url();
    browser.through(&request).code();
    let taken_back =
        || amid(&w.server.database_url(), &format!("{HOLD}; DELETE FROM consents"), || browser.open(&request));
    let page = taken_back();
    page.is("consent-page");
    // What is allowed in a flow is as good as what was allowed before it, and no better.
    browser.press(&page, "consent-allow", &[]).code();
    assert!(browser.open(&request).foreign, "it is remembered again");
    let silent = app.request().with("prompt", "none").url();
    let refused = amid(&w.server.database_url(), &format!("{HOLD}; DELETE FROM consents"), || browser.open(&silent));
    assert_eq!(refused.error(), "consent_required");
}
