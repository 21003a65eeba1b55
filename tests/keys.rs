//! Signing keys that are replaced under load, at two servers on one PostgreSQL (reliability figures 8 and 9). Lengthen by
//! `TEST_ROTATIONS`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::app::Tokens;
use support::clock::FalseClock;
use support::gate::Gate;
use support::journal::setting;
use support::pair::Pair;
use support::postgres::shared;
use support::{App, Browser, TestServer, claims, get, header, verify, wait_for};

fn pair(env: &[(&str, &str)]) -> (Gate, Pair) {
    let balancer = Gate::to(&[]);
    let url = shared().database();
    let pair = Pair::start(&format!("http://{}", balancer.address), [&url, &url], env, env);
    balancer.set_targets(&[pair.a.port(), pair.b.port()]);
    (balancer, pair)
}

fn key_id(token: &str) -> String {
    header(token)["kid"].as_str().unwrap().to_owned()
}

fn lists(jwks: &Value, key_id: &str) -> bool {
    jwks["keys"].as_array().unwrap().iter().any(|key| key["kid"] == key_id)
}

/// Seconds that have passed since 1970 at the servers.
struct Time {
    clock: FalseClock,
    ahead: AtomicI64,
}

impl Time {
    fn now(&self) -> i64 {
        i64::try_from(support::jose::now()).unwrap() + self.ahead.load(Ordering::SeqCst)
    }

    fn pass(&self, seconds: i64) {
        // Whoever asks for the time meanwhile finds it late rather than early.
        self.clock.set(&format!("+{}", self.ahead.load(Ordering::SeqCst) + seconds));
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }
}

/// Somebody who checks tokens by themselves, by a JWKS that they keep for as long as it says, and not a second less.
struct Verifier<'a> {
    server: &'a TestServer,
    time: &'a Time,
    kept: Option<(Value, i64)>,
}

impl Verifier<'_> {
    fn check(&mut self, token: &str) {
        let now = self.time.now();
        if self.kept.as_ref().is_none_or(|(_, until)| now >= *until) {
            let answer = get(self.server.url("/jwks"));
            let control = answer.header("cache-control").to_owned();
            let max_age: i64 = control.rsplit("max-age=").next().unwrap().parse().unwrap();
            self.kept = Some((answer.ok(), now + max_age));
        }
        let (jwks, _) = self.kept.as_ref().unwrap();
        assert!(lists(jwks, &key_id(token)), "the key of a token is not in a JWKS that may be kept");
        verify(token, jwks);
    }
}

/// When a key was seen, at the servers' time.
#[derive(Clone, Copy, Debug)]
struct Life {
    listed: (i64, i64),
    signed: Option<(i64, i64)>,
}

/// The most that an access or an ID token lives, as configured below.
const LONGEST_LIFE: i64 = 180;

