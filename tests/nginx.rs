//! Two real servers behind a real nginx that reads the file we ship: servers that are lost, and servers that are started anew
//! one after the other, under load (reliability figures 6 and 7). Lengthen by `TEST_LOSSES` and `TEST_RESTARTS`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::app::Tokens;
use support::gate::Gate;
use support::http::{query, try_send};
use support::journal::setting;
use support::nginx::Nginx;
use support::pair::Pair;
use support::postgres::shared;
use support::server::free_port;
use support::{Answer, App, Browser, HTTP, PASSWORD, Page, TestServer, VERIFIER, get, post, wait_for};
use url::Url;

const SECOND: Duration = Duration::from_secs(1);
/// What nginx waits for an answer (`proxy_read_timeout`), and for how long it leaves a server out that gave none
/// (`fail_timeout`).
const READ_TIMEOUT: Duration = Duration::from_secs(4);
const FAIL_TIMEOUT: Duration = Duration::from_secs(2);
/// At work at once: three that refresh, one that reads, one that walks.
const CLIENTS: usize = 5;

/// A request that came to nothing: an error of nginx, or no answer at all.
#[derive(Debug)]
struct Failure {
    begun: Instant,
    ended: Instant,
    /// What was asked, and what came of it.
    told: (&'static str, String),
}

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    done: AtomicUsize,
    flows: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    /// The longest that anybody was without an answer, tries again included.
    longest: Mutex<Duration>,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// What was answered, or `None` for a failure, which is noted.
    fn once(&self, what: &'static str, request: impl FnOnce() -> reqwest::Result<Answer>) -> Option<Answer> {
        let begun = Instant::now();
        let told = match request() {
            Ok(answer) if !matches!(answer.status, 502..=504) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                return Some(answer);
            }
            Ok(answer) => answer.status.to_string(),
            Err(error) => format!("{error:?}"),
        };
        self.failures.lock().unwrap().push(Failure { begun, ended: Instant::now(), told: (what, told) });
        None
    }

    /// Asks until there is an answer, as clients do.
    fn until_answered(&self, what: &'static str, mut request: impl FnMut() -> reqwest::Result<Answer>) -> Answer {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.once(what, &mut request) {
                let mut longest = self.longest.lock().unwrap();
                *longest = longest.max(begun.elapsed());
                return answer;
            }
            assert!(begun.elapsed() < 30 * SECOND, "{what}: no answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn done_at_least(&self, more: usize) {
        let enough = self.done.load(Ordering::Relaxed) + more;
        wait_for("some load", || (self.done.load(Ordering::Relaxed) >= enough).then_some(()));
    }
}

/// With a connection of its own, so that nothing but nginx and what lies behind it decides.
fn token_request(app: &App, path: &str, fields: &[(&str, &str)]) -> reqwest::Result<Answer> {
    try_send(app.authenticated(post(app.url(path), fields)).header("connection", "close"))
}

/// Refreshes without end; the same again, after an answer that was lost, gets the same successor.
fn refresh(app: &App, tokens: &Tokens, seen: &Seen) {
    let mut token = tokens.refresh().to_owned();
    while seen.goes_on() {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
        let answer = seen.until_answered("refresh", || token_request(app, "/token", &fields));
        assert_eq!(answer.status, 200, "{answer:?}");
        token = answer.text("refresh_token");
    }
}

