//! Attacks that no other test file tries: forged assertions, broken key hosts, slow and doubled requests, guessing, and
//! a database that takes no writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use serde_json::{Value, json};
use support::app::{Tokens, basic};
use support::jose::now;
use support::{
    Answer, App, Browser, ClientKey, HTTP, PASSWORD, Page, TestServer, World, get, post, send, wait_for, wait_until,
    word, world,
};

const WRONG: &str = "not the password at all, but as long";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A server with one application that asks for no consent, and no user yet.
fn one_app(env: &[(&str, &str)]) -> (TestServer, App) {
    let server = TestServer::prepare(env);
    let app = server.client(&json!({
        "redirect_uris": ["https://web.example/callback"], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true,
    }));
    server.start();
    (server, app)
}

/// Posts the sign-in form, and nothing after it.
fn guess(browser: &Browser, page: &Page, username: &str, password: &str, headers: &[(&str, &str)]) -> Answer {
    let form = page.form_of("login-submit");
    let url = page.url.join(&form.action).unwrap();
    let request = post(url.as_str(), &form.filled(&[("username", username), ("password", password)]));
    let request = request.header("origin", url.origin().ascii_serialization());
    browser.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
}

/// A new browser at the sign-in page.
fn arrived(server: &TestServer, app: &App) -> (Browser, Page) {
    let browser = Browser::new(server);
    let page = browser.open(app.request().url());
    page.is("login-page");
    (browser, page)
}

/// What an answer shows, without what differs from flow to flow.
fn shown(page: &Page, answer: &Answer, username: &str) -> String {
    let secret = page.form_of("login-submit").value("csrf").unwrap().to_owned();
    let flow = page.url.path().split('/').nth(2).unwrap();
    answer.body.replace(&secret, "").replace(flow, "").replace(username, "")
}

#[test]
fn s23_another_flow_of_the_same_browser_starts_empty() {
    let w = world();
    let browser = w.browser();
    browser.through(w.third.request().url()).code();
    for (prompt, page_id, button, fields) in [
        ("login", "login-page", "login-submit", &[("password", PASSWORD)][..]),
        ("consent", "consent-page", "consent-allow", &[]),
        ("select_account", "account-continue", "account-continue", &[]),
    ] {
        let open = |state: &str| browser.open(w.third.request().with("prompt", prompt).with("state", state).url());
        let (one, two) = (open("one"), open("two"));
        assert_ne!(one.url, two.url);
        for tab in [&one, &two] {
            assert!(tab.has(page_id), "{prompt}: {tab:?}");
        }
        let done = browser.press(&one, button, fields);
        done.code();
        assert_eq!(done.callback()["state"], "one");
        // What the first tab did counts in neither the second nor a third one.
        let two = browser.open(two.url.as_str());
        assert!(!two.foreign && two.has(page_id), "{prompt}: {two:?}");
        let three = open("three");
        assert!(!three.foreign && three.has(page_id), "{prompt}: {three:?}");
        let done = browser.press(&two, button, fields);
        done.code();
        assert_eq!(done.callback()["state"], "two");
        assert!(browser.open(three.url.as_str()).has(page_id), "{prompt}");
    }
}

#[test]
fn s23_a_form_of_one_flow_does_nothing_in_another_and_shows_nothing_of_it() {
    let w = world();
    let (browser, one) = arrived(&w.server, &w.third);
    let two = browser.open(w.web.request().url());
    assert!(one.answer.body.contains("Party") && !two.answer.body.contains("Party"), "{two:?}");
    let csrf = one.form_of("login-submit").value("csrf").unwrap().to_owned();
    let action = two.url.join(&two.form_of("login-submit").action).unwrap();
    let fields = [("csrf", &*csrf), ("username", "ada"), ("password", PASSWORD)];
    let answer = browser.send(post(action.as_str(), &fields).header("origin", &w.server.issuer));
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(browser.open(w.web.request().with("prompt", "none").url()).error(), "login_required");
}