#[test]
fn keys_that_are_replaced_as_planned_disturb_nobody_who_keeps_the_jwks() {
    let rotations = setting("TEST_ROTATIONS", 2);
    let time = Time { clock: FalseClock::new(), ahead: AtomicI64::new(0) };
    let environment = time.clock.environment();
    let mut env: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    env.extend([
        ("COUNTERSIGN_SIGNING_KEY__PUBLISH_AHEAD", "6m"),
        ("COUNTERSIGN_ACCESS_TOKEN__LIFETIME", "2m"),
        ("COUNTERSIGN_ID_TOKEN__LIFETIME", "3m"),
    ]);
    let (_balancer, nodes) = pair(&env);
    let browser = Browser::hopping(&nodes.a);
    let chains: Vec<_> = (0..4).map(|_| nodes.web.tokens(&browser, "openid offline_access")).collect();
    let (stop, verified) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Some tokens are held on to, and shown until they end.
    let held = Mutex::new(Vec::<String>::new());
    let lives = Mutex::new(BTreeMap::<String, Life>::new());
    std::thread::scope(|scope| {
        let (nodes, time, stop, verified, held, lives) = (&nodes, &time, &stop, &verified, &held, &lives);
        let clients: Vec<_> = chains
            .iter()
            .enumerate()
            .map(|(number, tokens)| {
                scope.spawn(move || {
                    let (here, there) = if number % 2 == 0 { (&nodes.a, &nodes.b) } else { (&nodes.b, &nodes.a) };
                    let mut verifier = Verifier { server: there, time, kept: None };
                    let mut token = tokens.refresh().to_owned();
                    while !stop.load(Ordering::Relaxed) {
                        let asked = time.now();
                        let next = Tokens(nodes.web.at(here).refresh(&token).ok());
                        for token in [next.access(), next.id()] {
                            verifier.check(token);
                            let turn = verified.fetch_add(1, Ordering::Relaxed);
                            if turn % 40 < 2 {
                                held.lock().unwrap().push(token.to_owned());
                            }
                            let mut lives = lives.lock().unwrap();
                            if let Some(life) = lives.get_mut(&key_id(token)) {
                                let (first, last) = life.signed.get_or_insert((asked, asked));
                                (*first, *last) = ((*first).min(asked), (*last).max(asked));
                            }
                        }
                        token = next.refresh().to_owned();
                    }
                })
            })
            .collect();
        let mut verifiers = [&nodes.a, &nodes.b].map(|server| Verifier { server, time, kept: None });
        for rotation in 0..rotations {
            let operator = if rotation % 2 == 0 { &nodes.a } else { &nodes.b };
            operator.cli_ok(&["key", "rotate"], "");
            // Until the one before is gone.
            for _ in 0..40 {
                let before = verified.load(Ordering::Relaxed);
                wait_for("some load", || (verified.load(Ordering::Relaxed) > before + 8).then_some(()));
                for server in [&nodes.a, &nodes.b] {
                    let jwks = get(server.url("/jwks")).ok();
                    let now = time.now();
                    for key in jwks["keys"].as_array().unwrap() {
                        let mut lives = lives.lock().unwrap();
                        let new = Life { listed: (now, now), signed: None };
                        lives.entry(key["kid"].as_str().unwrap().to_owned()).or_insert(new).listed.1 = now;
                    }
                }
                let mut held = held.lock().unwrap();
                held.retain(|token| claims(token)["exp"].as_i64().unwrap() > time.now() + 1);
                for verifier in &mut verifiers {
                    for token in held.iter() {
                        verifier.check(token);
                    }
                    verified.fetch_add(held.len(), Ordering::Relaxed);
                }
                drop(held);
                time.pass(20);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    let lives = lives.into_inner().unwrap();
    let now = time.now();
    let first_listed = lives.values().map(|life| life.listed.0).min().unwrap();
    // Of those that came while we looked, and of those that went.
    let signed = || lives.values().filter_map(|life| Some((life.listed, life.signed?)));
    let ahead: Vec<_> = signed()
        .filter(|(listed, _)| listed.0 > first_listed + 20)
        .map(|(listed, signed)| signed.0 - listed.0)
        .collect();
    let after: Vec<_> =
        signed().filter(|(listed, _)| listed.1 < now - 60).map(|(listed, signed)| listed.1 - signed.1).collect();
    println!(
        "{rotations} rotations, {} keys, {} verifications, none failed; listed {:?} s and more before the first use, {:?} s and \
         more after the last",
        lives.len(),
        verified.into_inner(),
        ahead.iter().min().unwrap(),
        after.iter().min().unwrap(),
    );
    assert!(ahead.iter().all(|span| *span >= 300) && after.iter().all(|span| *span >= LONGEST_LIFE), "{lives:?}");
    let least = usize::try_from(rotations).unwrap();
    assert!(ahead.len() >= least && after.len() >= least, "each rotation replaces a key that signs: {lives:?}");
}

/// Tokens of one grant, and whether a server still believes what the key of the first ones signed.
fn believed(app: &App, server: &TestServer, tokens: &Tokens) -> bool {
    let app = app.at(server);
    let jwks = get(server.url("/jwks")).ok();
    lists(&jwks, &key_id(tokens.id()))
        || lists(&jwks, &key_id(tokens.access()))
        || app.is_active(tokens.access())
        || app.userinfo(tokens.access()).status != 401
}

#[test]
fn a_key_in_the_wrong_hands_is_gone_from_all_servers_within_a_second() {
    let (_balancer, nodes) = pair(&[]);
    let browser = Browser::hopping(&nodes.a);
    let rotations = setting("TEST_ROTATIONS", 3);
    let chains: Vec<_> = (0..3).map(|_| nodes.web.tokens(&browser, "openid offline_access")).collect();
    let (stop, done, slowest) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    std::thread::scope(|scope| {
        let (nodes, stop, done) = (&nodes, &stop, &done);
        let clients: Vec<_> = chains
            .iter()
            .enumerate()
            .map(|(number, tokens)| {
                scope.spawn(move || {
                    let mut token = tokens.refresh().to_owned();
                    let app = nodes.web.at(if number % 2 == 0 { &nodes.a } else { &nodes.b });
                    while !stop.load(Ordering::Relaxed) {
                        token = app.refresh(&token).ok()["refresh_token"].as_str().unwrap().to_owned();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for rotation in 0..rotations {
            let operator = if rotation % 2 == 0 { &nodes.a } else { &nodes.b };
            let tokens = nodes.web.tokens(&browser, "openid offline_access");
            for server in [&nodes.a, &nodes.b] {
                assert!(believed(&nodes.web, server, &tokens));
            }
            operator.cli_ok(&["key", "rotate", "--compromised"], "");
            let start = Instant::now();
            for server in [&nodes.a, &nodes.b] {
                wait_for("the key to be gone", || (!believed(&nodes.web, server, &tokens)).then_some(()));
            }
            let mut slowest = slowest.lock().unwrap();
            *slowest = (*slowest).max(start.elapsed());
            // What hangs on the grant lives on, signed anew, and both know by what.
            let next = Tokens(nodes.web.refresh(tokens.refresh()).ok());
            for server in [&nodes.a, &nodes.b] {
                let jwks = get(server.url("/jwks")).ok();
                verify(next.id(), &jwks);
                verify(next.access(), &jwks);
                assert!(nodes.web.at(server).is_active(next.access()));
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    let slowest = slowest.into_inner().unwrap();
    println!(
        "{rotations} keys of each kind taken out, {} refreshes meanwhile; refused and listed nowhere after {slowest:?} at worst",
        done.into_inner()
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}
