//! Requests by the thousand that no application would send, at every address that there is: each gets an answer, and none is
//! a failure of ours (reliability figure 21, short form). `TEST_SEED` repeats a run, `TEST_REQUESTS` lengthens it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "a campaign prints its seed and its counts")]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use reqwest::Method;
use support::http::try_send;
use support::{Dice, HTTP, World, form};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Every address in the router's own text, and what stands below a flow.
fn addresses() -> Vec<String> {
    let router = include_str!("../src/http/mod.rs");
    let plain = |text: &&str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/{}._-".contains(&b));
    let literals = router.split('"').filter(|text| text.starts_with('/')).filter(plain);
    let mut found: Vec<String> = literals.map(str::to_owned).collect();
    let below: Vec<_> = found
        .iter()
        .filter(|path| !path[1..].contains(['/', '.', '{']))
        .map(|path| format!("/flow/{{id}}{path}"))
        .collect();
    found.extend(below);
    found.sort();
    found.dedup();
    assert!(found.len() > 40, "{found:?}");
    found
}

const NAMES: &[&str] = &[
    "client_id",
    "redirect_uri",
    "response_type",
    "response_mode",
    "scope",
    "state",
    "nonce",
    "prompt",
    "max_age",
    "login_hint",
    "acr_values",
    "claims",
    "code_challenge",
    "code_challenge_method",
    "id_token_hint",
    "request",
    "request_uri",
    "resource",
    "ui_locales",
    "display",
    "grant_type",
    "code",
    "code_verifier",
    "refresh_token",
    "token",
    "token_type_hint",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "post_logout_redirect_uri",
    "logout_hint",
    "csrf",
    "username",
    "password",
    "decision",
    "account",
    "email",
    "new_password",
    "name",
    "session",
    "page",
    "keep",
    "sid",
    "iss",
    "access_token",
    "__proto__",
    "a[b]",
    "",
];

/// A request, at random: mostly what is nearly right.
struct Stranger<'a> {
    dice: Dice,
    addresses: &'a [String],
    /// What is right somewhere: identifiers, tokens, form values, URIs.
    known: &'a [String],
    cookies: &'a str,
}