#[test]
fn s32_what_could_not_be_written_is_not_called_revoked() {
    let (server, app) = one_app(&[]);
    server.user("ada");
    let tokens = app.tokens(&Browser::new(&server), "openid");
    let mut other = SqliteConnection::establish(server.data_dir().join("countersign.db").to_str().unwrap()).unwrap();
    other.batch_execute("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE").unwrap();
    let answer = app.post("/revoke", &[("token", tokens.refresh())]);
    answer.refused(503, "temporarily_unavailable");
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    assert!(app.is_active(tokens.refresh()) && app.is_active(tokens.access()));
    other.batch_execute("ROLLBACK").unwrap();
    // Nor is it done behind the client's back: the answer was no.
    assert!(app.is_active(tokens.refresh()) && app.is_active(tokens.access()));
    app.revoke(tokens.refresh());
    assert!(!app.is_active(tokens.refresh()) && !app.is_active(tokens.access()));
}

/// How many failures are free, and the wait after the fifth.
const FREE: usize = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);

#[test]
fn s54_guesses_wait_whatever_the_letter_case_and_the_known_browser_does_not() {
    let (server, app) = one_app(&[]);
    server.user("grace");
    let known = Browser::new(&server);
    known.through_as(app.request().url(), "grace").code();
    let mut cookies = known.cookies();
    cookies.retain(|name, _| !name.contains("session"));
    known.set_cookies(cookies);
    let at_home = known.open(app.request().url());
    at_home.is("login-page");

    let strangers: Vec<_> = (0..FREE + 8).map(|_| arrived(&server, &app)).collect();
    let names = ["grace", "GRACE", "Grace", "gRACe", " grace "];
    let mut doors = strangers.iter().zip(names.iter().cycle());
    let mut try_wrong = || {
        let ((browser, page), name) = doors.next().unwrap();
        (Instant::now(), guess(browser, page, name, WRONG, &[]))
    };
    let mut last = Instant::now();
    for _ in 0..FREE {
        let answer;
        (last, answer) = try_wrong();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // On a machine so slow that the wait is over before the next guess comes in, the wait after that one is longer.
    let mut wait = FIRST_WAIT;
    let answer = loop {
        let (start, answer) = try_wrong();
        if answer.status == 429 {
            break answer;
        }
        assert!(last.elapsed() >= wait, "one more than {FREE} guesses: {answer:?}");
        (last, wait) = (start, wait * 2);
    };
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    // The right password waits like any other, and says nothing of itself.
    let (browser, page) = &strangers[FREE + 7];
    let right = guess(browser, page, "Grace", PASSWORD, &[]);
    assert!(right.status == 429 || last.elapsed() >= wait, "{right:?}");
    // The person is not locked out by strangers.
    let answer = guess(&known, &at_home, "gracE", PASSWORD, &[]);
    assert_eq!(answer.status, 303, "{answer:?}");
    assert!(known.open(app.request().url()).foreign, "signed in");
}

#[test]
fn s55_a_burst_of_guesses_tells_nothing_of_the_right_one() {
    const BURST: usize = 24;
    let (server, app) = one_app(&[]);
    for round in 0..3 {
        let name = word();
        server.user(&name);
        let doors: Vec<_> = (0..BURST).map(|_| arrived(&server, &app)).collect();
        let right = (round * 7 + 9) % BURST;
        let start = Barrier::new(BURST);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let enter = |number: usize| {
                let (browser, page) = &doors[number];
                let password = if number == right { PASSWORD.to_owned() } else { format!("{WRONG} {number}") };
                start.wait();
                let answer = guess(browser, page, &name, &password, &[]);
                assert!(answer.status != 429 || !answer.header("retry-after").is_empty(), "{answer:?}");
                let text = if answer.status == 200 { shown(page, &answer, &name) } else { String::new() };
                (answer.status, text)
            };
            let guesses: Vec<_> = (0..BURST).map(|number| scope.spawn(move || enter(number))).collect();
            guesses.into_iter().map(|guess| guess.join().unwrap()).collect()
        });
        let statuses: Vec<_> = answers.iter().map(|(status, _)| *status).collect();
        let wrong: Vec<_> =
            answers.iter().enumerate().filter(|(number, _)| *number != right).map(|(_, answer)| answer).collect();
        assert!(wrong.iter().all(|(status, _)| matches!(status, 200 | 429)), "{statuses:?}");
        let told = &answers[right];
        // Either it signed in, or a wrong one was answered just so.
        assert!(
            told.0 == 303 || wrong.contains(&told),
            "round {round}: the right guess ({right}) alone was answered {}: {statuses:?}",
            told.0
        );
    }
}

