//! Several servers on one PostgreSQL: races have one winner wherever they run, any request of a flow may go to any server,
//! a change is everywhere within a second, and what happens to one server costs the others nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::gate::Gate;
use support::http::try_send;
use support::phone::enrol;
use support::postgres::shared;
use support::{Answer, App, Browser, HTTP, PASSWORD, TestServer, get, wait_for};

const SECOND: Duration = Duration::from_secs(1);

/// Two running servers behind a balancer.
struct Nodes {
    balancer: Gate,
    a: TestServer,
    b: TestServer,
    /// First-party and confidential, at the balancer.
    web: App,
}

impl Nodes {
    fn new(env: &[(&str, &str)]) -> Self {
        let url = shared().database();
        Self::on(&url, &url, env)
    }

    /// On databases that are reached by different ways.
    fn on(url_of_a: &str, url_of_b: &str, env: &[(&str, &str)]) -> Self {
        let balancer = Gate::to(&[]);
        let issuer = format!("http://{}", balancer.address);
        let node = |url| {
            let mut env = env.to_vec();
            env.push(("COUNTERSIGN_DATABASE_URL", url));
            env.push(("COUNTERSIGN_DATABASE__CONNECTIONS", "8"));
            env.push(("COUNTERSIGN_KEY_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="));
            TestServer::node(&issuer, &env)
        };
        let (a, b) = (node(url_of_a), node(url_of_b));
        a.user("ada");
        let web = a.client(&json!({
            "client_name": "Web", "redirect_uris": ["https://web.example/callback"], "skip_consent": true,
            "grant_types": ["authorization_code", "refresh_token"], "scope": "openid offline_access",
        }));
        // At once, as a supervisor starts them.
        std::thread::scope(|scope| {
            scope.spawn(|| a.start());
            scope.spawn(|| b.start());
        });
        balancer.set_targets(&[a.port(), b.port()]);
        Self { balancer, a, b, web }
    }

