//! How long a sign-in lasts, who shares its `sid`, and from where it may be used.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use support::{Answer, App, Browser, HTTP, PASSWORD, Page, TestServer, World, claims, post, wait_for, wait_until};

/// Signs "ada" in, with the box ticked or not, and gives the `Set-Cookie` line of the session.
fn sign_in(w: &World, browser: &Browser, keep: &str) -> String {
    let page = browser.open(w.web.request().url());
    let fields = [("username", "ada"), ("password", PASSWORD), ("keep", keep)];
    browser.press(&page, "login-submit", &fields).code();
    let lines = browser.set_cookie_lines();
    lines.into_iter().rfind(|line| line.starts_with("cs_session=")).unwrap()
}

fn is_signed_in(w: &World, browser: &Browser) -> bool {
    browser.open(w.web.request().with("prompt", "none").url()).callback().contains_key("code")
}

#[test]
fn s77_only_a_person_who_asks_for_it_stays_signed_in() {
    let w = World::new(&[
        ("COUNTERSIGN_SESSION__IDLE", "1s"),
        ("COUNTERSIGN_SESSION__LIFETIME", "1h"),
        ("COUNTERSIGN_SESSION__KEEP", "2h"),
    ]);
    let (passing, kept) = (w.browser(), w.browser());
    let line = sign_in(&w, &passing, "");
    assert!(!line.contains("Max-Age") && !line.contains("Expires"), "ends with the browser: {line}");
    let line = sign_in(&w, &kept, "yes");
    let max_age = line.split("Max-Age=").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    assert!((7190..=7200).contains(&max_age.parse::<u32>().unwrap()), "{line}");
    wait_until(Instant::now() + Duration::from_millis(1100));
    wait_for("the idle end", || (!is_signed_in(&w, &passing)).then_some(()));
    assert!(is_signed_in(&w, &kept));

    // Proving oneself again renews the cookie, and the choice stands.
    let page = kept.open(w.web.request().with("prompt", "login").url());
    assert!(page.form_of("login-submit").value("keep").is_none());
    kept.press(&page, "login-submit", &[("password", PASSWORD)]).code();
    let lines = kept.set_cookie_lines();
    let again = lines.iter().rfind(|line| line.starts_with("cs_session=")).unwrap();
    assert!(again.contains("Max-Age=") && *again != line, "{again}");

    // Signing out ends it all the same.
    let home = kept.open(w.server.url("/"));
    kept.press(&home, "sign-out", &[]);
    assert!(!is_signed_in(&w, &kept));
}

#[test]
fn s77_a_kept_sign_in_ends_absolutely() {
    let w = World::new(&[
        ("COUNTERSIGN_SESSION__LIFETIME", "1s"),
        ("COUNTERSIGN_SESSION__KEEP", "2s"),
        ("COUNTERSIGN_SESSION__IDLE", "1s"),
    ]);
    let browser = w.browser();
    sign_in(&w, &browser, "yes");
    wait_for("the end", || (!is_signed_in(&w, &browser)).then_some(()));
}

#[test]
fn where_staying_signed_in_is_not_offered_asking_for_it_does_nothing() {
    let w = World::new(&[("COUNTERSIGN_SESSION__KEEP", "0s")]);
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let form = page.form_of("login-submit");
    assert!(form.value("keep").is_none());
    let mut fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
    fields.push(("keep".to_owned(), "yes".to_owned()));
    let request = support::post(page.url.join(&form.action).unwrap(), &fields);
    browser.send(request.header("origin", &w.server.issuer));
    assert!(is_signed_in(&w, &browser));
    assert!(
        browser.set_cookie_lines().iter().all(|line| !line.starts_with("cs_session=") || !line.contains("Max-Age"))
    );
}

