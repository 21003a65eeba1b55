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

/// Addresses of the loopback network that answer; each is a host of its own to the server.
const HOSTS: u16 = 250;
/// Clients told of the large session's end, spread over the hosts.
pub const RECEIVERS: usize = 1_000;
/// Clients told of an ordinary session's end that answer; a slow and a dead one come on top.
pub const FEW: usize = 3;
pub const SESSIONS: usize = 10_000;
pub const ENTRIES: usize = 1_000_000;

/// When logout tokens came in.
#[derive(Clone, Default)]
pub struct Arrivals(Rc<RefCell<Vec<Instant>>>);

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
pub struct Receivers {
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
pub struct Stage(SqliteConnection);

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
                 '$.id_token_signed_response_alg', 'ES256'), created_at, '{address}' FROM clients WHERE client_id = '{template}';",
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

    /// Living entries of the log that concern nobody.
    pub fn entries(&mut self, count: usize) -> Result<()> {
        Ok(self.0.batch_execute(&format!(
            "BEGIN; WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             INSERT INTO revocations (kind, target, not_before, reason, actor, recorded_at, expires_at) SELECT \
             CASE i % 3 WHEN 0 THEN 'token' WHEN 1 THEN 'session' ELSE 'user' END, lower(hex(randomblob(16))), \
             9000000000000, 'operator', 'operator', 9000000000000, 9000000000000 FROM n; COMMIT; \
             PRAGMA wal_checkpoint(TRUNCATE)"
        ))?)
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