/// Asks what changes nothing, which nginx may ask the other server when one does not answer.
fn read(app: &App, access: &str, seen: &Seen) {
    while seen.goes_on() {
        for path in ["/jwks", "/.well-known/openid-configuration", "/userinfo"] {
            let request = || HTTP.get(app.url(path)).header("authorization", format!("Bearer {access}"));
            let answer = seen.until_answered("read", || try_send(request().header("connection", "close")));
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

/// One person, signed in all the time: code after code without a page, each redeemed, used and revoked. Beside it, sign-ins.
fn walk(app: &App, browser: &Browser, newcomer: impl Fn() -> Browser, seen: &Seen) {
    while seen.goes_on() {
        // nginx lets one address begin five a second.
        std::thread::sleep(Duration::from_millis(450));
        let url = app.request().with("prompt", "none").url();
        let answer = seen.until_answered("authorize", || browser.try_send(HTTP.get(&url)));
        let code = answer.redirect_query().remove("code");
        let code = code.unwrap_or_else(|| panic!("not signed in any more: {answer:?}"));
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", app.redirect_uri.as_str()),
            ("code_verifier", VERIFIER),
        ];
        // A code is not sent twice: whoever lost the answer gets another one.
        let Some(answer) = seen.once("redeem", || token_request(app, "/token", &fields)) else { continue };
        let tokens = Tokens(answer.ok());
        let token = [("token", tokens.refresh())];
        assert_eq!(seen.until_answered("revoke", || token_request(app, "/revoke", &token)).status, 200);
        let answer = seen.until_answered("introspect", || token_request(app, "/introspect", &token));
        assert_eq!(answer.ok()["active"], false, "revoked");
        sign_in(app, &newcomer(), seen);
        seen.flows.fetch_add(1, Ordering::Relaxed);
    }
}

/// Somebody signs in. What was lost is done again as people do: the page is opened anew.
fn sign_in(app: &App, browser: &Browser, seen: &Seen) {
    let mut url = Url::parse(&app.request().url()).unwrap();
    loop {
        let mut answer = seen.until_answered("page", || browser.try_send(HTTP.get(url.clone())));
        if answer.status == 200 {
            let page = Page { url: url.clone(), foreign: false, answer };
            let form = page.is("login-page").form_of("login-submit");
            let (action, fields) = (url.join(&form.action).unwrap(), [("username", "ada"), ("password", PASSWORD)]);
            let press = || browser.try_send(post(action.as_str(), &form.filled(&fields)).header("origin", &app.issuer));
            let Some(pressed) = seen.once("sign-in", press) else { continue };
            answer = pressed;
        }
        url = url.join(answer.header("location")).unwrap();
        if !url.as_str().starts_with(&app.issuer) {
            assert!(query(&url).contains_key("code"), "{url}");
            return;
        }
    }
}

/// Two servers behind nginx, and clients of each kind.
struct Site {
    nginx: Nginx,
    a: TestServer,
    b: TestServer,
    web: App,
}

impl Site {
    fn new() -> Self {
        let url = shared().database();
        Self::on([&url, &url], |a, b| [a, b])
    }

    /// With something in between: what stands for each server at nginx.
    fn on(urls: [&str; 2], ways: impl FnOnce(u16, u16) -> [u16; 2]) -> Self {
        let port = free_port();
        let env = [("COUNTERSIGN_TRUSTED_PROXIES", "127.0.0.1")];
        let Pair { a, b, web } = Pair::start(&format!("http://127.0.0.1:{port}"), urls, &env, &[]);
        Self { nginx: Nginx::start(port, ways(a.port(), b.port())), a, b, web }
    }

    fn under_load(&self, meanwhile: impl FnOnce(&Seen)) -> Seen {
        let (seen, web) = (Seen::default(), &self.web);
        let browser = Browser::hopping(&self.a);
        let chains: Vec<_> = (0..CLIENTS - 2).map(|_| web.tokens(&browser, "openid offline_access")).collect();
        std::thread::scope(|scope| {
            let (seen, browser) = (&seen, &browser);
            let mut clients: Vec<_> =
                chains.iter().map(|tokens| scope.spawn(move || refresh(web, tokens, seen))).collect();
            let access = web.tokens(browser, "openid");
            clients.push(scope.spawn(move || read(web, access.access(), seen)));
            clients.push(scope.spawn(move || walk(web, browser, || Browser::hopping(&self.a), seen)));
            // However it ends, the clients end.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(seen)));
            seen.stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().unwrap();
            }
            if let Err(panic) = ended {
                std::panic::resume_unwind(panic);
            }
        });
        seen
    }
}

/// How a server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    Frozen,
    /// From nginx and from the database: nothing comes through, and nobody is told.
    CutOff,
}

