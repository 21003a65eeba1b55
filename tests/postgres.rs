//! PostgreSQL itself: what is asked of it at the start, how it is reached, and what happens when it is not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod support;

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use serde_json::json;
use support::app::Tokens;
use support::gate::Gate;
use support::http::try_send;
use support::postgres::{Cluster, execute, shared};
use support::server::free_port;
use support::{App, Browser, TestServer, get, post, wait_for};

const SECOND: Duration = Duration::from_secs(1);

fn serving(url: &str) -> (TestServer, App) {
    serving_with(url, &[])
}

fn serving_with(url: &str, env: &[(&str, &str)]) -> (TestServer, App) {
    let mut all = vec![("COUNTERSIGN_DATABASE_URL", url), ("COUNTERSIGN_DATABASE__CONNECTIONS", "4")];
    all.extend(env);
    let server = TestServer::prepare(&all);
    server.user("ada");
    let web = server.client(&json!({
        "redirect_uris": ["https://web.example/callback"], "skip_consent": true,
        "grant_types": ["authorization_code", "refresh_token"], "scope": "openid offline_access",
    }));
    server.start();
    (server, web)
}

#[test]
fn a_database_that_is_away_costs_503_within_its_time_and_no_restart() {
    let cluster = Cluster::start(&[]);
    let (server, web) = serving(&cluster.database());
    let browser = Browser::new(&server);
    let mut token = web.tokens(&browser, "openid offline_access").refresh().to_owned();
    for (fault, bound) in [("stopped", SECOND), ("killed", SECOND), ("paused", 3 * SECOND)] {
        match fault {
            "stopped" => cluster.stop(),
            "killed" => cluster.kill(),
            _ => cluster.pause(),
        }
        let spent = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
        for answer in
            [&|| web.post("/token", &spent), &|| get(web.request().url())] as [&dyn Fn() -> support::Answer; 2]
        {
            let start = Instant::now();
            let answer = answer();
            assert_eq!(answer.status, 503, "{fault}: {answer:?}");
            assert!(!answer.header("retry-after").is_empty(), "{fault}: {answer:?}");
            assert!(start.elapsed() <= bound + SECOND / 2, "{fault}: {:?}", start.elapsed());
        }
        for path in ["/jwks", "/.well-known/openid-configuration", "/health/live"] {
            let start = Instant::now();
            assert_eq!(get(server.url(path)).status, 200, "{fault}: {path}");
            assert!(start.elapsed() < SECOND / 2, "{fault}: {path} took {:?}", start.elapsed());
        }
        assert_eq!(get(server.url("/health/ready")).status, 503, "{fault}");
        if fault == "paused" {
            cluster.resume();
        } else {
            cluster.run();
        }
        let start = Instant::now();
        // The request that got no answer may have been done: the same again, within the leeway, gets the successor.
        let answer = wait_for("the database to be back", || {
            let answer = web.refresh(&token);
            (answer.status != 503).then_some(answer)
        });
        assert!(start.elapsed() < 5 * SECOND, "{fault}: {:?}", start.elapsed());
        answer.ok();
        token = answer.text("refresh_token");
    }
    assert!(web.is_active(&token));
}

/// A server whose way to the database leads through a gate, one of its applications, and the operator's address.
fn behind_a_gate(env: &[(&str, &str)]) -> (Gate, TestServer, App) {
    let gate = Gate::to(&[shared().port]);
    let url = shared().database().replace(&shared().port.to_string(), &gate.address.port().to_string());
    let (server, web) = serving_with(&url, env);
    (gate, server, web)
}

