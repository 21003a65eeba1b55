//! What goes by mail: a forgotten password, an account of one's own, a new address, and how mail is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use countersign::config::{DatabaseUrl, KeySource};
use countersign::crypto::seal::SealingKey;
use countersign::domain::activity::Origin;
use countersign::flow::mail::{Asked, Letter, queue};
use countersign::store::{Request, Store};
use support::mail::SmtpTls;
use support::{
    Answer, Browser, Certificate, HTTP, Mail, PASSWORD, Page, Postmaster, TO_DIRECTORY, TestServer, get, post, send,
    wait_for,
};

const NEW: &str = "a different horse ate the battery";

/// A server that writes its mail to a directory, with a person ada.
fn server() -> TestServer {
    let server = TestServer::running(&[TO_DIRECTORY]);
    server.user("ada");
    server
}

fn ask(browser: &Browser, server: &TestServer, typed: &str) -> Page {
    let page = browser.open(server.url("/password/forgot"));
    page.is("forgot-page");
    browser.press(&page, "forgot-submit", &[("email", typed)])
}

/// Asks for a link and takes it out of the mailbox.
fn reset_link(server: &TestServer, typed: &str, count: usize) -> String {
    ask(&Browser::new(server), server, typed).is("forgot-sent-page");
    wait_for("a link", || {
        let is_link = |mail: &Mail| mail.is_to("ada@example.com") && mail.text.contains("/password/reset?token=");
        let links: Vec<String> = server.mails().into_iter().filter(is_link).map(|mail| mail.link()).collect();
        links.get(count - 1).cloned()
    })
}

fn signs_in(server: &TestServer, name: &str, password: &str) -> bool {
    let browser = Browser::new(server);
    let page = browser.open(server.url("/"));
    !browser.sign_in_as(&page, name, password).has("login-page")
}

