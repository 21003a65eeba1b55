//! Load on the release binary over loopback, beside the floors measured in the same run. Run by `scripts/bench`.

#![expect(clippy::cast_precision_loss, reason = "counts and times become figures of three digits")]

mod browser;
mod drive;
mod floor;
mod http;
mod logout;
mod operations;
mod process;
mod report;
mod scale;
mod server;
mod sqlite;
mod storm;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::browser::{Browser, SignIn, authorize_target};
use crate::drive::{Control, Run, Span, Worker, drive, measure};
use crate::floor::{Fixed, Floors};
use crate::http::{Connection, write_get};
use crate::operations::{Authorize, ClientCredentials, Exchange, Introspect, Pool, Refresh, Tokens, UserInfo};
use crate::process::{Process, folder_size};
use crate::report::{Bound, Report, mib};
use crate::scale::{Filler, scale_name};
use crate::server::{Client, Installation};

/// Drives Countersign over loopback and compares what it costs with the floors of the same machine.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Seconds each operation is measured (a quarter more goes before as warm-up).
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Refreshes after which memory and database are weighed again; the long form is 1000000.
    #[arg(long, default_value_t = 100_000)]
    refreshes: u64,
    /// Seconds of the sign-in storm.
    #[arg(long, default_value_t = 15.0)]
    storm_seconds: f64,
    /// Sign-in attempts at once in the storm.
    #[arg(long, default_value_t = 200)]
    storm_attempts: usize,
    /// The server binary to measure, instead of the one cargo built beside this one.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Living refresh tokens beside which `--only scale` measures, growing; that part runs only when it is named.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000])]
    rows: Vec<u64>,
    /// People beside them at most.
    #[arg(long, default_value_t = 1_000_000)]
    people: u64,
    /// Measure these parts only.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Given by `cargo bench`; without it (`cargo test --all-targets`) nothing is measured.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the floors alone.
    Floors,
    /// The bare actix-web server; started by the measurement itself.
    #[command(hide = true)]
    FloorServer { address: SocketAddr },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Public,
    ClientCredentials,
    Refresh,
    Growth,
    Tokens,
    SignIn,
    Storm,
    Scale,
    Logout,
}

/// Accounts the load is spread over, so that no account's row or counter becomes the measure.
const USERS: usize = 16;
/// Living refresh chains.
const CHAINS: usize = 1024;
/// Access tokens kept for introspection and `UserInfo`.
const ACCESS_TOKENS: usize = 120_000;
/// Refresh tokens among the many that are rotated, spread over all.
const KNOWN_TOKENS: usize = 50_000;

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(Command::FloorServer { address }) = options.command {
        return floor::serve(address);
    }
    if !options.bench {
        println!("nothing is measured without --bench; see scripts/bench");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        Report::machine();
        let floors = Floors::measure(options.connections, Duration::from_secs_f64(options.seconds)).await?;
        Report::floors(&floors);
        if options.command.is_none() {
            Bench::start(options, floors).await?.run().await?;
        }
        Ok(())
    })
}

/// A running server with its users and clients, and what the operations leave for one another.
struct Bench {
    options: Options,
    report: Report,
    floors: Floors,
    installation: Installation,
    server: Process,
    machine: Client,
    web: Client,
    chains: Pool,
    access_tokens: Pool,
}

impl Bench {
    async fn start(options: Options, floors: Floors) -> Result<Self> {
        let mut report = Report::default();
        let binary = options.server.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_countersign").into());
        let installation = Installation::new(binary.canonicalize().context("the server binary")?)?;
        let (mut server, first) = installation.start().await?;
        for user in 0..USERS {
            installation.create_user(&user_name(user))?;
        }
        let (machine, web) = (installation.create_machine()?, installation.create_web()?);
        installation.await_client(&machine).await?;

        let mut stopped = server.stop().await?;
        let mut starts = Vec::new();
        let server = loop {
            let (mut next, start) = installation.start().await?;
            starts.push(start);
            if starts.len() == 7 {
                break next;
            }
            stopped = stopped.max(next.stop().await?);
        };
        starts.sort_unstable();
        let median = starts.get(3).copied().unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (idle, _) = server.memory()?;

        Report::section("Start, memory, size");
        report.figure("first start, keys generated", &format!("{:.0} ms", millis(first)), None);
        report.figure(
            "start to first answer, existing database (median of 7)",
            &format!("{:.1} ms", millis(median)),
            Some(("50 ms", millis(median) / 50.0)),
        );
        report.figure("SIGTERM to end, slowest", &format!("{:.0} ms", millis(stopped)), None);
        report.figure("idle resident memory", &mib(idle), Some(("20 MiB", idle as f64 / f64::from(20 << 20))));
        let size = installation.binary_size()?;
        report.figure("binary", &mib(size), Some(("25 MiB", size as f64 / f64::from(25 << 20))));

        let (chains, access_tokens) = (Pool::of(CHAINS), Pool::of(ACCESS_TOKENS));
        Ok(Self { options, report, floors, installation, server, machine, web, chains, access_tokens })
    }