#[test]
fn s65_unknown_disabled_and_wrong_take_the_same_time_and_say_the_same() {
    // Each round comes from a network of its own, so that the guesses of one do not make the next wait.
    let (server, app) = one_app(&[("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1/32")]);
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let mut seen = Vec::new();
    // What shares the machine may disturb a measurement, but not each of three.
    let even = (1..=3).any(|round| {
        let network = format!("198.51.100.{round}");
        let accounts: Vec<[(String, &str); 3]> = (0..3)
            .map(|_| {
                let (unknown, disabled, known) = (word(), word(), word());
                server.user(&disabled);
                server.cli_ok(&["user", "disable", &disabled], "");
                server.user(&known);
                [(unknown, PASSWORD), (disabled, PASSWORD), (known, WRONG)]
            })
            .collect();
        let mut times: [Vec<Duration>; 3] = Default::default();
        for kinds in accounts.iter().cycle().take(3 * FREE) {
            let texts: Vec<_> = kinds
                .iter()
                .enumerate()
                .map(|(kind, (name, password))| {
                    let (browser, page) = arrived(&server, &app);
                    let start = Instant::now();
                    let answer = guess(&browser, &page, name, password, &[("x-forwarded-for", &network)]);
                    times[kind].push(start.elapsed());
                    let cookies: Vec<_> = browser.cookies().into_keys().collect();
                    (answer.status, shown(&page, &answer, name), cookies)
                })
                .collect();
            assert_eq!(texts[0].0, 200, "{texts:?}");
            assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        }
        let medians = times.each_mut().map(median);
        seen.push(medians);
        *medians.iter().max().unwrap() * 10 <= *medians.iter().min().unwrap() * 14
    });
    assert!(even, "unknown, disabled, wrong password: {seen:?}");
}

/// The registration of a client that authenticates by `private_key_jwt`; `member` and `keys` say where its keys are.
fn signing_client(member: &str, keys: impl Into<Value>) -> Value {
    json!({
        "redirect_uris": ["https://signer.example/"], "grant_types": ["authorization_code", "client_credentials"],
        "scope": "openid jobs", "token_endpoint_auth_method": "private_key_jwt", member: keys.into(),
    })
}

fn assert_with(app: &App, assertion: &str) -> Answer {
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", assertion),
    ];
    send(post(app.url("/token"), &fields))
}

fn claims_of(app: &App) -> Value {
    ClientKey::assertion_claims(&app.issuer, &app.id)
}

#[test]
fn s86_a_kid_finds_keys_of_its_own_client_only() {
    let w = world();
    let (of_one, of_two) = (ClientKey::named("key-one"), ClientKey::named("key-two"));
    let one = w.server.client(&signing_client("jwks", of_one.jwks()));
    let two = w.server.client(&signing_client("jwks", of_two.jwks()));
    for (key, name) in [
        (&of_one, "key-two"),
        (&of_two, "key-two"),
        (&of_two, "key-one"),
        (&of_one, "../../../../etc/passwd"),
        (&of_one, "' OR '1'='1"),
        (&of_one, "KEY-ONE"),
        (&of_one, ""),
    ] {
        let answer = assert_with(&one, &key.sign_as(name, "JWT", &claims_of(&one)));
        answer.refused(401, "invalid_client");
    }
    // An assertion that speaks for the one and was made by the other, whose name stands beside it.
    let foreign = of_two.sign("JWT", &claims_of(&one));
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", &foreign),
        ("client_id", &two.id),
    ];
    send(post(two.url("/token"), &fields)).refused(401, "invalid_client");
    assert_with(&one, &of_one.sign("JWT", &claims_of(&one))).ok();
    assert_with(&two, &of_two.sign("JWT", &claims_of(&two))).ok();
}

/// An RSA key of any size, which josekit would not sign with.
struct RsaKey(PKey<Private>);

impl RsaKey {
    fn generate(bits: u32) -> Self {
        Self(PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap())
    }

    fn jwks(&self, purpose: &str) -> Value {
        let rsa = self.0.rsa().unwrap();
        let encode = |number: &openssl::bn::BigNumRef| URL_SAFE_NO_PAD.encode(number.to_vec());
        let (n, e) = (encode(rsa.n()), encode(rsa.e()));
        json!({"keys": [{"kty": "RSA", "kid": "rsa", "use": purpose, "alg": "RS256", "n": n, "e": e}]})
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT", "kid": "rsa"})), part(claims));
        let mut signer = Signer::new(MessageDigest::sha256(), &self.0).unwrap();
        signer.update(input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signer.sign_to_vec().unwrap()))
    }
}

