//! The account, from outside: what people see and end themselves, and that nobody does it for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use support::app::Tokens;
use support::{Answer, Browser, PASSWORD, Page, TO_DIRECTORY, TestServer, World, claims, post, word, world};

const PAGES: [(&str, &str); 9] = [
    ("/account", "account-page"),
    ("/account/profile", "profile-page"),
    ("/account/email", "email-page"),
    ("/account/password", "password-page"),
    ("/account/sessions", "sessions-page"),
    ("/account/applications", "applications-page"),
    ("/account/activity", "activity-page"),
    ("/account/data", "data-page"),
    ("/account/delete", "delete-page"),
];

/// A new person, and a browser in which they have just signed in.
fn person(w: &World) -> (String, Browser) {
    let name = word();
    w.server.user(&name);
    let browser = sign_in(w, &name);
    (name, browser)
}

fn sign_in(w: &World, name: &str) -> Browser {
    let browser = w.browser();
    let page = browser.open(w.server.url("/"));
    browser.sign_in_as(&page, name, PASSWORD).is("home-page");
    browser
}

fn open(w: &World, browser: &Browser, path: &str) -> Page {
    browser.open(w.server.url(path))
}

/// Tokens for an application, in a browser that is signed in.
fn tokens(browser: &Browser, app: &support::App, scope: &str) -> Tokens {
    let page = browser.open(app.request().with("scope", scope).url());
    let page = if page.foreign { page } else { browser.press(page.is("consent-page"), "consent-allow", &[]) };
    Tokens(app.redeem(&page.code()).ok())
}

fn is_signed_in(w: &World, browser: &Browser) -> bool {
    browser.open(w.web.request().with("prompt", "none").url()).callback().contains_key("code")
}

/// The whole text of what happened to the account of this browser.
fn activity(w: &World, browser: &Browser) -> String {
    open(w, browser, "/account/activity").is("activity-page").answer.body.clone()
}

fn in_database(server: &TestServer, statement: &str) {
    support::postgres::execute(&server.database_url(), statement);
}

#[test]
fn the_home_page_leads_to_the_account_and_each_of_its_pages_opens() {
    let w = world();
    let (_, browser) = person(&w);
    assert!(open(&w, &browser, "/").answer.body.contains("href=\"/account\""));
    let overview = open(&w, &browser, "/account");
    for (path, id) in PAGES {
        let page = open(&w, &browser, path);
        page.is(id);
        assert_eq!(page.answer.header("cache-control"), "no-store", "{path}");
        assert!(path == "/account" || overview.answer.body.contains(&format!("href=\"{path}\"")), "{path}");
        assert_eq!(support::send(support::HTTP.put(w.server.url(path))).status, 405, "{path}");
    }
}

#[test]
fn whoever_is_not_signed_in_is_led_through_the_sign_in_and_back() {
    let w = world();
    let (name, _) = person(&w);
    for (path, id) in PAGES {
        let browser = w.browser();
        let page = browser.open(w.server.url(path));
        page.is("login-page");
        let page = browser.sign_in_as(&page, &name, PASSWORD);
        page.is(id);
        assert_eq!(page.url.path(), path);
    }
}

