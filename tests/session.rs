//! How long a sign-in lasts, who shares its `sid`, and from where it may be used.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use support::{Browser, PASSWORD, World, claims, wait_for, wait_until};

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