#[test]
fn s88_short_keys_and_keys_for_encryption_do_not_authenticate() {
    let w = world();
    let (long, short) = (RsaKey::generate(2048), RsaKey::generate(1024));
    let good = w.server.client(&signing_client("jwks", long.jwks("sig")));
    assert_with(&good, &long.sign(&claims_of(&good))).ok();
    for (key, purpose) in [(&short, "sig"), (&long, "enc")] {
        let metadata = signing_client("jwks", key.jwks(purpose));
        let created = w.server.cli(&["client", "create", "-"], &metadata.to_string());
        if !created.status.success() {
            // Refused as early as at registration.
            continue;
        }
        let app = App::new(&w.server.issuer, serde_json::from_slice(&created.stdout).unwrap());
        wait_for("the server to know the client", || w.server.knows(&app).then_some(()));
        assert_with(&app, &key.sign(&claims_of(&app))).refused(401, "invalid_client");
    }
}

/// A host inside: each request of it is counted and answered as the test says.
struct Host {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Host {
    fn start(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let host = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let (requests, answer) = (Arc::clone(&host.requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, requests, answer) = (stream.unwrap(), Arc::clone(&requests), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read(&mut byte).unwrap_or(0) == 0 {
                            return;
                        }
                        head.extend(byte);
                    }
                    requests.fetch_add(1, Ordering::SeqCst);
                    answer(&mut stream);
                });
            }
        });
        host
    }

    /// One that always gives the same answer. The caller may be gone before its end.
    fn saying(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
        Self::start(move |stream| drop(stream.write_all(text.as_bytes())))
    }

    fn uri(&self) -> String {
        format!("http://{}/inside/jwks", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A server that may fetch from this machine, and a client for each address of keys.
fn fetching(uris: &[String]) -> (TestServer, Vec<App>) {
    let server = TestServer::prepare(&[("COUNTERSIGN_OUTBOUND__ALLOW_PRIVATE", "true")]);
    let apps = uris.iter().map(|uri| server.client(&signing_client("jwks_uri", uri.as_str()))).collect();
    server.start();
    (server, apps)
}

#[test]
fn s92_unknown_kids_cause_no_storm_of_fetches() {
    let key = ClientKey::named("current");
    let host = Host::saying("200 OK", "content-type: application/json\r\n", &key.jwks().to_string());
    let (_server, apps) = fetching(&[host.uri()]);
    let (app, start) = (&apps[0], Instant::now());
    assert_with(app, &key.sign("JWT", &claims_of(app))).ok();
    assert_eq!(host.requests(), 1);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let assertion = key.sign_as(&word(), "JWT", &claims_of(app));
                    assert_with(app, &assertion).refused(401, "invalid_client");
                }
            });
        }
    });
    assert_with(app, &key.sign("JWT", &claims_of(app))).ok();
    assert!(start.elapsed() < Duration::from_mins(1), "too slow a machine to tell");
    assert!(host.requests() <= 2, "{} fetches", host.requests());
}

#[test]
fn s92_keys_of_an_address_that_the_client_had_before_count_no_longer() {
    let (old, new) = (ClientKey::named("key"), ClientKey::named("key"));
    let [old_host, new_host] =
        [&old, &new].map(|key| Host::saying("200 OK", "content-type: application/json\r\n", &key.jwks().to_string()));
    let (server, apps) = fetching(&[old_host.uri()]);
    let app = &apps[0];
    assert_with(app, &old.sign("JWT", &claims_of(app))).ok();
    let moved = signing_client("jwks_uri", new_host.uri().as_str());
    server.cli_ok(&["client", "update", &app.id, "-"], &moved.to_string());
    wait_for("the new address", || (assert_with(app, &old.sign("JWT", &claims_of(app))).status == 401).then_some(()));
    assert_with(app, &new.sign("JWT", &claims_of(app))).ok();
}

#[test]
fn s92_who_asks_while_the_keys_are_fetched_shares_the_fetch() {
    const CROWD: usize = 8;
    let key = ClientKey::generate();
    let body = key.jwks().to_string();
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let host = Host::start(move |stream| {
        wait_until(Instant::now() + Duration::from_millis(500));
        drop(stream.write_all(text.as_bytes()));
    });
    let (_server, apps) = fetching(&[host.uri()]);
    let (app, start) = (&apps[0], Barrier::new(CROWD));
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            let assertion = key.sign("JWT", &claims_of(app));
            start.wait();
            assert_with(app, &assertion)
        };
        let crowd: Vec<_> = (0..CROWD).map(|_| scope.spawn(ask)).collect();
        crowd.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(host.requests(), 1);
    for answer in answers {
        answer.ok();
    }
}