#[test]
fn a_database_that_takes_five_seconds_to_answer_costs_503_and_nothing_piles_up() {
    let operator = format!("127.0.0.1:{}", free_port());
    let (gate, server, web) = behind_a_gate(&[("COUNTERSIGN_METRICS__LISTEN", &operator)]);
    let token = web.tokens(&Browser::new(&server), "openid offline_access").refresh().to_owned();
    let metric = |page: &str, name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}:\n{page}")).parse().unwrap()
    };
    gate.slow_down(5 * SECOND);
    let start = Instant::now();
    let mut documents = Vec::new();
    std::thread::scope(|scope| {
        // Far more than there are connections to the database, for longer than one of its answers takes; some who wait,
        // some who go at once and come again.
        let crowd: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    while start.elapsed() < 6 * SECOND {
                        let begun = Instant::now();
                        let answer = web.post("/introspect", &[("token", &token)]);
                        // One that was under way when the database became slow may still come through.
                        assert!(answer.status == 503 || begun < start + SECOND / 10, "{answer:?}");
                        assert!(!answer.header("retry-after").is_empty() || answer.status == 200, "{answer:?}");
                        assert!(begun.elapsed() <= 3 * SECOND, "{:?}", begun.elapsed());
                    }
                })
            })
            .collect();
        for _ in 0..8 {
            scope.spawn(|| {
                while start.elapsed() < 6 * SECOND {
                    let request = post(web.url("/introspect"), &[("token", &token)]).timeout(SECOND / 50);
                    drop(try_send(web.authenticated(request)));
                }
            });
        }
        while start.elapsed() < 6 * SECOND {
            for path in ["/jwks", "/.well-known/openid-configuration", "/health/live"] {
                let begun = Instant::now();
                assert_eq!(get(server.url(path)).status, 200, "{path}");
                documents.push(begun.elapsed());
            }
        }
        let page = get(format!("http://{operator}/metrics")).body;
        let queued = metric(&page, "countersign_store_write_queue");
        println!("{queued} wait");
        assert!((100.0..=1024.0).contains(&queued), "{queued}");
        assert!(metric(&page, "countersign_database_up") < 0.5, "{page}");
        for one in crowd {
            one.join().unwrap();
        }
    });
    documents.sort();
    let p99 = documents[documents.len() * 99 / 100];
    println!("{} documents meanwhile, p99 {p99:?}, {:?} at worst", documents.len(), documents.last().unwrap());
    // 20 ms on a quiet machine; this one runs other tests meanwhile.
    assert!(p99 < SECOND / 10, "{p99:?}");
    gate.slow_down(Duration::ZERO);
    let start = Instant::now();
    let answer =
        wait_for("the database to be fast again", || Some(web.refresh(&token)).filter(|answer| answer.status != 503));
    println!("good again after {:?}", start.elapsed());
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    answer.ok();
}

