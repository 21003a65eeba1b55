//! Sign-out and the logout tokens that it sends, beside receivers good, slow and dead; ending many sessions by one command;
//! introspection beside a long log of revocations.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::browser::{Browser, SignIn};
use crate::http::Connection;
use crate::operations::{Introspect, Tokens};
use crate::report::{Report, mib};
use crate::{Bench, USERS, millis, user_name};

/// Addresses of the loopback network that answer; each is a host of its own to the server.
const HOSTS: u16 = 250;
/// Clients told of the large session's end, spread over the hosts.
const RECEIVERS: usize = 1_000;
/// Clients told of an ordinary session's end that answer; a slow and a dead one come on top.
const FEW: usize = 3;
const SESSIONS: usize = 10_000;
const ENTRIES: usize = 1_000_000;

/// When logout tokens came in.
#[derive(Clone, Default)]
struct Arrivals(Rc<RefCell<Vec<Instant>>>);

impl Arrivals {
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }

    /// From `start` to each arrival, once there are `count`.
    pub async fn wait(&self, count: usize, start: Instant, most: Duration) -> Result<Vec<Duration>> {
        while self.count() < count {
            if start.elapsed() > most {
                bail!("{} of {count} logout tokens came within {most:?}", self.count());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.0.borrow().iter().map(|at| at.duration_since(start)).collect())
    }
}

/// Receivers on one port of many loopback addresses.
struct Receivers {
    port: u16,
    pub arrivals: Arrivals,
}

fn host(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low.max(1))
}

impl Receivers {
    pub async fn start() -> Result<Self> {
        let arrivals = Arrivals::default();
        let first = TcpListener::bind((host(1), 0)).await?;
        let port = first.local_addr()?.port();
        let mut listeners = vec![first];
        for number in 2..=HOSTS {
            listeners.push(TcpListener::bind((host(number), port)).await?);
        }
        for listener in listeners {
            let arrivals = arrivals.clone();
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(receive(stream, arrivals.clone()));
                }
            });
        }
        // One that takes every request and answers none.
        let slow = TcpListener::bind((Self::slow_host(), port)).await?;
        tokio::task::spawn_local(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = slow.accept().await {
                held.push(stream);
            }
        });
        Ok(Self { port, arrivals })
    }

    const fn slow_host() -> Ipv4Addr {
        Ipv4Addr::new(127, 2, 0, 1)
    }

    /// Where the client of this number is told; after the good ones a slow and a dead one.
    fn address(&self, client: usize) -> SocketAddr {
        let ip = match client {
            RECEIVERS => Self::slow_host(),
            good if good < RECEIVERS => host(u16::try_from(good % usize::from(HOSTS)).unwrap_or(0) + 1),
            _ => Ipv4Addr::new(127, 2, 0, 2),
        };
        SocketAddr::from((ip, self.port))
    }
}