#[test]
fn s64_a_reset_link_sets_a_password_once_and_ends_all_that_ran() {
    let server = server();
    let signed_in = Browser::new(&server);
    let page = signed_in.open(server.url("/"));
    assert!(!signed_in.sign_in_as(&page, "ada", PASSWORD).has("login-page"));

    let link = reset_link(&server, "ada@example.com", 1);
    let browser = Browser::new(&server);
    // Opened any number of times, it is not used by that, and its secret leaves the address.
    for _ in 0..3 {
        let page = browser.open(&link);
        page.is("reset-page");
        assert_eq!(page.url.as_str(), server.url("/password/reset"));
        assert!(!page.answer.body.contains("cs_ml_"));
        assert_eq!(page.answer.header("referrer-policy"), "no-referrer");
        assert!(page.answer.body.contains(r#"autocomplete="new-password""#));
    }
    let page = browser.open(&link);
    // A password that is not taken uses nothing up.
    let page = browser.press(&page, "reset-submit", &[("new_password", "short")]);
    assert!(page.is("reset-page").answer.body.contains("at least 15"), "{page:?}");
    let page = browser.press(&page, "reset-submit", &[("new_password", NEW)]);
    page.is("reset-done-page");
    assert!(browser.open(server.url("/")).has("login-page"), "a reset signs nobody in");
    assert!(signed_in.open(server.url("/")).has("login-page"), "sessions of before have ended");
    assert!(!signs_in(&server, "ada", PASSWORD) && signs_in(&server, "ada", NEW));

    let again = Browser::new(&server).open(&link);
    assert_eq!(again.is("error-page").answer.status, 400);
    let told = server.mail_to("ada@example.com", 2);
    assert!(told.text.contains("Your password was reset") && told.text.contains("127.0.0.1"), "{}", told.text);
    assert!(told.text.contains("If this was not you"), "{}", told.text);
}

#[test]
fn s64_a_reset_link_ends_with_a_newer_one_a_sign_in_and_a_new_password() {
    let server = server();
    let works = |link: &str| Browser::new(&server).open(link).has("reset-page");
    let first = reset_link(&server, "ada", 1);
    let second = reset_link(&server, "ADA@example.com", 2);
    assert!(!works(&first) && works(&second));
    assert!(signs_in(&server, "ada", PASSWORD));
    assert!(!works(&second));
    let third = reset_link(&server, "ada", 3);
    assert!(works(&third));
    server.cli_ok(&["user", "set-password", "ada", "--password-stdin"], &format!("{NEW}\n"));
    assert!(!works(&third));
    // A link for one thing is good for nothing else, and one that never was for nothing at all.
    let other = third.replace("/password/reset", "/register/confirm");
    assert!(Browser::new(&server).open(&other).has("error-page"));
    assert!(Browser::new(&server).open(server.url("/password/reset?token=x")).has("error-page"));
    assert!(Browser::new(&server).open(server.url("/password/reset")).has("error-page"));
}

#[test]
fn s62_a_reset_leaves_the_second_factor_where_it_is() {
    let server = TestServer::running(&[TO_DIRECTORY, ("COUNTERSIGN_MFA__TRUST_BROWSER", "30d")]);
    server.user("ada");
    let browser = Browser::new(&server);
    let page = browser.open(server.url("/"));
    browser.sign_in_as(&page, "ada", PASSWORD).is("home-page");
    let (phone, _) = support::phone::enrol(&server, &browser);
    let trusting = Browser::new(&server);
    let page = trusting.open(server.url("/"));
    let page = trusting.sign_in_as(&page, "ada", PASSWORD);
    trusting.press(page.is("mfa-page"), "mfa-submit", &[("code", &phone.code()), ("trust", "yes")]).is("home-page");
    let leave = |browser: &Browser| {
        let mut cookies = browser.cookies();
        cookies.remove("cs_session");
        browser.set_cookies(cookies);
    };
    leave(&trusting);
    let page = trusting.open(server.url("/"));
    trusting.sign_in_as(&page, "ada", PASSWORD).is("home-page");
    leave(&trusting);

    let link = reset_link(&server, "ada", 1);
    for browser in [Browser::new(&server), trusting] {
        if browser.open(&link).has("reset-page") {
            let page = browser.open(&link);
            browser.press(&page, "reset-submit", &[("new_password", NEW)]).is("reset-done-page");
        }
        let page = browser.open(server.url("/"));
        browser.sign_in_as(&page, "ada", NEW).is("mfa-page");
        assert!(!browser.cookies().contains_key("cs_session"), "half a sign-in has no session");
    }
}

#[test]
fn s64_of_32_that_use_one_link_at_once_one_wins() {
    let server = server();
    let link = reset_link(&server, "ada", 1);
    let browser = Browser::new(&server);
    let page = browser.open(&link);
    let form = page.form_of("reset-submit");
    let cookies = browser.cookies();
    let cookies: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let cookies = cookies.join("; ");
    let gate = Barrier::new(32);
    let locations: Vec<String> = std::thread::scope(|scope| {
        let one = |number: u32| {
            let fields = form.filled(&[("new_password", &format!("{NEW} number {number}"))]);
            let request = post(server.url("/password/reset"), &fields)
                .header("cookie", &cookies)
                .header("origin", &server.issuer)
                .header("sec-fetch-site", "same-origin");
            gate.wait();
            let answer = send(request);
            // The queue of password checks may be full: then nothing happened.
            assert!(matches!(answer.status, 303 | 400 | 503), "{answer:?}");
            answer.header("location").to_owned()
        };
        let all: Vec<_> = (0..32).map(|number| scope.spawn(move || one(number))).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(locations.iter().filter(|location| location.ends_with("/password/reset/done")).count(), 1);
    let winner = locations.iter().position(|location| !location.is_empty()).unwrap();
    assert!(signs_in(&server, "ada", &format!("{NEW} number {winner}")));
}

#[test]
fn s63_no_header_chooses_where_a_link_leads() {
    let server = server();
    let browser = Browser::new(&server);
    let page = browser.open(server.url("/password/forgot"));
    let fields = page.form_of("forgot-submit").filled(&[("email", "ada")]);
    let request = post(server.url("/password/forgot"), &fields)
        .header("origin", &server.issuer)
        .header("sec-fetch-site", "same-origin")
        .header("host", "evil.example")
        .header("x-forwarded-host", "evil.example")
        .header("x-forwarded-proto", "https")
        .header("forwarded", "host=evil.example;proto=https")
        .header("user-agent", "see http://evil.example");
    assert_eq!(browser.send(request).status, 303);
    let mail = server.mail_to("ada@example.com", 1);
    assert!(mail.link().starts_with(&format!("{}/password/reset?token=", server.issuer)), "{}", mail.text);
    assert!(!mail.raw.contains("evil.example") && !mail.text.contains("evil.example"), "{}", mail.text);
}

/// What differs by nature from answer to answer is taken out.
fn comparable(answer: &Answer) -> (u16, BTreeMap<String, String>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (answer.status, headers.collect(), answer.body.clone())
}

/// Posts a form again and again as `one` and as `other`, in turns; the answers are the same, and these are the least of their
/// times: what they take on a machine that does nothing else.
fn compare(
    server: &TestServer,
    path: &str,
    button: &str,
    one: &[(&str, &str)],
    other: &[(&str, &str)],
    rounds: usize,
) -> [Duration; 2] {
    let browser = Browser::new(server);
    let page = browser.open(server.url(path));
    let form = page.form_of(button);
    let go = |fields: &[(&str, &str)]| {
        let request = post(server.url(path), &form.filled(fields))
            .header("origin", &server.issuer)
            .header("sec-fetch-site", "same-origin");
        let start = Instant::now();
        let answer = browser.send(request);
        (comparable(&answer), start.elapsed())
    };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let ((a, time_a), (b, time_b)) = (go(one), go(other));
        assert_eq!(a, b);
        assert_eq!(a.0, 303, "{a:?}");
        times[0].push(time_a);
        times[1].push(time_b);
    }
    times.map(|times| times.into_iter().min().unwrap())
}

#[test]
fn s65_a_forgotten_password_says_the_same_of_everybody_in_the_same_time() {
    let server = server();
    let [known, unknown] =
        compare(&server, "/password/forgot", "forgot-submit", &[("email", "ada")], &[("email", "nobody")], 12);
    assert!(known.abs_diff(unknown) < Duration::from_millis(5), "{known:?} {unknown:?}");
    // Three mails and no more, however often it was asked for; and to nobody else.
    wait_for("three mails", || (server.mails().len() == 3).then_some(()));
    ask(&Browser::new(&server), &server, "ada@example.com").is("forgot-sent-page");
    wait_for("the queue to be empty", || outbox_is_empty(&server).then_some(()));
    assert_eq!(server.mails().len(), 3);
    let note = server.cli_ok(&["user", "show", "ada"], "");
    assert!(note.contains("ada@example.com"));
}

/// Whether everything that was queued has been looked at.
fn outbox_is_empty(server: &TestServer) -> bool {
    let url = DatabaseUrl::Sqlite(server.data_dir().join("countersign.db"));
    let store = Store::open(&url).unwrap();
    let far = countersign::clock::UnixTime::from_seconds(4_000_000_000);
    let due = futures(store.due_destinations(countersign::store::OutboxKind::Mail, far)).unwrap();
    due.is_empty()
}

fn futures<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn s65_asking_for_links_without_end_waits_whoever_it_is_for() {
    let server = server();
    let browser = Browser::new(&server);
    let page = browser.open(server.url("/password/forgot"));
    let statuses: Vec<u16> = (0..32)
        .map(|number| {
            let fields = page.form_of("forgot-submit").filled(&[("email", &format!("nobody{number}"))]);
            let request = post(server.url("/password/forgot"), &fields).header("origin", &server.issuer);
            let answer = browser.send(request);
            assert!(answer.status != 429 || answer.header("retry-after").parse::<u64>().unwrap() <= 60, "{answer:?}");
            answer.status
        })
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 303).count(), 30, "{statuses:?}");
    assert_eq!(statuses[31], 429);
}

#[test]
fn s64_a_form_uses_the_link_whose_account_its_page_showed() {
    let server = server();
    server.user("bob");
    let adas = reset_link(&server, "ada", 1);
    ask(&Browser::new(&server), &server, "bob");
    let bobs = server.mail_to("bob@example.com", 1).link();
    let browser = Browser::new(&server);
    let shown = browser.open(&adas);
    // Another site can have a browser open a link of its own; what was typed for one account then reaches no other.
    browser.open(&bobs).is("reset-page");
    let answer = browser.press(&shown, "reset-submit", &[("new_password", NEW)]);
    assert_eq!(answer.is("error-page").answer.status, 403);
    assert!(signs_in(&server, "bob", PASSWORD) && !signs_in(&server, "bob", NEW));
    assert!(!signs_in(&server, "ada", NEW));
}

#[test]
fn s64_a_new_password_ends_every_link_of_the_account() {
    let server = server();
    let set_by_command =
        || drop(server.cli_ok(&["user", "set-password", "ada", "--password-stdin"], &format!("{NEW}\n")));
    let reset = || {
        let browser = Browser::new(&server);
        let page = browser.open(reset_link(&server, "ada", 1));
        browser.press(&page, "reset-submit", &[("new_password", &format!("{NEW} again"))]).is("reset-done-page");
    };
    let ways: [(&str, &dyn Fn(), String); 2] =
        [("one@example.com", &set_by_command, NEW.to_owned()), ("two@example.com", &reset, format!("{NEW} again"))];
    for (email, set, password) in ways {
        ask_for_address(&server, "ada", email);
        let link = server.mail_to(email, 1).link();
        set();
        let browser = Browser::new(&server);
        let page = browser.open(server.url("/"));
        browser.sign_in_as(&page, "ada", &password);
        assert!(browser.open(&link).has("error-page"), "{email}: who asked for it may be who was shut out");
    }
}

#[test]
fn s103_judging_new_passwords_counts_against_the_network() {
    let server = registering(&[]);
    let browser = Browser::new(&server);
    let page = browser.open(server.url("/register"));
    let typed = [("username", "grace"), ("email", "grace@example.com"), ("password", "short")];
    let fields = page.form_of("register-submit").filled(&typed);
    let statuses: Vec<u16> = (0..101)
        .map(|_| browser.send(post(server.url("/register"), &fields).header("origin", &server.issuer)).status)
        .collect();
    assert!(statuses.iter().take(100).all(|status| *status == 422), "{statuses:?}");
    assert_eq!(statuses[100], 429);
}

#[test]
fn s65_a_mailbox_hears_of_address_changes_three_times_however_many_accounts_ask() {
    let server = server();
    for name in ["bob", "carol", "dave", "erin"] {
        server.user(name);
        ask_for_address(&server, name, "victim@example.com");
    }
    server.mail_to("victim@example.com", 3);
    wait_for("the queue's end", || outbox_is_empty(&server).then_some(()));
    assert_eq!(server.mails().iter().filter(|mail| mail.is_to("victim@example.com")).count(), 3);
}

#[test]
fn s15_forms_of_links_need_our_own_page() {
    let server = server();
    let link = reset_link(&server, "ada", 1);
    let browser = Browser::new(&server);
    let page = browser.open(&link);
    let fields = page.form_of("reset-submit").filled(&[("new_password", NEW)]);
    let foreign = post(server.url("/password/reset"), &fields).header("origin", "https://evil.example");
    assert_eq!(browser.send(foreign.header("sec-fetch-site", "cross-site")).status, 403);
    let without_token = post(server.url("/password/reset"), &[("new_password", NEW)]);
    assert_eq!(browser.send(without_token.header("origin", &server.issuer)).status, 403);
    assert!(signs_in(&server, "ada", PASSWORD));
}

#[test]
fn s72_common_and_name_like_passwords_are_refused_wherever_they_are_set() {
    let server = server();
    let refused = |args: &[&str], password: &str| {
        let output = server.cli(args, password);
        assert_eq!(output.status.code(), Some(1), "{password}");
        String::from_utf8(output.stderr).unwrap()
    };
    let create = ["user", "create", "grace.hopper", "--password-stdin"];
    assert!(refused(&create, "passwordpassword").contains("first that anybody would guess"));
    assert!(refused(&create, "grace.hopper.1906").contains("too much like your name"));
    refused(&create, "countersigncountersign");
    assert!(refused(&create, "Countersign-2026").contains("name of this service"));
    assert!(refused(&["user", "set-password", "ada", "--password-stdin"], "123456789012345").contains("guess"));
    let page = {
        let link = reset_link(&server, "ada", 1);
        let browser = Browser::new(&server);
        let page = browser.open(&link);
        browser.press(&page, "reset-submit", &[("new_password", "ada@example.com")])
    };
    assert!(page.is("reset-page").answer.body.contains("too much like your name"), "{page:?}");
}

/// A corpus that knows one password, on this machine; the addresses that it was asked for.
fn corpus(known: &str) -> (u16, std::sync::mpsc::Receiver<String>) {
    use sha1::Digest as _;
    use std::io::{BufRead as _, Write as _};
    let suffix = format!("{:X}", sha1::Sha1::digest(known))[5..].to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let body = format!("0018A45C4D1DEF81644B54AB7F969B88D65:3\r\n{suffix}:42\r\n");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            let _nobody_looks = asked.send(first);
        }
    });
    (port, seen)
}