    async fn run(&mut self) -> Result<()> {
        let outcome = self.parts().await;
        let (lines, bytes, last) = self.installation.logged();
        if outcome.is_err() {
            println!("\nThe server's last words:\n{last}");
        }
        outcome?;
        let (now, peak) = self.server.memory()?;
        Report::section("At the end");
        self.report.figure("resident memory (peak)", &format!("{} ({})", mib(now), mib(peak)), None);
        self.report.figure("log written", &format!("{lines} lines, {bytes} bytes"), None);
        self.report.verdict();
        Ok(())
    }

    async fn parts(&mut self) -> Result<()> {
        Report::operations();
        if self.wants(Part::Public) {
            self.public().await?;
        }
        if self.wants(Part::ClientCredentials) {
            self.client_credentials().await?;
        }
        // The later parts live on the chains and tokens won here.
        self.codes_and_refresh().await?;
        if self.wants(Part::Tokens) {
            self.tokens().await?;
        }
        if self.wants(Part::SignIn) {
            self.sign_in().await?;
        }
        if self.wants(Part::Growth) {
            self.growth().await?;
        }
        if self.wants(Part::Storm) {
            self.storm().await?;
        }
        if self.options.only.contains(&Part::Scale) {
            self.scale().await?;
        }
        if self.options.only.contains(&Part::Logout) {
            self.logout().await?;
        }
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }

    fn span(&self) -> Span {
        Span::of(Duration::from_secs_f64(self.options.seconds))
    }

    fn host(&self) -> String {
        self.installation.endpoint.host()
    }

