//! The server as it is deployed: TLS of its own, a proxy before it, other password parameters, a stolen copy of the
//! database, a word to stop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign::config::KeySource;
use countersign::crypto::seal::SealingKey;
use diesel::connection::SimpleConnection as _;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Text};
use josekit::jwk::KeyPair as _;
use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
use josekit::jwk::alg::ed::EdKeyPair;
use josekit::jwk::alg::rsa::RsaKeyPair;
use openssl::ssl::{HandshakeError, SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use reqwest::blocking::RequestBuilder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use support::app::Tokens;
use support::http::try_send;
use support::server::free_port;
use support::{
    Answer, App, Browser, Certificate, HTTP, PASSWORD, Page, TestServer, VERIFIER, World, claims, form, get, header,
    post, send, verify, wait_for, wait_until, word,
};
use tempfile::TempDir;

const WRONG: &str = "not the password at all, but as long";

/// The server as a process of the test's own, to be signalled. It ends with the test.
struct Process(Child);

impl Process {
    /// Starts it, and waits until `probe` is answered by 200.
    fn serve(server: &TestServer, probe: impl Fn() -> RequestBuilder) -> Self {
        let log = File::options().create(true).append(true).open(server.home().join("server.log")).unwrap();
        let mut command = server.command(&["serve"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let mut process = Self(child.unwrap());
        wait_for("the server", || {
            assert_eq!(process.0.try_wait().unwrap(), None, "the server ended:\n{}", server.log());
            try_send(probe()).is_ok_and(|answer| answer.status == 200).then_some(())
        });
        process
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the server's end", || self.0.try_wait().unwrap())
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with one application that asks for no consent, and no user yet; not running.
fn one_app(env: &[(&str, &str)]) -> (TestServer, App) {
    let server = TestServer::prepare(env);
    let app = server.client(&json!({
        "redirect_uris": ["https://web.example/callback"], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true,
    }));
    (server, app)
}

// ---- TLS of its own ----

/// A server at `https://localhost:<port>`.
struct Site {
    server: TestServer,
    app: App,
    port: u16,
    certificate: PathBuf,
    key: PathBuf,
    folder: TempDir,
}

impl Site {
    fn prepare(first: &Certificate) -> Self {
        let folder = TempDir::with_prefix("countersign-tls-").unwrap();
        let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        fs::write(&certificate, &first.pem).unwrap();
        fs::write(&key, &first.key).unwrap();
        let port = free_port();
        let issuer = format!("https://localhost:{port}");
        let (mut server, mut app) = one_app(&[
            ("COUNTERSIGN_ISSUER", &issuer),
            ("COUNTERSIGN_LISTEN", &format!("127.0.0.1:{port}")),
            ("COUNTERSIGN_TLS__CERTIFICATE", certificate.to_str().unwrap()),
            ("COUNTERSIGN_TLS__KEY", key.to_str().unwrap()),
        ]);
        server.issuer.clone_from(&issuer);
        app.issuer = issuer;
        server.user("ada");
        Self { server, app, port, certificate, key, folder }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.issuer)
    }

    fn serve(&self, first: &Certificate) -> Process {
        let client = first.client(self.port);
        Process::serve(&self.server, || client.get(self.url("/health/ready")))
    }

    /// A handshake that believes any certificate and offers these versions.
    fn handshake(
        &self,
        versions: (Option<SslVersion>, Option<SslVersion>),
    ) -> Result<SslStream<TcpStream>, HandshakeError<TcpStream>> {
        let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        // Otherwise it would not offer what is old.
        connector.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        connector.set_min_proto_version(versions.0).unwrap();
        connector.set_max_proto_version(versions.1).unwrap();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        connector.build().connect("localhost", stream)
    }

    fn connect(&self) -> SslStream<TcpStream> {
        self.handshake((None, None)).unwrap()
    }

    /// The certificate that a new connection meets.
    fn served(&self) -> Vec<u8> {
        peer(&self.connect())
    }
}

fn peer(stream: &SslStream<TcpStream>) -> Vec<u8> {
    stream.ssl().peer_certificate().unwrap().to_der().unwrap()
}

/// One request on a connection that stays open, and its answer as far as the end of the head.
fn ask(stream: &mut (impl Read + Write), path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).unwrap();
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while !answer.ends_with("live\n") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the connection ended: {answer}");
        answer.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    answer
}

#[test]
fn tls_is_served_with_the_own_certificate_from_version_1_2_on() {
    let (own, other) = (Certificate::new(), Certificate::new());
    let site = Site::prepare(&own);
    let mut process = site.serve(&own);
    let document = send(own.client(site.port).get(site.url("/.well-known/openid-configuration"))).ok();
    assert_eq!(document["issuer"], site.server.issuer);
    for endpoint in ["authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri"] {
        assert!(document[endpoint].as_str().unwrap().starts_with(&site.url("/")), "{endpoint}: {document}");
    }
    assert!(try_send(other.client(site.port).get(site.url("/jwks"))).is_err(), "who trusts another does not get in");
    assert_eq!(site.served(), own.der);

    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut stream = site.handshake((Some(version), Some(version))).unwrap();
        assert_eq!(stream.ssl().version2(), Some(version));
        assert!(ask(&mut stream, "/health/live").starts_with("HTTP/1.1 200"));
    }
    for version in [SslVersion::TLS1, SslVersion::TLS1_1] {
        match site.handshake((Some(version), Some(version))) {
            // It is the server that says no: the client would have gone on.
            Err(HandshakeError::Failure(refused)) => {
                let error = refused.error().to_string();
                assert!(error.contains("SSL alert number"), "{version:?}: {error}");
            }
            other => panic!("{version:?} was not refused: {other:?}"),
        }
    }
    let plain = try_send(HTTP.get(format!("http://127.0.0.1:{}/health/live", site.port)));
    assert!(plain.is_err(), "nothing is said in the clear: {plain:?}");
    assert!(process.runs());
}

#[test]
fn s75_a_sign_in_over_tls_leaves_host_bound_cookies_and_comes_back_by_https_alone() {
    let own = Certificate::new();
    let site = Site::prepare(&own);
    let _process = site.serve(&own);
    let (client, browser) = (own.client(site.port), Browser::new(&site.server));
    let mut answers: Vec<Answer> = Vec::new();
    // As `Browser::open` and `Browser::press`, by a client of our own.
    let mut go = |request: RequestBuilder, url: &str| {
        let mut url = url::Url::parse(url).unwrap();
        let mut answer = browser.send(request);
        loop {
            answers.push(answer.clone());
            if answer.status != 303 {
                return Page { url, foreign: false, answer };
            }
            url = url.join(answer.header("location")).unwrap();
            if url.origin().ascii_serialization() != site.server.issuer {
                return Page { url, foreign: true, answer };
            }
            answer = browser.send(client.get(url.clone()));
        }
    };
    let fill = |url: &url::Url, fields: &[(String, String)]| {
        client
            .post(url.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", &site.server.issuer)
            .header("sec-fetch-site", "same-origin")
            .body(form(fields))
    };
    let start = site.app.request().url();
    let login = go(client.get(&start), &start);
    let entry = login.is("login-page").form_of("login-submit");
    let action = login.url.join(&entry.action).unwrap();
    let fields = entry.filled(&[("username", "ada"), ("password", PASSWORD)]);
    let done = go(fill(&action, &fields), action.as_str());
    let home = go(client.get(site.url("/")), &site.url("/"));
    home.is("home-page");

    let lines = browser.set_cookie_lines();
    for name in ["session", "browser", "known"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("__Host-cs_{name}="))), "{name}: {lines:?}");
    }
    for line in &lines {
        let attributes: Vec<_> = line.split("; ").skip(1).collect();
        assert!(line.starts_with("__Host-"), "{line}");
        for attribute in ["Secure", "HttpOnly", "Path=/"] {
            assert!(attributes.contains(&attribute), "{attribute}: {line}");
        }
        assert!(!line.to_ascii_lowercase().contains("domain"), "{line}");
    }
    assert_eq!(answers.len(), 4, "{answers:?}");
    for answer in &answers {
        let policy = answer.header("strict-transport-security");
        let age = policy.split(';').find_map(|part| part.trim().strip_prefix("max-age=")?.parse::<u64>().ok());
        assert!(age.is_some_and(|age| age >= 31_536_000), "a year: {answer:?}");
    }

    let redeemed = site.app.authenticated(client.post(site.url("/token")).body(form(&[
        ("grant_type", "authorization_code"),
        ("code", &done.code()),
        ("redirect_uri", &site.app.redirect_uri),
        ("code_verifier", VERIFIER),
    ])));
    let tokens = Tokens(send(redeemed.header("content-type", "application/x-www-form-urlencoded")).ok());
    let jwks = send(client.get(site.url("/jwks"))).ok();
    assert_eq!(verify(tokens.id(), &jwks)["iss"], site.server.issuer);
    send(client.get(site.url("/userinfo")).bearer_auth(tokens.access())).ok();
}