/// How many others work in this database just now.
fn busy(conn: &mut PgConnection) -> i64 {
    let count = "(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' \
        AND pid <> pg_backend_pid())";
    diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(count)).get_result(conn).unwrap()
}

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_change_leaves_all_of_it_or_nothing() {
    let (gate, server, web) = behind_a_gate(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    let gate_port = gate.address.port().to_string();
    let browser = Browser::new(&server);
    let mut beside =
        PgConnection::establish(&server.database_url().replace(&gate_port, &shared().port.to_string())).unwrap();
    let (mut told, mut done) = ([0, 0], 0);
    for round in 0..48 {
        wait_for("the database", || (get(server.url("/health/ready")).status == 200).then_some(()));
        let code = web.code(&browser, "openid offline_access");
        let tokens = (round % 3 != 0).then(|| Tokens(web.redeem(&code).ok()));
        // At each of the first messages that a change consists of, the commit among them.
        gate.cut_after(round / 3 % 6);
        let answer = match (&tokens, round % 3) {
            (None, _) => web.redeem(&code),
            (Some(tokens), 1) => web.refresh(tokens.refresh()),
            (Some(tokens), _) => web.post("/revoke", &[("token", tokens.refresh())]),
        };
        gate.cut_after(-1);
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        told[usize::from(answer.status == 503)] += 1;
        wait_for("the database", || (get(server.url("/health/ready")).status == 200).then_some(()));
        // What was sent before the cut is done without us.
        wait_for("what was sent to end", || (busy(&mut beside) == 0).then_some(()));
        // What was told is so; what was not may be, whole.
        let happened = match (&tokens, round % 3) {
            (None, _) => web.redeem(&code).status != 200,
            (Some(tokens), 1) => {
                let spent = !web.is_active(tokens.refresh());
                assert_eq!(web.refresh(tokens.refresh()).status, if spent { 400 } else { 200 });
                spent
            }
            (Some(tokens), _) => {
                let ended = !web.is_active(tokens.refresh());
                assert_eq!(web.is_active(tokens.access()), !ended);
                ended
            }
        };
        assert!(happened || answer.status == 503, "round {round}: told as done and is not: {answer:?}");
        done += usize::from(happened && answer.status == 503);
    }
    println!("{} told as done, {} as 503, of which {done} were done all the same", told[0], told[1]);
    assert!(told[1] > 10 && done > 0 && done < told[1], "{told:?} {done}: not cut in the middle");
}

#[test]
fn a_statement_that_waits_too_long_is_given_up() {
    let url = shared().database();
    let (server, web) = serving(&url);
    let token = web.tokens(&Browser::new(&server), "openid offline_access").refresh().to_owned();
    let mut other = PgConnection::establish(&url).unwrap();
    other.batch_execute("BEGIN; SELECT 1 FROM grants FOR UPDATE").unwrap();
    let start = Instant::now();
    let answer = web.refresh(&token);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(start.elapsed() >= SECOND && start.elapsed() <= 3 * SECOND, "{:?}", start.elapsed());
    other.batch_execute("ROLLBACK").unwrap();
    web.refresh(&token).ok();
}

#[test]
fn a_refresh_introspection_and_userinfo_are_one_round_trip_each() {
    let direct = shared().database();
    let gate = Gate::to(&[shared().port]);
    let url = direct.replace(&format!(":{}/", shared().port), &format!(":{}/", gate.address.port()));
    let (server, web) = serving(&url);
    let tokens = web.tokens(&Browser::new(&server), "openid offline_access");
    // Each connection prepares its statements once, and something is always done beside the requests: what a request
    // usually takes is what most of them take.
    let usual = |send: &mut dyn FnMut()| {
        let mut counts: Vec<usize> = (0..31)
            .map(|_| {
                let before = gate.round_trips();
                send();
                gate.round_trips() - before
            })
            .collect();
        counts.sort_unstable();
        (counts[15], counts)
    };
    let mut token = tokens.refresh().to_owned();
    let mut refresh = || token = web.refresh(&token).text("refresh_token");
    let mut introspect = || assert!(web.is_active(tokens.access()));
    let mut userinfo = || assert_eq!(web.userinfo(tokens.access()).status, 200);
    for (what, send) in
        [("refresh", &mut refresh as &mut dyn FnMut()), ("introspection", &mut introspect), ("UserInfo", &mut userinfo)]
    {
        let (usual, counts) = usual(send);
        assert_eq!(usual, 1, "{what}: {counts:?}");
    }
}

#[test]
fn a_database_that_may_forget_what_it_acknowledged_is_refused() {
    let url = shared().database();
    let name = url.rsplit('/').next().unwrap().to_owned();
    execute(&url, &format!("ALTER DATABASE {name} SET synchronous_commit = off"));
    let server = TestServer::prepare(&[("COUNTERSIGN_DATABASE_URL", &url)]);
    let output = server.cli(&["serve"], "");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("synchronous_commit is off"), "{told}");
}

#[test]
fn servers_that_start_together_make_the_database_once() {
    let url = shared().empty_database();
    let servers: Vec<_> = (0..3).map(|_| TestServer::prepare(&[("COUNTERSIGN_DATABASE_URL", url.as_str())])).collect();
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.cli_ok(&["db", "migrate"], ""));
        }
    });
}

