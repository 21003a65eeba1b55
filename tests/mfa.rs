//! The second factor, from outside: setting it up, signing in with it, coming back without it, and every way around it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::Barrier;

use serde_json::{Value, json};
use support::phone::enrol;
use support::{Browser, PASSWORD, Page, Phone, TestServer, World, claims, post, world};

const PWD: &str = "urn:countersign:acr:pwd";
const MFA: &str = "urn:countersign:acr:mfa";

/// A request that insists on a class.
fn essential(class: &str) -> String {
    json!({"id_token": {"acr": {"essential": true, "value": class}}}).to_string()
}

/// A person of their own, for tests that share a server.
fn person(w: &World) -> String {
    let name = support::word();
    w.server.user(&name);
    name
}

/// Signs in at the home page.
fn signed_in(server: &TestServer, name: &str) -> Browser {
    let browser = Browser::new(server);
    let page = browser.open(server.url("/"));
    browser.sign_in_as(&page, name, PASSWORD).is("home-page");
    browser
}

/// A new browser with half a sign-in: the page that asks for the code.
fn halfway(w: &World, name: &str) -> (Browser, Page) {
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let page = browser.sign_in_as(&page, name, PASSWORD);
    page.is("mfa-page");
    (browser, page)
}

/// `acr` and `amr` of an ID token.
fn strength(token: &Value) -> (String, Vec<String>) {
    let claims = claims(token["id_token"].as_str().unwrap());
    let amr = claims["amr"].as_array().unwrap().iter().map(|method| method.as_str().unwrap().to_owned()).collect();
    (claims["acr"].as_str().unwrap().to_owned(), amr)
}

#[test]
fn an_app_is_set_up_in_the_account_and_asked_for_from_then_on() {
    let w = world();
    let name = person(&w);
    let first = signed_in(&w.server, &name);
    let before = first.cookies();
    let page = first.open(w.server.url("/account/totp"));
    let phone = Phone::of(&page);
    let again = first.open(w.server.url("/account/totp"));
    assert_eq!(Phone::of(&again).secret(), phone.secret(), "a page loaded again shows the same secret");
    let wrong = first.press(&page, "totp-confirm", &[("code", &phone.wrong_code())]);
    assert!(wrong.is("totp-enrol-page").has("login-error"));
    assert_eq!(Phone::of(&wrong).secret(), phone.secret());
    let done = first.press(&wrong, "totp-confirm", &[("code", &phone.code()), ("name", "Ada's <phone>")]);
    let codes = done.is("recovery-codes-page").texts("class=\"recovery-code\"");
    assert_eq!(codes.len(), 10);
    assert!(done.answer.header("cache-control").contains("no-store"));
    assert_ne!(first.cookies()["cs_session"], before["cs_session"], "a session that rises has a new cookie");

    // The session that did it has shown both.
    let here = first.open(w.web.request().with("prompt", "none").url());
    assert_eq!(
        strength(&w.web.redeem(&here.code()).ok()),
        (MFA.to_owned(), vec!["pwd".into(), "otp".into(), "mfa".into()])
    );
    let security = first.open(w.server.url("/account/security"));
    let shown = support::browser::unescape(&security.is("security-page").answer.body);
    assert!(shown.contains("Ada's <phone>") && !security.answer.body.contains("<phone>"), "{security:?}");

    let (browser, page) = halfway(&w, &name);
    assert!(!browser.cookies().contains_key("cs_session"), "s59 half a sign-in has no session");
    let wrong = browser.press(&page, "mfa-submit", &[("code", &phone.wrong_code())]);
    assert!(wrong.is("mfa-page").has("login-error"));
    let spaced = phone.code();
    let spaced = format!(" {} {}", &spaced[..3], &spaced[3..]);
    let done = browser.press(&wrong, "mfa-submit", &[("code", &spaced)]);
    let token = w.web.redeem(&done.code()).ok();
    assert_eq!(strength(&token), (MFA.to_owned(), vec!["pwd".into(), "otp".into(), "mfa".into()]));
    let access = token["access_token"].as_str().unwrap();
    for told in [claims(access), w.web.introspect(access)] {
        assert_eq!((&told["acr"], &told["amr"]), (&json!(MFA), &json!(["pwd", "otp", "mfa"])), "{told}");
    }
    assert!(!browser.cookies().contains_key("cs_step"), "what proved the first step is gone");
}