#[test]
fn a_renewed_certificate_is_served_without_a_stop_and_a_broken_one_never() {
    let (first, second, third) = (Certificate::new(), Certificate::new(), Certificate::new());
    let site = Site::prepare(&first);
    let mut process = site.serve(&first);
    let mut old = site.connect();
    ask(&mut old, "/health/live");
    let complaints = || site.server.log().matches("do not load").count();
    // Until the server has looked at the files and found them wanting, and at every moment until then.
    let keeps = |what: &str, certificate: &Certificate| {
        let before = complaints();
        wait_for(what, || {
            assert_eq!(site.served(), certificate.der, "{what}");
            (complaints() > before).then_some(())
        });
        assert_eq!(site.served(), certificate.der, "{what}");
    };
    let changes = |certificate: &Certificate| {
        wait_for("the new certificate", || (site.served() == certificate.der).then_some(()));
    };

    // The certificate is new and the key is not yet: for longer than the server takes to look.
    fs::write(&site.certificate, &second.pem).unwrap();
    keeps("half a renewal", &first);
    fs::write(&site.key, &second.key).unwrap();
    changes(&second);
    assert_eq!(send(second.client(site.port).get(site.url("/health/live"))).status, 200);
    assert!(try_send(first.client(site.port).get(site.url("/health/live"))).is_err(), "the old one is gone");

    fs::write(&site.certificate, &second.pem[..second.pem.len() / 2]).unwrap();
    fs::write(&site.key, "").unwrap();
    keeps("broken files", &second);
    fs::remove_file(&site.certificate).unwrap();
    keeps("a missing file", &second);

    // As a tool without atomic renames renews: the certificate, and a second later the key.
    fs::write(&site.certificate, &third.pem).unwrap();
    let later = Instant::now() + Duration::from_secs(1);
    wait_until(later);
    fs::write(&site.key, &third.key).unwrap();
    changes(&third);
    assert_eq!(send(third.client(site.port).get(site.url("/health/live"))).status, 200);

    // Nothing of this was felt by who was connected.
    assert_eq!(peer(&old), first.der);
    ask(&mut old, "/health/live");
    assert!(process.runs());
    drop(site.folder);
}

