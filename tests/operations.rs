//! What an operator has to work with: metrics, logs, health, and a server that leaves politely.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "a test has a clock of its own")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::try_send;
use support::postgres::execute;
use support::server::free_port;
use support::{HTTP, PASSWORD, TestServer, World, get, post, send, wait_for};

/// The embedded database, where the test looks into the file.
const ON_FILE: (&str, &str) = ("COUNTERSIGN_DATABASE_URL", "sqlite://data/countersign.db");

/// A world whose operator listens, and where.
fn observed(env: &[(&str, &str)]) -> (World, String) {
    let operator = format!("127.0.0.1:{}", free_port());
    let mut all = vec![("COUNTERSIGN_METRICS__LISTEN", operator.as_str())];
    all.extend(env);
    (World::new(&all), format!("http://{operator}"))
}

fn metrics(operator: &str) -> String {
    let answer = get(format!("{operator}/metrics"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"), "{answer:?}");
    answer.body
}

/// The value of a sample, named as it stands before its value.
#[track_caller]
fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}:\n{page}")).parse().unwrap()
}

#[test]
fn s107_metrics_count_what_happened_on_a_listener_of_their_own() {
    let (w, operator) = observed(&[]);
    let browser = w.browser();
    let page = browser.open(w.web.request().url());
    let page = browser.sign_in_as(&page, "ada", "not the password at all, but as long");
    let code = browser.sign_in_as(&page, "ada", PASSWORD).code();
    let token = w.web.redeem(&code).text("refresh_token");
    w.web.refresh(&token).ok();
    w.web.refresh("no token at all").refused(400, "invalid_grant");
    w.machine.post("/token", &[("grant_type", "client_credentials")]).ok();
    w.web.revoke(&token);
    get(w.server.url("/nowhere/at?all=1"));

    let page = metrics(&operator);
    for (name, value) in [
        (r#"countersign_http_requests_total{route="/token",method="POST",status="200"}"#, 3.0),
        (r#"countersign_http_requests_total{route="/token",method="POST",status="400"}"#, 1.0),
        (r#"countersign_http_requests_total{route="/flow/{id}/sign-in",method="POST",status="200"}"#, 1.0),
        (r#"countersign_http_requests_total{route="unmatched",method="GET",status="404"}"#, 1.0),
        (r#"countersign_http_request_duration_seconds_count{route="/token"}"#, 4.0),
        (r#"countersign_tokens_issued_total{grant="authorization_code"}"#, 1.0),
        (r#"countersign_tokens_issued_total{grant="refresh_token"}"#, 1.0),
        (r#"countersign_tokens_issued_total{grant="client_credentials"}"#, 1.0),
        (r#"countersign_sign_ins_total{outcome="wrong"}"#, 1.0),
        (r#"countersign_sign_ins_total{outcome="signed_in"}"#, 1.0),
        ("countersign_store_write_queue", 0.0),
        ("countersign_password_queue", 0.0),
        ("countersign_database_up", 1.0),
        ("countersign_clock_behind_seconds", 0.0),
        ("countersign_revocation_log_lag_seconds", 0.0),
        ("countersign_registry_lag", 0.0),
    ] {
        assert!((sample(&page, name) - value).abs() < 0.1, "{name} {value}:\n{page}");
    }
    assert!(sample(&page, "countersign_revocation_log_sequence") >= 1.0, "{page}");
    assert!(sample(&page, "countersign_registry_version") >= 1.0, "{page}");
    assert!(page.contains(concat!("countersign_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")), "{page}");
    let followed = sample(&page, "countersign_registry_followed_timestamp_seconds");
    assert!(followed > 1.7e9, "{followed}");
    // What is counted and what the operator is told of are the same; a counter's samples end in _total, an info's in _info.
    let documented = include_str!("../docs/operations.md");
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let ending = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let told = [format!("`{name}{ending}`"), format!("`{name}{ending}{{")];
        assert!(told.iter().any(|told| documented.contains(told)), "{name} is not in docs/operations.md");
    }
    // Nothing in it names a person, a token or an address with what was in it.
    for secret in [token.as_str(), "ada", "nowhere", "127.0.0.1", w.web.id.as_str()] {
        assert!(!page.contains(secret), "{secret}");
    }
    // A connection counts for as long as it is there.
    let open = || sample(&metrics(&operator), "countersign_connections");
    let kept: Vec<_> =
        (0..40).map(|_| TcpStream::connect(w.server.url("").trim_start_matches("http://")).unwrap()).collect();
    wait_for("the connections to be counted", || (open() >= 41.0).then_some(()));
    drop(kept);
    wait_for("the connections to be gone", || (open() < 4.0).then_some(()));
    // Health is there as well, and the product is not; on the product's own listener there are no metrics.
    assert_eq!(get(format!("{operator}/health/live")).status, 200);
    assert_eq!(get(format!("{operator}/health/ready")).status, 200);
    assert_eq!(get(format!("{operator}/jwks")).status, 404);
    assert_eq!(get(w.server.url("/metrics")).status, 404);
}

/// Lines that are JSON; everything that the server logged must be.
fn lines(server: &TestServer) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter(|line| !line.starts_with("Countersign is serving"));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_line_of_the_log_is_an_object_that_names_its_request() {
    let w = World::new(&[("COUNTERSIGN_LOG__FORMAT", "json"), ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1")]);
    w.browser().through_as(w.web.request().url(), "ada");
    let signed_in = |lines: &[Value]| lines.iter().find(|line| line["message"] == "signed in").cloned();
    let line = signed_in(&lines(&w.server)).expect("the sign-in is logged");
    assert_eq!(line["level"], "info");
    assert!(line["user.id"].is_string() && line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert_eq!(line["request.id"].as_str().unwrap().len(), 16, "{line}");

    // A trusted proxy names the request; what is no plain word counts for nothing.
    for (given, taken) in [("edge-7.3_a", true), ("two words", false), ("\"}", false), (&*"x".repeat(65), false)] {
        let request = post(w.server.url("/token"), &[("grant_type", "refresh_token"), ("refresh_token", "none")]);
        let answer = send(w.web.authenticated(request).header("x-request-id", given));
        answer.refused(400, "invalid_grant");
        assert_eq!(answer.header("x-request-id"), "", "only where somebody has to quote it");
        let log = lines(&w.server);
        let line = log.iter().rfind(|line| line["client.id"] == w.web.id.as_str()).unwrap();
        assert_eq!(line["request.id"] == given, taken, "{line}");
    }
}

#[test]
fn nobody_but_a_trusted_proxy_names_a_request() {
    let w = World::new(&[]);
    let request = post(w.server.url("/token"), &[("grant_type", "refresh_token"), ("refresh_token", "none")]);
    send(w.web.authenticated(request).header("x-request-id", "forged")).refused(400, "invalid_grant");
    let log = w.server.log();
    assert!(!log.contains("forged"), "{log}");
    assert!(log.contains(" request.id="), "{log}");
}

/// The number in an answer to quote, which the log has as well.
#[track_caller]
fn quoted(server: &TestServer, answer: &support::Answer) {
    let id = answer.header("x-request-id");
    assert_eq!(id.len(), 16, "{answer:?}");
    assert!(answer.body.contains(id), "{answer:?}");
    wait_for("the log", || server.log().contains(&format!("request.id={id}")).then_some(()));
}

#[test]
fn a_failure_of_ours_has_a_number_that_stands_in_the_log() {
    use diesel::connection::SimpleConnection as _;
    use diesel::prelude::*;
    let w = World::new(&[ON_FILE]);
    let path = w.server.data_dir().join("countersign.db");
    let mut database = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    database.batch_execute("BEGIN IMMEDIATE").unwrap();
    let page = get(w.web.request().url());
    assert_eq!(page.status, 503, "{page:?}");
    assert!(page.comes_back_soon(), "{page:?}");
    quoted(&w.server, &page);
    let answer = w.web.post("/revoke", &[("token", &format!("cs_rt_{}", "x".repeat(80)))]);
    assert!(answer.status == 200 || answer.status == 503, "{answer:?}");
    let ready = get(w.server.url("/health/ready"));
    assert_eq!((ready.status, ready.header("retry-after")), (503, "1"), "{ready:?}");
    assert_eq!(
        ready.json(),
        json!({"status": "not ready", "database": "failed", "schema": "unknown", "keys": "ok"}),
        "and nothing more to strangers"
    );
    database.batch_execute("ROLLBACK").unwrap();
    // Who waited for the lock at that moment is told as all were before.
    wait_for("the database to be good again", || (get(w.server.url("/health/ready")).status == 200).then_some(()));
}

#[test]
fn readiness_says_which_part_is_wrong() {
    let w = World::new(&[]);
    let told = || get(w.server.url("/health/ready"));
    assert_eq!(told().ok(), json!({"status": "ready", "database": "ok", "schema": "ok", "keys": "ok"}));
    // A migration of this version that is not made; one of a later version that is.
    let change = |statements: &str| execute(&w.server.database_url(), statements);
    change("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    assert_eq!(told().status, 200);
    change(
        "CREATE TABLE kept AS SELECT max(version) AS version FROM __diesel_schema_migrations WHERE version < '2999'",
    );
    change("DELETE FROM __diesel_schema_migrations WHERE version IN (SELECT version FROM kept)");
    assert_eq!(told().json(), json!({"status": "not ready", "database": "ok", "schema": "failed", "keys": "ok"}));
    change("INSERT INTO __diesel_schema_migrations (version) SELECT version FROM kept");
    assert_eq!(told().status, 200);
    // No key of one algorithm.
    change("DELETE FROM signing_keys WHERE algorithm = 'ES256'");
    change("UPDATE counters SET value = value + 1 WHERE name = 'registry'");
    let answer = wait_for("the keys to be missed", || Some(told()).filter(|answer| answer.status == 503));
    assert_eq!(answer.json(), json!({"status": "not ready", "database": "ok", "schema": "ok", "keys": "failed"}));
}

fn ask(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())?;
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn told_to_stop_it_is_not_ready_first_then_asks_to_close_and_then_closes() {
    let (w, operator) = observed(&[]);
    let address = w.server.issuer.strip_prefix("http://").unwrap().to_owned();
    let mut kept = TcpStream::connect(&address).unwrap();
    kept.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let answer = ask(&mut kept, "/jwks").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("connection: close"), "{answer}");

    let start = Instant::now();
    let pid = w.server.pid().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    for base in [&w.server.issuer, &operator] {
        wait_for("readiness to go", || {
            let answer = try_send(HTTP.get(format!("{base}/health/ready"))).unwrap();
            assert_eq!(get(format!("{base}/health/live")).status, 200);
            (answer.status == 503).then(|| assert_eq!(answer.json(), json!({"status": "stopping"})))
        });
    }
    assert!(start.elapsed() < Duration::from_secs(1), "it still answers: {:?}", start.elapsed());
    // The one who keeps a connection is answered, asked to close, and then closed.
    let answer = ask(&mut kept, "/jwks").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(kept.read(&mut [0; 16]).unwrap_or(0), 0);
    wait_for("the door to close", || TcpStream::connect(&address).is_err().then_some(()));
    let status = w.server.end();
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn a_metrics_address_that_is_taken_is_told_and_nothing_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let server = TestServer::prepare(&[("COUNTERSIGN_METRICS__LISTEN", &address)]);
    let output = server.cli(&["serve"], "");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains(&address), "{told}");
}

#[test]
fn what_a_browser_is_told_of_https_is_told_on_every_answer() {
    // TLS ends at the proxy; we are asked over plain HTTP by it.
    let server = TestServer::running(&[
        ("COUNTERSIGN_ISSUER", "https://id.example.com"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1"),
    ]);
    for path in ["/", "/jwks", "/token", "/health/live", "/nowhere", "/static/countersign.css", "/authorize"] {
        let answer = get(server.url(path));
        assert_eq!(answer.header("strict-transport-security"), "max-age=31536000", "{path}: {answer:?}");
    }
    let broken = send(HTTP.post(server.url("/sign-out")).header("content-type", "text/plain").body("x"));
    assert_eq!(broken.header("strict-transport-security"), "max-age=31536000", "{broken:?}");
    let plain = TestServer::running(&[]);
    assert_eq!(get(plain.url("/jwks")).header("strict-transport-security"), "");
}

/// A collector that keeps what it is sent, byte for byte.
fn collector() -> (String, std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
    use std::io::{BufRead as _, BufReader};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let kept = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
    let sent = std::sync::Arc::clone(&kept);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap_or(0) > 2 {
                sent.lock().unwrap().extend(line.as_bytes());
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            sent.lock().unwrap().extend(body);
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    (address, kept)
}

#[test]
fn s110_traces_name_requests_and_transactions_and_hold_nothing_of_strangers() {
    let (address, kept) = collector();
    let w = World::new(&[("COUNTERSIGN_OTLP__ENDPOINT", &address)]);
    let browser = w.browser();
    let code = browser.through_as(w.web.request().with("state", "what-a-stranger-sent").url(), "ada").code();
    let tokens = w.web.redeem(&code);
    let refresh = tokens.text("refresh_token");
    w.web.refresh(&refresh).ok();
    // What is left is sent at the end.
    w.server.stop();
    let sent = kept.lock().unwrap().clone();
    let holds = |text: &str| sent.windows(text.len()).any(|window| window == text.as_bytes());
    for name in ["POST /v1/traces", "countersign", "/token", "/authorize", "rotate_refresh_token", "sign_in"] {
        assert!(holds(name), "no {name} in {}", String::from_utf8_lossy(&sent));
    }
    assert!(!holds("registry_version"), "what runs by itself is no trace");
    let access = tokens.text("access_token");
    for secret in [&*code, &*refresh, &*access, PASSWORD, "what-a-stranger-sent", "ada", &w.web.id] {
        assert!(!holds(secret), "{secret}");
    }
}

#[test]
fn what_was_leased_is_handed_back_at_the_end() {
    use diesel::connection::SimpleConnection as _;
    use diesel::prelude::*;
    // A mail server that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", silent.local_addr().unwrap());
    let w = World::new(&[ON_FILE, ("COUNTERSIGN_MAIL__URL", &url), ("COUNTERSIGN_MAIL__FROM", "no-reply@example.com")]);
    let browser = w.browser();
    let page = browser.open(w.server.url("/password/forgot"));
    browser.press(&page, "forgot-submit", &[("email", "ada@example.com")]).is("forgot-sent-page");
    let (_held, _) = silent.accept().unwrap();
    let path = w.server.data_dir().join("countersign.db");
    let mut database = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    database.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
    let mut count = |condition: &str| -> i64 {
        let text = format!("SELECT COUNT(*) FROM outbox WHERE delivered_at IS NULL AND {condition}");
        diesel::dsl::sql::<diesel::sql_types::BigInt>(&text).get_result(&mut database).unwrap()
    };
    assert_eq!(count("leased_by IS NOT NULL"), 1);
    w.server.stop();
    assert_eq!(count("leased_by IS NOT NULL"), 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(count(&format!("next_at <= {now}")), 1, "somebody else may try at once");
}