#[test]
fn s72_a_leaked_password_is_refused_where_a_corpus_is_asked_and_the_corpus_learns_five_digits() {
    let leaked = "leaked from another site in 2019";
    let (port, seen) = corpus(leaked);
    let url = format!("http://127.0.0.1:{port}/range/");
    let server = TestServer::prepare(&[
        ("COUNTERSIGN_PASSWORD__BREACH_URL", &url),
        ("COUNTERSIGN_OUTBOUND__ALLOW", &format!("127.0.0.1:{port}")),
    ]);
    let create = |name: &str, password: &str| server.cli(&["user", "create", name, "--password-stdin"], password);
    let output = create("ada", leaked);
    assert!(String::from_utf8_lossy(&output.stderr).contains("known from a leak"), "{output:?}");
    let line = seen.recv().unwrap();
    let asked = line.strip_prefix("GET /range/").unwrap().split(' ').next().unwrap();
    assert!(asked.len() == 5 && asked.bytes().all(|digit| digit.is_ascii_hexdigit()), "{line}");
    assert!(create("bob", NEW).status.success());

    // One that does not answer keeps nobody out.
    let server = TestServer::prepare(&[
        ("COUNTERSIGN_PASSWORD__BREACH_URL", "http://127.0.0.1:9/range/"),
        ("COUNTERSIGN_OUTBOUND__ALLOW", "127.0.0.1:9"),
    ]);
    assert!(server.cli(&["user", "create", "ada", "--password-stdin"], NEW).status.success());
}

