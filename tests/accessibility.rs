//! Every page through axe-core in Chromium: light and dark, on a phone and on a desk, without a violation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::process::Command;

use fantoccini::Locator;
use serde_json::{Value, json};
use support::chromium::{Chromium, run};
use support::postgres::{execute, on_postgres};
use support::{PASSWORD, Phone, TO_DIRECTORY, TestServer, World};

/// axe-core, from the test packages of Python.
fn axe() -> String {
    let python = std::env::var("TEST_PYTHON").expect(
        "TEST_PYTHON names a Python with the packages of tests/requirements.txt (scripts/test makes one in target/tools/venv)",
    );
    let locate = "from importlib.resources import files; print(files('axe_playwright_python') / 'axe.min.js')";
    let output = Command::new(python).args(["-c", locate]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read_to_string(String::from_utf8(output.stdout).unwrap().trim()).unwrap()
}

/// A browser that judges each page it comes to.
struct Judge {
    chromium: Chromium,
    axe: String,
    walk: &'static str,
    judged: Vec<String>,
}

impl Judge {
    async fn new(walk: &'static str) -> Self {
        Self { chromium: Chromium::start(360).await, axe: axe(), walk, judged: Vec::new() }
    }

    /// Claims that the page is the one whose container has this id and that nobody is kept out of it: no violation of
    /// WCAG 2.2 AA or of the practices that axe knows, nothing to scroll sideways for.
    async fn page(&mut self, id: &str) {
        self.chromium.see(id).await;
        let window = &self.chromium.window;
        window.execute(&self.axe, vec![]).await.unwrap();
        for (width, scheme) in [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark")] {
            self.chromium.look(width, scheme).await;
            let judge = "const done = arguments[arguments.length - 1]; \
                const says = matchMedia(`(prefers-color-scheme: ${arguments[0]})`).matches; \
                const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth; \
                axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}).then( \
                    result => done({says, wide, rules: result.passes.length, wrong: result.violations.map( \
                        one => ({rule: one.id, help: one.help, where: one.nodes.map(node => node.html + ' ' + node.failureSummary)}))}), \
                    error => done({error: String(error)}))";
            let found = window.execute_async(judge, vec![json!(scheme)]).await.unwrap();
            assert_eq!(found["wrong"], json!([]), "{id}, {width} px, {scheme}: {found:#}");
            assert_eq!(found["wide"], json!(false), "{id} is cut off at {width} px");
            assert_eq!(found["says"], json!(true), "{id} was not shown in {scheme}");
            assert!(found["rules"].as_u64().unwrap() > 10, "axe ran: {found:#}");
            // For whoever wants to look at them: TEST_PICTURES names a folder.
            if let Ok(folder) = std::env::var("TEST_PICTURES") {
                let name = format!("{}-{:02}-{id}-{width}-{scheme}.png", self.walk, self.judged.len());
                std::fs::write(std::path::Path::new(&folder).join(name), self.chromium.picture().await).unwrap();
            }
        }
        self.judged.push(id.to_owned());
    }

    async fn open(&mut self, url: &str, id: &str) {
        self.chromium.window.goto(url).await.unwrap();
        self.page(id).await;
    }

    async fn click(&mut self, button: &str, id: &str) {
        self.chromium.press(button).await;
        self.page(id).await;
    }

    async fn sign_in(&self, name: &str, password: &str) {
        self.chromium.write("username", name).await;
        self.chromium.write("password", password).await;
        self.chromium.press("login-submit").await;
    }
}

#[test]
fn every_page_is_open_to_everybody() {
    let w = World::new(&[TO_DIRECTORY]);
    w.server.user("grace");
    w.server.cli_ok(&["user", "set-email", "grace", "grace@example.com", "--verified"], "");
    w.server.resource("https://api.example", "notes", &["--name", "Notes"]);
    // The account has something to show: another browser, applications that were let in.
    let elsewhere = w.browser();
    elsewhere.through_as(w.third.request().with("scope", "openid notes").url(), "grace").code();
    elsewhere.through_as(w.web.request().url(), "grace").code();
    let owner = if on_postgres() { "convert_to(user_id, 'UTF8')" } else { "CAST(user_id AS BLOB)" };
    let untold = format!(
        "INSERT INTO outbox (outbox_id, kind, destination, subject, payload, attempts, next_at, created_at, expires_at, \
         given_up_at) SELECT 'untold', 'logout', 'shop.example', '{}', {owner}, 9, 0, 1700000000000, 9000000000000, 1 \
         FROM users WHERE username = 'grace'",
        w.web.id
    );
    execute(&w.server.database_url(), &untold);
    // Another person's browser, whose session has applications that it can be signed out of.
    let used = w.browser();
    w.web.redeem(&used.through(w.web.request().url()).code()).ok();
    w.third.redeem(&used.through(w.third.request().url()).code()).ok();
    run(walk(&w, used.cookies()));
}

async fn walk(w: &World, used: BTreeMap<String, String>) {
    let mut judge = Judge::new("all").await;
    let url = |path: &str| w.server.url(path);
    let asked = w.third.request().with("scope", "openid profile email offline_access notes");

    judge.open(&asked.url(), "login-page").await;
    judge.sign_in("grace", "a wrong password").await;
    judge.page("login-error").await;
    judge.sign_in("grace", PASSWORD).await;
    judge.page("consent-page").await;
    judge.open(&w.web.request().with("prompt", "login").url(), "login-page").await;
    judge.open(&w.web.request().with("prompt", "select_account").url(), "select-page").await;
    judge.open(&url("/authorize"), "error-page").await;
    judge.open(&url("/nowhere"), "error-page").await;
    judge.open(&url("/"), "home-page").await;
    account(&mut judge, w).await;
    judge.open(&url("/logout"), "logout-page").await;
    judge.click("logout-confirm", "logout-done").await;
    judge.chromium.window.delete_all_cookies().await.unwrap();
    for (name, value) in used {
        let set = format!("document.cookie = '{name}={value}; path=/'");
        judge.chromium.window.execute(&set, vec![]).await.unwrap();
    }
    judge.open(&url("/logout"), "logout-page").await;
    judge.click("logout-confirm", "logout-applications").await;

    // The end of the account, through the mailbox.
    judge.chromium.window.goto(&url("/account/delete")).await.unwrap();
    judge.sign_in("grace", PASSWORD).await;
    judge.page("delete-page").await;
    judge.chromium.write("username", "grace").await;
    judge.click("delete-confirm", "notice").await;
    let link = w.server.mail_to("new@example.com", 2).link();
    judge.open(&link, "delete-confirm-page").await;
    judge.click("delete-final", "deleted-page").await;
    assert!(judge.judged.len() > 15, "{:?}", judge.judged);
}

/// The pages of the account, each with something on it.
async fn account(judge: &mut Judge, w: &World) {
    let url = |path: &str| w.server.url(path);
    judge.open(&url("/account"), "account-page").await;
    judge.open(&url("/account/profile"), "profile-page").await;
    judge.chromium.write("locale", "not a language").await;
    judge.click("profile-save", "problem").await;
    judge.chromium.write("locale", "en").await;
    judge.click("profile-save", "profile-page").await;
    judge.open(&url("/account/email"), "email-page").await;
    judge.chromium.write("email", "new@example.com").await;
    judge.click("email-save", "notice").await;
    let link = w.server.mail_to("new@example.com", 1).link();
    judge.open(&link, "email-confirm-page").await;
    judge.click("email-confirm-submit", "email-confirmed-page").await;
    judge.open(&url("/account/password"), "password-page").await;
    judge.chromium.write("password", "one").await;
    judge.chromium.write("again", "another").await;
    judge.click("password-save", "problem").await;
    judge.open(&url("/account/applications"), "applications-page").await;
    judge.open(&url("/account/sessions"), "sessions-untold").await;
    judge.click("sessions-end-others", "sessions-page").await;
    judge.open(&url("/account/activity"), "activity-page").await;
    judge.open(&url("/account/data"), "data-page").await;
    judge.open(&url("/account/delete"), "delete-page").await;
    judge.chromium.write("username", "somebody else").await;
    judge.click("delete-confirm", "problem").await;
}

#[test]
fn a_second_step_is_set_up_shown_and_replaced_on_pages_open_to_everybody() {
    let w = World::new(&[("COUNTERSIGN_MFA__TRUST_BROWSER", "30d")]);
    run(walk_of_the_second_step(&w));
}

async fn walk_of_the_second_step(w: &World) {
    let mut judge = Judge::new("second-step").await;
    let url = |path: &str| w.server.url(path);
    judge.open(&url("/account/security"), "login-page").await;
    judge.sign_in("ada", PASSWORD).await;
    judge.page("security-page").await;
    judge.click("totp-add", "totp-enrol-page").await;
    let link = judge.chromium.see("totp-link").await.attr("href").await.unwrap().unwrap();
    assert!(link.starts_with("otpauth://totp/"), "{link}");
    let secret = judge.chromium.see("totp-secret").await.text().await.unwrap();
    let phone = Phone::with(&secret);
    judge.chromium.write("code", &phone.wrong_code()).await;
    judge.click("totp-confirm", "login-error").await;
    judge.chromium.write("code", &phone.code()).await;
    judge.click("totp-confirm", "recovery-codes-page").await;
    let code = judge.chromium.window.find(Locator::Css(".recovery-code")).await.unwrap().text().await.unwrap();
    judge.click("recovery-codes-continue", "security-page").await;
    judge.chromium.window.delete_all_cookies().await.unwrap();

    // Signing in with a code, and staying trusted; an application that asks for more gets the code all the same.
    judge.open(&url("/"), "login-page").await;
    judge.sign_in("ada", PASSWORD).await;
    judge.page("mfa-page").await;
    judge.chromium.write("code", &phone.wrong_code()).await;
    judge.click("mfa-submit", "login-error").await;
    judge.chromium.write("code", &phone.code()).await;
    judge.chromium.click("trust").await;
    judge.click("mfa-submit", "home-page").await;
    judge.chromium.press("sign-out").await;
    judge.open(&url("/"), "login-page").await;
    judge.sign_in("ada", PASSWORD).await;
    judge.page("home-page").await;
    let must = serde_json::json!({"id_token": {"acr": {"essential": true, "value": "urn:countersign:acr:mfa"}}});
    judge.open(&w.third.request().with("claims", &must.to_string()).url(), "mfa-page").await;

    // The phone is gone.
    judge.click("mfa-recovery", "recovery-page").await;
    judge.chromium.write("recovery_code", "0000-0000-0000-0000").await;
    judge.click("recovery-submit", "login-error").await;
    judge.chromium.write("recovery_code", &code).await;
    judge.click("recovery-submit", "consent-page").await;
    // The password that it was added to is some pages old: both are asked for again, or neither.
    judge.open(&url("/account/security"), "security-page").await;
    assert!(judge.chromium.text().await.contains("9 left"));
    judge.click("totp-remove-1", "security-page").await;
    assert!(judge.judged.len() > 15, "{:?}", judge.judged);
}

#[test]
fn a_forgotten_password_is_reset_and_an_account_made_on_pages_open_to_everybody() {
    let registering = ("COUNTERSIGN_REGISTRATION__ENABLED", "true");
    let server = TestServer::running(&[TO_DIRECTORY, registering]);
    server.user("ada");
    run(walk_of_mail(&server));
}

async fn walk_of_mail(server: &TestServer) {
    const NEW: &str = "a different horse ate the battery";
    let mut judge = Judge::new("mail").await;
    judge.open(&server.url("/"), "login-page").await;
    judge.click("forgot-link", "forgot-page").await;
    judge.chromium.write("email", "ada").await;
    judge.click("forgot-submit", "forgot-sent-page").await;
    let mail = server.mail_to("ada@example.com", 1);
    judge.open(&mail.link(), "reset-page").await;
    let shown = judge.chromium.window.current_url().await.unwrap();
    assert_eq!(shown.as_str(), server.url("/password/reset"));
    judge.chromium.write("new_password", "too short").await;
    judge.click("reset-submit", "form-error").await;
    judge.chromium.write("new_password", NEW).await;
    judge.click("reset-submit", "reset-done-page").await;
    judge.open(&mail.link(), "error-page").await;
    judge.open(&server.url("/"), "login-page").await;
    judge.sign_in("ada", NEW).await;
    judge.page("home-page").await;

    judge.open(&server.url("/register"), "register-page").await;
    for (field, text) in [("username", "grace"), ("email", "grace@example.com"), ("password", "short")] {
        judge.chromium.write(field, text).await;
    }
    judge.click("register-submit", "form-error").await;
    judge.chromium.write("password", NEW).await;
    judge.click("register-submit", "register-sent-page").await;
    let link = server.mail_to("grace@example.com", 1).link();
    judge.open(&link, "register-confirm-page").await;
    // As from another browser: the password is asked for.
    judge.chromium.window.delete_all_cookies().await.unwrap();
    judge.open(&link, "register-confirm-page").await;
    judge.chromium.write("password", NEW).await;
    judge.click("register-confirm-submit", "registered-page").await;

    // Somebody is faster.
    judge.open(&server.url("/register"), "register-page").await;
    for (field, text) in [("username", "heidi"), ("email", "heidi@example.org"), ("password", NEW)] {
        judge.chromium.write(field, text).await;
    }
    judge.click("register-submit", "register-sent-page").await;
    let link = server.mail_to("heidi@example.org", 1).link();
    server.user("heidi");
    judge.open(&link, "register-confirm-page").await;
    judge.click("register-confirm-submit", "register-taken-page").await;

    // The mail itself, as a reader shows it.
    let html = mail.text.split_once("<!DOCTYPE html>").unwrap().1.split_once("</html>").unwrap().0;
    let file = server.home().join("mail.html");
    std::fs::write(&file, format!("<!DOCTYPE html>{html}</html>")).unwrap();
    judge.chromium.window.goto(&format!("file://{}", file.display())).await.unwrap();
    judge.page("letter").await;
}

#[test]
fn pages_that_lead_back_to_an_application_are_open_to_everybody() {
    let w = World::new(&[]);
    let app = w.server.client(&json!({
        "client_name": "The reading room of a library with a long name", "skip_consent": true,
        "redirect_uris": ["https://app.example/callback"], "post_logout_redirect_uris": ["https://app.example/bye"],
        "frontchannel_logout_uri": "https://app.example/frame",
    }));
    run(walk_back(&w, &app));
}

async fn walk_back(w: &World, app: &support::App) {
    let mut judge = Judge::new("back").await;
    judge.chromium.without_scripts().await;
    judge.open(&app.request().with("response_mode", "form_post").url(), "login-page").await;
    judge.sign_in("ada", PASSWORD).await;
    judge.page("form-post-page").await;
    let code = judge.chromium.window.find(Locator::Css("input[name=code]")).await.unwrap();
    let code = code.attr("value").await.unwrap().unwrap();
    let app_of_code = app.clone();
    tokio::task::spawn_blocking(move || app_of_code.redeem(&code).ok()).await.unwrap();
    let back = [("client_id", app.id.as_str()), ("post_logout_redirect_uri", "https://app.example/bye")];
    judge.open(&w.server.url(&format!("/logout?{}", support::form(&back))), "logout-page").await;
    judge.click("logout-confirm", "logout-leaving").await;
}

#[test]
fn the_demo_is_open_to_everybody() {
    let server = TestServer::running(&[("COUNTERSIGN_DEVELOPMENT", "true")]);
    let password = support::wait_for("the printed demo user", || {
        let log = server.log();
        let line = log.lines().find(|line| line.trim_start().starts_with("user name  demo"))?;
        line.split_whitespace().last().map(str::to_owned)
    });
    run(async {
        let mut judge = Judge::new("demo").await;
        judge.open(&server.url("/demo"), "demo-page").await;
        judge.click("demo-sign-in", "login-page").await;
        judge.sign_in("demo", &password).await;
        judge.page("consent-page").await;
        judge.click("consent-allow", "demo-tokens").await;
        judge.click("demo-userinfo", "userinfo").await;
        judge.click("demo-revoke", "demo-tokens").await;
    });
}

/// Whoever adds a page has it judged.
#[test]
fn no_page_is_left_out() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = |folder: &str| {
        let files = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter_map(|path| std::fs::read_to_string(path).ok()).collect::<Vec<_>>()
    };
    let mut pages = Vec::new();
    for page in texts("templates/pages") {
        let id = page.split("{% block id %}").nth(1).unwrap().split("{% endblock %}").next().unwrap();
        let words = id.split(['{', '}', '%']).map(str::trim);
        pages.extend(words.filter(|word| word.contains('-') && !word.contains(' ')).map(str::to_owned));
    }
    for source in texts("src/http") {
        let ids = source.split("id: \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        pages.extend(ids.filter(|id| id.ends_with("-page")));
    }
    assert!(pages.len() > 35, "{pages:?}");
    let judged = include_str!("accessibility.rs");
    for page in pages {
        assert!(judged.contains(&format!("\"{page}\")")), "{page} is judged by nobody");
    }
}

#[test]
fn axe_finds_what_is_wrong() {
    run(async {
        let chromium = Chromium::start(360).await;
        let page = "data:text/html,<html lang=en><title>t</title><main><h1>t</h1><input><p style='color:%23ccc'>faint</p></main>";
        chromium.window.goto(page).await.unwrap();
        chromium.window.execute(&axe(), vec![]).await.unwrap();
        let judge = "const done = arguments[arguments.length - 1]; axe.run().then(result => done(result.violations.map(one => one.id)))";
        let found: Value = chromium.window.execute_async(judge, vec![]).await.unwrap();
        for rule in ["label", "color-contrast"] {
            assert!(found.as_array().unwrap().contains(&json!(rule)), "{found}");
        }
    });
}
