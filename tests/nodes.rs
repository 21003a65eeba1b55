//! Several servers on one PostgreSQL: races have one winner wherever they run, any request of a flow may go to any server,
//! a change is everywhere within a second, and what happens to one server costs the others nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::app::Tokens;
use support::clock::FalseClock;
use support::gate::Gate;
use support::http::try_send;
use support::journal::setting;
use support::pair::Pair;
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
        Self::apart(url_of_a, url_of_b, env, &[])
    }

    /// With `env_of_b` for the second one alone.
    fn apart(url_of_a: &str, url_of_b: &str, env: &[(&str, &str)], env_of_b: &[(&str, &str)]) -> Self {
        let balancer = Gate::to(&[]);
        let issuer = format!("http://{}", balancer.address);
        let Pair { a, b, web } = Pair::start(&issuer, [url_of_a, url_of_b], env, env_of_b);
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

/// Whoever waits for a server that stands still gives up and asks the other one. What the first one finds when it goes on is
/// then no reuse of a spent token.
#[test]
fn s24_a_server_that_stood_still_does_nothing_for_those_who_gave_up() {
    let nodes = Nodes::new(&[]);
    let mut tokens = nodes.web.tokens(&Browser::hopping(&nodes.a), "openid offline_access");
    let (at_a, at_b) = (nodes.web.at(&nodes.a), nodes.web.at(&nodes.b));
    nodes.a.signal("STOP");
    for _ in 0..3 {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", tokens.refresh())];
        let request = at_a.authenticated(support::post(at_a.url("/token"), &fields));
        assert!(try_send(request.timeout(SECOND)).unwrap_err().is_timeout());
        tokens = Tokens(at_b.refresh(tokens.refresh()).ok());
    }
    nodes.a.signal("CONT");
    let until = Instant::now() + SECOND;
    while Instant::now() < until {
        assert!(at_b.is_active(tokens.refresh()), "{}", nodes.a.log());
    }
    at_a.refresh(tokens.refresh()).ok();
}

/// Reliability figure 10.
#[test]
fn what_one_server_revoked_the_other_refuses_at_once() {
    let nodes = Nodes::new(&[]);
    let rounds = usize::try_from(setting("TEST_REVOCATIONS", 100)).unwrap();
    let waits = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (nodes, waits) = (&nodes, &waits);
            scope.spawn(move || {
                let browser = Browser::hopping(&nodes.a);
                for round in (client..rounds).step_by(4) {
                    let tokens = nodes.web.tokens(&browser, "openid offline_access");
                    let servers = if round / 4 % 2 == 0 { (&nodes.a, &nodes.b) } else { (&nodes.b, &nodes.a) };
                    let (here, there) = (nodes.web.at(servers.0), nodes.web.at(servers.1));
                    assert!(there.is_active(tokens.access()));
                    // The grant with all that hangs on it, or one access token.
                    let grant = round / 8 % 2 == 0;
                    here.revoke(if grant { tokens.refresh() } else { tokens.access() });
                    let start = Instant::now();
                    wait_for("introspection to refuse", || (!there.is_active(tokens.access())).then_some(()));
                    let introspected = start.elapsed();
                    wait_for("UserInfo to refuse", || (there.userinfo(tokens.access()).status == 401).then_some(()));
                    if grant {
                        there.refresh(tokens.refresh()).refused(400, "invalid_grant");
                    }
                    waits.lock().unwrap().push((introspected, start.elapsed()));
                }
            });
        }
    });
    let waits = waits.into_inner().unwrap();
    let worst = |of: &dyn Fn(&(Duration, Duration)) -> Duration| {
        let mut spans: Vec<_> = waits.iter().map(of).collect();
        spans.sort();
        (spans[spans.len() * 99 / 100], *spans.last().unwrap())
    };
    let (one, all) = (worst(&|wait| wait.0), worst(&|wait| wait.1));
    println!("{rounds} revocations: refused by introspection after {one:?}, by all after {all:?} (p99, worst)");
    assert!(all.1 < SECOND, "{all:?}");
}

