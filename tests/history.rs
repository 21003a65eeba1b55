//! Many clients at one grant at once: is there an order of what they did in which every answer is right? If not, something
//! was accepted twice, or revoked and alive again. For each grant all orders that time allows are searched, as Knossos does
//! (reliability figure 3, short form). On PostgreSQL each of them goes to one of two nodes as chance has it.
//!
//! `TEST_SEED` repeats a run as far as chance goes (not the races), `TEST_GRANTS` lengthens it, `TEST_FIGHTS` has so many grants
//! be fought over at once; scripts/campaign does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a campaign prints its seed and its counts")]

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::postgres::{on_postgres, shared};
use support::{App, Browser, Dice, PASSWORD, TestServer, World};

/// At one grant.
const CLIENTS: u64 = 4;
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Of one client; together no more than the bits of a mask.
const STEPS: u64 = 10;

/// What a client did, and what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    /// The code, and the first token if it was taken.
    Redeem(Option<usize>),
    /// A token, and its successor if it was taken.
    Refresh(usize, Option<usize>),
    /// A token of the grant, at the revocation endpoint.
    Revoke,
    /// A token, and whether introspection called it active.
    Look(usize, bool),
}

/// Something that was done, between its beginning and the answer.
#[derive(Debug, Clone, Copy)]
struct Event {
    begin: Duration,
    end: Duration,
    did: Did,
}

/// A grant as one who does one thing after the other would see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    /// The token that may be spent, and the one before it, whose answer may have been lost.
    current: Option<usize>,
    previous: Option<usize>,
    alive: bool,
    leeway: bool,
}

impl State {
    /// The state after it, where the answer was right; `None` where it was wrong.
    fn after(self, did: Did) -> Option<Self> {
        let ended = Self { alive: false, ..self };
        match did {
            Did::Redeem(given) => match (self.current, given) {
                (None, Some(first)) => Some(Self { current: Some(first), alive: true, ..self }),
                // A code that comes twice ends what it gave (RFC 6749 section 4.1.2).
                (Some(_), None) => Some(ended),
                _ => None,
            },
            Did::Refresh(token, given) if self.alive => {
                if Some(token) == self.current {
                    given.map(|next| Self { current: Some(next), previous: Some(token), ..self })
                } else if self.leeway && Some(token) == self.previous {
                    // A client that lost the answer gets the same successor.
                    (given == self.current).then_some(self)
                } else {
                    given.is_none().then_some(ended)
                }
            }
            Did::Refresh(_, given) => given.is_none().then_some(self),
            Did::Revoke => Some(ended),
            Did::Look(token, active) => (active == (self.alive && Some(token) == self.current)).then_some(self),
        }
    }
}

/// Whether some order explains the history: what ended before another began comes before it.
fn is_explained(events: &[Event], leeway: bool) -> bool {
    fn search(events: &[Event], done: u64, state: State, seen: &mut HashSet<(u64, State)>) -> bool {
        if done.count_ones() as usize == events.len() {
            return true;
        }
        if !seen.insert((done, state)) {
            return false;
        }
        let open = || (0..events.len()).filter(|&n| done & (1 << n) == 0);
        let first_end = open().map(|n| events[n].end).min().unwrap();
        open()
            .filter(|&n| events[n].begin <= first_end)
            .any(|n| state.after(events[n].did).is_some_and(|next| search(events, done | (1 << n), next, seen)))
    }
    let start = State { current: None, previous: None, alive: false, leeway };
    search(events, 0, start, &mut HashSet::new())
}

/// One grant, and the clients that fight over it.
struct Fight<'a> {
    apps: &'a [App],
    start: Instant,
    code: String,
    /// As they became known; a token's number is its place.
    tokens: Mutex<Vec<String>>,
    events: Mutex<Vec<Event>>,
}

