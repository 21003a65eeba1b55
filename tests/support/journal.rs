//! The question whether the server keeps its word when something strikes in the middle of load: nothing acknowledged is
//! lost, nothing spent or revoked lives again.
//!
//! Every client keeps a journal of what the server acknowledged. A request whose answer was lost, or was 503, may have
//! happened or not: what it touched is left out. Beside the clients an operator signs people out, disables them and changes
//! their passwords. Repeat a run by `TEST_SEED`, lengthen it by `TEST_KILLS` and `TEST_LOAD` (answers between two blows);
//! scripts/campaign does.
#![allow(clippy::print_stdout, reason = "a campaign prints its seed and its counts")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::http::try_send;
use super::{Answer, App, Browser, Dice, PASSWORD, Page, VERIFIER, World, post, wait_for, word};

const CLIENTS: u64 = 4;

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn served(answer: reqwest::Result<Answer>) -> Option<Answer> {
    answer.ok().filter(|answer| answer.status != 503)
}

fn seen(page: reqwest::Result<Page>) -> Option<Page> {
    page.ok().filter(|page| page.answer.status != 503)
}

/// What one client was told, since the last check.
#[derive(Default)]
struct Journal {
    redeemed: Vec<String>,
    spent: Vec<String>,
    revoked: Vec<String>,
    /// The last token of each chain that was neither spent nor revoked, nor part of a lost request.
    living: Vec<String>,
}

struct Client<'a> {
    app: &'a App,
    browser: Browser,
    dice: Dice,
    journal: Journal,
    acknowledged: &'a AtomicUsize,
    lost: &'a AtomicUsize,
    stop: &'a AtomicBool,
}

impl Client<'_> {
    /// What was answered, unless the blow swallowed it or made it a 503, after which all is as possible.
    fn count<T>(&self, answer: Option<T>) -> Option<T> {
        let counter = if answer.is_some() { self.acknowledged } else { self.lost };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }

    fn token(&self, path: &str, fields: &[(&str, &str)]) -> Option<Answer> {
        self.count(served(try_send(self.app.authenticated(post(self.app.url(path), fields)))))
    }

    /// One grant's life: authorize, redeem, refresh a few times, perhaps revoke. `None` when an answer was lost.
    fn live_a_life(&mut self) -> Option<()> {
        let request = self.app.request().with("scope", "openid offline_access");
        let code = self.count(seen(self.browser.try_open(request.url())))?.code();
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", &self.app.redirect_uri),
            ("code_verifier", VERIFIER),
        ];
        let mut token = self.token("/token", &fields)?.text("refresh_token");
        self.journal.redeemed.push(code);
        for _ in 0..self.dice.below(5) {
            let answer = self.token("/token", &[("grant_type", "refresh_token"), ("refresh_token", &token)])?;
            let next = answer.text("refresh_token");
            self.journal.spent.push(std::mem::replace(&mut token, next));
        }
        if self.dice.below(3) == 0 {
            assert_eq!(self.token("/revoke", &[("token", &token)])?.status, 200);
            self.journal.revoked.push(token);
        } else {
            self.journal.living.push(token);
        }
        Some(())
    }

    fn work(&mut self) {
        while !self.stop.load(Ordering::Relaxed) && self.live_a_life().is_some() {}
    }

    /// Asks the server about every line of the journal, and ends it.
    fn check(&mut self) -> usize {
        let journal = std::mem::take(&mut self.journal);
        for token in &journal.living {
            assert!(self.app.is_active(token), "an acknowledged token was lost: {token}");
        }
        for token in journal.spent.iter().chain(&journal.revoked) {
            assert!(!self.app.is_active(token), "a spent or revoked token lives again: {token}");
        }
        // These questions kill what they are asked about, so they come last.
        for token in journal.revoked.iter().chain(journal.spent.iter().take(3)) {
            self.app.refresh(token).refused(400, "invalid_grant");
        }
        for code in journal.redeemed.iter().take(3) {
            self.app.redeem(code).refused(400, "invalid_grant");
        }
        journal.living.len() + journal.spent.len() + journal.revoked.len() + journal.redeemed.len()
    }
}

/// Somebody whose people come and go: each is made, signs in, gets tokens and loses them by one of three ways.
struct Operator<'a> {
    world: &'a World,
    dice: Dice,
    /// Access and refresh tokens of those who were signed out, disabled, or given another password.
    ended: Vec<String>,
    /// How many by each way.
    ways: [usize; 3],
    acknowledged: &'a AtomicUsize,
    stop: &'a AtomicBool,
}

