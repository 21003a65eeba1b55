//! Back-channel logout by two servers on one PostgreSQL: whoever delivers, each receiver is told once, and what a killed
//! server had under way passes on to the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests have a clock of their own, and wait")]

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::gate::Gate;
use support::postgres::shared;
use support::receiver::{Manner, Receiver};
use support::server::free_port;
use support::{App, Browser, TestServer, claims, form, get, wait_for, wait_until};

/// Two running servers behind a balancer, and an application for each receiver.
struct Nodes {
    a: TestServer,
    b: TestServer,
    apps: Vec<App>,
    operators: [String; 2],
    balancer: Gate,
}

impl Nodes {
    fn telling(receivers: &[Receiver]) -> Self {
        let balancer = Gate::to(&[]);
        let (issuer, url) = (format!("http://{}", balancer.address), shared().database());
        let operators = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
        let node = |operator: &str| {
            TestServer::node(
                &issuer,
                &[
                    ("COUNTERSIGN_DATABASE_URL", &url),
                    ("COUNTERSIGN_DATABASE__CONNECTIONS", "8"),
                    ("COUNTERSIGN_KEY_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
                    ("COUNTERSIGN_OUTBOUND__ALLOW_PRIVATE", "true"),
                    ("COUNTERSIGN_METRICS__LISTEN", operator),
                ],
            )
        };
        let (a, b) = (node(&operators[0]), node(&operators[1]));
        a.user("ada");
        let app = |receiver: &Receiver| {
            a.client(&json!({
                "redirect_uris": ["https://told.example/callback"], "skip_consent": true,
                "backchannel_logout_uri": receiver.url("/"),
            }))
        };
        let apps = receivers.iter().map(app).collect();
        a.start();
        b.start();
        balancer.set_targets(&[a.port(), b.port()]);
        Self { a, b, apps, operators, balancer }
    }

    /// A browser that has signed in at every application, and the last ID token.
    fn signed_in(&self) -> (Browser, String) {
        let browser = Browser::hopping(&self.a);
        let tokens: Vec<_> = self.apps.iter().map(|app| app.tokens(&browser, "openid")).collect();
        (browser, tokens.last().unwrap().id().to_owned())
    }

    /// How many deliveries each server has made.
    fn delivered(&self) -> [usize; 2] {
        self.operators.each_ref().map(|operator| {
            let page = get(format!("http://{operator}/metrics")).body;
            let start = "countersign_logout_deliveries_total{outcome=\"delivered\"} ";
            page.lines().find_map(|line| line.strip_prefix(start)).map_or(0, |count| count.parse().unwrap())
        })
    }
}

/// How often each logout token came, by its `jti`.
fn tries(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut tries = BTreeMap::new();
    for got in receiver.received() {
        *tries.entry(claims(&got.token)["jti"].to_string()).or_default() += 1;
    }
    tries
}

fn signal(server: &TestServer, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &server.pid().to_string()]).status().unwrap().success());
}

#[test]
fn s115_of_two_servers_that_deliver_at_once_each_receiver_hears_each_end_once() {
    const SESSIONS: usize = 4;
    let receivers: Vec<_> = (0..8).map(|n| Receiver::start(Manner::Answer(if n < 6 { 200 } else { 500 }))).collect();
    let nodes = Nodes::telling(&receivers);
    for _ in 0..SESSIONS {
        nodes.signed_in();
    }
    // Queued by a third process: both servers find it by looking.
    nodes.a.cli_ok(&["revoke", "--user", "ada"], "");
    for receiver in &receivers {
        wait_for("all logout tokens", || (tries(receiver).len() == SESSIONS).then_some(()));
    }
    for failing in &receivers[6..] {
        wait_for("a third try of each", || tries(failing).values().all(|count| *count >= 3).then_some(()));
        failing.behave(Manner::Answer(200));
    }
    wait_for("the last arrival", || {
        (nodes.a.cli_ok(&["logout-delivery", "list", "--json"], "").trim() == "[]").then_some(())
    });
    let before: Vec<_> = receivers.iter().map(tries).collect();
    wait_until(Instant::now() + Duration::from_secs(3));
    assert_eq!(receivers.iter().map(tries).collect::<Vec<_>>(), before, "what has arrived is not sent again");
    for told in &before[..6] {
        assert_eq!(told.len(), SESSIONS);
        assert!(told.values().all(|count| *count == 1), "exactly once: {told:?}");
    }
    for told in &before[6..] {
        assert_eq!(told.len(), SESSIONS, "one jti for each session, on every try of either server: {told:?}");
    }
    let [a, b] = nodes.delivered();
    assert_eq!(a + b, SESSIONS * receivers.len(), "A delivered {a}, B {b}");
}

#[test]
fn s115_what_a_killed_server_had_under_way_passes_on_to_the_other() {
    let receivers: Vec<_> = (0..4).map(|_| Receiver::start(Manner::After(Duration::from_secs(30)))).collect();
    let nodes = Nodes::telling(&receivers);
    nodes.balancer.set_targets(&[nodes.a.port()]);
    let (browser, hint) = nodes.signed_in();
    // B holds its breath while A takes everything.
    signal(&nodes.b, "STOP");
    browser.open(format!("{}/logout?{}", nodes.a.issuer, form(&[("id_token_hint", &hint)]))).is("logout-done");
    for receiver in &receivers {
        wait_for("the first try", || (receiver.received().len() == 1).then_some(()));
    }
    nodes.a.kill();
    signal(&nodes.b, "CONT");
    for receiver in &receivers {
        receiver.behave(Manner::Answer(200));
    }
    let killed = Instant::now();
    while receivers.iter().any(|receiver| receiver.received().len() < 2) {
        assert!(killed.elapsed() < Duration::from_secs(20), "the lease ends after ten seconds");
        wait_until(Instant::now() + Duration::from_millis(100));
    }
    wait_for("B to note it", || {
        (nodes.b.cli_ok(&["logout-delivery", "list", "--json"], "").trim() == "[]").then_some(())
    });
    for receiver in &receivers {
        let told = tries(receiver);
        assert_eq!(told.into_values().collect::<Vec<_>>(), [2], "one token, tried by A and by B");
        let [first, second] = &receiver.received()[..] else { panic!("two tries") };
        assert!(second.at - first.at > Duration::from_secs(7), "not while A's lease ran: {:?}", second.at - first.at);
    }
}