#[test]
fn servers_that_show_a_password_on_many_connections_come_and_go_in_peace() {
    let cluster = Cluster::start(&[]);
    let url = cluster.database();
    execute(&url, "ALTER ROLE countersign PASSWORD 'hush'");
    cluster.write("pg_hba.conf", "host all all all scram-sha-256\n");
    execute(&url, "SELECT pg_reload_conf()");
    let url = url.replace("countersign@", "countersign:hush@");
    let env = [
        ("COUNTERSIGN_DATABASE_URL", url.as_str()),
        ("COUNTERSIGN_DATABASE__CONNECTIONS", "32"),
        ("COUNTERSIGN_KEY_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    ];
    let servers: Vec<_> = (0..10).map(|_| TestServer::prepare(&env)).collect();
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.start());
        }
    });
    // All threads of each hash at once at the start, and close their connections beside the end of the process.
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| server.stop());
        }
    });
}

#[test]
fn s120_a_newer_schema_is_refused() {
    let url = shared().database();
    execute(&url, "INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')");
    let server = TestServer::prepare(&[("COUNTERSIGN_DATABASE_URL", &url)]);
    let output = server.cli(&["serve"], "");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("newer Countersign"), "{told}");
}

/// A certificate of its own for "localhost", and its key.
fn certificate() -> (String, String) {
    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509, X509NameBuilder};
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
    let names = SubjectAlternativeName::new().dns("localhost").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    (text(builder.build().to_pem().unwrap()), text(key.private_key_to_pem_pkcs8().unwrap()))
}

#[test]
fn the_network_is_guarded_by_tls_and_the_password_comes_from_a_file() {
    let (own_certificate, key) = certificate();
    let cluster = Cluster::start_with(
        &["ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key"],
        &[("server.crt", &own_certificate), ("server.key", &key)],
    );
    let url = cluster.database();
    execute(&url, "ALTER ROLE countersign PASSWORD 'p&ss w%rd'");
    // From now on by password and TLS alone.
    cluster.write("pg_hba.conf", "hostssl all all all scram-sha-256\n");
    execute(&url, "SELECT pg_reload_conf()");
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let right = write("right.pem", &own_certificate);
    let wrong = write("wrong.pem", &certificate().0);
    let password = write("password", "p&ss w%rd\n");
    let base = url.replace("127.0.0.1", "localhost");
    let migrate = |parameters: &str, password: &str| {
        let url = format!("{base}?{parameters}");
        let env = [("COUNTERSIGN_DATABASE_URL", url.as_str()), ("COUNTERSIGN_DATABASE__PASSWORD_FILE", password)];
        let output = TestServer::prepare(&env).cli(&["db", "migrate"], "");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    wait_for("the settings to be read", || (!migrate("sslmode=disable", &password).0).then_some(()));
    let told = migrate(&format!("sslmode=verify-full&sslrootcert={right}"), &password);
    assert!(told.0, "{}", told.1);
    let told = migrate(&format!("sslmode=verify-full&sslrootcert={wrong}"), &password);
    assert!(!told.0 && told.1.contains("certificate verify failed"), "{}", told.1);
    let bad = write("bad", "hush hush");
    let told = migrate(&format!("sslmode=verify-full&sslrootcert={right}"), &bad);
    assert!(!told.0 && told.1.contains("password authentication failed") && !told.1.contains("hush"), "{}", told.1);
    // Another name than the certificate's.
    let other = url.clone();
    let url = format!("{other}?sslmode=verify-full&sslrootcert={right}");
    let env = [("COUNTERSIGN_DATABASE_URL", url.as_str()), ("COUNTERSIGN_DATABASE__PASSWORD_FILE", &password)];
    assert!(!TestServer::prepare(&env).cli(&["db", "migrate"], "").status.success());
}
