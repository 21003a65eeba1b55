//! The pages and what protects them: headers, cookies, forms, sign-in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use support::{Browser, HTTP, PASSWORD, Page, TestServer, World, claims, get, post, send, wait_for, word, world};

/// One page of each kind.
fn pages(w: &World) -> Vec<Page> {
    let browser = w.browser();
    let login = browser.open(w.third.request().url());
    login.is("login-page");
    let consent = browser.sign_in_as(&login, "ada", PASSWORD);
    let consent =
        if consent.foreign { browser.open(w.third.request().with("prompt", "consent").url()) } else { consent };
    consent.is("consent-page");
    let home = browser.open(w.server.url("/"));
    home.is("home-page");
    let reauth = browser.open(w.web.request().with("prompt", "login").url());
    reauth.is("login-page");
    let error = browser.open(w.server.url("/authorize"));
    error.is_error_page();
    let logout = browser.open(w.server.url("/logout"));
    logout.is("logout-page");
    vec![login, consent, home, reauth, error, logout]
}

#[test]
fn s14_s12_every_page_carries_its_protection() {
    let w = world();
    for page in pages(&w) {
        let header = |name: &str| page.answer.header(name).to_ascii_lowercase();
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "frame-ancestors 'none'", "form-action", "base-uri 'none'"] {
            assert!(policy.contains(rule), "{}: {rule} not in {policy}", page.url);
        }
        for hole in ["unsafe-inline", "unsafe-eval", "*", "data:"] {
            assert!(!policy.contains(hole), "{}: {hole} in {policy}", page.url);
        }
        assert_eq!(header("x-frame-options"), "deny", "{}", page.url);
        assert_eq!(header("x-content-type-options"), "nosniff", "{}", page.url);
        assert_eq!(header("referrer-policy"), "no-referrer", "{}", page.url);
        assert!(header("cache-control").contains("no-store"), "{}", page.url);
        assert!(header("content-type").starts_with("text/html; charset=utf-8"), "{}", page.url);
        assert_eq!(header("access-control-allow-origin"), "", "{}", page.url);
        let body = &page.answer.body;
        assert!(!body.contains("<style") && !body.contains(" style=") && !body.contains(" onclick="), "{body}");
        assert!(body.contains("<html lang=") && body.contains("<title>") && body.contains("viewport"), "{body}");
    }
}

#[test]
fn s6_the_sign_in_may_end_at_the_client() {
    let w = world();
    let page = w.browser().open(w.web.request().url());
    let policy = page.answer.header("content-security-policy");
    let rule = policy.split(';').find(|rule| rule.trim().starts_with("form-action")).unwrap();
    assert!(
        rule.contains("'self'") && rule.contains("https://web.example"),
        "Chromium follows it along redirects: {rule}"
    );
}

#[test]
fn static_files_are_cached_and_our_own() {
    let w = world();
    let answer = w.get("/static/countersign.css");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").starts_with("text/css"), "{answer:?}");
    assert!(answer.header("cache-control").contains("max-age"), "{answer:?}");
    assert!(!answer.body.contains("http"), "no third party");
    let again = HTTP.get(w.server.url("/static/countersign.css")).header("if-none-match", answer.header("etag"));
    assert_eq!(support::send(again).status, 304);
}

#[test]
fn s65_a_wrong_password_says_the_same_of_everybody() {
    let w = world();
    let attempt = |username: &str| {
        let browser = w.browser();
        let page = browser.open(w.web.request().url());
        let start = Instant::now();
        let page = browser.sign_in_as(&page, username, "not the password at all");
        let took = start.elapsed();
        page.is("login-page");
        let secret = page.form_of("login-submit").value("csrf").unwrap().to_owned();
        let flow = page.url.path().split('/').nth(2).unwrap().to_owned();
        let body = page.answer.body.replace(&secret, "").replace(&flow, "").replace(username, "");
        (page.answer.status, body, browser.cookies().into_keys().collect::<Vec<_>>(), took)
    };
    let (known, unknown): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let name = word();
            w.server.user(&name);
            (attempt(&name), attempt(&word()))
        })
        .unzip();
    assert_eq!((known[0].0, &known[0].1, &known[0].2), (unknown[0].0, &unknown[0].1, &unknown[0].2));
    // An unknown user costs a hash as well: the best of several tries on each side are of one size.
    let (known, unknown) =
        (known.iter().map(|all| all.3).min().unwrap(), unknown.iter().map(|all| all.3).min().unwrap());
    assert!(unknown * 3 > known && known * 3 > unknown, "{known:?} {unknown:?}");
}