fn registering(more: &[(&str, &str)]) -> TestServer {
    let server = TestServer::running(&[&[TO_DIRECTORY, ("COUNTERSIGN_REGISTRATION__ENABLED", "true")], more].concat());
    server.user("ada");
    server
}

fn register(browser: &Browser, server: &TestServer, name: &str, email: &str) -> Page {
    let page = browser.open(server.url("/register"));
    page.is("register-page");
    browser.press(&page, "register-submit", &[("username", name), ("email", email), ("password", NEW)])
}

#[test]
fn s82_nobody_registers_unless_the_operator_says_so() {
    let server = server();
    assert_eq!(get(server.url("/register")).status, 404);
    assert_eq!(send(post(server.url("/register"), &[("username", "eve")])).status, 404);
    let login = Browser::new(&server).open(server.url("/"));
    assert!(login.has("forgot-link") && !login.has("register-link"));
    let without_mail = TestServer::running(&[]);
    assert_eq!(get(without_mail.url("/password/forgot")).status, 404);
    assert!(!Browser::new(&without_mail).open(without_mail.url("/")).has("forgot-link"));
}

#[test]
fn s82_an_account_is_made_by_a_link_from_an_address_of_an_allowed_domain() {
    let server = registering(&[("COUNTERSIGN_REGISTRATION__EMAIL_DOMAINS", "example.com,example.org,bücher.example")]);
    let browser = Browser::new(&server);
    assert!(browser.open(server.url("/")).has("register-link"));
    let page = register(&browser, &server, "grace", "grace@example.net");
    assert!(
        page.is("register-page").answer.body.contains("Only addresses of example.com, example.org, bücher.example")
    );
    // One domain, however it is written.
    for (name, address) in [("hedy", "hedy@BÜCHER.example"), ("jean", "jean@xn--bcher-kva.example")] {
        register(&Browser::new(&server), &server, name, address).is("register-sent-page");
    }
    let page = register(&browser, &server, "grace@x", "grace@example.org");
    assert!(page.is("register-page").answer.body.contains("A user name has"));
    register(&browser, &server, "grace", "grace@example.org").is("register-sent-page");
    let mail = server.mail_to("grace@example.org", 1);
    // Whoever reads the mailbox may be a stranger to who asked: nothing that they typed is put before them.
    assert!(!mail.text.contains("name grace"), "{}", mail.text);
    let link = mail.link();
    assert!(!signs_in(&server, "grace", NEW), "there is no account before the link was used");
    let page = browser.open(&link);
    assert!(!page.is("register-confirm-page").answer.body.contains("type=\"password\""));
    browser.press(&page, "register-confirm-submit", &[]).is("registered-page");
    assert!(signs_in(&server, "grace", NEW));
    assert!(server.cli_ok(&["user", "show", "grace"], "").contains("grace@example.org (verified)"));
    assert!(browser.open(&link).has("error-page"), "the link works once");
}

