//! A sign-in storm beside a steady refresh load: token traffic must not wait behind Argon2.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use crate::browser::{Browser, SignIn};
use crate::drive::{Run, Span, pace};
use crate::http::Connection;
use crate::operations::{Pool, Refresh};
use crate::process::Process;
use crate::report::{Report, mib};
use crate::server::{Client, Endpoint};
use crate::{USERS, millis, user_name};

/// People in front of a page at once, at most.
const MOST_PEOPLE: usize = 2_000;

/// The steady load: this many connections, each with a refresh every `INTERVAL`.
pub const REFRESHERS: usize = 8;
pub const INTERVAL: Duration = Duration::from_millis(20);

/// How many want to sign in.
#[derive(Clone, Copy)]
pub enum Offer {
    /// So many people, each of whom tries again and again, and waits when told to.
    AtOnce(usize),
    /// So many presses of the button in a second, whatever the answers.
    PerSecond(f64),
}

pub struct Storm<'a> {
    pub servers: &'a [&'a Process],
    pub endpoint: Endpoint,
    pub web: &'a Client,
    pub chains: &'a Pool,
    pub access_tokens: &'a Pool,
    pub offer: Offer,
    pub span: Duration,
}

/// What the attempts saw.
#[derive(Default)]
struct Seen {
    over: Cell<bool>,
    /// By the status of the answer to the form; 303 = signed in.
    answers: RefCell<BTreeMap<u16, u64>>,
    without_retry_after: Cell<u64>,
    spans: RefCell<Vec<Duration>>,
    /// Presses that nobody was left for.
    missed: Cell<u64>,
    failures: RefCell<BTreeMap<String, u64>>,
}

impl Storm<'_> {
    pub async fn run(&self, report: &mut Report) -> Result<()> {
        let quiet = self.refresh().await?;
        let memory = || -> Result<(u64, u64)> {
            let each = self.servers.iter().map(|server| server.memory()).collect::<Result<Vec<_>>>()?;
            Ok((each.iter().map(|(now, _)| now).sum(), each.iter().map(|(_, peak)| peak).sum()))
        };
        let (memory_before, _) = memory()?;
        for server in self.servers {
            server.forget_peak()?;
        }

        let seen = Rc::new(Seen::default());
        let mut attempts = JoinSet::new();
        let (title, answer) = match self.offer {
            Offer::AtOnce(people) => {
                for index in 0..people {
                    attempts.spawn_local(attempt_again(self.endpoint, self.web.clone(), index, Rc::clone(&seen)));
                }
                (format!("{people} attempts at once"), "a whole attempt")
            }
            Offer::PerSecond(rate) => {
                attempts.spawn_local(press(self.endpoint, self.web.clone(), rate, Rc::clone(&seen)));
                (format!("{rate:.0} attempts a second"), "the answer to the form")
            }
        };
        let stormy = self.refresh().await?;
        seen.over.set(true);
        while attempts.join_next().await.is_some() {}
        let (_, peak) = memory()?;

        Report::section(&format!("Sign-in storm: {title} beside a steady refresh load"));
        report.run("refresh, quiet", &quiet);
        report.run("refresh, storm", &stormy);
        let (before, during) = (millis(quiet.percentile(99)), millis(stormy.percentile(99)));
        let within = (during / 50.0).max(during / (2.0 * before));
        report.figure(
            "refresh p99",
            &format!("{before:.2} ms -> {during:.2} ms"),
            Some(("2 x quiet and 50 ms", within)),
        );
        let answers: Vec<String> =
            seen.answers.borrow().iter().map(|(status, count)| format!("{count} x {status}")).collect();
        report.figure("answers to the form", &answers.join(", "), None);
        report.figure("503 without Retry-After", &seen.without_retry_after.get().to_string(), None);
        let mut spans = seen.spans.take();
        spans.sort_unstable();
        let at = |percent: usize| spans.get((spans.len() * percent / 100).min(spans.len().saturating_sub(1))).copied();
        let [middle, most] = [50, 99].map(|percent| millis(at(percent).unwrap_or_default()));
        let attempts = format!("p50 {middle:.0} ms, p99 {most:.0} ms");
        report.figure(answer, &attempts, Some(("2 s", most / 2000.0)));
        if seen.missed.get() > 0 {
            report.figure("attempts that could not be made", &seen.missed.get().to_string(), None);
        }
        for (failure, count) in seen.failures.take() {
            report.figure("failed", &format!("{count} x {failure}"), Some(("none", 2.0)));
        }
        report.figure("resident memory, before -> peak", &format!("{} -> {}", mib(memory_before), mib(peak)), None);
        Ok(())
    }

    async fn refresh(&self) -> Result<Run> {
        let host = self.endpoint.host();
        let operations =
            (0..REFRESHERS).map(|_| Refresh::new(&host, self.web, self.chains, self.access_tokens)).collect();
        let span = Span { warm_up: Duration::from_secs(1), measured: self.span, count: u64::MAX };
        pace(self.servers, self.endpoint.address, span, operations, INTERVAL).await
    }
}