// ---- Refusing to start ----

/// Claims that the command ends with exit code 1 and nothing on standard output, and gives each line that it says.
#[track_caller]
fn refused(server: &TestServer, args: &[&str]) -> Vec<String> {
    let mut command = server.command(args);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut process = Process(child.unwrap());
    let status = process.end();
    let (mut said, mut complaint) = (String::new(), String::new());
    process.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    process.0.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!(status.code(), Some(1), "{args:?}: {said}{complaint}");
    assert_eq!(said, "", "{args:?}");
    complaint.lines().map(str::to_owned).collect()
}

#[test]
fn an_https_issuer_that_nobody_serves_is_refused_with_a_line_for_each_problem() {
    let https = ("COUNTERSIGN_ISSUER", "https://id.example");
    for (env, places) in [
        (&[https][..], &["COUNTERSIGN_ISSUER"][..]),
        (&[https, ("COUNTERSIGN_TRUSTED_PROXIES", "")], &["COUNTERSIGN_ISSUER"]),
        (
            &[https, ("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "soon"), ("COUNTERSIGN_PASSWORD__MEMORY", "8")],
            &["COUNTERSIGN_ISSUER", "COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "COUNTERSIGN_PASSWORD__MEMORY"],
        ),
        (
            &[https, ("COUNTERSIGN_TLS__CERTIFICATE", "/no/such.pem"), ("COUNTERSIGN_TLS__KEY", "/no/such.key")],
            &["COUNTERSIGN_TLS__CERTIFICATE", "COUNTERSIGN_TLS__KEY"],
        ),
        (
            &[https, ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1"), ("COUNTERSIGN_DEVELOPMENT", "true")],
            &["COUNTERSIGN_DEVELOPMENT"],
        ),
    ] {
        let server = TestServer::prepare(env);
        for args in [&["serve"][..], &[], &["config", "check"]] {
            let lines = refused(&server, args);
            let named = |line: &String| places.iter().find(|place| line.starts_with(&format!("error: {place}: ")));
            let found: BTreeSet<_> = lines.iter().filter_map(named).collect();
            assert_eq!((lines.len(), found.len()), (places.len(), places.len()), "{args:?} {env:?}: {lines:#?}");
        }
        assert!(!server.data_dir().exists(), "nothing was made: {env:?}");
    }
    // Each of the two ways to serve https is enough.
    TestServer::prepare(&[https, ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1")]).cli_ok(&["config", "check"], "");
}

#[test]
fn another_issuer_on_the_same_database_is_warned_of() {
    let server = TestServer::running(&[]);
    let warned = || server.log().matches("served under another issuer before").count();
    server.restart();
    assert_eq!(warned(), 0);
    for times in [1, 1] {
        server.stop();
        let mut command = server.command(&["serve"]);
        command.env("COUNTERSIGN_ISSUER", format!("http://localhost:{}", server.port()));
        server.start_as(command);
        assert_eq!(warned(), times);
    }
}

#[test]
fn a_certificate_that_does_not_fit_its_key_is_refused_at_start() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let site = Site::prepare(&one);
    for (certificate, key, named) in [
        (&one.pem[..], &other.key[..], "COUNTERSIGN_TLS__KEY: does not fit"),
        (b"", &one.key, "certificate.pem"),
        (&one.key, &one.key, "certificate.pem"),
        (&one.pem, b"", "key.pem"),
        (&one.pem, &one.pem, "key.pem"),
        (&one.pem[..one.pem.len() / 2], &one.key, "certificate.pem"),
    ] {
        fs::write(&site.certificate, certificate).unwrap();
        fs::write(&site.key, key).unwrap();
        // Who does not serve has no use for them, and may be what is needed just now.
        site.server.cli_ok(&["user", "list"], "");
        for command in [&["serve"][..], &["config", "check"]] {
            let lines = refused(&site.server, command);
            assert!(
                lines.len() == 1 && lines[0].starts_with("error: ") && lines[0].contains(named),
                "{named}: {lines:#?}"
            );
            assert!(!lines[0].contains("PRIVATE"), "{lines:?}");
        }
    }
}

// ---- A proxy before it ----

/// How many wrong guesses one network has before it must wait.
const FREE_OF_A_NETWORK: usize = 100;

/// The cheapest that the configuration allows.
const CHEAP: [(&str, &str); 2] = [("COUNTERSIGN_PASSWORD__MEMORY", "7168"), ("COUNTERSIGN_PASSWORD__ITERATIONS", "5")];

/// A browser at the sign-in page, which guesses again and again, each time another account.
struct Guesser<'a> {
    browser: Browser,
    page: Page,
    server: &'a TestServer,
}

impl<'a> Guesser<'a> {
    fn new(server: &'a TestServer, app: &App) -> Self {
        let browser = Browser::new(server);
        let page = browser.open(app.request().url());
        page.is("login-page");
        Self { browser, page, server }
    }

    fn guess(&self, headers: &[(&str, &str)]) -> u16 {
        let form = self.page.form_of("login-submit");
        let fields = form.filled(&[("username", &word()), ("password", WRONG)]);
        let request = post(self.page.url.join(&form.action).unwrap(), &fields).header("origin", &self.server.issuer);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = self.browser.send(request);
        assert!(answer.status != 429 || !answer.header("retry-after").is_empty(), "{answer:?}");
        answer.status
    }

    /// Guesses that must all be heard, each with the headers that belong to its number.
    fn guess_often(&self, count: usize, headers: impl Fn(usize) -> Vec<(&'static str, String)>) {
        for number in 0..count {
            let own = headers(number);
            let own: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(self.guess(&own), 200, "guess {number} {own:?}");
        }
    }

    /// Whether guessing has to wait. Where it has not, the guess counts, and the next one has.
    fn must_wait(&self, headers: &[(&str, &str)]) -> bool {
        (0..5).any(|_| self.guess(headers) == 429)
    }
}

#[test]
fn s97_behind_a_listed_proxy_guesses_are_counted_by_the_address_it_names() {
    let (server, app) = one_app(&[&CHEAP[..], &[("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1")]].concat());
    server.start();
    let guesser = Guesser::new(&server, &app);
    // What the client itself wrote stands on the left and is another each time.
    let spoofed = |number: usize, own: &str| match number % 3 {
        0 => vec![("x-forwarded-for", format!("203.0.113.{number}, {own}"))],
        1 => vec![("forwarded", format!("for=203.0.113.{number}, for={own};proto=https"))],
        _ => vec![("x-forwarded-for", own.to_owned())],
    };
    let (one, other) = ("198.51.100.7", "198.51.100.8");
    // Together more than one network has, and neither of the two alone.
    guesser.guess_often(120, |number| spoofed(number, if number < 60 { one } else { other }));
    guesser.guess_often(FREE_OF_A_NETWORK - 60, |number| spoofed(number, one));
    assert!(guesser.must_wait(&[("x-forwarded-for", one)]), "{one} has guessed {FREE_OF_A_NETWORK} times");
    assert!(guesser.must_wait(&[("forwarded", "for=198.51.100.7")]));
    assert_eq!(guesser.guess(&[("x-forwarded-for", "198.51.100.9")]), 200, "a neighbour waits for nobody");
    assert_eq!(guesser.guess(&[]), 200, "nor does who asks directly");
}

#[test]
fn s97_without_a_listed_proxy_no_header_gives_a_guesser_new_addresses() {
    // A proxy elsewhere is not this peer.
    let (server, app) = one_app(&[&CHEAP[..], &[("COUNTERSIGN_TRUSTED_PROXIES", "10.0.0.0/8, ::1")]].concat());
    server.start();
    let guesser = Guesser::new(&server, &app);
    let address = |number: usize| match number % 3 {
        0 => vec![("x-forwarded-for", format!("198.51.100.{number}"))],
        1 => vec![("forwarded", format!("for=198.51.100.{number}"))],
        _ => vec![("x-real-ip", format!("198.51.100.{number}")), ("x-forwarded-for", format!("10.0.0.{number}"))],
    };
    guesser.guess_often(FREE_OF_A_NETWORK, address);
    assert!(guesser.must_wait(&[("x-forwarded-for", "192.0.2.1")]), "all of them came from one peer");
    assert!(guesser.must_wait(&[("forwarded", "for=192.0.2.2")]));
}

#[test]
fn s54_neighbours_who_mistype_make_nobody_wait() {
    const CLUMSY: usize = 4;
    const EACH: usize = 20;
    let (server, app) = one_app(&CHEAP);
    let names = [word(), word()];
    for name in &names {
        server.user(name);
    }
    server.start();
    let clumsy: Vec<_> = (0..CLUMSY).map(|_| Guesser::new(&server, &app)).collect();
    let sure: Vec<Vec<_>> = names.iter().map(|_| (0..EACH).map(|_| Guesser::new(&server, &app)).collect()).collect();
    // Eighty wrong ones in all from an address that has a hundred, each of another account.
    std::thread::scope(|scope| {
        let wrong: Vec<_> = clumsy
            .iter()
            .map(|person| scope.spawn(|| (0..EACH).map(|_| person.guess(&[])).filter(|status| *status != 200).count()))
            .collect();
        let right: Vec<_> = names
            .iter()
            .zip(&sure)
            .map(|(name, doors)| {
                let enter = |door: &Guesser| door.browser.sign_in_as(&door.page, name, PASSWORD).foreign;
                scope.spawn(move || doors.iter().filter(|door| !enter(door)).count())
            })
            .collect();
        let wrong: usize = wrong.into_iter().map(|person| person.join().unwrap()).sum();
        let right: usize = right.into_iter().map(|person| person.join().unwrap()).sum();
        assert_eq!((wrong, right), (0, 0), "wrong and right passwords that were told to wait");
    });
}

// ---- Other password parameters ----

fn database(server: &TestServer) -> SqliteConnection {
    let mut database = SqliteConnection::establish(server.data_dir().join("countersign.db").to_str().unwrap()).unwrap();
    database.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
    database
}

fn stored_hash(server: &TestServer, name: &str) -> String {
    let query = sql::<Text>("SELECT password_hash FROM users WHERE username = ").bind::<Text, _>(name);
    query.get_result(&mut database(server)).unwrap()
}

#[test]
fn s71_a_password_is_hashed_anew_at_the_sign_in_after_its_parameters_changed() {
    let (server, app) = one_app(&[]);
    let set = |memory: u32, iterations: u32| {
        let toml = format!("[password]\nmemory = {memory}\niterations = {iterations}\nparallelism = 1\n");
        fs::write(server.home().join("countersign.toml"), toml).unwrap();
    };
    set(7168, 5);
    server.user("ada");
    server.user("idle");
    server.start();
    let (ada, idle) = (stored_hash(&server, "ada"), stored_hash(&server, "idle"));
    assert!(ada.starts_with("$argon2id$v=19$m=7168,t=5,p=1$"), "{ada}");
    let before = Browser::new(&server);
    let tokens = app.tokens(&before, "openid");
    assert_eq!(stored_hash(&server, "ada"), ada, "with the same parameters it stays");

    server.stop();
    set(12_288, 3);
    server.start();
    let browser = Browser::new(&server);
    let page = browser.sign_in_as(&browser.open(app.request().url()), "ada", WRONG);
    page.is("login-page");
    assert_eq!(stored_hash(&server, "ada"), ada, "a wrong password changes nothing");
    browser.sign_in_as(&page, "ada", PASSWORD).code();
    let renewed = stored_hash(&server, "ada");
    assert!(renewed.starts_with("$argon2id$v=19$m=12288,t=3,p=1$"), "{renewed}");
    assert_ne!(renewed.split('$').nth(4), ada.split('$').nth(4), "the salt is new");
    assert_eq!(stored_hash(&server, "idle"), idle, "who did not sign in keeps the old one");

    // It is the same password: it signs in, another one does not, and nobody is signed out.
    Browser::new(&server).through(app.request().url()).code();
    assert_eq!(stored_hash(&server, "ada"), renewed);
    let stranger = Browser::new(&server);
    stranger.sign_in_as(&stranger.open(app.request().url()), "ada", WRONG).is("login-page");
    before.open(app.request().with("prompt", "none").url()).code();
    app.refresh(tokens.refresh()).ok();
    Browser::new(&server).through_as(app.request().url(), "idle").code();
    assert!(stored_hash(&server, "idle").starts_with("$argon2id$v=19$m=12288,t=3,p=1$"));
}

// ---- A stolen copy of the database ----

/// What must not be found, in each form in which it could have been stored.
#[derive(Default)]
struct Needles(Vec<(String, Vec<u8>)>);

impl Needles {
    fn add(&mut self, what: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        assert!(bytes.len() >= 16, "too short to be found by chance: {what}");
        self.0.push((what.to_owned(), bytes));
    }

    /// Text, and what base64 hides in it.
    fn secret(&mut self, what: &str, text: &str) {
        self.add(what, text);
        // `cs_xx_`, the body, six characters of checksum.
        if let Some(body) = text.strip_prefix("cs_").and_then(|rest| rest.get(3..rest.len() - 6)) {
            self.add(&format!("the body of {what}"), body);
            let bytes = URL_SAFE_NO_PAD.decode(body).unwrap();
            if bytes.len() > 32 {
                self.add(&format!("the handle of {what}"), &bytes[..16]);
            }
            self.add(&format!("the bytes of {what}"), &bytes[bytes.len() - 32..]);
        }
    }

    fn token(&mut self, what: &str, jwt: &str) {
        let signature = jwt.rsplit('.').next().unwrap();
        self.add(&format!("the signature of {what}"), signature);
        self.add(&format!("the signature's bytes of {what}"), URL_SAFE_NO_PAD.decode(signature).unwrap());
    }
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// The database's files and their bytes.
fn files(server: &TestServer) -> Vec<(String, Vec<u8>)> {
    let all = fs::read_dir(server.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let own = all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("countersign.db"));
    own.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

/// The private signing keys, opened with the key that lies beside the database.
fn private_keys(server: &TestServer) -> Vec<Value> {
    let sealing = SealingKey::load(&KeySource::File(server.data_dir().join("key-encryption.key"))).unwrap();
    let query = sql::<(Text, Binary)>("SELECT key_id, sealed_private FROM signing_keys");
    let rows: Vec<(String, Vec<u8>)> = query.load(&mut database(server)).unwrap();
    let open = |(id, sealed): &(String, Vec<u8>)| {
        let der = sealing.open(&format!("signing key {id}"), sealed).unwrap();
        let jwk = EcKeyPair::from_der(&*der, Some(EcCurve::P256)).map(|pair| pair.to_jwk_key_pair());
        let jwk = jwk.or_else(|_| EdKeyPair::from_der(&*der).map(|pair| pair.to_jwk_key_pair()));
        let jwk = jwk.or_else(|_| RsaKeyPair::from_der(&*der).map(|pair| pair.to_jwk_key_pair()));
        let mut key = Value::Object(jwk.unwrap().as_ref().clone());
        key["kid"] = json!(id);
        key
    };
    rows.iter().map(open).collect()
}

#[test]
fn s112_a_copy_of_the_database_holds_nothing_to_sign_in_or_to_sign_with() {
    let w = World::new(&[]);
    let mut needles = Needles::default();
    needles.secret("the password", PASSWORD);

    // A whole sign-in with consent, refreshed, one token revoked; every way for a client to have a secret.
    let browser = w.browser();
    let page = browser.open(w.third.request().url());
    needles.secret("the flow", page.url.path().split('/').nth(2).unwrap());
    needles.secret("the form token", page.form_of("login-submit").value("csrf").unwrap());
    let page = browser.sign_in_as(&page, "ada", WRONG);
    needles.secret("a wrong password", WRONG);
    let page = browser.sign_in_as(&page, "ada", PASSWORD);
    let page = browser.press(page.is("consent-page"), "consent-allow", &[]);
    for (app, code) in [(&w.third, page.code()), (&w.web, w.web.code(&browser, "openid offline_access"))] {
        needles.secret("a code", &code);
        let first = Tokens(app.redeem(&code).ok());
        let next = Tokens(app.refresh(first.refresh()).ok());
        for tokens in [&first, &next] {
            needles.secret("a refresh token", tokens.refresh());
            needles.token("an access token", tokens.access());
            needles.token("an ID token", tokens.id());
        }
        w.web.userinfo(next.access());
        app.introspect(next.access());
    }
    let revoked = w.web.tokens(&browser, "openid");
    w.web.revoke(revoked.refresh());
    needles.secret("a revoked refresh token", revoked.refresh());
    for app in [&w.web, &w.third, &w.legacy, &w.machine] {
        needles.secret("a client secret", app.secret.as_deref().unwrap());
    }
    let rotated: Value =
        serde_json::from_str(&w.server.cli_ok(&["client", "rotate-secret", &w.legacy.id], "")).unwrap();
    needles.secret("a rotated client secret", rotated["client_secret"].as_str().unwrap());
    let mut kinds = BTreeSet::new();
    for line in browser.set_cookie_lines() {
        let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
        if !value.is_empty() {
            kinds.insert(name.to_owned());
            needles.secret(name, value);
        }
    }
    assert!(kinds.len() >= 3, "session, browser and known: {kinds:?}");

    let (keys, jwks) = (private_keys(&w.server), w.jwks());
    assert_eq!(keys.len(), jwks["keys"].as_array().unwrap().len());
    for key in &keys {
        let public = jwks["keys"].as_array().unwrap().iter().find(|public| public["kid"] == key["kid"]).unwrap();
        assert!(["x", "n"].iter().any(|name| key[name].is_string() && key[name] == public[name]), "a key of ours");
        assert!(key["d"].is_string());
        for name in ["d", "p", "q", "dp", "dq", "qi"] {
            if let Some(member) = key[name].as_str() {
                needles.add(&format!("{name} of a signing key"), member);
                needles.add(&format!("{name} of a signing key, as bytes"), URL_SAFE_NO_PAD.decode(member).unwrap());
            }
        }
    }
    let sealing = fs::read_to_string(w.server.data_dir().join("key-encryption.key")).unwrap();
    needles.add("the key-encryption key", sealing.trim());
    needles.add("the bytes of the key-encryption key", STANDARD.decode(sealing.trim()).unwrap());
    // Any private key, by its beginning: PKCS #8 (RFC 5958) of EC, RSA and Ed25519.
    let pkcs8: [&[u8]; 3] = [
        b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
        b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
        b"\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20",
    ];
    let marks = pkcs8.into_iter().chain([&b"PRIVATE KEY"[..], b"\"d\":", b"\"d\" :", b"\"qi\":"]);
    needles.0.extend(marks.map(|mark| ("a private key".to_owned(), mark.to_vec())));

    // What the search must find, or it looks in the wrong place.
    let mut public = vec![w.web.id.as_str(), "ada@example.com", "https://web.example/callback", "$argon2id$"];
    public.extend(keys.iter().map(|key| key["kid"].as_str().unwrap()));
    let search = |moment: &str| {
        let files = files(&w.server);
        for known in &public {
            assert!(files.iter().any(|(_, bytes)| holds(bytes, known.as_bytes())), "{moment}: no {known}");
        }
        for (what, needle) in &needles.0 {
            let place = files.iter().find(|(_, bytes)| holds(bytes, needle)).map(|(place, _)| place);
            assert_eq!(place, None, "{moment}: {what} can be read");
        }
        files.len()
    };
    assert!(search("running") >= 2, "the database and its log");
    database(&w.server).batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    search("after a checkpoint");
    w.server.stop();
    search("after the end");
}

// ---- Algorithms ----

/// OIDC Core 3.1.3.6: the left half of the hash that belongs to the ID token's algorithm.
fn at_hash(algorithm: &str, access_token: &str) -> String {
    match algorithm {
        "EdDSA" => URL_SAFE_NO_PAD.encode(&Sha512::digest(access_token)[..32]),
        _ => URL_SAFE_NO_PAD.encode(&Sha256::digest(access_token)[..16]),
    }
}

#[test]
fn s84_what_is_signed_for_a_client_is_signed_as_it_registered() {
    let server = TestServer::prepare(&[]);
    server.user("ada");
    let algorithms = ["RS256", "ES256", "PS256", "EdDSA"];
    let apps: Vec<_> = (0..4)
        .map(|n| {
            let [id, userinfo] = [algorithms[n], algorithms[(n + 1) % 4]];
            let access = if id == "PS256" { "ES256" } else { id };
            let app = server.client(&json!({
                "redirect_uris": ["https://web.example/callback"], "skip_consent": true,
                "id_token_signed_response_alg": id, "access_token_signing_alg": access,
                "userinfo_signed_response_alg": userinfo,
            }));
            (app, id, access, userinfo)
        })
        .collect();
    server.start();
    let jwks = get(server.url("/jwks")).ok();
    let browser = Browser::new(&server);
    for (app, id, access, userinfo) in &apps {
        let tokens = app.tokens(&browser, "openid email");
        let info = app.userinfo(tokens.access());
        assert_eq!(info.header("content-type"), "application/jwt", "{info:?}");
        for (token, algorithm, kind) in
            [(tokens.id(), id, "JWT"), (tokens.access(), access, "at+jwt"), (&*info.body, userinfo, "JWT")]
        {
            let (header, claims) = (header(token), verify(token, &jwks));
            assert_eq!((&header["alg"], &header["typ"]), (&json!(algorithm), &json!(kind)), "{header}");
            let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
            assert_eq!(key["alg"], *algorithm, "one key, one algorithm");
            assert_eq!(claims["iss"], server.issuer);
        }
        assert_eq!(claims(tokens.id())["at_hash"], at_hash(id, tokens.access()), "{id}");
        assert_eq!(claims(&info.body)["aud"], app.id);
        assert_eq!(claims(&info.body)["email"], "ada@example.com");
    }
    for algorithm in ["none", "HS256", "RS384", "PS256"] {
        let metadata = json!({
            "redirect_uris": ["https://x.example/"], "access_token_signing_alg": algorithm,
        });
        let created = server.cli(&["client", "create", "-"], &metadata.to_string());
        assert!(!created.status.success(), "access tokens by {algorithm}");
    }
}

#[test]
fn s84_a_resource_has_a_lifetime_and_an_algorithm_of_its_own() {
    let server = TestServer::prepare(&[("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "7m")]);
    server.user("ada");
    let (short, long, plain) = ("https://short.example", "https://long.example/v1", "https://plain.example");
    server.resource(short, "short.read", &["--access-token-lifetime", "42s", "--access-token-signing-alg", "RS256"]);
    server.resource(long, "long.read", &["--access-token-lifetime", "3h", "--access-token-signing-alg", "ES256"]);
    server.resource(plain, "plain.read", &[]);
    let scope = "openid short.read long.read plain.read";
    let app = server.client(&json!({
        "redirect_uris": ["https://web.example/callback"], "grant_types": ["authorization_code", "refresh_token"],
        "skip_consent": true, "scope": scope, "resources": [short, long, plain], "access_token_signing_alg": "EdDSA",
    }));
    let machine = server.client(&json!({
        "grant_types": ["client_credentials"], "response_types": [], "redirect_uris": [],
        "scope": "short.read long.read plain.read", "resources": [short, long, plain],
        "access_token_signing_alg": "EdDSA",
    }));
    server.start();
    let jwks = get(server.url("/jwks")).ok();
    let check = |answer: &Value, audience: &str, algorithm: &str, lifetime: u64| {
        let token = answer["access_token"].as_str().unwrap();
        let claims = verify(token, &jwks);
        assert_eq!(header(token)["alg"], algorithm, "{audience}");
        assert_eq!((&claims["aud"], &answer["expires_in"]), (&json!(audience), &json!(lifetime)), "{claims}");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), lifetime, "{claims}");
    };
    let browser = Browser::new(&server);
    for (resource, algorithm, lifetime) in [(short, "RS256", 42), (long, "ES256", 10_800), (plain, "EdDSA", 420)] {
        let own = [("resource", resource)];
        let request = app.request().with("scope", scope).with("resource", resource);
        let first = app.redeem_with(&browser.through(request.url()).code(), &own).ok();
        check(&first, resource, algorithm, lifetime);
        check(&app.refresh_with(Tokens(first).refresh(), &own).ok(), resource, algorithm, lifetime);
        let granted = machine.post("/token", &[("grant_type", "client_credentials"), own[0]]).ok();
        check(&granted, resource, algorithm, lifetime);
    }
    let none = app.tokens(&browser, "openid");
    check(&none.0, &server.issuer, "EdDSA", 420);
}

// ---- A word to stop ----

/// Whether new connections are still taken.
fn open_door(server: &TestServer) -> bool {
    TcpStream::connect(server.issuer.strip_prefix("http://").unwrap()).is_ok()
}

#[test]
fn an_idle_server_ends_at_once_and_in_peace() {
    let server = TestServer::prepare(&[]);
    for signal in ["TERM", "INT"] {
        let mut process = Process::serve(&server, || HTTP.get(server.url("/health/ready")));
        // A browser keeps its connection for the next request, and one opens a second connection for later.
        let mut kept = TcpStream::connect(server.issuer.strip_prefix("http://").unwrap()).unwrap();
        kept.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        ask(&mut kept, "/health/live");
        let start = Instant::now();
        process.signal(signal);
        let status = process.end();
        let took = start.elapsed();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal}: {status}");
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        assert_eq!(kept.read(&mut [0; 16]).unwrap(), 0, "{signal}: the connection is closed properly");
        let port = server.issuer.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "{signal}: the port is free");
    }
}

/// A refresh under way when the signal comes.
fn stop_amid_a_refresh(signal: &str) {
    let (server, app) = one_app(&[]);
    server.user("ada");
    let ready = || HTTP.get(server.url("/health/ready"));
    let mut process = Process::serve(&server, ready);
    let tokens = app.tokens(&Browser::new(&server), "openid");
    let body = form(&[("grant_type", "refresh_token"), ("refresh_token", tokens.refresh())]);
    let (one, two) = body.split_at(body.len() / 2);
    let credentials = support::app::basic(&app.id, app.secret.as_deref().unwrap());
    let mut stream = TcpStream::connect(server.issuer.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\nexpect: 100-continue\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // It says when it has taken the request up.
    let (mut seen, mut buffer) = (String::new(), [0; 1024]);
    while !seen.ends_with("\r\n\r\n") {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{signal}: the connection ended: {seen}");
        seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    assert!(seen.starts_with("HTTP/1.1 100"), "{seen}");
    stream.write_all(one.as_bytes()).unwrap();

    process.signal(signal);
    wait_for("the door to close", || (!open_door(&server)).then_some(()));
    assert!(process.runs(), "{signal}: it did not wait for the request under way");
    stream.write_all(two.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let start = Instant::now();
    assert!(answer.starts_with("HTTP/1.1 200"), "{signal}: {answer}");
    let next: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let status = process.end();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{signal}: {status}");
    assert!(start.elapsed() < Duration::from_secs(2), "{signal}: {:?}", start.elapsed());

    // What was answered was kept.
    let _again = Process::serve(&server, ready);
    assert!(!app.is_active(tokens.refresh()), "{signal}: the old one is spent");
    app.refresh(next["refresh_token"].as_str().unwrap()).ok();
}

#[test]
fn sigterm_lets_the_request_under_way_finish() {
    stop_amid_a_refresh("TERM");
}

#[test]
fn sigint_lets_the_request_under_way_finish() {
    stop_amid_a_refresh("INT");
}

// ---- As in its container ----

#[test]
fn the_files_of_the_deployment_set_what_there_is_to_set() {
    let files = [include_str!("../deploy/Dockerfile"), include_str!("../deploy/compose.yaml")];
    let mut settings = std::collections::BTreeMap::new();
    for text in files.iter().flat_map(|file| file.lines()).filter(|line| !line.trim_start().starts_with('#')) {
        for word in text.split_whitespace().filter(|word| word.starts_with("COUNTERSIGN_")) {
            let value = text.split_once(word).unwrap().1.trim();
            let set = word.trim_end_matches(':').split_once('=').unwrap_or((word.trim_end_matches(':'), value));
            settings.insert(set.0, set.1);
        }
    }
    // What the compose file says is to be put beside it.
    settings.insert("COUNTERSIGN_KEY_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    settings.insert("COUNTERSIGN_DATABASE_URL", "postgres://countersign:PASSWORD@postgres/countersign?sslmode=disable");
    assert!(settings.len() > 7, "{settings:?}");
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(["config", "check"]).current_dir(folder.path()).env_clear().envs(&settings);
    let output = support::server::run(command, "");
    assert!(output.status.success(), "{settings:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nobody_in_a_read_only_root_without_a_capability_can_serve() {
    const NOBODY: u32 = 65_532;
    let (server, app) = one_app(&[("COUNTERSIGN_DATABASE_URL", "sqlite://data/countersign.db")]);
    server.user("ada");
    let root = rustix::process::geteuid().is_root();
    // Where nobody may come by.
    let place = TempDir::new().unwrap();
    let program = place.path().join("countersign");
    fs::copy(env!("CARGO_BIN_EXE_countersign"), &program).unwrap();
    let mut paths = vec![server.data_dir()];
    paths.extend(fs::read_dir(server.data_dir()).unwrap().map(|entry| entry.unwrap().path()));
    for path in paths.iter().filter(|_| root) {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    for folder in [place.path(), server.home()] {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let serve = server.command(&[]);
    let mut command = Command::new("unshare");
    command.arg("--mount").args((!root).then_some("--map-root-user")).args(["sh", "-c"]);
    command.arg(
        "mount --bind \"$HOME\" \"$HOME\" && mount --bind \"$DATA\" \"$DATA\" && cd \"$HOME\" && \
         mount -o remount,bind,ro \"$HOME\" && mount -o remount,bind,ro / && ! touch here /here 2>/dev/null && \
         exec setpriv $WHO --bounding-set=-all --inh-caps=-all --no-new-privs \"$0\" serve",
    );
    command.arg(&program).current_dir(server.home()).env_clear();
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("DATA", server.data_dir()).env("HOME", server.home());
    command.env("WHO", if root { "--reuid=65532 --regid=65532 --clear-groups" } else { "" });
    server.start_as(command);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    if root {
        assert!(of("Uid:").starts_with("65532") && of("CapEff:").chars().all(|digit| digit == '0'), "{status}");
    }
    assert_eq!((of("CapBnd:").trim_matches('0'), of("NoNewPrivs:").as_str()), ("", "1"), "{status}");
    let tokens = app.tokens(&Browser::new(&server), "openid");
    assert!(app.is_active(tokens.access()));
    server.stop();
}