#[test]
fn s82_whoever_confirms_elsewhere_shows_that_they_chose_the_password() {
    let server = registering(&[]);
    register(&Browser::new(&server), &server, "mallory", "victim@example.com").is("register-sent-page");
    let link = server.mail_to("victim@example.com", 1).link();
    let victim = Browser::new(&server);
    let page = victim.open(&link);
    assert!(page.is("register-confirm-page").answer.body.contains("type=\"password\""));
    let page = victim.press(&page, "register-confirm-submit", &[("password", PASSWORD)]);
    assert!(page.is("register-confirm-page").answer.body.contains("not the password"));
    assert!(!signs_in(&server, "mallory", NEW));
    victim.press(&page, "register-confirm-submit", &[("password", NEW)]).is("registered-page");
    assert!(signs_in(&server, "mallory", NEW));
}

#[test]
fn s65_registering_says_the_same_whatever_is_taken_and_the_mailbox_hears_the_rest() {
    let server = registering(&[]);
    let fields = |name, email| [("username", name), ("email", email), ("password", NEW)];
    let taken = fields("somebody", "ada@example.com");
    let free = fields("somebody", "free@example.com");
    let [known, unknown] = compare(&server, "/register", "register-submit", &taken, &free, 8);
    assert!(known.abs_diff(unknown) < known.max(unknown) / 2, "{known:?} {unknown:?}");
    compare(&server, "/register", "register-submit", &fields("ada", "other@example.com"), &free, 1);
    let told = server.mail_to("ada@example.com", 1);
    assert!(told.text.contains("You have one already: ada") && !told.text.contains("token="), "{}", told.text);
    let told = server.mail_to("other@example.com", 1);
    assert!(told.text.contains("its name is taken") && !told.text.contains("token="), "{}", told.text);
    assert!(server.mail_to("free@example.com", 1).text.contains("/register/confirm?token="));
}