/// How a server is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Killed,
    Frozen,
    /// From the balancer, and from the database.
    CutOff,
}

impl Loss {
    fn strike(self, server: &TestServer, way: &Gate) {
        match self {
            Self::Killed => server.kill(),
            Self::Frozen => server.signal("STOP"),
            Self::CutOff => way.refuse(),
        }
    }

    fn mend(self, server: &TestServer, way: &Gate) {
        match self {
            Self::Killed => drop(server.start()),
            Self::Frozen => server.signal("CONT"),
            Self::CutOff => way.open(),
        }
        wait_for("the server to be back", || (get(server.url("/health/ready")).status == 200).then_some(()));
    }
}

/// Before each step of a flow the server is lost that did the one before, and the other goes on.
fn walk_with(loss: Loss) {
    let direct = shared().database();
    let ways = [Gate::to(&[shared().port]), Gate::to(&[shared().port])];
    let through = |way: &Gate| direct.replace(&shared().port.to_string(), &way.address.port().to_string());
    let nodes = Nodes::on(&through(&ways[0]), &through(&ways[1]), &[]);
    let app = nodes.a.client(&json!({
        "client_name": "Third", "redirect_uris": ["https://third.example/callback"], "scope": "openid offline_access",
        "grant_types": ["authorization_code", "refresh_token"],
    }));
    wait_for("the other to know the client", || nodes.b.knows(&app.at(&nodes.b)).then_some(()));
    let home = format!("{}/", nodes.a.issuer);
    let first = Browser::hopping(&nodes.a);
    first.sign_in_as(&first.open(&home), "ada", PASSWORD).is("home-page");
    let (phone, _) = enrol(&nodes.a, &first);

    let servers = [&nodes.a, &nodes.b];
    let lost = std::cell::Cell::new(None::<usize>);
    // As a balancer does that asks for readiness.
    let lose = || -> App {
        if let Some(back) = lost.get() {
            loss.mend(servers[back], &ways[back]);
        }
        let gone = lost.get().map_or(0, |back| 1 - back);
        nodes.balancer.set_targets(&[servers[1 - gone].port()]);
        loss.strike(servers[gone], &ways[gone]);
        lost.set(Some(gone));
        app.at(servers[1 - gone])
    };
    let browser = Browser::hopping(&nodes.a);
    lose();
    let page = browser.open(app.request().with("scope", "openid offline_access").with("prompt", "consent").url());
    lose();
    let page = browser.sign_in_as(&page, "ada", PASSWORD);
    page.is("mfa-page");
    lose();
    let page = browser.press(&page, "mfa-submit", &[("code", &phone.code())]);
    page.is("consent-page");
    lose();
    let code = browser.press(&page, "consent-allow", &[]).code();
    let tokens = Tokens(lose().redeem(&code).ok());
    let next = Tokens(lose().refresh(tokens.refresh()).ok());
    assert!(lose().is_active(next.access()));
    lose().revoke(next.refresh());
    assert!(!lose().is_active(next.access()), "{loss:?}: revoked at a server that is lost");
    lose();
    let page = browser.open(&home);
    lose();
    browser.press(&page, "sign-out", &[]);
    lose();
    let page = browser.open(app.request().url());
    page.is("login-page");
    if let Some(back) = lost.get() {
        loss.mend(servers[back], &ways[back]);
    }
}

#[test]
fn each_step_of_a_flow_goes_on_at_the_other_server_when_one_is_killed() {
    walk_with(Loss::Killed);
}

#[test]
fn each_step_of_a_flow_goes_on_at_the_other_server_when_one_stands_still() {
    walk_with(Loss::Frozen);
}

#[test]
fn each_step_of_a_flow_goes_on_at_the_other_server_when_one_is_cut_off() {
    walk_with(Loss::CutOff);
}