#[test]
fn a_profile_is_saved_and_seen_by_applications() {
    let w = world();
    let (_, browser) = person(&w);
    let page = open(&w, &browser, "/account/profile");
    let typed = [("name", "Ada <b>King</b>"), ("given_name", "Ada"), ("family_name", "King"), ("locale", "en-GB")];
    let saved = browser.press(&page, "profile-save", &typed);
    saved.is("profile-page");
    assert_eq!((saved.url.path(), saved.url.query()), ("/account/profile", Some("saved")), "303 after the POST");
    assert!(saved.answer.body.contains("Ada &#60;b&#62;King") || saved.answer.body.contains("Ada &lt;b&gt;King"));
    let seen = w.web.userinfo(tokens(&browser, &w.web, "openid profile").access()).ok();
    assert_eq!((&seen["name"], &seen["locale"]), (&"Ada <b>King</b>".into(), &"en-GB".into()));

    // The zone is chosen from a list; times are shown in it from then on.
    let with_zone = |zone: &str| {
        let page = open(&w, &browser, "/account/profile");
        let mut fields = page.form_of("profile-save").filled(&[("family_name", "")]);
        fields.push(("zoneinfo".to_owned(), zone.to_owned()));
        let request = post(page.url.as_str(), &fields).header("origin", &w.server.issuer);
        browser.send(request.header("sec-fetch-site", "same-origin"))
    };
    assert_eq!(with_zone("Mars/Olympus").status, 422);
    assert_eq!(with_zone("Asia/Kolkata").status, 303);
    assert!(open(&w, &browser, "/account/sessions").answer.body.contains("Times are in Asia/Kolkata"));
    let seen = w.web.userinfo(tokens(&browser, &w.web, "openid profile").access()).ok();
    assert_eq!((&seen["zoneinfo"], seen.get("family_name")), (&"Asia/Kolkata".into(), None), "what is emptied is gone");
    assert!(activity(&w, &browser).contains("Profile changed"));
}

/// Sends the form of a page, bent by the test.
fn send_form(
    browser: &Browser,
    page: &Page,
    button: &str,
    headers: &[(&str, &str)],
    bend: impl Fn(&mut Vec<(String, String)>),
) -> Answer {
    let form = page.form_of(button);
    let mut fields = form.filled(&[]);
    bend(&mut fields);
    let mut request = post(page.url.join(&form.action).unwrap(), &fields);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    browser.send(request)
}

fn set(fields: &mut Vec<(String, String)>, name: &str, value: &str) {
    fields.retain(|(other, _)| other != name);
    fields.push((name.to_owned(), value.to_owned()));
}

#[test]
fn s15_each_form_needs_its_own_page_in_its_own_session_on_our_own_site() {
    let w = world();
    let (name, browser) = person(&w);
    let elsewhere = sign_in(&w, &name);
    tokens(&browser, &w.third, "openid");
    let (_, stranger) = person(&w);
    tokens(&stranger, &w.third, "openid");
    let _second = sign_in(&w, &name);
    let forms = [
        ("/account/profile", "profile-save"),
        ("/account/password", "password-save"),
        ("/account/sessions", "sessions-end-others"),
        ("/account/applications", "application-revoke-1"),
        ("/account/data", "data-download"),
        ("/account/delete", "delete-confirm"),
    ];
    let own = w.server.issuer.as_str();
    let token = |browser: &Browser, path: &str, button: &str| {
        open(&w, browser, path).form_of(button).value("csrf").unwrap().to_owned()
    };
    for (path, button) in forms {
        let page = open(&w, &browser, path);
        // What would be done if the form were let through.
        let fill = |fields: &mut Vec<(String, String)>| match path {
            "/account/profile" => set(fields, "name", "Mallory"),
            "/account/password" => {
                set(fields, "password", "the password of an attacker");
                set(fields, "again", "the password of an attacker");
            }
            "/account/delete" => set(fields, "username", &name),
            _ => {}
        };
        let refused = |headers: &[(&str, &str)], csrf: Option<&str>| {
            let answer = send_form(&browser, &page, button, headers, |fields| {
                fill(fields);
                match csrf {
                    Some("") => fields.retain(|(name, _)| name != "csrf"),
                    Some(csrf) => set(fields, "csrf", csrf),
                    None => {}
                }
            });
            assert_eq!(answer.status, 403, "{path} {headers:?} {csrf:?}: {answer:?}");
        };
        for headers in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site"), ("origin", own)],
            &[("origin", "https://evil.example")],
            &[("origin", "null")],
        ] {
            refused(headers, None);
        }
        let ours = [("origin", own), ("sec-fetch-site", "same-origin")];
        let (other_path, other_button) = if path == "/account/data" {
            ("/account/profile", "profile-save")
        } else {
            ("/account/data", "data-download")
        };
        refused(&ours, Some(""));
        refused(&ours, Some(&token(&browser, other_path, other_button)));
        if path != "/account/sessions" {
            refused(&ours, Some(&token(&stranger, path, button)));
        }
        if matches!(path, "/account/profile" | "/account/delete") {
            refused(&ours, Some(&token(&elsewhere, path, button)));
        }
    }
    assert!(is_signed_in(&w, &elsewhere) && !activity(&w, &browser).contains("Password changed"));
    assert!(!open(&w, &browser, "/account/profile").answer.body.contains("Mallory"));
}