#[test]
fn s57_a_code_signs_in_once() {
    let w = world();
    let name = person(&w);
    let (phone, _) = enrol(&w.server, &signed_in(&w.server, &name));
    let code = phone.code();
    let (one, page) = halfway(&w, &name);
    one.press(&page, "mfa-submit", &[("code", &code)]).code();
    let (two, page) = halfway(&w, &name);
    let again = two.press(&page, "mfa-submit", &[("code", &code)]);
    assert!(again.is("mfa-page").has("login-error"));
    two.press(&again, "mfa-submit", &[("code", &phone.code())]).code();
}

#[test]
fn s59_no_older_session_and_no_other_door_goes_without_the_second_step() {
    let w = world();
    let name = person(&w);
    let (older, changing) = (signed_in(&w.server, &name), signed_in(&w.server, &name));
    let before = w.web.redeem(&older.open(w.web.request().with("prompt", "none").url()).code()).ok();
    assert_eq!(strength(&before), (PWD.to_owned(), vec!["pwd".into()]));
    let (phone, _) = enrol(&w.server, &changing);
    assert_eq!(older.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
    for path in ["/", "/account/security", "/account/totp"] {
        let page = older.open(w.server.url(path));
        assert!(page.has("login-page"), "{path}: {page:?}");
    }
    let cookie = older.cookies()["cs_session"].clone();
    let page = older.sign_in_as(&older.open(w.web.request().url()), &name, PASSWORD);
    let done = older.press(page.is("mfa-page"), "mfa-submit", &[("code", &phone.code())]);
    assert_eq!(strength(&w.web.redeem(&done.code()).ok()).0, MFA);
    assert_ne!(older.cookies()["cs_session"], cookie, "s73");
    older.open(w.server.url("/")).is("home-page");
}

#[test]
fn s59_s76_a_first_app_ends_what_the_password_alone_had_opened() {
    let w = world();
    let held = |browser: &Browser| w.web.tokens(browser, "openid offline_access");
    let ended = |tokens: &support::app::Tokens| {
        assert!(!w.web.is_active(tokens.access()));
        w.web.refresh(tokens.refresh()).refused(400, "invalid_grant");
    };
    // In the account.
    let name = person(&w);
    let (here, there) = (signed_in(&w.server, &name), signed_in(&w.server, &name));
    let (own, others, bound) = (held(&here), held(&there), w.web.tokens(&here, "openid"));
    let unspent = here.open(w.web.request().url()).code();
    let page = here.open(w.server.url("/account/totp"));
    assert!(page.answer.body.contains("are signed out") && !page.has("end_others"), "{page:?}");
    enrol(&w.server, &here);
    [&own, &others, &bound].into_iter().for_each(ended);
    w.web.redeem(&unspent).refused(400, "invalid_grant");
    there.open(w.server.url("/")).is("login-page");
    // The session has shown both; its applications get what is worth more, without a page. Another app ends nothing.
    let stronger = held(&here);
    assert_eq!(strength(&stronger.0).0, MFA);
    let page = here.open(w.server.url("/account/totp"));
    let second = Phone::of(&page);
    assert!(page.has("end_others") && !page.answer.body.contains("are signed out"), "{page:?}");
    here.press(&page, "totp-confirm", &[("code", &second.code()), ("name", "Second")]).is("security-page");
    assert!(w.web.is_active(stronger.access()));
    w.web.refresh(stronger.refresh()).ok();

    // In the middle of a sign-in.
    let name = person(&w);
    let older = signed_in(&w.server, &name);
    let others = held(&older);
    let browser = w.browser();
    let page = browser.open(w.web.request().with("claims", &essential(MFA)).url());
    let page = browser.sign_in_as(&page, &name, PASSWORD);
    let shown = browser.press(&page, "totp-confirm", &[("code", &Phone::of(&page).code())]);
    ended(&others);
    older.open(w.server.url("/")).is("login-page");
    let done = browser.open(shown.url.join(&link(&shown, "recovery-codes-continue")).unwrap());
    assert_eq!(strength(&w.web.redeem(&done.code()).ok()).0, MFA);
}

#[test]
fn a_code_that_comes_too_late_leads_back_to_the_sign_in() {
    let w = world();
    let name = person(&w);
    let (phone, _) = enrol(&w.server, &signed_in(&w.server, &name));
    let (browser, page) = halfway(&w, &name);
    w.server.cli_ok(&["user", "disable", &name], "");
    browser.press(&page, "mfa-submit", &[("code", &phone.code())]).is("login-page");
}

#[test]
fn s60_the_second_step_counts_only_after_the_first_in_the_same_browser() {
    let w = world();
    let name = person(&w);
    let (phone, codes) = enrol(&w.server, &signed_in(&w.server, &name));
    // Straight to the code.
    let stranger = w.browser();
    let login = stranger.open(w.web.request().url());
    let csrf = login.form_of("login-submit").value("csrf").unwrap().to_owned();
    for (step, field, value) in [("code", "code", phone.code()), ("recovery", "recovery_code", codes[0].clone())] {
        let url = format!("{}/{step}", login.url);
        let answer =
            stranger.send(post(&url, &[("csrf", csrf.as_str()), (field, &value)]).header("origin", &w.server.issuer));
        assert_eq!(answer.status, 303, "{answer:?}");
        stranger.open(login.url.as_str()).is("login-page");
    }
    // Half a sign-in is nothing in a browser that has the flow's name and the flow's cookie, but not the step's.
    let (victim, page) = halfway(&w, &name);
    let planted = w.browser();
    let mut cookies = victim.cookies();
    assert!(cookies.remove("cs_step").is_some());
    planted.set_cookies(cookies);
    planted.open(page.url.as_str()).is("login-page");
    let form = page.form_of("mfa-submit");
    let url = page.url.join(&form.action).unwrap();
    let answer =
        planted.send(post(url.as_str(), &form.filled(&[("code", &phone.code())])).header("origin", &w.server.issuer));
    assert_eq!(answer.status, 303, "{answer:?}");
    planted.open(page.url.as_str()).is("login-page");
    // The password again makes a new one; the first no longer counts.
    let old = victim.cookies();
    let flow = page.url.clone();
    let again = planted.sign_in_as(&planted.open(flow.as_str()), &name, PASSWORD);
    assert_ne!(planted.cookies()["cs_step"], old["cs_step"], "s73");
    victim.open(flow.as_str()).is("login-page");
    planted.press(again.is("mfa-page"), "mfa-submit", &[("code", &phone.code())]).code();
}

#[test]
fn s62_a_recovery_code_stands_in_once_and_lets_its_owner_set_up_another_phone() {
    let w = world();
    let name = person(&w);
    let (_, codes) = enrol(&w.server, &signed_in(&w.server, &name));
    let (browser, page) = halfway(&w, &name);
    let page = browser.open(format!("{}/recovery", page.url));
    let wrong = browser.press(page.is("recovery-page"), "recovery-submit", &[("recovery_code", "0000-0000-0000-0000")]);
    assert!(wrong.is("recovery-page").has("login-error"));
    let done = browser.press(&wrong, "recovery-submit", &[("recovery_code", &codes[0].to_uppercase())]);
    let token = w.web.redeem(&done.code()).ok();
    assert_eq!(strength(&token), (MFA.to_owned(), vec!["pwd".into(), "rc".into(), "mfa".into()]));
    let security = browser.open(w.server.url("/account/security"));
    assert_eq!(security.is("security-page").texts("id=\"recovery-codes-left\""), ["You have 9 left."]);

    // Once only.
    let (other, page) = halfway(&w, &name);
    let page = other.open(format!("{}/recovery", page.url));
    let again = other.press(&page, "recovery-submit", &[("recovery_code", &codes[0])]);
    assert!(again.is("recovery-page").has("login-error"));

    // The lost phone goes, another comes; a new set of codes voids the old one.
    let new = browser.open(w.server.url("/account/totp"));
    let phone = Phone::of(&new);
    let added = browser.press(&new, "totp-confirm", &[("code", &phone.code()), ("name", "New phone")]);
    assert_eq!(added.is("security-page").texts("id=\"recovery-codes-left\""), ["You have 9 left."]);
    let removed = browser.press(&added, "totp-remove-1", &[]);
    assert!(removed.is("security-page").answer.body.contains("New phone"));
    assert!(!removed.has("totp-remove-2"));
    let renewed = browser.press(&removed, "recovery-codes-new", &[]);
    let renewed = renewed.is("recovery-codes-page").texts("class=\"recovery-code\"");
    assert!(renewed.len() == 10 && renewed.iter().all(|code| !codes.contains(code)));
    let page = other.open(again.url.as_str());
    let void = other.press(&page, "recovery-submit", &[("recovery_code", &codes[1])]);
    assert!(void.is("recovery-page").has("login-error"));
    other.press(&void, "recovery-submit", &[("recovery_code", &renewed[0])]).code();
    let (last, page) = halfway(&w, &name);
    last.press(&page, "mfa-submit", &[("code", &phone.code())]).code();
}

#[test]
fn s78_step_up_asks_for_what_is_missing_and_tells_it() {
    let w = world();
    let name = person(&w);
    let browser = signed_in(&w.server, &name);
    let wish = w.web.request().with("acr_values", MFA);
    let met = |page: Page| strength(&w.web.redeem(&page.code()).ok()).0;
    // A wish that the person cannot fulfil is no reason to stop.
    assert_eq!(met(browser.open(wish.url())), PWD);
    let must = w.web.request().with("claims", &essential(MFA));
    assert_eq!(browser.open(must.clone().with("prompt", "none").url()).error(), "login_required");
    // Who has none sets one up on the way, and comes out where they were going.
    let page = browser.open(must.clone().with("state", "on the way").url());
    let phone = Phone::of(&page);
    let shown = browser.press(&page, "totp-confirm", &[("code", &phone.code())]);
    shown.is("recovery-codes-page");
    let done = browser.open(shown.url.join(&link(&shown, "recovery-codes-continue")).unwrap().as_str());
    assert_eq!(done.callback()["state"], "on the way");
    assert_eq!(met(done), MFA);
    // The session has it now, and it is not asked for again.
    assert_eq!(met(browser.open(must.clone().with("prompt", "none").url())), MFA);
    // An essential class of the weaker kind is answered by its name (Core 5.5.1.1).
    assert_eq!(met(browser.open(w.web.request().with("claims", &essential(PWD)).url())), PWD);
    // Proving it again means all of it.
    let page = browser.open(w.web.request().with("prompt", "login").url());
    let page = browser.press(page.is("login-page"), "login-submit", &[("password", PASSWORD)]);
    assert_eq!(met(browser.press(page.is("mfa-page"), "mfa-submit", &[("code", &phone.code())])), MFA);
    let unknown = w.web.request().with("claims", &essential("urn:other"));
    assert_eq!(browser.open(unknown.url()).error(), "unmet_authentication_requirements");
}

fn link(page: &Page, id: &str) -> String {
    let mut tags = support::browser::tags(&page.answer.body);
    tags.find(|tag| tag.attributes.get("id").is_some_and(|own| own == id)).unwrap().attributes["href"].clone()
}

#[test]
fn s56_codes_and_recovery_codes_share_one_count_which_a_known_browser_does_not_wait_for() {
    let w = world();
    let name = person(&w);
    let home = signed_in(&w.server, &name);
    let (phone, codes) = enrol(&w.server, &home);
    let (browser, mut page) = halfway(&w, &name);
    let mut recovery = browser.open(format!("{}/recovery", page.url));
    for _ in 0..3 {
        page = browser.press(&page, "mfa-submit", &[("code", &phone.wrong_code())]);
        assert_eq!(page.answer.status, 200, "{page:?}");
    }
    for _ in 0..2 {
        recovery = browser.press(&recovery, "recovery-submit", &[("recovery_code", "0000-0000-0000-0000")]);
        assert_eq!(recovery.answer.status, 200, "{recovery:?}");
    }
    // The right ones wait as well, and are not spent by it.
    for answer in [
        browser.press(&page, "mfa-submit", &[("code", &phone.code())]),
        browser.press(&recovery, "recovery-submit", &[("recovery_code", &codes[0])]),
    ] {
        assert_eq!(answer.answer.status, 429, "{answer:?}");
        let seconds: u64 = answer.answer.header("retry-after").parse().unwrap();
        assert!((20..=30).contains(&seconds), "{seconds}");
        assert!(answer.answer.body.contains("try again in"), "{answer:?}");
    }
    // Another door, the same count.
    let (other, page) = halfway(&w, &name);
    assert_eq!(other.press(&page, "mfa-submit", &[("code", &phone.code())]).answer.status, 429);
    // A browser that has signed in before has a count of its own.
    home.press(&home.open(w.server.url("/")), "sign-out", &[]);
    let page = home.sign_in_as(&home.open(w.web.request().url()), &name, PASSWORD);
    home.press(page.is("mfa-page"), "mfa-submit", &[("code", &phone.code())]).code();
}

#[test]
fn s56_a_browser_that_showed_the_password_alone_is_counted_with_everybody_and_a_second_factor_makes_it_known() {
    const NEW: &str = "a different horse ate the battery";
    let w = World::new(&[]);
    let weak = signed_in(&w.server, "ada");
    weak.press(&weak.open(w.server.url("/")), "sign-out", &[]);
    let home = signed_in(&w.server, "ada");
    let (phone, codes) = enrol(&w.server, &home);
    // By a code, by a recovery code and by setting up the app a browser becomes known.
    let (by_code, page) = halfway(&w, "ada");
    by_code.press(&page, "mfa-submit", &[("code", &phone.code())]).code();
    let (by_recovery, page) = halfway(&w, "ada");
    let page = by_recovery.open(format!("{}/recovery", page.url));
    by_recovery.press(&page, "recovery-submit", &[("recovery_code", &codes[0])]).code();
    let guess = |password: &str| {
        let (stranger, mut page) = (w.browser(), None);
        for _ in 0..6 {
            let shown = page.take().unwrap_or_else(|| {
                stranger.sign_in_as(&stranger.open(w.web.request().url()), "ada", password).is("mfa-page").clone()
            });
            page = Some(stranger.press(&shown, "mfa-submit", &[("code", &phone.wrong_code())]));
        }
        assert_eq!(page.unwrap().answer.status, 429, "it is shut to browsers that are not known");
    };
    let halfway_again = |browser: &Browser, password: &str| {
        let home = browser.open(w.server.url("/"));
        if home.has("sign-out") {
            browser.press(&home, "sign-out", &[]);
        }
        browser.sign_in_as(&browser.open(w.web.request().url()), "ada", password).is("mfa-page").clone()
    };
    let unused = std::cell::RefCell::new(codes[1..].iter());
    let gets_in = |browser: &Browser, password: &str| {
        let page = browser.open(format!("{}/recovery", halfway_again(browser, password).url));
        browser.press(&page, "recovery-submit", &[("recovery_code", unused.borrow_mut().next().unwrap())]).code();
    };
    let waits = |browser: &Browser, password: &str| {
        let page = halfway_again(browser, password);
        assert_eq!(browser.press(&page, "mfa-submit", &[("code", &phone.wrong_code())]).answer.status, 429);
    };
    guess(PASSWORD);
    waits(&weak, PASSWORD);
    for known in [&home, &by_code, &by_recovery] {
        gets_in(known, PASSWORD);
    }
    // It is known to the password's count as well.
    let stranger = w.browser();
    for _ in 0..6 {
        stranger.sign_in_as(&stranger.open(w.web.request().url()), "ada", "wrong");
    }
    assert_eq!(stranger.sign_in_as(&stranger.open(w.web.request().url()), "ada", PASSWORD).answer.status, 429);
    gets_in(&home, PASSWORD);
    // With a new password it stays known, by a mark of that password; the others were known by the old one.
    let page = home.open(w.server.url("/account/password"));
    home.press(&page, "password-save", &[("password", NEW), ("again", NEW)]).is("account-page");
    guess(NEW);
    waits(&by_code, NEW);
    gets_in(&home, NEW);
}

#[test]
fn of_32_that_show_one_code_one_gets_in() {
    let w = world();
    for step in ["code", "recovery"] {
        // One person each: the losers have made the next guesses wait.
        let name = person(&w);
        let (phone, codes) = enrol(&w.server, &signed_in(&w.server, &name));
        let (field, value) = match step {
            "code" => ("code", phone.code()),
            _ => ("recovery_code", codes[0].clone()),
        };
        let (browser, page) = halfway(&w, &name);
        let form = page.form_of("mfa-submit");
        let csrf = form.value("csrf").unwrap().to_owned();
        let url = format!("{}/{step}", page.url);
        let start = Barrier::new(32);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let racer = || {
                let one = Browser::new(&w.server);
                one.set_cookies(browser.cookies());
                start.wait();
                one.send(post(&url, &[("csrf", csrf.as_str()), (field, &value)]).header("origin", &w.server.issuer));
                one.cookies().contains_key("cs_session")
            };
            let racers: Vec<_> = (0..32).map(|_| scope.spawn(racer)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(answers.iter().filter(|won| **won).count(), 1, "s57 {step}");
    }
}

#[test]
fn s112_no_secret_of_a_factor_is_readable_in_the_database() {
    if support::postgres::on_postgres() {
        // What is written is the same; only SQLite's files lie where a test can read them.
        return;
    }
    let w = World::new(&[]);
    let (phone, codes) = enrol(&w.server, &signed_in(&w.server, "ada"));
    w.server.stop();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(w.server.data_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("countersign.db") {
            files.extend(std::fs::read(path).unwrap());
        }
    }
    let holds = |needle: &[u8]| files.windows(needle.len()).any(|window| window == needle);
    assert!(holds(b"totp_devices") && holds(b"My phone"), "these are the files");
    let text = totp_rs::Secret::new(phone.secret().into()).to_base32();
    assert!(!holds(&phone.secret()) && !holds(text.as_bytes()));
    for code in codes {
        assert!(!holds(code.as_bytes()) && !holds(code.replace('-', "").as_bytes()));
    }
}

#[test]
fn who_must_have_a_second_factor_sets_it_up_on_the_way_and_keeps_one() {
    let w = World::new(&[("COUNTERSIGN_MFA__REQUIRED", "always")]);
    let browser = w.browser();
    let page = browser.sign_in_as(&browser.open(w.third.request().url()), "ada", PASSWORD);
    let phone = Phone::of(&page);
    assert!(
        page.answer.body.contains("Third &#60;b&#62;Party") || page.answer.body.contains("Third &lt;b&gt;Party"),
        "{page:?}"
    );
    assert!(!browser.cookies().contains_key("cs_session"), "s59");
    let shown = browser.press(&page, "totp-confirm", &[("code", &phone.code())]);
    let next = browser.open(shown.url.join(&link(shown.is("recovery-codes-page"), "recovery-codes-continue")).unwrap());
    let done = browser.press(next.is("consent-page"), "consent-allow", &[]);
    assert_eq!(strength(&w.third.redeem(&done.code()).ok()).0, MFA);
    let security = browser.open(w.server.url("/account/security"));
    assert!(security.is("security-page").has("totp-add") && !security.has("totp-remove-1"), "{security:?}");
    assert_eq!(w.get("/.well-known/openid-configuration").ok()["acr_values_supported"], json!([PWD, MFA]));
}

#[test]
fn clients_and_administrators_can_be_told_apart() {
    let server = TestServer::prepare(&[
        ("COUNTERSIGN_MFA__REQUIRED_FOR_ADMINS", "true"),
        ("COUNTERSIGN_ACR__MFA_ALIASES", "https://refeds.org/profile/mfa"),
    ]);
    server.user("ada");
    server.cli_ok(&["user", "create", "root", "--admin", "--password-stdin"], &format!("{PASSWORD}\n"));
    let client = |name: &str, strict: bool| {
        server.client(&json!({
            "redirect_uris": [format!("https://{name}.example/callback")], "skip_consent": true, "require_mfa": strict,
        }))
    };
    let (strict, lax) = (client("strict", true), client("lax", false));
    server.start();
    let at = |app: &support::App, name: &str| {
        let browser = Browser::new(&server);
        let page = browser.open(app.request().url());
        (browser.sign_in_as(&page, name, PASSWORD), browser)
    };
    at(&lax, "ada").0.code();
    at(&lax, "root").0.is("totp-enrol-page");
    let (page, browser) = at(&strict, "ada");
    let phone = Phone::of(&page);
    browser.press(&page, "totp-confirm", &[("code", &phone.code())]).is("recovery-codes-page");
    let alias = "https://refeds.org/profile/mfa";
    let done = browser.open(strict.request().with("acr_values", alias).with("prompt", "none").url());
    let token = strict.redeem(&done.code()).ok();
    assert_eq!(strength(&token).0, alias);
    assert_eq!(claims(token["access_token"].as_str().unwrap())["acr"], alias);
    let document = support::get(server.url("/.well-known/openid-configuration")).ok();
    assert_eq!(document["acr_values_supported"], json!([PWD, MFA, alias]));

    // The operator's way back in: what stands on the old factor ends.
    let said = server.cli_ok(&["user", "reset-mfa", "ada"], "");
    assert!(said.contains("ada"), "{said}");
    assert_eq!(browser.open(lax.request().with("prompt", "none").url()).error(), "login_required");
    at(&lax, "ada").0.code();
    at(&strict, "ada").0.is("totp-enrol-page");
}

#[test]
fn nobody_is_asked_where_nobody_can_have_one() {
    let w = World::new(&[("COUNTERSIGN_MFA__REQUIRED", "never")]);
    let browser = signed_in(&w.server, "ada");
    assert_eq!(browser.open(w.server.url("/account/totp")).answer.status, 404);
    let must = w.web.request().with("claims", &essential(MFA));
    assert_eq!(browser.open(must.url()).error(), "unmet_authentication_requirements");
    browser.open(w.web.request().with("acr_values", MFA).url()).code();
    assert_eq!(w.get("/.well-known/openid-configuration").ok()["acr_values_supported"], json!([PWD]));
}

#[test]
fn a_trusted_browser_goes_without_the_code_until_its_owner_takes_that_back() {
    let w = World::new(&[("COUNTERSIGN_MFA__TRUST_BROWSER", "30d")]);
    let (phone, _) = enrol(&w.server, &signed_in(&w.server, "ada"));
    let (browser, page) = halfway(&w, "ada");
    let mut form = page.form_of("mfa-submit").filled(&[("code", &phone.code())]);
    assert!(page.has("trust"));
    let url = page.url.join(&page.form_of("mfa-submit").action).unwrap();
    form.retain(|(name, _)| name != "trust");
    form.push(("trust".to_owned(), "yes".to_owned()));
    let answer = browser.send(post(url.as_str(), &form).header("origin", &w.server.issuer));
    let trusted = browser.cookies();
    browser.follow(url, answer).code();
    let mut kept = trusted.clone();
    kept.remove("cs_session");
    let again = || {
        let browser = w.browser();
        browser.set_cookies(kept.clone());
        let page = browser.open(w.web.request().url());
        (browser.sign_in_as(&page, "ada", PASSWORD), browser)
    };
    let (done, weak) = again();
    assert_eq!(strength(&w.web.redeem(&done.code()).ok()), (PWD.to_owned(), vec!["pwd".into()]));
    // Asked for by name, and for changes in the account, there is no way around the code.
    weak.open(w.web.request().with("claims", &essential(MFA)).url()).is("mfa-page");
    weak.open(w.server.url("/account/security")).is("login-page");
    // Somebody else's account is not trusted here.
    w.server.user("bob");
    let security = browser.open(w.server.url("/account/security"));
    let gone = browser.press(security.is("security-page"), "distrust-1", &[]);
    assert!(!gone.is("security-page").has("distrust-1"));
    again().0.is("mfa-page");
    assert_eq!(weak.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
}

/// Signs in with a code in a browser that needs none from then on; what it keeps when its session is gone.
fn trusting(w: &World, name: &str, phone: &Phone) -> std::collections::BTreeMap<String, String> {
    let (browser, page) = halfway(w, name);
    let mut form = page.form_of("mfa-submit").filled(&[("code", &phone.code())]);
    form.retain(|(name, _)| name != "trust");
    form.push(("trust".to_owned(), "yes".to_owned()));
    let url = page.url.join(&page.form_of("mfa-submit").action).unwrap();
    browser.send(post(url.as_str(), &form).header("origin", &w.server.issuer));
    let mut kept = browser.cookies();
    assert!(kept.remove("cs_session").is_some());
    kept
}

#[test]
fn what_is_kept_of_second_factors_can_be_taken_away_and_holds_no_secret() {
    let w = World::new(&[("COUNTERSIGN_MFA__TRUST_BROWSER", "30d")]);
    let home = signed_in(&w.server, "ada");
    let (phone, codes) = enrol(&w.server, &home);
    let trusted = trusting(&w, "ada", &phone);
    let page = home.open(w.server.url("/account/data"));
    let data = home.press(&page, "data-download", &[]).answer;
    let kept = data.ok();
    let now = || kept["exported_at"].as_str().unwrap()[..10].to_owned();
    assert_eq!(kept["second_factors"][0]["name"], "My phone", "{kept:#}");
    for since in [&kept["second_factors"][0]["since"], &kept["trusted_browsers"][0]["since"]] {
        assert!(since.as_str().unwrap().starts_with(&now()), "{kept:#}");
    }
    assert_eq!(
        (&kept["recovery_codes_left"], &kept["trusted_browsers"][0]["address"]),
        (&json!(10), &json!("127.0.0.1"))
    );
    let text = totp_rs::Secret::new(phone.secret().into()).to_base32();
    let secrets = codes.iter().chain(trusted.values()).chain([&text]);
    for secret in secrets.map(String::as_str).chain(["secret", "digest", "sealed"]) {
        assert!(!data.body.contains(secret), "{secret}");
    }
}

#[test]
fn s76_trust_in_browsers_ends_with_the_password_the_other_sessions_and_another_factor() {
    let w = World::new(&[("COUNTERSIGN_MFA__TRUST_BROWSER", "30d")]);
    for way in ["password", "sessions", "factor"] {
        let name = person(&w);
        let home = signed_in(&w.server, &name);
        let (phone, _) = enrol(&w.server, &home);
        let kept = trusting(&w, &name, &phone);
        let again = |password: &str| {
            let browser = w.browser();
            browser.set_cookies(kept.clone());
            browser.sign_in_as(&browser.open(w.web.request().url()), &name, password)
        };
        again(PASSWORD).code();
        let mut password = PASSWORD;
        match way {
            "password" => {
                password = "a different horse ate the battery";
                let page = home.open(w.server.url("/account/password"));
                let mut form = page.form_of("password-save").filled(&[("password", password), ("again", password)]);
                form.retain(|(name, _)| name != "end_others");
                let answer = home.send(post(page.url.as_str(), &form).header("origin", &w.server.issuer));
                assert_eq!(answer.header("location"), "/account?password-changed");
            }
            "sessions" => drop(home.press(&home.open(w.server.url("/account/sessions")), "sessions-end-others", &[])),
            _ => {
                let page = home.open(w.server.url("/account/totp"));
                let mut form = page.form_of("totp-confirm").filled(&[("code", &Phone::of(&page).code())]);
                form.retain(|(name, _)| name != "end_others");
                form.push(("end_others".to_owned(), "yes".to_owned()));
                let answer = home.send(post(page.url.as_str(), &form).header("origin", &w.server.issuer));
                assert_eq!(answer.header("location"), "/account/security?added");
            }
        }
        again(password).is("mfa-page");
    }
}

#[test]
fn s62_a_new_password_by_mail_keeps_the_second_factor() {
    const NEW: &str = "a different horse ate the battery";
    let w = World::new(&[support::TO_DIRECTORY]);
    let (phone, codes) = enrol(&w.server, &signed_in(&w.server, "ada"));
    let told = |number: usize, words: &str| {
        let mail = w.server.mail_to("ada@example.com", number);
        assert!(mail.text.contains(words), "{words}: {}", mail.text);
        mail
    };
    told(1, "A second step was added");
    let browser = w.browser();
    let page = browser.open(w.server.url("/password/forgot"));
    browser.press(&page, "forgot-submit", &[("email", "ada")]);
    let page = browser.open(w.server.mail_to("ada@example.com", 2).link());
    browser.press(page.is("reset-page"), "reset-submit", &[("new_password", NEW)]);
    told(3, "Your password was reset");
    let page = browser.sign_in_as(&browser.open(w.web.request().url()), "ada", NEW);
    let recovery = browser.open(format!("{}/recovery", page.is("mfa-page").url));
    browser.press(&recovery, "recovery-submit", &[("recovery_code", &codes[0])]).code();
    assert!(told(4, "A recovery code was used").text.contains("9 are left"));
    let other = w.browser();
    let page = other.sign_in_as(&other.open(w.web.request().url()), "ada", NEW);
    other.press(page.is("mfa-page"), "mfa-submit", &[("code", &phone.code())]).code();
}