impl Stranger<'_> {
    fn of<'b, T>(&mut self, list: &'b [T]) -> &'b T {
        &list[usize::try_from(self.dice.below(list.len() as u64)).unwrap()]
    }

    fn value(&mut self) -> String {
        let known = self.known;
        match self.dice.below(12) {
            0..=4 => self.of(known).clone(),
            5 => {
                // Something right, bent at one place.
                let mut bytes = self.of(known).clone().into_bytes();
                if !bytes.is_empty() {
                    let at = usize::try_from(self.dice.below(bytes.len() as u64)).unwrap();
                    bytes[at] = u8::try_from(self.dice.below(256)).unwrap();
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
            6 => char::from(u8::try_from(self.dice.below(128)).unwrap()).to_string().repeat(5000),
            7 => "[".repeat(usize::try_from(self.dice.below(3000)).unwrap()),
            8 => (*self.of(&["", " ", "\0", "\r\nx: y", "%", "%zz", "../..", "null", "-1", "9".repeat(40).as_str()]))
                .to_owned(),
            9 => (*self.of(&[
                "{\"id_token\":{\"a\":{\"value\":1}}}",
                "{\"userinfo\":null}",
                "[]",
                "{",
                "\u{1F600}\u{202E}",
                "é",
            ]))
            .to_owned(),
            10 => (*self.of(&[
                "javascript:alert(1)",
                "https://a@b:99999",
                "http://[::1",
                "data:,x",
                "//x",
                "https://\u{e9}.example/",
            ]))
            .to_owned(),
            _ => "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.".to_owned(),
        }
    }

    fn parameters(&mut self) -> Vec<(String, String)> {
        (0..self.dice.below(9)).map(|_| ((*self.of(NAMES)).to_owned(), self.value())).collect()
    }

    fn request(&mut self, base: &str) -> reqwest::blocking::RequestBuilder {
        let addresses = self.addresses;
        let mut path = self.of(addresses).clone();
        while let Some((before, rest)) = path.split_once('{') {
            let (_, after) = rest.split_once('}').unwrap();
            let value: String = form(&[("", self.value())]).trim_start_matches('=').to_owned();
            path = format!("{before}{value}{after}");
        }
        if self.dice.below(3) == 0 {
            path = format!("{path}?{}", form(&self.parameters()));
        }
        let method = match self.dice.below(10) {
            0..=3 => Method::GET,
            4..=7 => Method::POST,
            8 => Method::OPTIONS,
            _ => (*self.of(&[Method::HEAD, Method::PUT, Method::DELETE, Method::PATCH, Method::TRACE])).clone(),
        };
        let mut request = HTTP.request(method.clone(), format!("{base}{path}"));
        if self.dice.below(2) == 0 {
            request = request.header("cookie", self.cookies);
        }
        for _ in 0..self.dice.below(3) {
            let name = *self.of(&[
                "authorization",
                "origin",
                "content-type",
                "sec-fetch-site",
                "x-forwarded-for",
                "forwarded",
                "host",
                "cookie",
                "if-none-match",
                "x-request-id",
                "dpop",
                "accept",
                "content-encoding",
                "access-control-request-method",
            ]);
            let scheme = *self.of(&["", "Basic ", "Bearer ", "DPoP "]);
            if let Ok(value) = reqwest::header::HeaderValue::from_str(&format!("{scheme}{}", self.value())) {
                request = request.header(name, value);
            }
        }
        if method == Method::POST {
            if self.dice.below(8) != 0 {
                request = request.header("content-type", "application/x-www-form-urlencoded");
            }
            let body = if self.dice.below(10) == 0 { self.value() } else { form(&self.parameters()) };
            request = request.body(body);
        }
        request
    }
}

#[test]
fn s105_strangers_get_answers_and_never_a_failure_of_ours() {
    let seed = setting("TEST_SEED", u64::from(std::process::id()));
    let requests = setting("TEST_REQUESTS", 6000);
    println!("TEST_SEED={seed} TEST_REQUESTS={requests}");
    let w = World::new(&[]);
    let browser = w.browser();
    let tokens = w.web.tokens(&browser, "openid email offline_access");
    let page = browser.open(w.third.request().url());
    let form_of = page.form_of("consent-allow");
    let cookies: Vec<_> = browser.cookies().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut known: Vec<String> =
        ["code", "S256", "openid", "openid email offline_access", "none", "login", "consent", "0"]
            .into_iter()
            .chain([
                "authorization_code",
                "refresh_token",
                "client_credentials",
                "query",
                "form_post",
                "yes",
                "allow",
                "ada",
            ])
            .map(str::to_owned)
            .collect();
    known.extend([&w.web, &w.spa, &w.third, &w.native, &w.machine, &w.legacy].map(|app| app.id.clone()));
    known.extend([&w.web, &w.third, &w.native].map(|app| app.redirect_uri.clone()));
    known.extend(
        [tokens.access(), tokens.id(), tokens.refresh(), support::PASSWORD, support::VERIFIER].map(str::to_owned),
    );
    known.extend(form_of.inputs.iter().map(|(_, value)| value.clone()));
    known.extend(page.url.path_segments().unwrap().map(str::to_owned));
    known.extend([support::challenge(support::VERIFIER), w.web.secret.clone().unwrap(), w.server.issuer.clone()]);
    let (addresses, cookies, base) = (addresses(), cookies.join("; "), w.server.issuer.clone());
    let (statuses, slowest) = (Mutex::new(BTreeMap::<u16, u64>::new()), Mutex::new(Duration::ZERO));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dice = Dice::new(seed * 4 + thread);
            let mut stranger = Stranger { dice, addresses: &addresses, known: &known, cookies: &cookies };
            let (statuses, slowest, base) = (&statuses, &slowest, &base);
            scope.spawn(move || {
                for number in 0..requests / 4 {
                    let request = stranger.request(base);
                    let told = format!("{:?}", request.try_clone());
                    let start = Instant::now();
                    let again = request.try_clone().unwrap();
                    let answer = match try_send(request) {
                        // What the client's own library does not take for a request was never sent.
                        Err(error) if error.is_builder() => continue,
                        // A connection may have been closed after what came before; a new one must give an answer.
                        Err(_) => try_send(again),
                        answer => answer,
                    };
                    let answer = match answer {
                        Ok(answer) => answer,
                        Err(error) => panic!("thread {thread}, request {number}: {error:?} to {told}"),
                    };
                    assert!(
                        answer.status < 500 || (answer.status == 503 && !answer.header("retry-after").is_empty()),
                        "thread {thread}, request {number}: {answer:?} to {told}"
                    );
                    *statuses.lock().unwrap().entry(answer.status).or_default() += 1;
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = slowest.max(start.elapsed());
                }
            });
        }
    });
    let statuses = statuses.into_inner().unwrap();
    println!(
        "{requests} requests at {} addresses: {statuses:?}; slowest {:?}",
        addresses.len(),
        slowest.into_inner().unwrap()
    );
    let log = w.server.log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
    assert_eq!(w.get("/health/ready").status, 200);
    // The dice must not have met closed doors alone.
    for status in [200, 303, 400, 401, 404, 405] {
        assert!(statuses.get(&status).is_some_and(|count| *count > requests / 1000), "{status}: {statuses:?}");
    }
}
