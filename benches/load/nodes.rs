//! Two servers on one PostgreSQL behind a balancer: what they do together, what the end of one costs, and a sign-in storm.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::drive::{Control, Run, Span, Worker, measure, pace};
use crate::http::{Connection, write_post};
use crate::operations::{Pool, Refresh};
use crate::process::{Process, free_address};
use crate::proxy::Proxy;
use crate::report::Report;
use crate::server::{Client, Endpoint};
use crate::storm::{Offer, Storm};
use crate::{Bench, millis};

/// How often one of the two is killed.
const KILLS: u32 = 3;
/// The rate is looked at in windows of this length.
const WINDOW: Duration = Duration::from_millis(100);
/// A refresh is tried so often.
const TRIES: usize = 50;

impl Bench<'_> {
    pub async fn nodes(&mut self) -> Result<()> {
        self.server.stop().await?;
        let (first, second) = (free_address()?, free_address()?);
        let balancer = Proxy::to(&[first, second])?;
        let endpoint = Endpoint { address: balancer.address };
        let issuer = endpoint.issuer();
        let env = [("COUNTERSIGN_ISSUER", issuer.as_str())];
        let (a, _) = self.installation.start_with(first, &env).await?;

        Report::section("Two servers on one PostgreSQL behind a balancer");
        let alone = self.through(endpoint, &[&a]).await?;
        self.report.run("refresh, the other one not there", &alone);
        let (mut b, _) = self.installation.start_with(second, &env).await?;
        let together = self.through(endpoint, &[&a, &b]).await?;
        self.report.run("refresh, two servers", &together);

        let mut sum = Killed::default();
        for _ in 0..KILLS {
            sum.add(self.kill(endpoint, &a, b).await?);
            (b, _) = self.installation.start_with(second, &env).await?;
        }
        self.report.figure("kill -9 of one under load, times", &KILLS.to_string(), None);
        self.report.figure("refreshes answered around it", &sum.answered.to_string(), None);
        let in_flight = format!("{}, of them {} answered when sent again", sum.in_flight, sum.repaired);
        self.report.figure("cut off in flight at the killed one", &in_flight, None);
        let bound = Some(("0", if sum.beyond == 0 { 0.0 } else { 2.0 }));
        self.report.figure("failed beyond those", &sum.beyond.to_string(), bound);
        if let Some(error) = &sum.first_error {
            println!("the first of them: {error}");
        }
        let worst = millis(sum.full_again);
        let bound = Some(("5000 ms", worst / 5e3));
        self.report.figure("until the rate of one server, slowest", &format!("{worst:.0} ms"), bound);
        let rates = format!("{:.0}/s, then {:.0}/s", sum.rate_before, sum.rate_after);
        self.report.figure("rate before and after", &rates, None);
        self.report.figure("the longest wait of a request", &format!("{:.0} ms", millis(sum.longest)), None);

        let storm = Storm {
            servers: &[&a, &b],
            endpoint,
            web: &self.web,
            chains: &self.chains,
            access_tokens: &Pool::of(1),
            offer: Offer::PerSecond(10.0 * self.floors.argon2_per_second),
            span: Duration::from_secs_f64(self.options.storm_seconds),
        };
        storm.run(self.report).await?;
        drop((a, b));
        (self.server, _) = self.installation.start().await?;
        Ok(())
    }

    async fn through(&self, endpoint: Endpoint, servers: &[&Process]) -> Result<Run> {
        let (host, tokens) = (endpoint.host(), Pool::of(1));
        let refresh = |_| Refresh::new(&host, &self.web, &self.chains, &tokens);
        let operations = (0..self.options.connections).map(refresh).collect();
        pace(servers, endpoint.address, self.span(), operations, Duration::ZERO).await
    }

    /// Kills `b` in the middle of a load.
    async fn kill(&self, endpoint: Endpoint, a: &Process, b: Process) -> Result<Killed> {
        let span = Span::of(self.span().measured / 2);
        let log = Rc::new(Log::default());
        let run = measure(&[a], span, |control| {
            let mut workers: Vec<Worker> = (0..self.options.connections)
                .map(|_| -> Worker {
                    let work = refresh_on(
                        endpoint,
                        self.web.clone(),
                        self.chains.clone(),
                        Rc::clone(control),
                        Rc::clone(&log),
                    );
                    Box::pin(work)
                })
                .collect();
            let log = Rc::clone(&log);
            workers.push(Box::pin(async move {
                tokio::time::sleep(span.warm_up + span.measured / 3).await;
                // Nothing is sent between here and its end.
                b.kill();
                log.killed_at.set(Some(Instant::now()));
            }));
            workers
        })
        .await?;
        let killed_at = log.killed_at.get().context("nothing was killed")?;
        let answered = log.answered.take();
        let within = |from: Instant, to: Instant| {
            let count = answered.iter().copied().filter(|at| (from..to).contains(at)).count();
            count as f64 / to.duration_since(from).as_secs_f64().max(1e-9)
        };
        let third = span.measured / 3;
        let rate_before = within(killed_at.checked_sub(third).unwrap_or(killed_at), killed_at);
        let rate_after = within(killed_at + third, killed_at + 2 * third);
        let mut full_again = Duration::ZERO;
        while full_again < 2 * third {
            let from = killed_at + full_again;
            if within(from, from + WINDOW) >= 0.9 * rate_after {
                break;
            }
            full_again += WINDOW / 10;
        }
        Ok(Killed {
            answered: answered.len(),
            in_flight: log.in_flight.get(),
            repaired: log.repaired.get(),
            beyond: log.beyond.get(),
            first_error: log.first_error.take(),
            full_again,
            rate_before,
            rate_after,
            longest: run.percentile(100),
        })
    }
}