/// Asks for a new address as the account's page does, by way of the queue.
fn ask_for_address(server: &TestServer, name: &str, email: &str) {
    let sealing = SealingKey::load(&KeySource::File(server.data_dir().join("key-encryption.key"))).unwrap();
    let store = Store::open(&DatabaseUrl::Sqlite(server.data_dir().join("countersign.db"))).unwrap();
    let now = countersign::clock::Clock::system(countersign::clock::UnixTime::from_seconds(0)).now();
    let user = futures(store.find_user_by_name(name)).unwrap().unwrap();
    let origin = Asked::new(&Origin::default(), now);
    let letter = Letter::NewEmail { user_id: user.id.clone(), email: email.to_owned(), origin };
    let mails = vec![queue(&sealing, &letter, Some(&user.id), now).unwrap()];
    futures(store.request_by_mail(Request { mails, activity: None }, now)).unwrap();
}

#[test]
fn s68_a_new_address_counts_once_its_link_was_opened_by_the_person_signed_in() {
    let server = server();
    server.user("bob");
    ask_for_address(&server, "ada", "new@example.com");
    let link = server.mail_to("new@example.com", 1).link();
    let shown = || server.cli_ok(&["user", "show", "ada"], "");
    assert!(shown().contains("ada@example.com"));

    // A stranger, and another person: the mailbox alone is not enough.
    assert!(Browser::new(&server).open(&link).has("login-page"));
    let bob = Browser::new(&server);
    let page = bob.open(server.url("/"));
    bob.sign_in_as(&page, "bob", PASSWORD);
    assert_eq!(bob.open(&link).is("error-page").answer.status, 403);
    assert!(shown().contains("ada@example.com"));

    // Whoever is not signed in signs in on the way.
    let ada = Browser::new(&server);
    let page = ada.open(&link);
    let page = ada.sign_in_as(&page, "ada", PASSWORD);
    assert!(page.is("email-confirm-page").answer.body.contains("new@example.com"));
    assert!(shown().contains("ada@example.com"), "a look changes nothing");
    ada.press(&page, "email-confirm-submit", &[]).is("email-confirmed-page");
    assert!(shown().contains("new@example.com (verified)"));
    assert!(ada.open(&link).has("error-page"));
    let told = server.mail_to("ada@example.com", 1);
    assert!(told.text.contains("is now new@example.com"), "{}", told.text);

    // An address that somebody has is not given to another.
    ask_for_address(&server, "bob", "NEW@example.com");
    let told = server.mail_to("NEW@example.com", 1);
    assert!(told.text.contains("another account has it") && !told.text.contains("token="), "{}", told.text);
}

#[test]
fn a_mail_is_whole_text_and_html_and_tells_machines_not_to_answer() {
    let server = server();
    reset_link(&server, "ada", 1);
    let Mail { name, raw, text } = server.mail_to("ada@example.com", 1);
    for line in ["Auto-Submitted: auto-generated", "From: Countersign <no-reply@localhost>", "multipart/alternative"] {
        assert!(raw.contains(line), "{raw}");
    }
    let id = name.trim_end_matches(".eml");
    assert!(raw.contains(&format!("Message-ID: <{id}@127.0.0.1>")), "{raw}");
    assert!(text.contains("Reset your password") && text.contains("<h1>Reset your password</h1>"), "{text}");
    assert!(text.contains("From: 127.0.0.1") && text.contains("15 minutes"), "{text}");
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(server.home().join("mail")), 0o700);
    assert_eq!(mode(server.home().join("mail").join(name)), 0o600);
}

#[test]
fn s112_a_mail_that_waits_is_unreadable_and_goes_out_when_the_server_takes_it() {
    let postmaster = Postmaster::start();
    postmaster.refuse(1);
    let url = postmaster.url();
    let from = ("COUNTERSIGN_MAIL__FROM", "Example <id@example.com>");
    let server = TestServer::running(&[("COUNTERSIGN_MAIL__URL", &url), from]);
    server.user("ada");
    ask(&Browser::new(&server), &server, "aDa@eXample.com").is("forgot-sent-page");
    wait_for("a refused try", || server.log().contains("try again later").then_some(()));
    let stored: Vec<u8> = ["countersign.db", "countersign.db-wal"]
        .iter()
        .flat_map(|name| std::fs::read(server.data_dir().join(name)).unwrap_or_default())
        .collect();
    let holds = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("outbox"), "the queue was read");
    assert!(!holds("cs_ml_") && !holds("aDa@eXample"), "neither a link nor what was typed rests in the open");
    assert!(postmaster.mails().is_empty());
    // Two seconds after the first try.
    wait_for("the mail", || (!postmaster.mails().is_empty()).then_some(()));
    let mails = postmaster.mails();
    assert!(mails.len() == 1 && mails[0].raw.contains("To: ada@example.com"), "{mails:?}");
    assert!(mails[0].raw.contains("From: Example <id@example.com>"), "{mails:?}");
    assert!(Browser::new(&server).open(mails[0].link()).has("reset-page"));
    assert!(!server.log().contains("cs_ml_") && !server.log().to_lowercase().contains("ada@"), "{}", server.log());
}