    /// 16 requests at each server, at the same moment.
    fn race(&self, send: impl Fn(&App) -> Answer + Sync) -> Vec<Answer> {
        let barrier = std::sync::Barrier::new(32);
        let (at_a, at_b) = (self.web.at(&self.a), self.web.at(&self.b));
        std::thread::scope(|scope| {
            let racers: Vec<_> = (0..32)
                .map(|n| {
                    let (barrier, send) = (&barrier, &send);
                    let app = if n % 2 == 0 { &at_a } else { &at_b };
                    scope.spawn(move || {
                        barrier.wait();
                        send(app)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        })
    }
}

fn winners(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[test]
fn s11_s24_s25_one_code_and_one_token_are_spent_once_by_32_at_two_servers() {
    let nodes = Nodes::new(&[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")]);
    let browser = Browser::hopping(&nodes.a);
    for _ in 0..3 {
        let code = nodes.web.code(&browser, "openid");
        let answers = nodes.race(|app| app.redeem(&code));
        assert_eq!(winners(&answers), 1, "{answers:?}");
        let tokens = nodes.web.tokens(&browser, "openid");
        let answers = nodes.race(|app| app.refresh(tokens.refresh()));
        assert_eq!(winners(&answers), 1, "{answers:?}");
        let won = answers.iter().find(|answer| answer.status == 200).unwrap().text("refresh_token");
        assert!(!nodes.web.at(&nodes.b).is_active(&won), "the losers were reuse: the family is dead");
    }
}

#[test]
fn s57_one_code_of_a_second_factor_is_spent_once_at_two_servers() {
    let nodes = Nodes::new(&[]);
    let first = Browser::hopping(&nodes.a);
    let page = first.open(format!("{}/", nodes.a.issuer));
    first.sign_in_as(&page, "ada", PASSWORD).is("home-page");
    let (phone, _) = enrol(&nodes.a, &first);
    // Eight sign-ins of their own that wait for the code.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let browser = Browser::hopping(&nodes.a);
            let page = browser.open(nodes.web.request().url());
            let page = browser.sign_in_as(&page, "ada", PASSWORD);
            page.is("mfa-page");
            (browser, page)
        })
        .collect();
    let code = phone.code();
    let barrier = std::sync::Barrier::new(waiting.len());
    let won: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = waiting
            .iter()
            .map(|(browser, page)| {
                let (barrier, code) = (&barrier, code.as_str());
                scope.spawn(move || {
                    barrier.wait();
                    browser.press(page, "mfa-submit", &[("code", code)]).foreign
                })
            })
            .collect();
        racers.into_iter().map(|racer| usize::from(racer.join().unwrap())).sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn s24_a_retry_at_the_other_server_gets_the_same_successor() {
    let nodes = Nodes::new(&[]);
    let tokens = nodes.web.tokens(&Browser::hopping(&nodes.a), "openid");
    let answers = nodes.race(|app| app.refresh(tokens.refresh()));
    let successors: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.text("refresh_token")).collect();
    assert_eq!((winners(&answers), successors.len()), (32, 1));
}

#[test]
fn s54_guesses_at_two_servers_are_counted_together() {
    let nodes = Nodes::new(&[]);
    let guess = |server: &TestServer| {
        let browser = Browser::new(server);
        let page = browser.open(nodes.web.request().url());
        browser.sign_in_as(&page, "ada", "wrong battery horse staple")
    };
    // Through the balancer, which sends one here and one there.
    for _ in 0..6 {
        guess(&nodes.a);
    }
    let page = guess(&nodes.b);
    assert_eq!(page.answer.status, 429, "{:?}", page.answer);
}

#[test]
fn a_flow_goes_on_at_another_server_with_each_request_and_when_one_dies_in_the_middle() {
    let nodes = Nodes::new(&[]);
    for _ in 0..4 {
        let browser = Browser::hopping(&nodes.a);
        let tokens = nodes.web.tokens(&browser, "openid offline_access");
        assert!(nodes.web.at(&nodes.a).is_active(tokens.access()) && nodes.web.at(&nodes.b).is_active(tokens.access()));
    }
    // Signed in at A, which is gone when the code is asked for.
    nodes.balancer.set_targets(&[nodes.a.port()]);
    let browser = Browser::hopping(&nodes.a);
    let page = browser.open(nodes.web.request().url());
    page.is("login-page");
    nodes.a.kill();
    nodes.balancer.set_targets(&[nodes.a.port(), nodes.b.port()]);
    let code = browser.sign_in_as(&page, "ada", PASSWORD).code();
    let tokens = nodes.web.at(&nodes.b).redeem(&code).ok();
    nodes.a.start();
    nodes.web.at(&nodes.a).refresh(tokens["refresh_token"].as_str().unwrap()).ok();
}

#[test]
fn s25_s34_what_changes_at_one_server_is_so_at_the_other_within_a_second() {
    let nodes = Nodes::new(&[]);
    let browser = Browser::hopping(&nodes.a);
    let within = |what: &str, seen: &dyn Fn(&TestServer) -> bool| {
        let start = Instant::now();
        for server in [&nodes.a, &nodes.b] {
            wait_for(what, || seen(server).then_some(()));
        }
        assert!(start.elapsed() < SECOND, "{what} took {:?}", start.elapsed());
    };
    // The truth is in the database: no wait at all.
    let (one, two) = (nodes.web.tokens(&browser, "openid"), nodes.web.tokens(&browser, "openid"));
    assert!(nodes.web.at(&nodes.b).is_active(one.access()));
    nodes.web.at(&nodes.a).revoke(one.refresh());
    assert!(!nodes.web.at(&nodes.b).is_active(one.access()));
    assert_eq!(nodes.web.at(&nodes.b).userinfo(one.access()).status, 401);
    // What is in memory follows.
    let created =
        nodes.a.cli_ok(&["client", "create", "-"], &json!({"redirect_uris": ["https://new.example/"]}).to_string());
    let new = App::new(&nodes.a.issuer, serde_json::from_str(&created).unwrap());
    within("a new client", &|server| get(new.at(server).request().url()).status != 400);
    let kids = |server: &TestServer| -> Vec<String> {
        let keys = get(server.url("/jwks")).ok()["keys"].as_array().unwrap().clone();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    let before = kids(&nodes.a);
    nodes.b.cli_ok(&["key", "rotate", "--compromised"], "");
    within("removed keys", &|server| kids(server).iter().all(|kid| !before.contains(kid)));
    assert!(!nodes.web.at(&nodes.a).is_active(two.access()), "what the key signed is gone with it");
    assert_eq!(get(nodes.a.url("/jwks")).body, get(nodes.b.url("/jwks")).body);
    nodes.a.cli_ok(&["user", "disable", "ada"], "");
    nodes.web.at(&nodes.b).refresh(two.refresh()).refused(400, "invalid_grant");
}

#[test]
fn a_server_that_loses_the_database_says_so_and_the_other_goes_on() {
    let direct = shared().database();
    let gate = Gate::to(&[shared().port]);
    let through = direct.replace(&shared().port.to_string(), &gate.address.port().to_string());
    let nodes = Nodes::on(&direct, &through, &[]);
    let tokens = nodes.web.tokens(&Browser::new(&nodes.a), "openid offline_access");
    let (at_a, at_b) = (nodes.web.at(&nodes.a), nodes.web.at(&nodes.b));
    assert!(at_b.is_active(tokens.access()));
    for (fault, bound) in [("refused", SECOND), ("silent", 3 * SECOND)] {
        if fault == "refused" {
            gate.refuse();
        } else {
            gate.fall_silent();
        }
        let start = Instant::now();
        let answer = at_b.post("/introspect", &[("token", tokens.access())]);
        assert_eq!(answer.status, 503, "{fault}: {answer:?}");
        assert!(!answer.header("retry-after").is_empty(), "{fault}: {answer:?}");
        assert!(start.elapsed() <= bound + SECOND / 2, "{fault}: {:?}", start.elapsed());
        for path in ["/jwks", "/.well-known/openid-configuration", "/health/live"] {
            assert_eq!(get(nodes.b.url(path)).status, 200, "{fault}: {path}");
        }
        assert!(at_a.is_active(tokens.access()), "{fault}: the other server goes on");
        gate.open();
        let start = Instant::now();
        wait_for("the database to be back", || {
            (at_b.post("/introspect", &[("token", tokens.access())]).status == 200).then_some(())
        });
        assert!(start.elapsed() < 5 * SECOND, "{fault}: {:?}", start.elapsed());
    }
}

#[test]
fn one_server_after_another_starts_anew_under_load_and_no_request_fails() {
    let nodes = Nodes::new(&[]);
    let browser = Browser::hopping(&nodes.a);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let chains: Vec<_> = (0..4).map(|_| nodes.web.tokens(&browser, "openid offline_access")).collect();
    std::thread::scope(|scope| {
        let clients: Vec<_> = chains
            .iter()
            .map(|tokens| {
                let (nodes, stop, done) = (&nodes, &stop, &done);
                scope.spawn(move || {
                    let mut token = tokens.refresh().to_owned();
                    while !stop.load(Ordering::Relaxed) {
                        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
                        let request = nodes.web.authenticated(support::post(nodes.web.url("/token"), &fields));
                        token = try_send(request.header("connection", "close")).unwrap().text("refresh_token");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for (stopped, other) in [(&nodes.a, &nodes.b), (&nodes.b, &nodes.a)] {
            let before = done.load(Ordering::Relaxed);
            wait_for("some load", || (done.load(Ordering::Relaxed) > before + 20).then_some(()));
            // As a balancer does that asks for readiness.
            nodes.balancer.set_targets(&[other.port()]);
            stopped.stop();
            stopped.start();
            nodes.balancer.set_targets(&[nodes.a.port(), nodes.b.port()]);
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    assert!(done.load(Ordering::Relaxed) > 40);
    drop(HTTP.get(nodes.a.url("/health/ready")).send().unwrap());
}