#[test]
fn wrong_passwords_of_any_kind_sign_nobody_in() {
    let w = world();
    let long = "x".repeat(5000);
    for password in ["", " ", &PASSWORD.to_uppercase(), &format!("{PASSWORD} "), &PASSWORD[1..], &long] {
        let (name, browser) = (word(), w.browser());
        w.server.user(&name);
        let page = browser.sign_in_as(&browser.open(w.web.request().url()), &name, password);
        page.is("login-page");
        assert_eq!(browser.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
        browser.sign_in_as(&page, &name, PASSWORD).code();
    }
}

#[test]
fn the_user_name_knows_no_case_and_the_password_does() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    browser.sign_in_as(&page, "ADA", PASSWORD).code();
}

#[test]
fn re_authentication_asks_for_the_password_alone() {
    let w = world();
    let browser = w.browser();
    w.server.user("rosa");
    browser.through_as(w.web.request().url(), "rosa").code();
    let page = browser.open(w.web.request().with("prompt", "login").url());
    let form = page.is("login-page").form_of("login-submit");
    assert!(form.value("password").is_some() && form.value("username").is_none(), "{form:?}");
    assert!(page.answer.body.contains("rosa"));
    let wrong = browser.press(&page, "login-submit", &[("password", "wrong wrong wrong")]);
    let form = wrong.is("login-page").form_of("login-submit");
    assert!(form.value("username").is_none(), "{form:?}");
    browser.press(&wrong, "login-submit", &[("password", PASSWORD)]).code();
}

#[test]
fn s74_another_person_at_re_authentication_gets_another_session() {
    let w = world();
    w.server.user("emmy");
    let browser = w.browser();
    let sid = claims(w.web.tokens(&browser, "openid").id())["sid"].clone();
    let before = browser.cookies();
    let page = browser.open(w.web.request().with("prompt", "select_account").url());
    let page = browser.press(&page, "account-other", &[]);
    let page = browser.sign_in_as(&page, "emmy", PASSWORD);
    let tokens = w.web.redeem(&page.code()).ok();
    assert_ne!(claims(tokens["id_token"].as_str().unwrap())["sid"], sid);
    assert_ne!(browser.cookies(), before);
}

/// Posts the sign-in form as it stands, with headers and changes of the test's choice, and claims that nobody is
/// signed in by it.
fn attack(w: &World, browser: &Browser, change: impl Fn(&mut Vec<(String, String)>), headers: &[(&str, &str)]) {
    let page = browser.open(w.web.request().url());
    let form = page.form_of("login-submit");
    let mut fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
    change(&mut fields);
    let mut request = post(page.url.join(&form.action).unwrap(), &fields);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = browser.send(request);
    assert!((400..500).contains(&answer.status), "{headers:?}: {answer:?}");
    let silent = browser.open(w.web.request().with("prompt", "none").url());
    assert_eq!(silent.error(), "login_required", "{headers:?}");
}

#[test]
fn s15_a_cross_site_post_signs_nobody_in() {
    let w = world();
    let own = w.server.issuer.as_str();
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
        &[("origin", own), ("sec-fetch-site", "cross-site")],
        &[("origin", &format!("{own}.evil.example"))],
    ] {
        attack(&w, &w.browser(), |_| (), headers);
    }
}

#[test]
fn s15_a_form_needs_its_csrf_value() {
    let w = world();
    let own = [("origin", w.server.issuer.as_str()), ("sec-fetch-site", "same-origin")];
    let stranger = w.browser().open(w.web.request().url());
    let foreign = stranger.form_of("login-submit").value("csrf").unwrap().to_owned();
    for value in [None, Some(""), Some("x"), Some(foreign.as_str())] {
        let change = |fields: &mut Vec<(String, String)>| {
            fields.retain(|(name, _)| name != "csrf");
            fields.extend(value.map(|value| ("csrf".to_owned(), value.to_owned())));
        };
        attack(&w, &w.browser(), change, &own);
    }
}

