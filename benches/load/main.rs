//! Load on the release binary over loopback, beside the floors measured in the same run. Run by `scripts/bench`.

#![expect(clippy::cast_precision_loss, reason = "counts and times become figures of three digits")]

mod browser;
mod cluster;
mod drive;
mod floor;
mod http;
mod logout;
mod nodes;
mod operations;
mod postgres;
mod process;
mod proxy;
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
use crate::cluster::Cluster;
use crate::drive::{Control, Run, Span, Worker, drive, measure};
use crate::floor::{Fixed, Floors};
use crate::http::{Connection, write_get};
use crate::operations::{Authorize, ClientCredentials, Exchange, Introspect, Pool, Refresh, Tokens, UserInfo};
use crate::postgres::Rotations;
use crate::process::{Process, folder_size, free_address};
use crate::report::{Bound, Report, mib};
use crate::server::{Client, Installation};
use crate::storm::{Offer, Storm};

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
    /// Seconds of a sign-in storm, and of the quiet before it.
    #[arg(long, default_value_t = 8.0)]
    storm_seconds: f64,
    /// Sign-in attempts at once in the storm.
    #[arg(long, default_value_t = 200)]
    storm_attempts: usize,
    /// The server binary to measure, instead of the one cargo built beside this one.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Living refresh tokens beside which `--only scale` measures, growing; that part runs only when it is named.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000, 10_000_000])]
    rows: Vec<u64>,
    /// People beside them at most.
    #[arg(long, default_value_t = 1_000_000)]
    people: u64,
    /// Dead grants that the server then sweeps.
    #[arg(long, default_value_t = 1_000_000)]
    dead: u64,
    /// Seconds that the sweep is watched.
    #[arg(long, default_value_t = 60.0)]
    sweep_seconds: f64,
    /// Measure on these databases only; by default on each that is there.
    #[arg(long, value_delimiter = ',')]
    database: Vec<Database>,
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
enum Database {
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Public,
    ClientCredentials,
    /// Codes too, and on PostgreSQL pgbench beside it.
    Refresh,
    Growth,
    Tokens,
    SignIn,
    Storm,
    /// What counting for Prometheus costs.
    Metrics,
    /// PostgreSQL: what one request asks of it.
    RoundTrips,
    /// PostgreSQL: two servers.
    Nodes,
    Scale,
    Logout,
}

impl Options {
    fn wants(&self, part: Part, database: Database) -> bool {
        let on_postgres = database == Database::Postgres;
        let (fits, usual) = match part {
            Part::RoundTrips | Part::Nodes => (on_postgres, true),
            Part::Public | Part::Growth | Part::Metrics => (true, !on_postgres),
            Part::Scale => (true, false),
            Part::Logout => (!on_postgres, false),
            Part::ClientCredentials | Part::Refresh | Part::Tokens | Part::SignIn | Part::Storm => (true, true),
        };
        fits && if self.only.is_empty() { usual } else { self.only.contains(&part) }
    }

    /// The databases that there is something to measure on.
    fn databases(&self) -> Result<Vec<Database>> {
        let all = [Database::Sqlite, Database::Postgres];
        let mut found: Vec<Database> =
            all.into_iter().filter(|one| self.database.is_empty() || self.database.contains(one)).collect();
        found.retain(|one| Part::value_variants().iter().any(|part| self.wants(*part, *one)));
        if found.contains(&Database::Postgres) && !cluster::is_installed() {
            if self.database.contains(&Database::Postgres) {
                bail!("PostgreSQL is not installed");
            }
            println!("NOT MEASURED on PostgreSQL: it is not installed\n");
            found.retain(|one| *one == Database::Sqlite);
        }
        Ok(found)
    }
}

/// Accounts the load is spread over, so that no account's row or counter becomes the measure.
const USERS: usize = 16;
/// Living refresh chains.
const CHAINS: usize = 1024;
/// Access tokens kept for introspection and `UserInfo`.
const ACCESS_TOKENS: usize = 120_000;

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(Command::FloorServer { address }) = options.command {
        return floor::serve(address);
    }
    if !options.bench {
        println!("nothing is measured without --bench; see scripts/bench");
        return Ok(());
    }
    // For as many connections as a storm has; the servers inherit it.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        Report::machine();
        let databases = options.databases()?;
        let with_sqlite = options.command.is_some() || databases.contains(&Database::Sqlite);
        let span = Duration::from_secs_f64(options.seconds);
        let floors = Floors::measure(options.connections, span, with_sqlite).await?;
        Report::floors(&floors);
        let mut report = Report::default();
        if options.command.is_none() {
            for database in databases {
                Bench::start(&options, &floors, &mut report, database).await?.run().await?;
            }
            report.verdict();
        }
        Ok(())
    })
}

/// A running server with its users and clients, and what the operations leave for one another.
struct Bench<'a> {
    options: &'a Options,
    floors: &'a Floors,
    report: &'a mut Report,
    database: Database,
    server: Process,
    installation: Installation,
    machine: Client,
    web: Client,
    chains: Pool,
    access_tokens: Pool,
    /// Where the database is PostgreSQL. Last, so that it ends last.
    cluster: Option<Cluster>,
}