/// A server that sends its mail to this one as user `id` with the password `hush`, with a mail on its way.
fn sending(scheme: &str, host: &str, postmaster: &Postmaster, trusted: &Certificate) -> TestServer {
    let folder = tempfile::TempDir::with_prefix("countersign-ca-").unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &trusted.pem).unwrap();
    let url = format!("{scheme}://id:hush@{host}:{}", postmaster.port);
    let server = TestServer::running(&[
        ("COUNTERSIGN_MAIL__URL", &url),
        ("COUNTERSIGN_MAIL__FROM", "id@example.com"),
        ("COUNTERSIGN_OUTBOUND__CA_FILE", ca.to_str().unwrap()),
    ]);
    server.user("ada");
    ask(&Browser::new(&server), &server, "ada").is("forgot-sent-page");
    server
}

/// `\0id\0hush` (RFC 4616) in base64.
const CREDENTIALS: &str = "AGlkAGh1c2g=";

#[test]
fn mail_and_password_go_to_another_machine_under_tls_alone() {
    // 0.0.0.0 leads here and is no loopback address, so that it is taken for another machine.
    for (scheme, host, tls) in [("smtps", "127.0.0.1", SmtpTls::FromTheStart), ("smtp", "0.0.0.0", SmtpTls::OnStartTls)]
    {
        let certificate = Certificate::of_address(host);
        let postmaster = Postmaster::with_tls(tls, &certificate);
        let server = sending(scheme, host, &postmaster, &certificate);
        wait_for("the mail", || (postmaster.mails().len() == 1).then_some(()));
        let mail = postmaster.mails().remove(0);
        assert!(mail.is_to("ada@example.com") && Browser::new(&server).open(mail.link()).has("reset-page"), "{mail:?}");
        assert!(postmaster.heard_under_tls().contains(CREDENTIALS), "{scheme}");
        let in_clear = postmaster.heard_in_clear();
        let verbs: Vec<&str> = in_clear.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let expected: &[&str] = if scheme == "smtp" { &["EHLO", "STARTTLS"] } else { &[] };
        assert_eq!(verbs, expected, "{scheme}");
        assert!(!server.log().contains("hush"));
    }
}

#[test]
fn without_tls_or_with_the_certificate_of_another_nothing_is_sent_and_the_mail_waits() {
    let other = Certificate::of_address("192.0.2.1");
    let nobody = Certificate::of_address("0.0.0.0");
    for (scheme, host, tls, certificate, trusted, why) in [
        ("smtp", "0.0.0.0", SmtpTls::Never, &nobody, &nobody, "STARTTLS is not supported"),
        ("smtp", "0.0.0.0", SmtpTls::OnStartTls, &other, &other, "certificate"),
        ("smtp", "0.0.0.0", SmtpTls::OnStartTls, &nobody, &other, "certificate"),
        ("smtps", "127.0.0.1", SmtpTls::FromTheStart, &other, &other, "certificate"),
    ] {
        let postmaster = Postmaster::with_tls(tls, certificate);
        let server = sending(scheme, host, &postmaster, trusted);
        let line = wait_for("the log", || {
            server.log().lines().find(|line| line.contains("a mail was not sent")).map(str::to_owned)
        });
        assert!(line.contains(why) && line.contains("trying again later"), "{line}");
        assert!(postmaster.mails().is_empty() && !outbox_is_empty(&server), "{scheme} {why}");
        let heard = format!("{}{}", postmaster.heard_in_clear(), postmaster.heard_under_tls());
        for secret in [CREDENTIALS, "AUTH", "ada", "MAIL", "DATA"] {
            assert!(!heard.contains(secret), "{scheme} {why}: {heard}");
        }
    }
}

#[test]
fn s64_a_link_is_not_made_anew_after_what_would_have_ended_it() {
    let postmaster = Postmaster::start();
    let url = postmaster.url();
    let server = TestServer::running(&[("COUNTERSIGN_MAIL__URL", &url), ("COUNTERSIGN_MAIL__FROM", "id@example.com")]);
    for (name, ends) in [("ada", "a new password"), ("bob", "a sign-in"), ("eve", "nothing")] {
        server.user(name);
        wait_for("the notices of before", || outbox_is_empty(&server).then_some(()));
        postmaster.refuse(1);
        let before = server.log().matches("a mail was not sent").count();
        ask(&Browser::new(&server), &server, name).is("forgot-sent-page");
        wait_for("a refused try", || (server.log().matches("a mail was not sent").count() > before).then_some(()));
        match ends {
            "a new password" => {
                server.cli_ok(&["user", "set-password", name, "--password-stdin"], &format!("{NEW}\n"));
            }
            "a sign-in" => assert!(signs_in(&server, name, PASSWORD)),
            _ => {}
        }
    }
    wait_for("the queue's end", || outbox_is_empty(&server).then_some(()));
    let mails = postmaster.mails();
    let links: Vec<&Mail> = mails.iter().filter(|mail| mail.text.contains("token=")).collect();
    assert!(links.len() == 1 && links[0].is_to("eve@example.com"), "{} links", links.len());
}