#[test]
fn s15_a_form_without_the_browsers_cookie_signs_nobody_in() {
    let w = world();
    let victim = w.browser();
    let page = w.browser().open(w.web.request().url());
    let form = page.form_of("login-submit");
    let fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
    let request = post(page.url.join(&form.action).unwrap(), &fields).header("origin", &w.server.issuer);
    let answer = victim.send(request);
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(victim.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
}

#[test]
fn s60_consent_cannot_be_posted_before_the_sign_in() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.third.request().url());
    let csrf = page.form_of("login-submit").value("csrf").unwrap().to_owned();
    let url = page.url.join(&format!("{}/consent", page.url.path())).unwrap();
    let request = post(url.as_str(), &[("csrf", csrf.as_str()), ("decision", "allow")]);
    let answer = browser.send(request.header("origin", &w.server.issuer));
    let after = browser.follow(url, answer);
    assert!(!after.foreign, "{after:?}");
    for body in [&[("csrf", csrf.as_str())][..], &[("csrf", &csrf), ("username", "ada")], &[]] {
        let url = page.url.join(&format!("{}/sign-in", page.url.path())).unwrap();
        let answer = browser.send(post(url.as_str(), body).header("origin", &w.server.issuer));
        assert!(!browser.follow(url, answer).foreign);
    }
    assert_eq!(browser.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
}

#[test]
fn s105_a_form_with_a_field_twice_is_not_taken() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let form = page.form_of("login-submit");
    let mut fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
    fields.push(("username".to_owned(), "grace".to_owned()));
    let url = page.url.join(&form.action).unwrap();
    let answer = browser.send(post(url.clone(), &fields).header("origin", &w.server.issuer));
    assert_eq!(browser.follow(url, answer).is_error_page().answer.status, 400);
    browser.sign_in_as(&page, "ada", PASSWORD).code();
}

#[test]
fn s13_posts_answer_303() {
    let w = world();
    // The last form of a sign-in leads to the client, one before the last to the next page.
    for (request, leads_to) in [(w.third.request(), "/flow/"), (w.web.request(), &*w.web.redirect_uri)] {
        let browser = w.browser();
        let page = browser.open(request.url());
        let form = page.form_of("login-submit");
        let fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
        let request = post(page.url.join(&form.action).unwrap(), &fields).header("origin", &w.server.issuer);
        let answer = browser.send(request);
        assert_eq!(answer.status, 303, "{answer:?}");
        assert!(answer.header("location").contains(leads_to), "{answer:?}");
        assert!(answer.header("cache-control").contains("no-store"), "{answer:?}");
    }
}

#[test]
fn s73_the_cookie_changes_at_sign_in_and_a_planted_one_is_not_taken_over() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let planted = browser.cookies();
    assert!(!planted.is_empty());
    browser.sign_in_as(&page, "ada", PASSWORD).code();
    let after = browser.cookies();
    assert!(after.values().any(|value| !planted.values().any(|old| old == value)), "{after:?}");
    // Who planted the cookies holds nothing.
    let attacker = w.browser();
    attacker.set_cookies(planted);
    assert_eq!(attacker.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
    assert!(!attacker.open(page.url.as_str()).foreign, "the flow went with the sign-in");
}

#[test]
fn s75_cookies_are_kept_from_scripts_and_other_sites() {
    let w = world();
    let browser = w.browser();
    browser.through(w.web.request().url()).code();
    let lines = browser.set_cookie_lines();
    assert!(!lines.is_empty());
    for line in lines {
        let lower = line.to_ascii_lowercase();
        for attribute in ["; httponly", "; samesite=lax", "; path=/"] {
            assert!(lower.contains(attribute), "{attribute}: {line}");
        }
        assert!(!lower.contains("domain="), "{line}");
    }
}