#[test]
fn a_server_that_is_killed_under_load_costs_what_was_in_flight_and_no_more() {
    let nodes = Nodes::new(&[]);
    let browser = Browser::hopping(&nodes.a);
    let chains: Vec<_> = (0..4).map(|_| nodes.web.tokens(&browser, "openid offline_access")).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds = usize::try_from(setting("TEST_LOSSES", 3)).unwrap();
    let mut kills = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = chains
            .iter()
            .map(|tokens| {
                let (nodes, stop, done) = (&nodes, &stop, &done);
                scope.spawn(move || {
                    let (mut token, mut lost, mut longest) = (tokens.refresh().to_owned(), Vec::new(), Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
                        let request = nodes.web.authenticated(support::post(nodes.web.url("/token"), &fields));
                        match try_send(request.header("connection", "close")) {
                            Ok(answer) => {
                                // The same again, after an answer that was lost, gets the same successor.
                                assert_eq!(answer.status, 200, "{answer:?}");
                                token = answer.text("refresh_token");
                                done.fetch_add(1, Ordering::Relaxed);
                                longest = longest.max(begun.elapsed());
                            }
                            Err(_) => lost.push((begun, Instant::now())),
                        }
                    }
                    (lost, longest)
                })
            })
            .collect();
        for round in 0..rounds {
            let gone = if round % 2 == 0 { &nodes.a } else { &nodes.b };
            let before = done.load(Ordering::Relaxed);
            wait_for("some load", || (done.load(Ordering::Relaxed) > before + 20).then_some(()));
            let killing = Instant::now();
            gone.kill();
            kills.push((killing, Instant::now()));
            let before = done.load(Ordering::Relaxed);
            wait_for("the other to go on", || (done.load(Ordering::Relaxed) > before + 20).then_some(()));
            gone.start();
        }
        stop.store(true, Ordering::Relaxed);
        let told: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        let longest = told.iter().map(|one| one.1).max().unwrap();
        let lost: Vec<_> = told.iter().flat_map(|one| &one.0).collect();
        let (done, in_flight) = (done.load(Ordering::Relaxed), lost.len());
        println!("{rounds} kills, {done} refreshes, {in_flight} lost in flight, {longest:?} at worst");
        assert!(in_flight <= 4 * rounds && longest < 5 * SECOND, "{in_flight} {longest:?}");
        for (begun, ended) in lost {
            let under_way = kills.iter().any(|(before, after)| begun <= after && ended >= before);
            assert!(under_way, "a request was lost that was not in flight at a kill");
        }
    });
}

#[test]
fn two_servers_whose_clocks_are_half_a_minute_apart_work_together() {
    let clock = FalseClock::new();
    clock.set("+30");
    let environment = clock.environment();
    let ahead: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let url = shared().database();
    let nodes = Nodes::apart(&url, &url, &[("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", "0s")], &ahead);
    let browser = Browser::hopping(&nodes.a);
    for _ in 0..4 {
        let code = nodes.web.code(&browser, "openid offline_access");
        let answers = nodes.race(|app| app.redeem(&code));
        assert_eq!(winners(&answers), 1, "{answers:?}");
        // Its losers were reuse, so another is asked for what follows. Nobody is signed out meanwhile.
        let page = browser.open(nodes.web.request().with("scope", "openid offline_access").url());
        let tokens = Tokens(nodes.web.redeem(&page.code()).ok());
        for server in [&nodes.a, &nodes.b] {
            let app = nodes.web.at(server);
            assert!(app.is_active(tokens.access()) && app.is_active(tokens.refresh()));
            assert_eq!(app.userinfo(tokens.access()).status, 200);
        }
        let answers = nodes.race(|app| app.refresh(tokens.refresh()));
        assert_eq!(winners(&answers), 1, "{answers:?}");
        assert!(
            !nodes.web.at(&nodes.a).is_active(tokens.refresh()) && !nodes.web.at(&nodes.b).is_active(tokens.refresh())
        );
    }
}