#[test]
fn a_mail_that_is_refused_for_good_is_given_up_and_holds_up_no_other() {
    let postmaster = Postmaster::start();
    postmaster.refuse_for_good(1);
    let url = postmaster.url();
    let from = ("COUNTERSIGN_MAIL__FROM", "id@example.com");
    let server = TestServer::running(&[("COUNTERSIGN_MAIL__URL", &url), from]);
    server.user("ada");
    server.user("bob");
    ask(&Browser::new(&server), &server, "ada").is("forgot-sent-page");
    wait_for("the mail to be given up", || server.log().contains("a mail was given up").then_some(()));
    ask(&Browser::new(&server), &server, "bob").is("forgot-sent-page");
    wait_for("the other mail", || (postmaster.mails().len() == 1).then_some(()));
    assert!(postmaster.mails()[0].raw.contains("To: bob@example.com"));
}

#[test]
fn people_are_imported_all_or_none_and_sign_in_with_the_password_of_before() {
    let server = server();
    let import = |text: &str| server.cli(&["user", "import", "-"], text);
    let bcrypt = "$2b$04$BEem1n9nTuvl.eX1i6pDIerwtlceuselfndRQJ7xBZBQET.WVJy5e";
    let bad = [
        r#"{"username": "one", "password_hash": "md5$abc"}"#,
        r#"{"username": "ada"}"#,
        r#"{"username": "two", "emial": "x@example.com"}"#,
        "not json: hush",
        r#"{"username": "three"}"#,
        r#"{"username": "THREE"}"#,
        r#"{"username": "four", "email": "x@example.com"}"#,
        r#"{"username": "five", "email": "X@example.com"}"#,
        r#"{"username": "six", "email": "Ada@example.com"}"#,
    ];
    let output = import(&bad.join("\n"));
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "line 1: password_hash is of no form",
        "line 2: there is a user ada already",
        "line 3: \"emial\"",
        "line 4: is not JSON",
        "line 6: the name \"THREE\" stands in line 5 too",
        "warning: line 8: the e-mail address X@example.com stands in line 7 too",
        "warning: line 9: another user has the e-mail address Ada@example.com already",
        "nobody was imported",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("hush") && !told.contains("md5$"), "{told}");
    let taken = import("{\"username\": \"one\"}\n{\"username\": \"ADA\"}");
    assert!(String::from_utf8(taken.stderr).unwrap().contains("there is a user ADA already"));
    assert!(!server.cli_ok(&["user", "list"], "").contains("one"));

    let good = serde_json::json!([
        {"username": "kay", "email": "kay@example.com", "email_verified": true, "claims": {"name": "Kay"}, "password_hash": bcrypt},
        {"username": "key", "password_hash": {"algorithm": "pbkdf2-sha256", "hashIterations": 1000, "salt": "AAECAwQFBgcICQoLDA0ODw==",
            "value": "cNDzb7yPqje6jbqQunfY1GpDX3Nkk8KLS7zNUXxwQVT4De1EZNLNYsE/1z/EPrFTLOOscx05nerJmZpRn/IQZg=="}},
        {"username": "nil", "email": "nil@example.com"},
        {"username": "off", "disabled": true, "password_hash": bcrypt},
    ]);
    let output = import(&good.to_string());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Imported 4 users.\n");
    let hash_of = |name: &str| {
        let store = Store::open(&DatabaseUrl::Sqlite(server.data_dir().join("countersign.db"))).unwrap();
        futures(store.find_credential(name)).unwrap().unwrap().password_hash.unwrap_or_default()
    };
    for name in ["kay", "key"] {
        assert!(!hash_of(name).starts_with("$argon2id$v=19$m=19456"));
        assert!(!signs_in(&server, name, "correct horse e"));
        assert!(signs_in(&server, name, "correct horse é"), "{name}");
        assert!(hash_of(name).starts_with("$argon2id$v=19$m=19456"), "s71 {}", hash_of(name));
        assert!(signs_in(&server, name, "correct horse é"), "{name}");
    }
    assert!(!signs_in(&server, "off", "correct horse é") && !signs_in(&server, "nil", ""));
    // Who has no password yet sets one by mail.
    ask(&Browser::new(&server), &server, "nil").is("forgot-sent-page");
    let link = server.mail_to("nil@example.com", 1).link();
    let browser = Browser::new(&server);
    let page = browser.open(&link);
    browser.press(&page, "reset-submit", &[("new_password", NEW)]).is("reset-done-page");
    assert!(signs_in(&server, "nil", NEW));
    let _client = &*HTTP;
}