#[test]
fn the_page_of_apps_names_the_apis_also_where_nobody_was_asked() {
    let w = world();
    let (name, browser) = person(&w);
    let api = format!("https://{name}.example");
    w.server.resource(&api, &format!("{name}.write"), &[]);
    let app = w.server.client(&serde_json::json!({
        "redirect_uris": ["https://own.example/"], "skip_consent": true, "scope": format!("openid {name}.write"),
    }));
    tokens(&browser, &app, &format!("openid {name}.write"));
    let page = open(&w, &browser, "/account/applications").answer.body;
    assert!(page.contains(&api) && page.contains(&format!("{name}.write")), "{page}");
}

#[test]
fn s106_nobody_ends_what_is_anothers_by_naming_it() {
    let w = world();
    let (name, browser) = person(&w);
    let held = tokens(&browser, &w.third, "openid offline_access");
    let sid = claims(held.id())["sid"].as_str().unwrap().to_owned();
    let (own_name, mallory) = person(&w);
    let own_second = sign_in(&w, &own_name);
    tokens(&mallory, &w.web, "openid");
    let ours = [("origin", w.server.issuer.as_str()), ("sec-fetch-site", "same-origin")];

    let page = open(&w, &mallory, "/account/sessions");
    let answer = send_form(&mallory, &page, "session-end-2", &ours, |fields| set(fields, "session", &sid));
    assert_eq!((answer.status, answer.header("location")), (303, "/account/sessions?gone"));
    let page = open(&w, &mallory, "/account/applications");
    let answer =
        send_form(&mallory, &page, "application-revoke-1", &ours, |fields| set(fields, "client_id", &w.third.id));
    assert_eq!((answer.status, answer.header("location")), (303, "/account/applications?gone"));
    mallory.press(&open(&w, &mallory, "/account/sessions"), "sessions-end-others", &[]);

    assert!(is_signed_in(&w, &browser) && w.third.is_active(held.access()), "{name} lost nothing");
    assert!(!is_signed_in(&w, &own_second), "one's own end");
    for page in ["/account/sessions", "/account/applications", "/account/activity"] {
        assert!(!open(&w, &mallory, page).answer.body.contains(&sid), "{page}");
    }
}

#[test]
fn s34_a_session_ended_from_another_one_ends_with_its_tokens() {
    let w = world();
    let (name, here) = person(&w);
    let there = sign_in(&w, &name);
    let held = tokens(&there, &w.web, "openid");
    let kept = tokens(&here, &w.web, "openid");
    let page = open(&w, &here, "/account/sessions");
    assert!(page.answer.body.contains("127.0.0.1") && page.answer.body.contains("This one"), "{}", page.answer.body);
    let after = here.press(&page, "session-end-2", &[]);
    assert_eq!(after.url.query(), Some("ended"));
    assert!(!after.has("session-end-2"), "it is gone from the list");
    assert!(!is_signed_in(&w, &there) && !w.web.is_active(held.access()));
    w.web.refresh(held.refresh()).refused(400, "invalid_grant");
    assert!(is_signed_in(&w, &here) && w.web.is_active(kept.access()));
    assert!(activity(&w, &here).contains("Another browser signed out"));
    // This one is not ended here, whatever the form says.
    let sid = claims(kept.id())["sid"].as_str().unwrap().to_owned();
    let _third = sign_in(&w, &name);
    let page = open(&w, &here, "/account/sessions");
    let ours = [("origin", w.server.issuer.as_str()), ("sec-fetch-site", "same-origin")];
    send_form(&here, &page, "session-end-2", &ours, |fields| set(fields, "session", &sid));
    assert!(is_signed_in(&w, &here));
}