/// One person who tries again and again, and waits when told to.
async fn attempt_again(endpoint: Endpoint, web: Client, index: usize, seen: Rc<Seen>) {
    let mut connection = Connection::new(endpoint.address);
    let user = user_name(index % USERS);
    while !seen.over.get() {
        let started = Instant::now();
        let outcome = Browser::default().sign_in(endpoint, &mut connection, &web, &user).await;
        seen.spans.borrow_mut().push(started.elapsed());
        let status = match outcome {
            Ok(SignIn::Code(_)) => 303,
            Ok(SignIn::Refused { status, retry_after }) => {
                if status == 503 && retry_after.is_none() {
                    seen.without_retry_after.set(seen.without_retry_after.get() + 1);
                }
                // People are not clocks: each comes back some time in the second after the one that was named.
                let late = Duration::from_nanos(u64::from(started.elapsed().subsec_nanos()) * 7919 % 1_000_000_000);
                tokio::time::sleep(Duration::from_secs(retry_after.unwrap_or(1)) + late).await;
                status
            }
            Err(error) => {
                *seen.failures.borrow_mut().entry(format!("{error:#}")).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        *seen.answers.borrow_mut().entry(status).or_default() += 1;
    }
}

/// Somebody in front of the sign-in page.
struct Person {
    connection: Connection,
    form: Option<Vec<u8>>,
}

/// Presses the button so often, always by somebody who does not wait for an answer.
async fn press(endpoint: Endpoint, web: Client, rate: f64, seen: Rc<Seen>) {
    let idle: Rc<RefCell<Vec<Person>>> = Rc::default();
    let mut running = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut count = 0;
    while !seen.over.get() {
        ticks.tick().await;
        while running.try_join_next().is_some() {}
        if running.len() >= MOST_PEOPLE {
            seen.missed.set(seen.missed.get() + 1);
            continue;
        }
        count += 1;
        let new = || Person { connection: Connection::new(endpoint.address), form: None };
        let mut person = idle.borrow_mut().pop().unwrap_or_else(new);
        let (idle, seen, web, user) = (Rc::clone(&idle), Rc::clone(&seen), web.clone(), user_name(count % USERS));
        running.spawn_local(async move {
            if let Err(error) = person.press(endpoint, &web, &user, &seen).await {
                *seen.failures.borrow_mut().entry(format!("{error:#}")).or_default() += 1;
            }
            idle.borrow_mut().push(person);
        });
    }
    while running.join_next().await.is_some() {}
}

impl Person {
    async fn press(&mut self, endpoint: Endpoint, web: &Client, user: &str, seen: &Seen) -> Result<()> {
        self.connection.forget_closed();
        let form = match self.form.take() {
            Some(form) => form,
            None => Browser::default().sign_in_form(endpoint, &mut self.connection, web, user).await?,
        };
        let started = Instant::now();
        let answer = self.connection.exchange(&form).await?;
        seen.spans.borrow_mut().push(started.elapsed());
        *seen.answers.borrow_mut().entry(answer.status).or_default() += 1;
        if answer.status == 503 {
            if answer.header("retry-after").is_none() {
                seen.without_retry_after.set(seen.without_retry_after.get() + 1);
            }
            // The same page again.
            self.form = Some(form);
        }
        Ok(())
    }
}