#[test]
fn a_sid_is_shared_or_of_one_client_alone() {
    let sids = |scope: &str| {
        let w = World::new(&[("COUNTERSIGN_SESSION__SID", scope)]);
        let browser = w.browser();
        let (web, third) = (w.web.tokens(&browser, "openid"), w.third.tokens(&browser, "openid"));
        let [one, again, other] = [web.id(), web.access(), third.id()].map(|token| claims(token)["sid"].clone());
        assert_eq!(one, again, "a client hears one name");
        assert_eq!(w.web.introspect(web.refresh())["sid"], one);
        let refreshed = w.web.refresh(web.refresh()).ok();
        assert_eq!(claims(refreshed["id_token"].as_str().unwrap())["sid"], one, "for good");
        (one, other)
    };
    let (one, other) = sids("shared");
    assert_eq!(one, other);
    let (one, other) = sids("per_client");
    assert_ne!(one, other);
    assert_eq!(one.as_str().unwrap().len(), 43);
}

#[test]
fn an_operator_ends_a_session_by_the_sid_that_one_client_knows() {
    let w = World::new(&[("COUNTERSIGN_SESSION__SID", "per_client")]);
    let (browser, another) = (w.browser(), w.browser());
    let (web, third) = (w.web.tokens(&browser, "openid"), w.third.tokens(&browser, "openid"));
    let untouched = w.web.tokens(&another, "openid");
    let sid = claims(third.id())["sid"].as_str().unwrap().to_owned();
    let said = w.server.cli_ok(&["revoke", "--session", &sid, "--dry-run"], "");
    assert!(said.contains("Would end session"), "{said}");
    w.server.cli_ok(&["revoke", "--session", &sid], "");
    assert!(!w.web.is_active(web.access()) && !w.third.is_active(third.access()));
    assert!(w.web.is_active(untouched.access()));
    assert!(
        w.server.cli_ok(&["revoke", "--session", &sid], "").contains("Nothing of session"),
        "it is known, and ended"
    );
    // Another's derived name, and what was never one.
    let mut unknown = sid.clone();
    unknown.replace_range(..1, if sid.starts_with('A') { "B" } else { "A" });
    for name in [&*unknown, "f7a5a2b6-8f5d-4a49-9bb4-9e6ab9bd28b5", "x"] {
        let failed = w.server.cli(&["revoke", "--session", name], "");
        let said = String::from_utf8_lossy(&failed.stderr);
        assert_eq!(failed.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("countersign session list"), "{name}: {said}");
    }
}

/// A request as a proxy of ours forwards it from an address.
fn from(browser: &Browser, address: &str, url: &str) -> Answer {
    browser.send(HTTP.get(url).header("x-forwarded-for", address))
}

fn bound(w: &World, binding: &str, extent: &str) -> App {
    w.server.client(&json!({
        "redirect_uris": ["https://bound.example/callback"], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true, "network_binding": binding, "network_binding_extent": extent,
    }))
}

/// Where people sign in in these tests: this machine. Near it, and far away.
const NEAR: &str = "127.0.0.77";
const FAR: &str = "203.0.113.7";