#[test]
fn s96_what_went_wrong_at_the_key_host_is_not_told() {
    let key = ClientKey::generate();
    let keys = Host::saying("200 OK", "", &key.jwks().to_string());
    let hosts = [
        Host::saying("500 Internal Server Error", "x-inside: detail\r\n", "inside detail"),
        Host::saying("200 OK", "content-type: text/html\r\n", "<html>inside detail"),
        Host::saying("200 OK", "content-type: application/json\r\n", "{\"keys\": \"inside detail\"}"),
        Host::saying("302 Found", &format!("location: {}\r\n", keys.uri()), &key.jwks().to_string()),
        Host::start(|stream| {
            let mut more = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"keys\": [");
            while more.is_ok() {
                more = stream.write_all(&[b' '; 8192]);
            }
        }),
        // Takes the request and says nothing, until the other side gives up.
        Host::start(|stream| drop(stream.read(&mut [0]))),
        Host::start(|stream| drop(stream.write_all(b"inside detail, and no HTTP\r\n\r\n"))),
    ];
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let mut uris: Vec<_> = hosts.iter().map(Host::uri).collect();
    uris.extend([format!("http://{nobody}/inside/jwks"), keys.uri()]);
    let (_server, mut apps) = fetching(&uris);
    let healthy = apps.pop().unwrap();
    let start = Instant::now();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |app| assert_with(app, &key.sign("JWT", &claims_of(app)));
        let asked: Vec<_> = apps.iter().map(|app| scope.spawn(move || ask(app))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(keys.requests(), 0, "a redirect was followed");
    assert!(hosts.iter().all(|host| host.requests() == 1), "each was asked");
    // A wrong signature, where the host is in order, is answered by the same words.
    let wrong = assert_with(&healthy, &ClientKey::generate().sign("JWT", &claims_of(&healthy)));
    for (answer, uri) in answers.iter().zip(&uris) {
        answer.refused(401, "invalid_client");
        assert_eq!(answer.body, wrong.body, "{uri}");
        for detail in ["inside", "127.0.0.1", "jwks"] {
            assert!(!format!("{answer:?}").contains(detail), "{detail}: {answer:?}");
        }
    }
    assert_with(&healthy, &key.sign("JWT", &claims_of(&healthy))).ok();
}

#[test]
fn s94_clocks_may_differ_by_a_minute_and_no_more() {
    let w = world();
    let key = ClientKey::generate();
    let app = w.server.client(&signing_client("jwks", key.jwks()));
    let with = |name: &str, at: u64| {
        let mut claims = claims_of(&app);
        claims[name] = json!(at);
        assert_with(&app, &key.sign("JWT", &claims))
    };
    for name in ["iat", "nbf"] {
        with(name, now() + 50).ok();
        with(name, now() - 50).ok();
        with(name, now() + 70).refused(401, "invalid_client");
    }
    with("exp", now() + 290).ok();
    for wrong in [now() + 370, now() + 3600, now() - 2, 0] {
        with("exp", wrong).refused(401, "invalid_client");
    }
}