    async fn drive<O: drive::Operation + 'static>(&self, span: Span, operation: impl Fn() -> O) -> Result<Run> {
        let operations = (0..self.options.connections).map(|_| operation()).collect();
        drive(&self.server, span, operations).await
    }

    async fn public(&mut self) -> Result<()> {
        let bound = Bound::cpu(1.2, &[("bytes", self.floors.bytes.cpu_micros())]);
        for (name, target) in [("JWKS", "/jwks"), ("discovery", "/.well-known/openid-configuration")] {
            let mut request = Vec::new();
            write_get(&mut request, &self.host(), target, "");
            let run = self.drive(self.span(), || Fixed(request.clone())).await?;
            self.report.operation(name, &run, Some(&bound));
        }
        Ok(())
    }

    async fn client_credentials(&mut self) -> Result<()> {
        let (host, floors) = (self.host(), &self.floors);
        let bound = Bound::cpu(1.5, &[("form", floors.form.cpu_micros()), ("signature", floors.es256.cpu)]);
        let run = self.drive(self.span(), || ClientCredentials::new(&host, &self.machine)).await?;
        self.report.operation("client_credentials, ES256", &run, Some(&bound));
        Ok(())
    }

    /// Signed-in browsers fetch codes, the codes are spent, the refresh tokens rotate.
    async fn codes_and_refresh(&mut self) -> Result<()> {
        let host = self.host();
        let codes = Pool::of(usize::MAX);
        let mut requests = Vec::new();
        for index in 0..self.options.connections {
            let mut browser = Browser::default();
            let mut connection = Connection::new(self.installation.endpoint.address);
            let user = user_name(index % USERS);
            match browser.sign_in(self.installation.endpoint, &mut connection, &self.web, &user).await? {
                SignIn::Code(code) => codes.put(&code),
                SignIn::Refused { status, .. } => bail!("{user} cannot sign in: {status}"),
            }
            let mut request = Vec::new();
            write_get(&mut request, &host, &authorize_target(&self.web), &browser.cookie_header());
            requests.push(request);
        }
        // Codes live 60 s: fetched and spent in one go. The warm-up of either is spent first, uncounted.
        let exchange = || Exchange::new(&host, &self.web, &codes, &self.chains);
        let authorize = |request| Authorize { request, codes: codes.clone() };
        let wants = self.wants(Part::Refresh);
        let mut span = self.span();
        if !wants {
            span.count = CHAINS as u64;
        }
        let authorized = drive(&self.server, span, requests.into_iter().map(authorize).collect()).await?;
        let spend = Span { warm_up: span.measured / 10, measured: Duration::from_secs(30), count: u64::MAX };
        let exchanged = self.drive(spend, exchange).await?;
        if self.chains.len() < self.options.connections {
            bail!("no refresh tokens: {:?} {:?}", authorized.first_error, exchanged.first_error);
        }
        let mut span = self.span();
        if !wants {
            span.count = 20_000;
        }
        let refreshed = self.refresh(span).await?;
        if wants {
            let floors = &self.floors;
            let parts = [("form", floors.form.cpu_micros()), ("2 signatures", 2.0 * floors.es256.cpu)];
            let rotation = floors.rotation(self.options.connections);
            let bound = Bound::cpu(1.5, &[parts.as_slice(), &[("rotation", rotation)]].concat());
            self.report.operation("authorize in a live session, to code", &authorized, None);
            self.report.operation("code exchange, ES256 + ES256", &exchanged, Some(&bound));
            self.report.operation("refresh, ES256 + ES256", &refreshed, Some(&bound));
        }
        Ok(())
    }

    async fn refresh(&self, span: Span) -> Result<Run> {
        let host = self.host();
        self.drive(span, || Refresh::new(&host, &self.web, &self.chains, &self.access_tokens)).await
    }

    async fn growth(&mut self) -> Result<()> {
        let span = Span { warm_up: Duration::ZERO, measured: Duration::from_hours(24), count: self.options.refreshes };
        let (memory_before, _) = self.server.memory()?;
        let size_before = folder_size(&self.installation.data())?;
        let run = self.refresh(span).await?;
        let (memory, _) = self.server.memory()?;
        let size = folder_size(&self.installation.data())?;
        let per_refresh = size.saturating_sub(size_before) as f64 / run.requests.max(1) as f64;
        Report::section(&format!("Growth over {} refreshes", run.requests));
        self.report.run("refresh", &run);
        self.report.figure("resident memory", &format!("{} -> {}", mib(memory_before), mib(memory)), None);
        let data = format!("{} -> {} ({per_refresh:.0} bytes each)", mib(size_before), mib(size));
        self.report.figure("data folder", &data, None);
        Ok(())
    }

    async fn tokens(&mut self) -> Result<()> {
        let (host, floors) = (self.host(), &self.floors);
        let one = self.access_tokens.take().context("no access tokens")?;
        let distinct = Tokens::Distinct(self.access_tokens.split());
        let verification = ("verification", floors.es256_verify.cpu);
        let read = ("read", floors.read.cpu);
        let form = ("form", floors.form.cpu_micros());
        let bytes = ("bytes", floors.bytes.cpu_micros());
        let bounds = [
            Bound::cpu(1.5, &[form, verification, read]),
            Bound::cpu(1.5, &[form, read]),
            Bound::cpu(1.5, &[bytes, verification, read]),
            Bound::cpu(1.5, &[bytes, read]),
        ];
        let [introspect_bound, introspect_again_bound, user_info_bound, user_info_again_bound] = &bounds;
        let introspect = |tokens: &Tokens| Introspect::new(&host, &self.web, tokens);
        let user_info = |tokens: &Tokens| UserInfo { host: host.clone(), tokens: tokens.clone() };

        let run = self.drive(self.span(), || introspect(&distinct)).await?;
        self.report.operation("introspection, distinct tokens", &run, Some(introspect_bound));
        let again = Tokens::One(one.clone());
        let run = self.drive(self.span(), || introspect(&again)).await?;
        self.report.operation("introspection, one token again", &run, Some(introspect_again_bound));
        let distinct = Tokens::Distinct(self.access_tokens.clone());
        let run = self.drive(self.span(), || user_info(&distinct)).await?;
        self.report.operation("UserInfo, distinct tokens", &run, Some(user_info_bound));
        let run = self.drive(self.span(), || user_info(&again)).await?;
        self.report.operation("UserInfo, one token again", &run, Some(user_info_again_bound));
        Ok(())
    }

    /// Whole sign-ins, against the bare Argon2 rate measured just before and just after.
    async fn sign_in(&mut self) -> Result<()> {
        let span = self.span();
        let before = floor::argon2_rate(span.measured)?;
        let longer = Span { measured: span.measured * 2, ..span };
        let run = measure(&self.server, longer, |control| self.sign_in_workers(control)).await?;
        let after = floor::argon2_rate(span.measured)?;
        let bound = Bound::rate(0.9, f64::midpoint(before, after), "bare Argon2id per second");
        self.report.operation("password sign-in, form to code", &run, Some(&bound));
        Ok(())
    }

    fn sign_in_workers(&self, control: &Rc<Control>) -> Vec<Worker> {
        self.workers_signing_in(control, |index, _turn| user_name(index % USERS))
    }

    /// `user` says who signs in at a connection's turn.
    fn workers_signing_in(
        &self,
        control: &Rc<Control>,
        user: impl Fn(usize, u64) -> String + Copy + 'static,
    ) -> Vec<Worker> {
        let endpoint = self.installation.endpoint;
        let worker = |index: usize| -> Worker {
            let (control, web) = (Rc::clone(control), self.web.clone());
            Box::pin(async move {
                let mut connection = Connection::new(endpoint.address);
                let mut turn = 0;
                while control.goes_on() {
                    turn += 1;
                    let user = user(index, turn);
                    let started = Instant::now();
                    let mut browser = Browser::default();
                    let outcome = match browser.sign_in(endpoint, &mut connection, &web, &user).await {
                        Ok(SignIn::Code(_)) => Ok(()),
                        Ok(SignIn::Refused { status, .. }) => Err(anyhow::anyhow!("sign-in answered {status}")),
                        Err(error) => Err(error),
                    };
                    control.record(started, outcome);
                }
            })
        };
        (0..self.options.connections).map(worker).collect()
    }

    /// Refresh and sign-in beside more and more rows, and what a row takes.
    async fn scale(&mut self) -> Result<()> {
        Report::section("Beside so many living refresh tokens and people");
        let database = self.installation.data().join("countersign.db");
        let known = Pool::of(KNOWN_TOKENS);
        let mut first = None;
        for rows in self.options.rows.clone() {
            let people = rows.min(self.options.people);
            self.server.stop().await?;
            let mut filler = Filler::open(&database)?;
            let started = Instant::now();
            let known_people = filler.count("users")? - USERS as u64;
            filler.people(known_people, people)?;
            let grants = filler.count("grants")?;
            let before = folder_size(&self.installation.data())?;
            filler.grants(grants, rows, people, (&known, (rows / KNOWN_TOKENS as u64).max(1)))?;
            let (filled, size) = (started.elapsed(), folder_size(&self.installation.data())?);
            drop(filler);
            (self.server, _) = self.installation.start().await?;

            let host = self.host();
            let refreshed =
                self.drive(self.span(), || Refresh::new(&host, &self.web, &known, &self.access_tokens)).await?;
            let signed_in = measure(&self.server, self.span(), |control| {
                // Primes lead to people far from each other.
                self.workers_signing_in(control, move |index, turn| {
                    scale_name((index as u64 * 7_919 + turn * 104_729) % people)
                })
            })
            .await?;
            let (memory, _) = self.server.memory()?;
            self.report.figure(
                &format!("{rows} refresh tokens, {people} people"),
                &format!("filled in {filled:.1?}"),
                None,
            );
            self.report.run("refresh", &refreshed);
            self.report.run("sign-in", &signed_in);
            let each = size.saturating_sub(before) as f64 / (rows.saturating_sub(grants)).max(1) as f64;
            self.report.figure("database", &format!("{}, {each:.0} bytes a grant", mib(size)), None);
            self.report.figure("resident memory", &mib(memory), None);
            match first {
                None => first = Some((refreshed.cpu_micros(), signed_in.cpu_micros())),
                Some((refresh, sign_in)) => {
                    for (name, then, now) in
                        [("refresh", refresh, refreshed.cpu_micros()), ("sign-in", sign_in, signed_in.cpu_micros())]
                    {
                        let measured = format!("{then:.0} us -> {now:.0} us");
                        self.report.figure(
                            &format!("{name}, against the fewest"),
                            &measured,
                            Some(("1.25 x", now / then / 1.25)),
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Sign-out whatever the receivers do, how soon they know, and ending many at once.
    async fn logout(&mut self) -> Result<()> {
        let database = self.installation.data().join("countersign.db");
        let receivers = logout::Receivers::start().await?;
        let mut stage = logout::Stage::open(&database)?;
        stage.clients(&self.web.id, &receivers)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Report::section("Signing out");

        let few = || (0..logout::FEW).chain([logout::RECEIVERS, logout::RECEIVERS + 1]);
        let (mut answered, mut told) = (Vec::new(), Vec::new());
        for turn in 0..100 {
            let mut browser = self.signed_in(turn).await?;
            stage.newest_session_gave(few())?;
            receivers.arrivals.clear();
            let start = Instant::now();
            answered.push(browser.sign_out(self.installation.endpoint).await?);
            told.extend(receivers.arrivals.wait(logout::FEW, start, Duration::from_secs(10)).await?);
        }
        let [answer, arrival] = [&mut answered, &mut told].map(|spans| {
            spans.sort_unstable();
            millis(spans.get(spans.len() * 99 / 100).copied().unwrap_or_default())
        });
        let shown = |span: f64| format!("{span:.1} ms");
        let bound = Some(("50 ms", answer / 50.0));
        self.report.figure("sign-out beside a slow and a dead receiver, p99 of 100", &shown(answer), bound);
        self.report.figure("from there to a receiver, p99 of 300", &shown(arrival), Some(("1000 ms", arrival / 1e3)));

        let mut browser = self.signed_in(0).await?;
        stage.newest_session_gave(0..logout::RECEIVERS + 2)?;
        receivers.arrivals.clear();
        let start = Instant::now();
        let answer = millis(browser.sign_out(self.installation.endpoint).await?);
        let spans = receivers.arrivals.wait(logout::RECEIVERS, start, Duration::from_mins(1)).await?;
        let last = millis(spans.last().copied().unwrap_or_default());
        self.report.figure("sign-out of a session with 1000 receivers", &shown(answer), Some(("50 ms", answer / 50.0)));
        self.report.figure("all 1000 told", &shown(last), Some(("5000 ms", last / 5e3)));

        let (host, token) = (self.host(), self.access_tokens.take().context("no access tokens")?);
        let again = Tokens::One(token);
        let before = self.drive(self.span(), || Introspect::new(&host, &self.web, &again)).await?;
        stage.entries(logout::ENTRIES)?;
        let after = self.drive(self.span(), || Introspect::new(&host, &self.web, &again)).await?;
        let (then, now) = (before.cpu_micros(), after.cpu_micros());
        let measured = format!("{then:.1} us -> {now:.1} us");
        let bound = Some(("1.1 x", now / then / 1.1));
        self.report.figure("introspection, without and with a million entries", &measured, bound);

        self.signed_in(0).await?;
        let columns = stage.columns("sessions")?;
        stage.sessions(logout::SESSIONS, &columns)?;
        let (server_before, _) = self.server.memory()?;
        self.server.forget_peak()?;
        receivers.arrivals.clear();
        let (least, _) = self.installation.run_weighed(&["session", "list", "--user", &user_name(0)]).await?;
        let start = Instant::now();
        let (peak, took) = self.installation.run_weighed(&["revoke", "--all"]).await?;
        let (took, grown) = (millis(took), peak.saturating_sub(least));
        self.report.figure("10000 sessions ended by one command", &shown(took), Some(("2000 ms", took / 2e3)));
        self.report.figure("what it grew by", &mib(grown), Some(("32 MiB", grown as f64 / f64::from(32 << 20))));
        receivers.arrivals.wait(logout::SESSIONS, start, Duration::from_mins(5)).await?;
        let (_, server_peak) = self.server.memory()?;
        let grown = server_peak.saturating_sub(server_before);
        self.report.figure("their 10000 receivers told", &shown(millis(start.elapsed())), None);
        self.report.figure(
            "what the server grew by",
            &mib(grown),
            Some(("32 MiB", grown as f64 / f64::from(32 << 20))),
        );
        Ok(())
    }

    async fn signed_in(&self, turn: usize) -> Result<Browser> {
        let mut browser = Browser::default();
        let mut connection = Connection::new(self.installation.endpoint.address);
        let user = user_name(turn % USERS);
        match browser.sign_in(self.installation.endpoint, &mut connection, &self.web, &user).await? {
            SignIn::Code(_) => Ok(browser),
            SignIn::Refused { status, .. } => bail!("{user} cannot sign in: {status}"),
        }
    }

    async fn storm(&mut self) -> Result<()> {
        let storm = storm::Storm {
            server: &self.server,
            endpoint: self.installation.endpoint,
            web: &self.web,
            chains: &self.chains,
            access_tokens: &self.access_tokens,
            attempts: self.options.storm_attempts,
            span: Duration::from_secs_f64(self.options.storm_seconds),
        };
        storm.run(&mut self.report).await
    }
}

fn user_name(index: usize) -> String {
    format!("person{index}")
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