#[test]
fn a_session_is_bound_to_its_network_as_its_client_wishes() {
    let w = World::new(&[("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1/32")]);
    let browser = w.browser();
    w.web.tokens(&browser, "openid");
    let location = |app: &App, address: &str, prompt: Option<&str>| {
        let request = prompt.into_iter().fold(app.request(), |request, prompt| request.with("prompt", prompt));
        from(&browser, address, &request.url()).header("location").to_owned()
    };
    let off = bound(&w, "off", "address");
    assert!(location(&off, FAR, None).contains("code="));
    assert!(!w.server.log().contains("from another network"));
    let log = bound(&w, "log", "prefix");
    assert!(location(&log, NEAR, None).contains("code="));
    assert!(!w.server.log().contains("from another network"));
    assert!(location(&log, FAR, None).contains("code="));
    wait_for("the line", || w.server.log().contains("a session is used from another network").then_some(()));

    for (binding, error) in [("ask", "login_required"), ("refuse", "access_denied")] {
        let prefix = bound(&w, binding, "prefix");
        assert!(location(&prefix, NEAR, None).contains("code="), "{binding}");
        assert!(location(&prefix, FAR, Some("none")).contains(&format!("error={error}")), "{binding}");
        let address = bound(&w, binding, "address");
        assert!(location(&address, "127.0.0.1", None).contains("code="), "{binding}");
        assert!(location(&address, NEAR, Some("none")).contains(&format!("error={error}")), "{binding}");
    }
    assert!(location(&bound(&w, "refuse", "prefix"), FAR, None).contains("error=access_denied"));

    // Asked again there, the session is at home there, with all of its clients; the way back home asks again.
    for (binding, prompt) in [("ask", None), ("refuse", Some("login"))] {
        let app = bound(&w, binding, "prefix");
        let flow = w.server.url(&location(&app, FAR, prompt));
        let page = Page { url: flow.parse().unwrap(), foreign: false, answer: from(&browser, FAR, &flow) };
        let form = page.is("login-page").form_of("login-submit");
        assert!(form.value("username").is_none(), "{binding}: the person is known");
        let fields = form.filled(&[("password", PASSWORD)]);
        let request = post(page.url.join(&form.action).unwrap(), &fields).header("origin", &w.server.issuer);
        let answer = browser.send(request.header("x-forwarded-for", FAR));
        assert!(answer.header("location").contains("code="), "{binding}: {answer:?}");
        assert!(location(&app, FAR, Some("none")).contains("code="), "{binding}");
        assert!(location(&app, "127.0.0.1", Some("none")).contains("error="), "{binding}");
        let home = browser.open(w.web.request().with("prompt", "login").url());
        browser.press(&home, "login-submit", &[("password", PASSWORD)]).code();
    }
}

#[test]
fn a_refresh_token_is_bound_to_its_network_as_its_client_wishes() {
    let w = World::new(&[("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1/32")]);
    let refresh = |app: &App, token: &str, address: &str| {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let request = app.authenticated(post(app.url("/token"), &fields)).header("x-forwarded-for", address);
        support::send(request)
    };
    let text = |answer: &Answer| answer.ok()["refresh_token"].as_str().unwrap().to_owned();
    for binding in ["ask", "refuse"] {
        let app = bound(&w, binding, "prefix");
        let tokens = app.tokens(&w.browser(), "openid");
        refresh(&app, tokens.refresh(), FAR).refused(400, "invalid_grant");
        let second = text(&refresh(&app, tokens.refresh(), NEAR));
        assert!(app.is_active(&second), "what was refused far away goes on at home");
        // A spent one is reuse wherever it comes from: far away no leeway hands out its successor.
        refresh(&app, tokens.refresh(), FAR).refused(400, "invalid_grant");
        refresh(&app, &second, "127.0.0.1").refused(400, "invalid_grant");
    }
    let app = bound(&w, "refuse", "address");
    let tokens = app.tokens(&w.browser(), "openid");
    refresh(&app, tokens.refresh(), NEAR).refused(400, "invalid_grant");
    for (binding, line) in [("off", false), ("log", true)] {
        let app = bound(&w, binding, "prefix");
        let tokens = app.tokens(&w.browser(), "openid");
        text(&refresh(&app, tokens.refresh(), FAR));
        let told = || w.server.log().contains("a refresh token is used from another network");
        if line {
            wait_for("the line", || told().then_some(()));
        } else {
            assert!(!told());
        }
    }
}

#[test]
fn session_management_is_off_unless_configured() {
    let w = support::world();
    assert!(w.get("/.well-known/openid-configuration").ok().get("check_session_iframe").is_none());
    assert_eq!(w.get("/check-session").status, 404);
    let browser = w.browser();
    assert!(!browser.through(w.web.request().url()).callback().contains_key("session_state"));
    assert!(!browser.cookies().contains_key("cs_state"));
}