impl<'a> Bench<'a> {
    async fn start(
        options: &'a Options,
        floors: &'a Floors,
        report: &'a mut Report,
        database: Database,
    ) -> Result<Self> {
        let cluster = match database {
            Database::Sqlite => None,
            Database::Postgres => Some(Cluster::start()?),
        };
        match &cluster {
            None => report.subject("SQLite", "The embedded database"),
            Some(cluster) => report.subject("PostgreSQL", &cluster.describe()?),
        }
        let binary = options.server.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_countersign").into());
        let binary = binary.canonicalize().context("the server binary")?;
        let installation = Installation::new(binary, cluster.as_ref().map(Cluster::url))?;
        let (mut server, first) = installation.start().await?;
        for user in 0..USERS {
            installation.create_user(&user_name(user))?;
        }
        let (machine, web) = (installation.create_machine()?, installation.create_web()?);
        installation.await_client(&machine).await?;

        let mut stopped = server.stop().await?;
        let mut starts = Vec::new();
        let most = if cluster.is_some() { 3 } else { 7 };
        let server = loop {
            let (mut next, start) = installation.start().await?;
            starts.push(start);
            if starts.len() == most {
                break next;
            }
            stopped = stopped.max(next.stop().await?);
        };
        starts.sort_unstable();
        let median = starts.get(most / 2).copied().unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (idle, _) = server.memory()?;

        Report::section("Start, memory, size");
        // What they may be is said for the embedded database.
        let bound = |text: &'static str, used: f64| cluster.is_none().then_some((text, used));
        report.figure("first start, keys generated", &format!("{:.0} ms", millis(first)), None);
        report.figure(
            &format!("start to first answer, existing database (median of {most})"),
            &format!("{:.1} ms", millis(median)),
            bound("50 ms", millis(median) / 50.0),
        );
        report.figure("SIGTERM to end, slowest", &format!("{:.0} ms", millis(stopped)), None);
        report.figure("idle resident memory", &mib(idle), bound("20 MiB", idle as f64 / f64::from(20 << 20)));
        let size = installation.binary_size()?;
        report.figure("binary", &mib(size), bound("25 MiB", size as f64 / f64::from(25 << 20)));

        let (chains, access_tokens) = (Pool::of(CHAINS), Pool::of(ACCESS_TOKENS));
        Ok(Self {
            options,
            floors,
            report,
            database,
            server,
            installation,
            machine,
            web,
            chains,
            access_tokens,
            cluster,
        })
    }

    async fn run(mut self) -> Result<()> {
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
        let refreshed = self.codes_and_refresh().await?;
        if self.wants(Part::Tokens) {
            self.tokens().await?;
        }
        if self.wants(Part::SignIn) {
            self.sign_in().await?;
        }
        if let Some((refreshed, rotations)) = refreshed {
            self.beside_pgbench(&refreshed, &rotations);
        }
        if self.wants(Part::Growth) {
            self.growth().await?;
        }
        if self.wants(Part::Metrics) {
            self.metrics().await?;
        }
        if self.wants(Part::RoundTrips) {
            self.round_trips().await?;
        }
        if self.wants(Part::Storm) {
            self.storm().await?;
        }
        if self.wants(Part::Nodes) {
            self.nodes().await?;
        }
        if self.wants(Part::Logout) {
            self.logout().await?;
        }
        if self.wants(Part::Scale) {
            self.scale().await?;
        }
        Ok(())
    }

    fn wants(&self, part: Part) -> bool {
        self.options.wants(part, self.database)
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
        let (host, floors) = (self.host(), self.floors);
        let bound = Bound::cpu(1.5, &[("form", floors.form.cpu_micros()), ("signature", floors.es256.cpu)]);
        let run = self.drive(self.span(), || ClientCredentials::new(&host, &self.machine)).await?;
        self.report.operation("client_credentials, ES256", &run, Some(&bound));
        Ok(())
    }

    /// Signed-in browsers fetch codes, the codes are spent, the refresh tokens rotate; on PostgreSQL those of pgbench too.
    async fn codes_and_refresh(&mut self) -> Result<Option<(Run, Rotations)>> {
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
        if !wants {
            return Ok(None);
        }
        self.report.operation("authorize in a live session, to code", &authorized, None);
        let [exchange, refresh] = ["code exchange, ES256 + ES256", "refresh, ES256 + ES256"];
        if let Some(cluster) = &self.cluster {
            self.report.operation(exchange, &exchanged, None);
            self.report.operation(refresh, &refreshed, None);
            let rotations = Rotations::measure(cluster, self.options.connections, self.options.seconds)?;
            return Ok(Some((refreshed, rotations)));
        }
        let floors = self.floors;
        let parts = [("form", floors.form.cpu_micros()), ("2 signatures", 2.0 * floors.es256.cpu)];
        let rotation = floors.rotation(self.options.connections);
        let bound = Bound::cpu(1.5, &[parts.as_slice(), &[("rotation", rotation)]].concat());
        self.report.operation(exchange, &exchanged, Some(&bound));
        self.report.operation(refresh, &refreshed, Some(&bound));
        Ok(None)
    }