impl Operator<'_> {
    fn command(&self, args: &[&str], stdin: &str) -> Option<()> {
        let output = self.world.server.cli(args, stdin);
        output.status.success().then(|| {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// One person. `None` when a request or a command did not come to its end.
    fn one_person(&mut self) -> Option<()> {
        let (app, name) = (&self.world.web, word());
        let email = format!("{name}@example.com");
        let password = format!("{PASSWORD}\n");
        self.command(&["user", "create", &name, "--email", &email, "--password-stdin"], &password)?;
        let browser = self.world.browser();
        let way = usize::try_from(self.dice.below(3)).unwrap();
        // Tokens for offline use outlive a sign-out; the others do not.
        let scope = if way == 0 { "openid" } else { "openid offline_access" };
        let page = seen(browser.try_open(app.request().with("scope", scope).url()))?;
        let form = page.form_of("login-submit");
        let url = page.url.join(&form.action).unwrap();
        let filled = form.filled(&[("username", &name), ("password", PASSWORD)]);
        let answer = served(browser.try_send(post(url.as_str(), &filled).header("origin", &app.issuer)))?;
        let page = seen(browser.try_follow(url, answer))?;
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &page.code()),
            ("redirect_uri", &app.redirect_uri),
            ("code_verifier", VERIFIER),
        ];
        let tokens = served(try_send(app.authenticated(post(app.url("/token"), &fields))))?;
        let (access, refresh) = (tokens.text("access_token"), tokens.text("refresh_token"));
        match way {
            0 => {
                let home = seen(browser.try_open(app.url("/")))?;
                let form = home.form_of("sign-out");
                let url = home.url.join(&form.action).unwrap();
                let request = post(url.as_str(), &form.filled(&[])).header("origin", &app.issuer);
                let answer = served(browser.try_send(request))?;
                assert!(matches!(answer.status, 200 | 303), "{answer:?}");
            }
            1 => self.command(&["user", "disable", &name], "")?,
            _ => {
                self.command(&["user", "set-password", &name, "--password-stdin"], "quite another long passphrase\n")?;
            }
        }
        self.ways[way] += 1;
        self.acknowledged.fetch_add(3, Ordering::Relaxed);
        self.ended.extend([access, refresh]);
        Some(())
    }

    fn work(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.one_person();
        }
    }

    fn check(&mut self) -> usize {
        let ended = std::mem::take(&mut self.ended);
        for token in &ended {
            assert!(!self.world.web.is_active(token), "a token of somebody who was sent away lives: {token}");
        }
        ended.len()
    }
}

/// What strikes, again and again.
pub struct Blow<'a> {
    pub name: &'a str,
    /// In the middle of the load.
    pub strike: &'a dyn Fn(&World),
    /// Afterwards: brings everything back and tells how long the server took to be ready again.
    pub recover: &'a dyn Fn(&World) -> Duration,
    /// Whether the operator's commands are part of the load.
    pub operator: bool,
    /// By default so many times, with so many answers in between.
    pub times: u64,
    pub load: u64,
    pub ready_within: Duration,
}

/// Runs load, strikes, recovers and asks about every line of the journals, as often as asked for.
pub fn campaign(w: &World, blow: &Blow) {
    let seed = setting("TEST_SEED", u64::from(std::process::id()));
    let (times, load) = (setting("TEST_KILLS", blow.times), setting("TEST_LOAD", blow.load));
    let name = blow.name;
    println!("{name}: TEST_SEED={seed} TEST_KILLS={times} TEST_LOAD={load}");
    let mut dice = Dice::new(seed);
    let (acknowledged, lost, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|n| Client {
            app: &w.web,
            browser: w.browser(),
            dice: Dice::new(seed + n + 1),
            journal: Journal::default(),
            acknowledged: &acknowledged,
            lost: &lost,
            stop: &stop,
        })
        .collect();
    for client in &clients {
        let page = client.browser.open(w.web.request().url());
        client.browser.sign_in_as(&page, "ada", PASSWORD).code();
    }
    let mut operator = Operator {
        world: w,
        dice: Dice::new(seed ^ 0xABCD),
        ended: Vec::new(),
        ways: [0; 3],
        acknowledged: &acknowledged,
        stop: &stop,
    };
    let (mut checked, mut slowest) = (0, Duration::ZERO);
    for _ in 0..times {
        stop.store(false, Ordering::Relaxed);
        let enough = acknowledged.load(Ordering::Relaxed) + 20 + usize::try_from(dice.below(2 * load)).unwrap();
        std::thread::scope(|scope| {
            let workers: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.work())).collect();
            if blow.operator {
                let operator = &mut operator;
                scope.spawn(move || operator.work());
            }
            wait_for("the load", || {
                let over = workers.iter().all(std::thread::ScopedJoinHandle::is_finished);
                assert!(!over, "the clients stopped by themselves");
                (acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
            });
            (blow.strike)(w);
            stop.store(true, Ordering::Relaxed);
        });
        slowest = slowest.max((blow.recover)(w));
        checked += clients.iter_mut().map(Client::check).sum::<usize>() + operator.check();
    }
    let [signed_out, disabled, passwords] = operator.ways;
    let (acknowledged, lost) = (acknowledged.into_inner(), lost.into_inner());
    println!(
        "{name}: {times} times, {acknowledged} answers, {lost} lost; {signed_out} sign-outs, {disabled} people disabled, \
         {passwords} passwords changed; {checked} facts checked, 0 broken; ready after {slowest:?} at worst"
    );
    // In a short run there may be no time for a whole person.
    assert!(!blow.operator || times < 20 || signed_out * disabled * passwords > 0, "the operator got nothing done");
    assert!(checked > 5 * usize::try_from(times).unwrap(), "{checked}");
    assert!(slowest < blow.ready_within, "{slowest:?}");
}