#[test]
fn session_state_is_a_salted_hash_of_client_origin_and_session() {
    let w = World::new(&[("COUNTERSIGN_SESSION__MANAGEMENT", "true")]);
    w.server.user("grace");
    let frame = w.get("/.well-known/openid-configuration").ok()["check_session_iframe"].as_str().unwrap().to_owned();
    assert_eq!(frame, format!("{}/check-session", w.server.issuer));
    let page = support::get(&frame);
    let policy = page.header("content-security-policy");
    let rule = policy.split(';').find(|rule| rule.trim().starts_with("frame-ancestors")).unwrap();
    assert!(
        rule.contains(" https://web.example") && rule.contains(" http://127.0.0.1") && !rule.contains('*'),
        "{rule}"
    );
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert_eq!(page.header("x-frame-options"), "");

    let browser = w.browser();
    let callback = |app: &App, username: &str| browser.through_as(app.request().url(), username).callback();
    let holds = |app: &App, origin: &str, session_state: &str| {
        let (hash, salt) = session_state.split_once('.').unwrap();
        let state = &browser.cookies()["cs_state"];
        let digest = Sha256::digest(format!("{} {origin} {state} {salt}", app.id));
        URL_SAFE_NO_PAD.encode(digest) == hash
    };
    let (one, again) = (callback(&w.web, "ada"), callback(&w.web, "ada"));
    assert_ne!(one["session_state"], again["session_state"], "salted");
    assert!(!one["session_state"].contains(' '));
    let third = callback(&w.third, "ada");
    assert!(holds(&w.web, "https://web.example", &one["session_state"]));
    assert!(holds(&w.web, "https://web.example", &again["session_state"]));
    assert!(holds(&w.third, "https://third.example", &third["session_state"]));
    assert!(!holds(&w.third, "https://web.example", &third["session_state"]));
    let (session, state) = (browser.cookies()["cs_session"].clone(), browser.cookies()["cs_state"].clone());
    let sid = claims(w.web.tokens(&browser, "openid").id())["sid"].as_str().unwrap().to_owned();
    assert!(session != state && state != sid, "it opens nothing");
    let line = browser.set_cookie_lines().into_iter().find(|line| line.starts_with("cs_state=")).unwrap();
    assert!(!line.contains("HttpOnly") && line.contains("SameSite=Lax") && line.contains("Path=/"), "{line}");

    // Another person, and nobody, are other states.
    let page = browser.open(w.web.request().with("prompt", "select_account").url());
    let page = browser.press(&page, "account-other", &[]);
    browser.sign_in_as(&page, "grace", PASSWORD).code();
    assert!(!holds(&w.web, "https://web.example", &one["session_state"]));
    let home = browser.open(w.server.url("/"));
    browser.press(&home, "sign-out", &[]);
    assert_eq!(browser.cookies()["cs_state"], "-");
}

#[test]
fn the_state_lives_as_long_as_a_kept_session() {
    let w = World::new(&[
        ("COUNTERSIGN_SESSION__MANAGEMENT", "true"),
        ("COUNTERSIGN_SESSION__IDLE", "1h"),
        ("COUNTERSIGN_SESSION__LIFETIME", "1h"),
        ("COUNTERSIGN_SESSION__KEEP", "2h"),
    ]);
    for (keep, is_kept) in [("yes", true), ("", false)] {
        let browser = w.browser();
        sign_in(&w, &browser, keep);
        // At the sign-in, with its answer, and with a later one in which no page was shown.
        assert!(is_signed_in(&w, &browser));
        let lines: Vec<_> =
            browser.set_cookie_lines().into_iter().filter(|line| line.starts_with("cs_state=")).collect();
        assert!(lines.len() >= 3, "{lines:?}");
        for line in lines {
            let max_age = line.split("Max-Age=").nth(1).map(|seconds| seconds.parse::<u32>().unwrap());
            assert_eq!(max_age.is_some_and(|seconds| (7190..=7200).contains(&seconds)), is_kept, "{line}");
            assert_eq!(max_age.is_some(), is_kept, "{line}");
        }
    }
}

#[test]
fn over_https_the_state_reaches_frames_of_other_sites() {
    let server = TestServer::prepare(&[
        ("COUNTERSIGN_ISSUER", "https://id.example"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1/32"),
        ("COUNTERSIGN_SESSION__MANAGEMENT", "true"),
    ]);
    server.start();
    let answer = support::send(post(server.url("/sign-out"), &[("x", "y")]));
    let lines: Vec<_> = answer.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap()).collect();
    assert!(lines.contains(&"__Host-cs_state=-; Path=/; SameSite=None; Secure"), "{lines:?}");
}