/// Sends bytes as they are, and gives what comes back and whether the server then closed the connection.
fn raw(server: &TestServer, bytes: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(server.issuer.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let open = end.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    (String::from_utf8_lossy(&answer).into_owned(), !open)
}

#[test]
fn s100_of_two_authorization_headers_neither_counts() {
    let w = world();
    let tokens = w.web.tokens(&w.browser(), "openid");
    let good = basic(&w.web.id, w.web.secret.as_deref().unwrap());
    let bearer = format!("Bearer {}", tokens.access());
    let token = [("token", tokens.refresh())];
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", tokens.refresh())];
    for (first, second) in [(&*good, &*good), (&good, "Basic eDp5"), ("Basic eDp5", &good), (&good, &bearer)] {
        let twice = |request: reqwest::blocking::RequestBuilder| {
            request.header("authorization", first).header("authorization", second)
        };
        for (path, fields) in [("/token", &refresh[..]), ("/revoke", &token), ("/introspect", &token)] {
            send(twice(post(w.server.url(path), fields))).refused(400, "invalid_request");
        }
    }
    for second in [&bearer, "Bearer x", &good] {
        let request = HTTP.get(w.server.url("/userinfo")).header("authorization", &bearer);
        let answer = send(request.header("authorization", second));
        assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    }
    assert!(w.web.is_active(tokens.refresh()), "nothing was done");
    w.web.userinfo(tokens.access()).ok();
}

#[test]
fn s100_a_request_of_two_lengths_is_refused_and_the_connection_ends() {
    let w = world();
    let behind = "GET /health/live HTTP/1.1\r\nhost: smuggled\r\n\r\n";
    let request = |framing: &str, body: &str| {
        let kind = "content-type: application/x-www-form-urlencoded";
        format!("POST /token HTTP/1.1\r\nhost: x\r\n{kind}\r\n{framing}\r\n\r\n{body}{behind}")
    };
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "transfer-encoding: chunked\r\ncontent-length: 0",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: +5",
    ] {
        let (answer, closed) = raw(&w.server, request(framing, "0\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{framing}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{framing}: what came behind was answered: {answer}");
        assert!(closed, "{framing}: the connection is still open");
    }
    // With one length, what comes behind is a request of its own.
    let (answer, _) = raw(&w.server, request("content-length: 5", "a=b&c").as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
}

/// gzip without compression (RFC 1952, RFC 1951 3.2.4).
fn gzip(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    bytes.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
    bytes.extend(text);
    bytes.extend(crc32fast::hash(text).to_le_bytes());
    bytes.extend(u32::from(length).to_le_bytes());
    bytes
}

#[test]
fn s101_a_gzip_body_is_taken_as_it_is() {
    let w = world();
    let body = b"grant_type=client_credentials";
    for (encoding, body, status) in [
        (None, body.to_vec(), &[200][..]),
        (Some("gzip"), gzip(body), &[400, 415]),
        (Some("x-gzip"), gzip(body), &[400, 415]),
        (None, gzip(body), &[400, 415]),
    ] {
        let request = HTTP.post(w.server.url("/token")).header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(body);
        let request = encoding.into_iter().fold(request, |request, value| request.header("content-encoding", value));
        let answer = send(w.machine.authenticated(request));
        assert!(status.contains(&answer.status), "{encoding:?}: {answer:?}");
        assert!(answer.status == 200 || answer.text("error") == "invalid_request", "{answer:?}");
    }
}

/// Sends the beginning of a request, then `drip` (if anything) twice a second, until the server ends it. Gives how long
/// that took and what the server said.
fn starve(server: &TestServer, beginning: &str, drip: &str) -> (Duration, String) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(server.issuer.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(beginning.as_bytes()).unwrap();
    let mut buffer = [0; 4096];
    while start.elapsed() < Duration::from_secs(20) {
        match stream.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stream.write_all(drip.as_bytes()).is_err() {
                    break;
                }
            }
            Err(_) => break,
            Ok(length) => return (start.elapsed(), String::from_utf8_lossy(&buffer[..length]).into_owned()),
        }
    }
    (start.elapsed(), String::new())
}