impl Fight<'_> {
    fn number(&self, token: String) -> usize {
        let mut tokens = self.tokens.lock().unwrap();
        tokens.iter().position(|known| *known == token).unwrap_or_else(|| {
            tokens.push(token);
            tokens.len() - 1
        })
    }

    fn record(&self, act: impl FnOnce() -> Did) {
        let begin = self.start.elapsed();
        let did = act();
        let end = self.start.elapsed();
        self.events.lock().unwrap().push(Event { begin, end, did });
    }

    /// A success gives the number of the new token, `invalid_grant` none; anything else is no answer to these requests.
    fn given(&self, answer: &support::Answer) -> Option<usize> {
        match answer.status {
            200 => Some(self.number(answer.text("refresh_token"))),
            400 if answer.text("error") == "invalid_grant" => None,
            _ => panic!("{answer:?}"),
        }
    }

    fn redeem(&self, app: &App) {
        self.record(|| Did::Redeem(self.given(&app.redeem(&self.code))));
    }

    fn client(&self, mut dice: Dice) {
        for _ in 0..STEPS {
            let app = &self.apps[usize::try_from(dice.below(self.apps.len() as u64)).unwrap()];
            let (count, pick) = (self.tokens.lock().unwrap().len(), dice.below(100));
            if count == 0 || pick < 2 {
                self.redeem(app);
                continue;
            }
            // Mostly the newest, sometimes the one before, seldom an older one.
            let back = match dice.below(20) {
                0 => dice.below(count as u64),
                1..=4 => 1,
                _ => 0,
            };
            let number = count - 1 - usize::try_from(back).unwrap().min(count - 1);
            let token = self.tokens.lock().unwrap()[number].clone();
            match pick {
                2..5 => self.record(|| {
                    app.revoke(&token);
                    Did::Revoke
                }),
                5..40 => self.record(|| Did::Look(number, app.is_active(&token))),
                _ => self.record(|| Did::Refresh(number, self.given(&app.refresh(&token)))),
            }
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Fights over `grants` grants, some at a time, and explains each.
fn campaign(leeway: &str, grants: u64, seed: u64) {
    let fights = setting("TEST_FIGHTS", 4);
    let mut env = vec![("COUNTERSIGN_REFRESH_TOKEN__REUSE_LEEWAY", leeway)];
    let database = on_postgres().then(|| shared().database());
    if let Some(url) = &database {
        // One key for both nodes.
        env.extend([("COUNTERSIGN_DATABASE_URL", url.as_str()), ("COUNTERSIGN_KEY_ENCRYPTION_KEY", KEY)]);
    }
    let w = World::new(&env);
    let mut apps = vec![w.web.clone()];
    let _second = database.as_ref().map(|_| {
        let second =
            TestServer::running(&[env.as_slice(), &[("COUNTERSIGN_ISSUER", w.server.issuer.as_str())]].concat());
        apps.push(App { issuer: second.url(""), ..w.web.clone() });
        second
    });
    let (next, operations, slowest) = (AtomicU64::new(0), AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    std::thread::scope(|scope| {
        for _ in 0..fights {
            scope.spawn(|| {
                let browser: Browser = w.browser();
                browser.sign_in_as(&browser.open(w.web.request().url()), "ada", PASSWORD).code();
                loop {
                    let grant = next.fetch_add(1, Ordering::Relaxed);
                    if grant >= grants {
                        return;
                    }
                    let code = w.web.code(&browser, "openid offline_access");
                    let (tokens, events) = (Mutex::default(), Mutex::default());
                    let fight = Fight { apps: &apps, start: Instant::now(), code, tokens, events };
                    std::thread::scope(|scope| {
                        for client in 0..CLIENTS {
                            let dice = Dice::new(seed ^ (grant * CLIENTS + client + 1));
                            scope.spawn(|| fight.client(dice));
                        }
                    });
                    let events = fight.events.into_inner().unwrap();
                    let longest = events.iter().map(|event| event.end.saturating_sub(event.begin)).max().unwrap();
                    operations.fetch_add(events.len(), Ordering::Relaxed);
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = slowest.max(longest);
                    drop(slowest);
                    assert!(is_explained(&events, leeway != "0s"), "no order explains grant {grant}: {events:#?}");
                }
            });
        }
    });
    println!(
        "{grants} grants, {fights} at once, {CLIENTS} clients each, {} nodes, leeway {leeway}: {} operations, 0 unexplained; slowest {:?}",
        apps.len(),
        operations.into_inner(),
        slowest.into_inner().unwrap()
    );
}

#[test]
fn what_many_clients_are_told_at_once_is_explained_by_some_order() {
    let (seed, grants) = (setting("TEST_SEED", u64::from(std::process::id())), setting("TEST_GRANTS", 40));
    println!("TEST_SEED={seed} TEST_GRANTS={grants}");
    campaign("0s", grants, seed);
    campaign("60s", grants, seed);
}

#[test]
fn the_search_finds_what_cannot_have_been() {
    let at = |begin: u64, end: u64, did: Did| Event {
        begin: Duration::from_millis(begin),
        end: Duration::from_millis(end),
        did,
    };
    let redeemed = at(0, 1, Did::Redeem(Some(0)));
    let ok = |events: &[Event]| is_explained(&[&[redeemed], events].concat(), false);
    assert!(ok(&[at(2, 3, Did::Refresh(0, Some(1))), at(4, 5, Did::Look(1, true))]));
    assert!(ok(&[at(2, 9, Did::Revoke), at(3, 4, Did::Look(0, true)), at(5, 6, Did::Look(0, false))]));
    // Two that overlap may have come in either order.
    assert!(ok(&[at(2, 5, Did::Refresh(0, None)), at(3, 4, Did::Revoke)]));
    for wrong in [
        // Accepted twice, the two at once or one after the other.
        [at(2, 5, Did::Refresh(0, Some(1))), at(3, 6, Did::Refresh(0, Some(2)))],
        [at(2, 3, Did::Refresh(0, Some(1))), at(4, 5, Did::Refresh(0, Some(1)))],
        [at(2, 3, Did::Redeem(Some(1))), at(4, 5, Did::Look(1, true))],
        // Revoked, and alive after the answer; alive again after it was seen dead.
        [at(2, 3, Did::Revoke), at(4, 5, Did::Look(0, true))],
        [at(2, 3, Did::Revoke), at(4, 5, Did::Refresh(0, Some(1)))],
        [at(2, 3, Did::Look(0, false)), at(4, 5, Did::Look(0, true))],
        // Dead though nobody ended it.
        [at(2, 3, Did::Look(0, true)), at(4, 5, Did::Refresh(0, None))],
    ] {
        assert!(!ok(&wrong), "{wrong:?}");
    }
    // Within the leeway the same successor is right and another is not.
    let repeated = |next| {
        is_explained(&[redeemed, at(2, 3, Did::Refresh(0, Some(1))), at(4, 5, Did::Refresh(0, Some(next)))], true)
    };
    assert!(repeated(1) && !repeated(2));
}