    async fn refresh(&self, span: Span) -> Result<Run> {
        let host = self.host();
        self.drive(span, || Refresh::new(&host, &self.web, &self.chains, &self.access_tokens)).await
    }

    async fn growth(&mut self) -> Result<()> {
        let span = Span { warm_up: Duration::ZERO, measured: Duration::from_hours(24), count: self.options.refreshes };
        let (memory_before, _) = self.server.memory()?;
        let size_before = self.database_size()?;
        let run = self.refresh(span).await?;
        let (memory, _) = self.server.memory()?;
        let size = self.database_size()?;
        let per_refresh = size.saturating_sub(size_before) as f64 / run.requests.max(1) as f64;
        Report::section(&format!("Growth over {} refreshes", run.requests));
        self.report.run("refresh", &run);
        self.report.figure("resident memory", &format!("{} -> {}", mib(memory_before), mib(memory)), None);
        let data = format!("{} -> {} ({per_refresh:.0} bytes each)", mib(size_before), mib(size));
        self.report.figure("database", &data, None);
        Ok(())
    }

    fn database_size(&self) -> Result<u64> {
        match &self.cluster {
            Some(cluster) => cluster.size(),
            None => folder_size(&self.installation.data()),
        }
    }

    async fn tokens(&mut self) -> Result<()> {
        let (host, floors) = (self.host(), self.floors);
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
        // What a read costs in PostgreSQL is measured apart.
        let bounds = bounds.each_ref().map(|bound| self.cluster.is_none().then_some(bound));
        let [introspect_bound, introspect_again_bound, user_info_bound, user_info_again_bound] = bounds;
        let introspect = |tokens: &Tokens| Introspect::new(&host, &self.web, tokens);
        let user_info = |tokens: &Tokens| UserInfo { host: host.clone(), tokens: tokens.clone() };

        let run = self.drive(self.span(), || introspect(&distinct)).await?;
        self.report.operation("introspection, distinct tokens", &run, introspect_bound);
        let again = Tokens::One(one.clone());
        let run = self.drive(self.span(), || introspect(&again)).await?;
        self.report.operation("introspection, one token again", &run, introspect_again_bound);
        let distinct = Tokens::Distinct(self.access_tokens.clone());
        let run = self.drive(self.span(), || user_info(&distinct)).await?;
        self.report.operation("UserInfo, distinct tokens", &run, user_info_bound);
        let run = self.drive(self.span(), || user_info(&again)).await?;
        self.report.operation("UserInfo, one token again", &run, user_info_again_bound);
        Ok(())
    }

    /// Whole sign-ins and bare Argon2 in turns: what a machine gives changes within seconds.
    async fn sign_in(&mut self) -> Result<()> {
        const TURNS: u32 = 8;
        let span = Span { measured: self.span().measured * 4 / TURNS, ..self.span() };
        let (mut run, mut bare) = (Run::default(), 0.0);
        for _ in 0..TURNS {
            bare += floor::argon2_rate(span.measured)? / f64::from(TURNS);
            run.add(measure(&[&self.server], span, |control| self.sign_in_workers(control)).await?);
        }
        let bound = Bound::rate(0.9, bare, "bare Argon2id per second");
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

    async fn storm(&mut self) -> Result<()> {
        let storm = Storm {
            servers: &[&self.server],
            endpoint: self.installation.endpoint,
            web: &self.web,
            chains: &self.chains,
            access_tokens: &self.access_tokens,
            offer: Offer::AtOnce(self.options.storm_attempts),
            span: Duration::from_secs_f64(self.options.storm_seconds),
        };
        storm.run(self.report).await
    }

    /// The same server with and without a listener for Prometheus, twice in turns.
    async fn metrics(&mut self) -> Result<()> {
        let (host, listen) = (self.host(), free_address()?.to_string());
        let env = [("COUNTERSIGN_METRICS__LISTEN", listen.as_str())];
        let address = self.installation.endpoint.address;
        let (mut without, mut with) = ([0.0; 2], [0.0; 2]);
        for turn in 0..4 {
            let (env, sums) = if turn % 2 == 0 { (&env[..0], &mut without) } else { (&env[..], &mut with) };
            self.server.stop().await?;
            (self.server, _) = self.installation.start_with(address, env).await?;
            let span = Span::of(self.span().measured / 2);
            let machine = self.drive(span, || ClientCredentials::new(&host, &self.machine)).await?;
            let refreshed = self.refresh(span).await?;
            for (sum, run) in sums.iter_mut().zip([machine, refreshed]) {
                *sum += run.cpu_micros() / 2.0;
            }
        }
        self.server.stop().await?;
        (self.server, _) = self.installation.start().await?;
        Report::section("Without and with metrics.listen, means of two runs each");
        for (name, (without, with)) in ["client_credentials", "refresh"].iter().zip(without.iter().zip(with)) {
            let more = (with / without - 1.0) * 100.0;
            self.report.figure(name, &format!("{without:.1} us -> {with:.1} us ({more:+.1} %)"), None);
        }
        Ok(())
    }
}

fn user_name(index: usize) -> String {
    format!("person{index}")
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