#[test]
fn s102_slow_requests_are_ended() {
    let w = world();
    let head = "POST /token HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n";
    let body = |framing: &str| format!("{head}{framing}\r\n\r\n");
    let (sized, chunked) = (body("content-length: 1000"), body("transfer-encoding: chunked"));
    let cases = [
        ("no body", &*sized, "", 12),
        ("a body byte by byte", &sized, "x", 12),
        ("chunk by chunk", &chunked, "1\r\nx\r\n", 12),
        ("half a head", head, "", 7),
        ("a head byte by byte", head, "x", 7),
        ("header by header", head, "x: y\r\n", 7),
    ];
    let results: Vec<_> = std::thread::scope(|scope| {
        let cases: Vec<_> =
            cases.iter().map(|(_, start, drip, _)| scope.spawn(|| starve(&w.server, start, drip))).collect();
        cases.into_iter().map(|case| case.join().unwrap()).collect()
    });
    for ((what, _, _, limit), (took, answer)) in cases.iter().zip(&results) {
        assert!(*took < Duration::from_secs(*limit), "{what}: {took:?}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
    }
    assert_eq!(w.get("/health/live").status, 200);
}

#[test]
fn s107_health_says_what_is_wrong_in_a_word_and_there_are_no_metrics() {
    let w = world();
    let ready = r#"{"status":"ready","database":"ok","schema":"ok","keys":"ok"}"#;
    for (path, word) in [("/health/live", "live"), ("/health/ready", ready)] {
        for url in [w.server.url(path), w.server.url(&format!("{path}?verbose=1&debug=true"))] {
            let answer = send(HTTP.get(url).header("accept", "application/json"));
            assert_eq!((answer.status, answer.body.trim()), (200, word), "{answer:?}");
            for name in answer.headers.keys() {
                let expected = ["cache-control", "content-length", "content-type", "date", "x-content-type-options"];
                assert!(expected.contains(&name.as_str()), "{name}: {answer:?}");
            }
        }
    }
    for path in ["/metrics", "/health", "/debug", "/debug/pprof/", "/status", "/server-status", "/actuator"] {
        assert_eq!(get(w.server.url(path)).status, 404, "{path}");
    }
}

#[test]
fn s110_no_secret_reaches_the_log_at_its_loudest() {
    let w = World::new(&[("COUNTERSIGN_LOG__LEVEL", "trace")]);
    let mut secrets: Vec<(&str, String)> = vec![("the password", PASSWORD.into()), ("a wrong password", WRONG.into())];
    let browser = w.browser();
    let mistyped = format!("a-password-in-the-wrong-field-{}", word());
    let page = browser.open(w.third.request().with("login_hint", "ada").url());
    let page = browser.sign_in_as(&page, "ada", WRONG);
    let page = browser.sign_in_as(&page, &mistyped, PASSWORD);
    secrets.push(("a password in the wrong field", mistyped));
    secrets.push(("the form token", page.form_of("login-submit").value("csrf").unwrap().to_owned()));
    let page = browser.sign_in_as(&page, "ada", PASSWORD);
    let page = if page.foreign { page } else { browser.press(&page, "consent-allow", &[]) };

    // By a secret in the body (`third`) and by one in the header (`web`, `machine`).
    for (app, code) in [(&w.third, page.code()), (&w.web, w.web.code(&browser, "openid offline_access"))] {
        let first = Tokens(app.redeem(&code).ok());
        let next = Tokens(app.refresh(first.refresh()).ok());
        app.userinfo(next.access()).ok();
        assert!(app.is_active(next.access()));
        app.revoke(next.refresh());
        app.redeem(&code).refused(400, "invalid_grant");
        app.refresh(next.refresh()).refused(400, "invalid_grant");
        assert_eq!(app.userinfo(next.access()).status, 401);
        let mistaken = send(post(app.url("/token"), &[("client_id", &*app.id), ("client_secret", WRONG)]));
        assert!((400..500).contains(&mistaken.status), "{mistaken:?}");
        for tokens in [&first, &next] {
            secrets.push(("a refresh token", tokens.refresh().to_owned()));
            for token in [tokens.access(), tokens.id()] {
                secrets.push(("the signature of a token", token.rsplit('.').next().unwrap().to_owned()));
            }
        }
        let logout = support::form(&[("id_token_hint", next.id()), ("state", "x")]);
        browser.open(w.server.url(&format!("/logout?{logout}")));
        secrets.push(("a code", code));
    }
    let own = w.machine.post("/token", &[("grant_type", "client_credentials")]).text("access_token");
    secrets.push(("the signature of a token", own.rsplit('.').next().unwrap().to_owned()));
    for app in [&w.third, &w.web, &w.machine] {
        let (secret, in_header) = (app.secret.clone().unwrap(), basic(&app.id, app.secret.as_deref().unwrap()));
        secrets.push(("a client secret in base64", in_header.trim_start_matches("Basic ").to_owned()));
        secrets.push(("a client secret in base64", STANDARD.encode(&secret)));
        secrets.push(("a client secret", secret));
    }
    let cookies = browser.set_cookie_lines();
    for name in ["session", "browser", "known"] {
        assert!(cookies.iter().any(|line| line.split('=').next().unwrap().ends_with(name)), "{name}: {cookies:?}");
    }
    for line in cookies {
        let value = line.split(';').next().unwrap().split_once('=').unwrap().1.to_owned();
        if !value.is_empty() {
            secrets.push(("a cookie", value));
        }
    }
    let log = w.server.log();
    assert!(log.contains("DEBUG") || log.contains("TRACE"), "it is loud: {log}");
    for (what, secret) in secrets {
        assert!(secret.len() > 16, "{what}: {secret}");
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{what} is in the log");
    }
}