async fn receive(mut stream: TcpStream, arrivals: Arrivals) {
    let mut request = Vec::with_capacity(4096);
    // The form is the last thing of a request that closes its connection.
    while !request.windows(13).any(|window| window == b"logout_token=") {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    arrivals.0.borrow_mut().push(Instant::now());
    drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
}

/// Writes into the server's database what would take long to bring about by requests.
struct Stage(SqliteConnection);

impl Stage {
    pub fn open(database: &Path) -> Result<Self> {
        let mut connection = SqliteConnection::establish(database.to_str().context("path")?)?;
        connection.batch_execute("PRAGMA busy_timeout = 5000; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY")?;
        Ok(Self(connection))
    }

    /// The clients to be told, copies of `template` with an address each. Clients of every number up to the dead one.
    pub fn clients(&mut self, template: &str, receivers: &Receivers) -> Result<()> {
        let mut text = String::from("BEGIN;");
        for number in 0..RECEIVERS + 2 {
            let address = receivers.address(number);
            write!(
                text,
                "INSERT INTO clients (client_id, metadata, created_at, logout_destination) SELECT '{}', \
                 json_set(metadata, '$.backchannel_logout_uri', 'http://{address}/{number}', \
                 '$.id_token_signed_response_alg', 'ES256'), created_at, 'http://{address}/{number}' FROM clients WHERE client_id = '{template}';",
                client(number)
            )?;
        }
        text.push_str("UPDATE counters SET value = value + 1 WHERE name = 'registry'; COMMIT");
        Ok(self.0.batch_execute(&text)?)
    }

    /// Has the newest session given tokens to these clients.
    pub fn newest_session_gave(&mut self, clients: impl Iterator<Item = usize>) -> Result<()> {
        let names: Vec<String> = clients.map(|number| format!("'{}'", client(number))).collect();
        Ok(self.0.batch_execute(&format!(
            "INSERT OR IGNORE INTO session_clients (session_id, client_id) SELECT session_id, client_id FROM clients, \
             (SELECT session_id FROM sessions WHERE ended_at IS NULL ORDER BY created_at DESC, rowid DESC LIMIT 1) \
             WHERE client_id IN ({})",
            names.join(", ")
        ))?)
    }

    /// Copies of the newest session, each with one application to be told.
    pub fn sessions(&mut self, count: usize, columns: &str) -> Result<()> {
        let others =
            columns.replace("session_id", "lower(hex(randomblob(18)))").replace("cookie_digest", "randomblob(32)");
        Ok(self.0.batch_execute(&format!(
            "BEGIN; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             INSERT INTO sessions ({columns}) SELECT {others} FROM n, \
             (SELECT * FROM sessions WHERE ended_at IS NULL ORDER BY created_at DESC, rowid DESC LIMIT 1); \
             INSERT OR IGNORE INTO session_clients (session_id, client_id) SELECT session_id, 'client_told' || (rowid % {RECEIVERS}) \
             FROM sessions WHERE ended_at IS NULL; COMMIT"
        ))?)
    }

    /// The columns of a table, as SQL lists them.
    pub fn columns(&mut self, table: &str) -> Result<String> {
        use diesel::RunQueryDsl as _;
        let row: Columns =
            diesel::sql_query(format!("SELECT group_concat(name, ', ') AS names FROM pragma_table_info('{table}')"))
                .get_result(&mut self.0)?;
        Ok(row.names)
    }

    /// Living entries of the log that concern nobody; in several transactions, so that the server can write in between.
    pub fn entries(&mut self, count: usize) -> Result<()> {
        const PART: usize = 50_000;
        for _ in 0..count.div_ceil(PART) {
            self.0.batch_execute(&format!(
                "BEGIN; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PART}) \
                 INSERT INTO revocations (kind, target, not_before, reason, actor, recorded_at, expires_at) SELECT \
                 CASE i % 3 WHEN 0 THEN 'token' WHEN 1 THEN 'session' ELSE 'user' END, lower(hex(randomblob(16))), \
                 9000000000000, 'operator', 'operator', 9000000000000, 9000000000000 FROM n; COMMIT"
            ))?;
        }
        Ok(self.0.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?)
    }
}

#[derive(diesel::QueryableByName)]
struct Columns {
    #[diesel(sql_type = diesel::sql_types::Text)]
    names: String,
}

fn client(number: usize) -> String {
    format!("client_told{number}")
}

impl Bench<'_> {
    /// Sign-out whatever the receivers do, how soon they know, and ending many at once.
    pub async fn logout(&mut self) -> Result<()> {
        let receivers = Receivers::start().await?;
        let mut stage = Stage::open(&self.installation.database_file())?;
        stage.clients(&self.web.id, &receivers)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Report::section("Signing out");

        let few = || (0..FEW).chain([RECEIVERS, RECEIVERS + 1]);
        let (mut answered, mut told) = (Vec::new(), Vec::new());
        for turn in 0..100 {
            let mut browser = self.signed_in(turn).await?;
            stage.newest_session_gave(few())?;
            receivers.arrivals.clear();
            let start = Instant::now();
            answered.push(browser.sign_out(self.installation.endpoint).await?);
            told.extend(receivers.arrivals.wait(FEW, start, Duration::from_secs(10)).await?);
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
        stage.newest_session_gave(0..RECEIVERS + 2)?;
        receivers.arrivals.clear();
        let start = Instant::now();
        let answer = millis(browser.sign_out(self.installation.endpoint).await?);
        let spans = receivers.arrivals.wait(RECEIVERS, start, Duration::from_mins(1)).await?;
        let last = millis(spans.last().copied().unwrap_or_default());
        self.report.figure("sign-out of a session with 1000 receivers", &shown(answer), Some(("50 ms", answer / 50.0)));
        self.report.figure("all 1000 told", &shown(last), Some(("5000 ms", last / 5e3)));

        let (host, token) = (self.host(), self.access_tokens.take().context("no access tokens")?);
        let again = Tokens::One(token);
        let before = self.drive(self.span(), || Introspect::new(&host, &self.web, &again)).await?;
        stage.entries(ENTRIES)?;
        let after = self.drive(self.span(), || Introspect::new(&host, &self.web, &again)).await?;
        let (then, now) = (before.cpu_micros(), after.cpu_micros());
        let measured = format!("{then:.1} us -> {now:.1} us");
        let bound = Some(("1.1 x", now / then / 1.1));
        self.report.figure("introspection, without and with a million entries", &measured, bound);

        self.signed_in(0).await?;
        let columns = stage.columns("sessions")?;
        stage.sessions(SESSIONS, &columns)?;
        let (server_before, _) = self.server.memory()?;
        self.server.forget_peak()?;
        receivers.arrivals.clear();
        let (least, _) = self.installation.run_weighed(&["session", "list", "--user", &user_name(0)]).await?;
        let start = Instant::now();
        let (peak, took) = self.installation.run_weighed(&["revoke", "--all"]).await?;
        let (took, grown) = (millis(took), peak.saturating_sub(least));
        self.report.figure("10000 sessions ended by one command", &shown(took), Some(("2000 ms", took / 2e3)));
        self.report.figure("what it grew by", &mib(grown), Some(("32 MiB", grown as f64 / f64::from(32 << 20))));
        receivers.arrivals.wait(SESSIONS, start, Duration::from_mins(5)).await?;
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
}