#[test]
fn s34_an_application_that_is_taken_back_loses_its_tokens_at_once_and_asks_again() {
    let w = world();
    let (_, browser) = person(&w);
    let held = tokens(&browser, &w.third, "openid email offline_access");
    let other = tokens(&browser, &w.web, "openid");
    let page = open(&w, &browser, "/account/applications");
    let body = &page.answer.body;
    assert!(body.contains("See your e-mail address") && body.contains("Keep this access"), "{body}");
    assert!(!body.contains("<b>Party</b>"), "s6 a name is text: {body}");
    assert!(body.contains("let in by the people who run this service"), "the first-party one is told as well: {body}");
    let after = browser.press(&page, "application-revoke-1", &[]);
    assert_eq!(after.url.query(), Some("taken-back"));
    assert!(!w.third.is_active(held.access()));
    w.third.refresh(held.refresh()).refused(400, "invalid_grant");
    assert_eq!(w.third.userinfo(held.access()).status, 401);
    assert!(w.web.is_active(other.access()), "the others keep what they have");
    browser.open(w.third.request().url()).is("consent-page");
    let told = activity(&w, &browser);
    assert!(told.contains("Access taken back from an app") && !told.contains("<b>Party</b>"), "{told}");
}

const NEW_PASSWORD: &str = "another horse, another battery";