/// What lies between a server and the others.
struct Ways {
    to_nginx: Gate,
    to_database: Gate,
}

impl Loss {
    fn strike(self, server: &TestServer, ways: &Ways) {
        match self {
            Self::Killed => server.kill(),
            Self::Frozen => server.signal("STOP"),
            Self::CutOff => [&ways.to_nginx, &ways.to_database].into_iter().for_each(Gate::fall_silent),
        }
    }

    fn mend(self, server: &TestServer, ways: &Ways) {
        match self {
            Self::Killed => drop(server.start()),
            Self::Frozen => server.signal("CONT"),
            // What was under way is lost: by now those who sent it have given up sending it again.
            Self::CutOff => {
                for way in [&ways.to_nginx, &ways.to_database] {
                    way.refuse();
                    way.open();
                }
            }
        }
        wait_for("the server to be back", || (get(server.url("/health/ready")).status == 200).then_some(()));
    }
}

/// From when to when a server was lost; striking and mending take a moment each.
#[derive(Debug)]
struct Span {
    loss: Loss,
    begun: Instant,
    struck: Instant,
    mending: Instant,
    mended: Instant,
}

impl Span {
    fn meets(&self, failure: &Failure) -> bool {
        failure.ended >= self.begun && failure.begun <= self.mended
    }
}

/// Loses one server after the other, each by each of these losses, and counts what that cost.
fn lose(site: &Site, ways: &[Ways; 2], losses: &[Loss]) {
    let rounds = usize::try_from(setting("TEST_LOSSES", losses.len() as u64)).unwrap();
    let mut spans = Vec::new();
    let seen = site.under_load(|seen| {
        for round in 0..rounds {
            let (loss, node) = (losses[round % losses.len()], round / losses.len() % 2);
            // Until nginx has taken back the one that was lost before.
            std::thread::sleep(FAIL_TIMEOUT + SECOND / 2);
            let server = [&site.a, &site.b][node];
            let begun = Instant::now();
            loss.strike(server, &ways[node]);
            let struck = Instant::now();
            if loss != Loss::Killed {
                std::thread::sleep(READ_TIMEOUT + 2 * SECOND);
            }
            seen.done_at_least(200);
            let mending = Instant::now();
            loss.mend(server, &ways[node]);
            spans.push(Span { loss, begun, struck, mending, mended: Instant::now() });
            seen.done_at_least(200);
        }
    });
    let failures = seen.failures.into_inner().unwrap();
    let longest = seen.longest.into_inner().unwrap();
    println!(
        "{rounds} losses ({losses:?}): {} answers, {} flows, {} failed, all in flight; {longest:?} without an answer at worst",
        seen.done.into_inner(),
        seen.flows.into_inner(),
        failures.len(),
    );
    for span in &spans {
        let lost: Vec<_> = failures.iter().filter(|failure| span.meets(failure)).collect();
        // At a server that says nothing: what was in flight, and then one request each time that nginx tries it again.
        let tries = (span.mended - span.begun).as_secs() / FAIL_TIMEOUT.as_secs() + 1;
        let tries = if span.loss == Loss::Killed { 0 } else { usize::try_from(tries).unwrap() };
        assert!(lost.len() <= CLIENTS + tries, "{span:?}: {lost:?}");
        for failure in lost {
            let timed_out = failure.told.1 == "504" && failure.ended - failure.begun < READ_TIMEOUT + SECOND;
            let in_flight = match span.loss {
                Loss::Killed => failure.begun <= span.struck,
                // One that was being tried when the network came back was cut then.
                Loss::Frozen | Loss::CutOff => timed_out || failure.ended >= span.mending,
            };
            assert!(in_flight, "{span:?}: {failure:?}");
        }
    }
    let told = failures.iter().all(|failure| spans.iter().any(|span| span.meets(failure)));
    assert!(told, "a request failed while nothing was lost: {failures:?}");
    assert!(longest < 5 * SECOND, "{longest:?}");
}