#[test]
fn s75_over_https_cookies_are_host_bound() {
    let server = TestServer::prepare(&[
        ("COUNTERSIGN_ISSUER", "https://id.example"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1/32"),
    ]);
    let app = server.client(&serde_json::json!({"redirect_uris": ["https://web.example/callback"]}));
    server.start();
    let url = app.request().url().replace("https://id.example", "").replace(&server.issuer, "");
    let answer = get(server.url(&url));
    assert_eq!(answer.status, 303, "{answer:?}");
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-") && cookie.contains("Secure"), "{cookie}");
    let location = answer.header("location");
    assert!(location.starts_with("/flow/") || location.starts_with("https://id.example/flow/"), "{location}");
    assert!(answer.header("strict-transport-security").contains("max-age"), "{answer:?}");
}

#[test]
fn s97_the_host_header_decides_nothing() {
    let w = world();
    let request =
        HTTP.get(w.web.request().url()).header("host", "evil.example").header("x-forwarded-host", "evil.example");
    let answer = support::send(request);
    assert!(!format!("{answer:?}").contains("evil.example"), "{answer:?}");
}

#[test]
fn signing_out_at_home_ends_the_session() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.server.url("/"));
    let home = browser.sign_in_as(&page, "ada", PASSWORD);
    home.is("home-page");
    let cookies = browser.cookies();
    browser.press(&home, "sign-out", &[]);
    assert_eq!(browser.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
    browser.set_cookies(cookies);
    assert_eq!(
        browser.open(w.web.request().with("prompt", "none").url()).error(),
        "login_required",
        "ended at the server"
    );
}

#[test]
fn s16_s4_logout_asks_unless_the_hint_is_of_this_session_and_goes_to_registered_places_only() {
    let w = world();
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid");
    let logout = |parameters: &[(&str, &str)]| w.server.url(&format!("/logout?{}", support::form(parameters)));
    let bye = "https://web.example/bye";
    let signed_in = || browser.open(w.web.request().with("prompt", "none").url()).callback().contains_key("code");

    browser.open(logout(&[])).is("logout-page");
    let page = browser.open(logout(&[("client_id", &w.web.id), ("post_logout_redirect_uri", bye)]));
    browser.press(page.is("logout-page"), "logout-cancel", &[]);
    assert!(signed_in());
    for wrong in
        ["https://evil.example/", "https://web.example/bye/", "https://web.example/bye?x", "javascript:alert(1)"]
    {
        let page = browser.open(logout(&[("id_token_hint", tokens.id()), ("post_logout_redirect_uri", wrong)]));
        assert!(!page.foreign, "{page:?}");
    }
    browser.through(w.web.request().url()).code();
    let hint = w.web.tokens(&browser, "openid");
    let page =
        browser.open(logout(&[("id_token_hint", hint.id()), ("post_logout_redirect_uri", bye), ("state", "s & t")]));
    assert!(page.url.as_str().starts_with("https://web.example/bye?"), "{page:?}");
    assert_eq!(page.callback()["state"], "s & t");
    assert_eq!(browser.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
    w.web.refresh(hint.refresh()).refused(400, "invalid_grant");
}

#[test]
fn s77_a_session_ends_by_itself() {
    let w = World::new(&[("COUNTERSIGN_SESSION__LIFETIME", "2s"), ("COUNTERSIGN_SESSION__IDLE", "2s")]);
    let browser = w.browser();
    browser.through(w.web.request().url()).code();
    let silent = w.web.request().with("prompt", "none").url();
    wait_for("the session's end", || (!browser.open(&silent).callback().contains_key("code")).then_some(()));
}

#[test]
fn s76_a_disabled_user_and_a_new_password_end_the_session() {
    let w = world();
    w.server.user("lise");
    let browser = w.browser();
    let silent = w.web.request().with("prompt", "none").url();
    let ended =
        || wait_for("the session's end", || (!browser.open(&silent).callback().contains_key("code")).then_some(()));
    browser.through_as(w.web.request().url(), "lise").code();
    w.server.cli_ok(&["user", "set-password", "lise", "--password-stdin"], "a quite different secret\n");
    ended();
    let page = browser.open(w.web.request().url());
    let page = browser.sign_in_as(&page, "lise", PASSWORD);
    browser.sign_in_as(&page, "lise", "a quite different secret").code();
    w.server.cli_ok(&["user", "disable", "lise"], "");
    ended();
    let page = browser.open(w.web.request().url());
    browser.sign_in_as(&page, "lise", "a quite different secret").is("login-page");
}

#[test]
fn s103_a_crowd_at_the_door_is_let_in_or_told_to_come_back() {
    let w = World::new(&[("COUNTERSIGN_PASSWORD__QUEUE", "1"), ("COUNTERSIGN_PASSWORD__THREADS", "1")]);
    let pages: Vec<_> =
        (0..16).map(|_| w.browser()).map(|browser| (browser.open(w.web.request().url()), browser)).collect();
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let enter = |(page, browser): &(Page, Browser)| {
            let form = page.form_of("login-submit");
            let fields = form.filled(&[("username", "ada"), ("password", PASSWORD)]);
            let request = post(page.url.join(&form.action).unwrap(), &fields).header("origin", &w.server.issuer);
            let answer = browser.send(request);
            let told = matches!(answer.status, 429 | 503) && !answer.header("retry-after").is_empty();
            assert!(answer.status == 303 || told, "{answer:?}");
            answer.status
        };
        let people: Vec<_> = pages.iter().map(|person| scope.spawn(move || enter(person))).collect();
        let start = Instant::now();
        assert_eq!(w.get("/jwks").status, 200);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        people.into_iter().map(|person| person.join().unwrap()).collect()
    });
    assert!(statuses.contains(&303) && statuses.iter().any(|status| *status != 303), "{statuses:?}");
}