fn change_password(browser: &Browser, page: &Page, keep_others: bool) -> Answer {
    let origin = page.url.origin().ascii_serialization();
    let ours = [("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
    send_form(browser, page, "password-save", &ours, |fields| {
        set(fields, "password", NEW_PASSWORD);
        set(fields, "again", NEW_PASSWORD);
        fields.retain(|(name, _)| !keep_others || name != "end_others");
    })
}

#[test]
fn s76_a_new_password_ends_what_the_old_one_opened_and_this_session_goes_on_under_a_new_cookie() {
    let w = world();
    let (name, here) = person(&w);
    let there = sign_in(&w, &name);
    let online = tokens(&there, &w.web, "openid");
    let offline = tokens(&there, &w.third, "openid offline_access");
    let kept = tokens(&here, &w.web, "openid");
    let before = here.cookies();
    let answer = change_password(&here, &open(&w, &here, "/account/password"), false);
    assert_eq!((answer.status, answer.header("location")), (303, "/account?password-changed"));

    assert!(is_signed_in(&w, &here) && w.web.is_active(kept.access()));
    assert!(!is_signed_in(&w, &there) && !w.web.is_active(online.access()) && !w.third.is_active(offline.access()));
    w.third.refresh(offline.refresh()).refused(400, "invalid_grant");
    let thief = w.browser();
    thief.set_cookies(before);
    assert!(!is_signed_in(&w, &thief), "s73 the cookie of before opens nothing");
    let stranger = w.browser();
    let page = stranger.open(w.server.url("/"));
    let page = stranger.sign_in_as(&page, &name, PASSWORD);
    stranger.sign_in_as(page.is("login-page"), &name, NEW_PASSWORD).is("home-page");
    assert!(activity(&w, &here).contains("Password changed"));
}

#[test]
fn s76_the_other_sessions_stay_where_their_owner_chose_so() {
    let w = world();
    let (name, here) = person(&w);
    let there = sign_in(&w, &name);
    assert_eq!(change_password(&here, &open(&w, &here, "/account/password"), true).status, 303);
    assert!(is_signed_in(&w, &here) && is_signed_in(&w, &there));
}

#[test]
fn s72_a_new_password_is_typed_twice_long_enough_and_not_ones_own_name() {
    let w = world();
    let (name, browser) = person(&w);
    let own = format!("{name}@example.com");
    for (password, again) in
        [("short", "short"), (NEW_PASSWORD, "something else"), ("", ""), (own.as_str(), own.as_str())]
    {
        let page = open(&w, &browser, "/account/password");
        let after = browser.press(&page, "password-save", &[("password", password), ("again", again)]);
        after.is("password-page");
        assert_eq!(after.answer.status, 422, "{password:?}");
        assert!(after.has("problem"));
    }
    assert!(!activity(&w, &browser).contains("Password changed"));
}

#[test]
fn s61_changes_ask_for_a_recent_sign_in_and_come_back_to_their_page() {
    let w = World::new(&[]);
    let browser = sign_in(&w, "ada");
    let (password, delete) = (open(&w, &browser, "/account/password"), open(&w, &browser, "/account/delete"));
    in_database(&w.server, "UPDATE sessions SET proven_at = proven_at - 301000");
    // The pages were opened in time, the forms come too late.
    assert!(change_password(&browser, &password, false).header("location").starts_with("/flow/"));
    browser.press(&delete, "delete-confirm", &[("username", "ada")]).is("login-page");
    for (path, id) in [("/account/password", "password-page"), ("/account/delete", "delete-page")] {
        let page = open(&w, &browser, path);
        let page = browser.press(page.is("login-page"), "login-submit", &[("password", PASSWORD)]);
        page.is(id);
        in_database(&w.server, "UPDATE sessions SET proven_at = proven_at - 301000");
    }
    open(&w, &browser, "/account/profile").is("profile-page");
}

#[test]
fn what_is_kept_about_a_person_can_be_taken_away_and_holds_no_secret() {
    let w = world();
    let (name, browser) = person(&w);
    let held = tokens(&browser, &w.third, "openid email");
    let page = open(&w, &browser, "/account/data");
    let data = browser.press(&page, "data-download", &[]).answer;
    assert!(data.header("content-disposition").starts_with("attachment;"), "{data:?}");
    assert_eq!(data.header("cache-control"), "no-store");
    let kept = data.ok();
    assert_eq!(kept["account"]["user_name"], name.as_str());
    assert_eq!(kept["account"]["sub"], claims(held.id())["sub"]);
    assert_eq!(kept["sessions"][0]["session_id"], claims(held.id())["sid"]);
    assert_eq!(kept["applications"][0]["client_id"], w.third.id.as_str());
    assert!(kept["activity"].as_array().unwrap().iter().any(|entry| entry["what"] == "signed_in"));
    let cookies = browser.cookies();
    for secret in cookies.values().map(String::as_str).chain(["$argon2", "digest", "hash", held.access()]) {
        assert!(!data.body.contains(secret), "{secret}");
    }
}

#[test]
fn the_owner_sees_who_tried_and_a_strange_browser_is_named_in_our_words() {
    let w = world();
    let (name, browser) = person(&w);
    let stranger = w.browser();
    let page = stranger.open(w.server.url("/"));
    let form = page.form_of("login-submit");
    let request = post(page.url.join(&form.action).unwrap(), &form.filled(&[("username", &name), ("password", "x")]));
    let request = request.header("user-agent", "<script>alert(1)</script> Firefox/140.0 (Windows)");
    stranger.send(request.header("origin", &w.server.issuer));
    let told = activity(&w, &browser);
    assert!(told.contains("Failed sign-in") && told.contains("Firefox on Windows"), "{told}");
    assert!(told.contains("127.0.0.1") && !told.contains("alert(1)"), "{told}");
}

#[test]
fn a_deleted_account_is_gone_with_all_that_hung_on_it() {
    let w = world();
    let (name, browser) = person(&w);
    let there = sign_in(&w, &name);
    let held = tokens(&there, &w.third, "openid offline_access");
    let page = open(&w, &browser, "/account/delete");
    let wrong = browser.press(&page, "delete-confirm", &[("username", "somebody else")]);
    wrong.is("delete-page");
    assert!(w.third.is_active(held.access()));
    browser.press(&page, "delete-confirm", &[("username", &name)]).is("deleted-page");
    assert!(!w.third.is_active(held.access()));
    w.third.refresh(held.refresh()).refused(400, "invalid_grant");
    assert_eq!(w.third.userinfo(held.access()).status, 401);
    assert!(!is_signed_in(&w, &browser) && !is_signed_in(&w, &there));
    let stranger = w.browser();
    let page = stranger.open(w.server.url("/"));
    stranger.sign_in_as(&page, &name, PASSWORD).is("login-page");
    assert!(!w.server.cli(&["user", "show", &name], "").status.success());
}

#[test]
fn s106_the_last_administrator_stays() {
    let w = World::new(&[]);
    w.server.cli_ok(&["user", "create", "root", "--admin", "--password-stdin"], PASSWORD);
    let browser = sign_in(&w, "root");
    let leave = || {
        let page = open(&w, &browser, "/account/delete");
        browser.press(&page, "delete-confirm", &[("username", "root")])
    };
    let refused = leave();
    refused.is("delete-page");
    assert!(refused.answer.body.contains("last account that administers"), "{}", refused.answer.body);
    w.server.cli_ok(&["user", "create", "second", "--admin", "--password-stdin"], PASSWORD);
    w.server.cli_ok(&["user", "disable", "second"], "");
    leave().is("delete-page");
    w.server.cli_ok(&["user", "enable", "second"], "");
    leave().is("deleted-page");
}

/// A server that sends mail, with a person whose address is confirmed and a browser in which they have just signed in.
fn with_mail() -> (TestServer, Browser) {
    let server = TestServer::running(&[TO_DIRECTORY]);
    server.user("ada");
    server.cli_ok(&["user", "set-email", "ada", "ada@example.com", "--verified"], "");
    let browser = Browser::new(&server);
    let page = browser.open(server.url("/"));
    browser.sign_in_as(&page, "ada", PASSWORD).is("home-page");
    (server, browser)
}

#[test]
fn an_account_with_a_mailbox_is_deleted_by_the_link_that_went_there_and_by_its_owner_alone() {
    let (server, browser) = with_mail();
    server.user("mallory");
    let page = browser.open(server.url("/account/delete"));
    let sent = browser.press(&page, "delete-confirm", &[("username", "ada")]);
    assert_eq!(sent.url.query(), Some("sent"));
    let link = server.mail_to("ada@example.com", 1).link();
    assert!(server.cli(&["user", "show", "ada"], "").status.success(), "not without the link");

    // In another's session it opens nothing, and by being opened nothing is deleted.
    let stranger = Browser::new(&server);
    let page = stranger.open(server.url("/"));
    stranger.sign_in_as(&page, "mallory", PASSWORD).is("home-page");
    assert_eq!(stranger.open(&link).is("error-page").answer.status, 403);
    let page = browser.open(&link);
    page.is("delete-confirm-page");
    assert_eq!(page.url.query(), None, "the secret leaves the address");
    let form = page.form_of("delete-final");
    let forged = browser.send(post(page.url.as_str(), &form.filled(&[])).header("origin", "https://evil.example"));
    assert_eq!(forged.status, 403);
    assert!(server.cli(&["user", "show", "ada"], "").status.success());

    browser.press(&page, "delete-final", &[]).is("deleted-page");
    assert!(!server.cli(&["user", "show", "ada"], "").status.success());
    assert!(server.mail_to("ada@example.com", 2).text.contains("were deleted"));
    stranger.open(&link).is("error-page");
}

#[test]
fn s68_a_new_address_is_asked_for_in_the_account_and_counts_once_its_link_is_opened() {
    let (server, browser) = with_mail();
    let page = browser.open(server.url("/account/email"));
    let wrong = browser.press(&page, "email-save", &[("email", "no address")]);
    assert!(wrong.answer.status == 422 && wrong.has("problem"));
    let sent = browser.press(&page, "email-save", &[("email", "new@example.com")]);
    assert_eq!((sent.url.path(), sent.url.query()), ("/account/email", Some("sent")));
    assert!(sent.answer.body.contains("<strong>ada@example.com</strong>"), "nothing is changed yet");
    let confirm = browser.open(server.mail_to("new@example.com", 1).link());
    browser.press(confirm.is("email-confirm-page"), "email-confirm-submit", &[]).is("email-confirmed-page");
    let page = browser.open(server.url("/account/profile"));
    assert!(page.answer.body.contains("new@example.com") && !page.answer.body.contains("not confirmed"));
    let told = browser.open(server.url("/account/activity")).answer.body;
    assert!(told.contains("New e-mail address asked for") && told.contains("E-mail address changed"), "{told}");
}

#[test]
fn a_changed_password_is_told_by_mail() {
    let (server, browser) = with_mail();
    let page = browser.open(server.url("/account/password"));
    assert_eq!(change_password(&browser, &page, false).status, 303);
    assert!(server.mail_to("ada@example.com", 1).text.contains("password of your account was changed"));
}