/// What the ends of a server have cost together.
#[derive(Default)]
struct Killed {
    answered: usize,
    in_flight: u64,
    repaired: u64,
    beyond: u64,
    first_error: Option<String>,
    full_again: Duration,
    rate_before: f64,
    rate_after: f64,
    longest: Duration,
}

impl Killed {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.in_flight += other.in_flight;
        self.repaired += other.repaired;
        self.beyond += other.beyond;
        self.first_error = self.first_error.take().or(other.first_error);
        self.full_again = self.full_again.max(other.full_again);
        (self.rate_before, self.rate_after) = (other.rate_before, other.rate_after);
        self.longest = self.longest.max(other.longest);
    }
}

/// What happened during one run with a kill in it.
#[derive(Default)]
struct Log {
    /// When the killed server was gone.
    killed_at: Cell<Option<Instant>>,
    answered: RefCell<Vec<Instant>>,
    in_flight: Cell<u64>,
    repaired: Cell<u64>,
    beyond: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

/// Refreshes again and again. What gets no answer is sent again, as a client does whose answer was lost: within the leeway it
/// gets the same successor.
async fn refresh_on(endpoint: Endpoint, web: Client, chains: Pool, control: Rc<Control>, log: Rc<Log>) {
    let mut connection = Connection::new(endpoint.address);
    let (host, mut request) = (endpoint.host(), Vec::new());
    while control.goes_on()
        && let Some(token) = chains.take()
    {
        let form = format!("grant_type=refresh_token&refresh_token={token}");
        write_post(&mut request, &host, "/token", &web.authorization, &form);
        let first_sent = Instant::now();
        let mut was_in_flight = false;
        for _ in 0..TRIES {
            // As any client of connections that are kept: one that is closed is not used.
            connection.forget_closed();
            let sent = Instant::now();
            let outcome = async {
                let answer = connection.exchange(&request).await?;
                answer.expect(200)?;
                Ok(answer.json_string("refresh_token").context("no refresh_token")?.to_owned())
            };
            let outcome: Result<String> = outcome.await;
            match outcome {
                Ok(next) => {
                    chains.put(&next);
                    log.answered.borrow_mut().push(Instant::now());
                    log.repaired.set(log.repaired.get() + u64::from(was_in_flight));
                    control.record(first_sent, Ok(()));
                    break;
                }
                Err(_) if log.killed_at.get().is_some_and(|killed| sent < killed) => {
                    log.in_flight.set(log.in_flight.get() + 1);
                    was_in_flight = true;
                }
                Err(error) => {
                    log.beyond.set(log.beyond.get() + 1);
                    log.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}