#[test]
fn a_server_that_is_killed_or_frozen_behind_nginx_costs_what_was_in_flight_and_no_more() {
    let ways = [(); 2].map(|()| Ways { to_nginx: Gate::to(&[]), to_database: Gate::to(&[]) });
    lose(&Site::new(), &ways, &[Loss::Killed, Loss::Frozen]);
}

#[test]
fn a_server_that_is_cut_off_behind_nginx_costs_what_was_in_flight_and_no_more() {
    let direct = shared().database();
    let ways = [(); 2].map(|()| Ways { to_nginx: Gate::to(&[]), to_database: Gate::to(&[shared().port]) });
    let urls = [&ways[0], &ways[1]]
        .map(|way| direct.replace(&shared().port.to_string(), &way.to_database.address.port().to_string()));
    let site = Site::on([&urls[0], &urls[1]], |a, b| {
        ways[0].to_nginx.set_targets(&[a]);
        ways[1].to_nginx.set_targets(&[b]);
        [&ways[0], &ways[1]].map(|way| way.to_nginx.address.port())
    });
    lose(&site, &ways, &[Loss::CutOff]);
}

/// Starts each server anew, as often as asked for, under load. What fails can only be what came to a door as it closed.
fn restart_one_after_another(site: &Site, leave: impl Fn(usize), come_back: impl Fn()) -> Seen {
    let restarts = usize::try_from(setting("TEST_RESTARTS", 4)).unwrap();
    let mut stops = Vec::new();
    let seen = site.under_load(|seen| {
        for turn in 0..restarts {
            let server = [&site.a, &site.b][turn % 2];
            seen.done_at_least(50);
            leave(turn % 2);
            let start = Instant::now();
            server.stop();
            stops.push((start, Instant::now()));
            server.start();
            come_back();
        }
    });
    let drained = stops.iter().map(|(start, gone)| *gone - *start).max().unwrap();
    let failures = seen.failures.lock().unwrap();
    println!(
        "{restarts} restarts: {} answers, {} flows, {} failed; gone after {drained:?}, {:?} without an answer at worst",
        seen.done.load(Ordering::Relaxed),
        seen.flows.load(Ordering::Relaxed),
        failures.len(),
        seen.longest.lock().unwrap(),
    );
    for failure in failures.iter() {
        let closing = stops.iter().any(|(start, gone)| failure.ended >= *start && failure.begun <= *gone);
        assert!(closing && failure.told.1 == "502", "{failure:?}");
    }
    drop(failures);
    assert!(drained < 20 * SECOND, "{drained:?}");
    seen
}

#[test]
fn servers_that_nginx_was_told_of_start_anew_one_after_the_other_and_no_request_fails() {
    let site = Site::new();
    let seen = restart_one_after_another(&site, |node| site.nginx.take_out(Some(node)), || site.nginx.take_out(None));
    assert!(seen.failures.lock().unwrap().is_empty());
}

#[test]
fn servers_that_nginx_was_not_told_of_start_anew_one_after_the_other_and_next_to_no_request_fails() {
    let site = Site::new();
    // Until nginx has taken back the one that it found gone.
    let seen = restart_one_after_another(&site, |_| {}, || std::thread::sleep(FAIL_TIMEOUT + SECOND / 2));
    let (failed, answered) = (seen.failures.lock().unwrap().len(), seen.done.load(Ordering::Relaxed));
    assert!(failed * 1000 < answered, "{failed} of {answered}");
}