#[test]
fn s17_a_page_that_showed_one_person_is_not_answered_as_another() {
    let w = world();
    w.server.cli_ok(&["user", "create", "barbara", "--password-stdin"], PASSWORD);
    let app =
        w.server.client(&serde_json::json!({"client_name": "Two", "redirect_uris": ["https://two.example/callback"]}));
    let browser = w.browser();
    let consent = browser.sign_in_as(&browser.open(app.request().url()), "ada", PASSWORD);
    consent.is("consent-page");
    // In another tab somebody else signs in.
    let other = browser.open(w.web.request().with("prompt", "select_account").url());
    let other = browser.press(&other, "account-other", &[]);
    browser.sign_in_as(&other, "barbara", PASSWORD);
    let page = browser.press(&consent, "consent-allow", &[]);
    assert!(!page.url.as_str().contains("code="), "{}", page.url);
}

#[test]
fn a_foreign_cookie_that_is_no_text_hides_none_of_ours() {
    let w = world();
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let cookies = browser.cookies().into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let mut line = format!("x=Jos\u{e9}; {}", cookies.join("; ")).into_bytes();
    line.retain(|byte| *byte != 0xc3);
    let line = reqwest::header::HeaderValue::from_bytes(&line).unwrap();
    let answer = support::HTTP.get(page.url.clone()).header("cookie", line).send().unwrap();
    assert!(answer.text().unwrap().contains("login-form"));
}

#[test]
fn head_is_get_without_a_body() {
    let w = world();
    let browser = w.browser();
    let code = w.web.code(&browser, "openid");
    let bearer = format!("Bearer {}", support::app::Tokens(w.web.redeem(&code).ok()).access());
    let authorize = w.third.request().url();
    let authorize = authorize.strip_prefix(&w.server.issuer).unwrap();
    let paths =
        ["/", "/account", "/account/profile", "/account/security", "/logout", "/userinfo", "/favicon.ico", "/sign-out"];
    for path in
        paths.into_iter().chain(["/health/live", "/health/ready", "/jwks", "/flow/x/sign-in", "/nothing", authorize])
    {
        let ask =
            |method: Method| browser.send(HTTP.request(method, w.server.url(path)).header("authorization", &bearer));
        let (get, head) = (ask(Method::GET), ask(Method::HEAD));
        assert_eq!((head.status, &*head.body), (get.status, ""), "{path}: {head:?}");
        let names = |answer: &support::Answer| answer.headers.keys().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(names(&head), names(&get), "{path}");
        for name in ["content-type", "content-length", "cache-control", "content-security-policy"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
        if get.status != 404 {
            let allow = ask(Method::PUT).header("allow").to_owned();
            assert!(allow.starts_with("GET, HEAD"), "{path}: {allow}");
        }
    }
    for path in ["/token", "/revoke", "/introspect"] {
        let answer = send(HTTP.head(w.server.url(path)));
        assert_eq!(answer.status, 405, "{path}: {answer:?}");
        assert!(!answer.header("allow").contains("HEAD"), "{path}: {answer:?}");
    }
    // The connection goes on with the next answer: no body was left on it.
    assert_eq!(w.get("/health/live").status, 200);
}
