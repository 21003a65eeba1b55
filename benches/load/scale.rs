//! How cost grows with what is stored: refresh and sign-in beside so many living refresh tokens and people, and how fast the
//! server itself takes out what is dead. The rows are copies of what the server wrote, each with identifiers and digests of
//! its own; a share of the tokens is known here and rotated.

use std::fmt::Write as _;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use countersign::crypto::opaque::{Digest, GrantSecret, REFRESH_TOKEN_PREFIX};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, SqliteConnection, sql_query};
use secrecy::ExposeSecret as _;

use crate::drive::{Run, Span, measure, pace};
use crate::operations::{Pool, Refresh};
use crate::process::forget_files;
use crate::report::{Report, mib};
use crate::storm::{INTERVAL, REFRESHERS};
use crate::{Bench, millis, user_name};

/// Refresh tokens among the many that are rotated, spread over all.
const KNOWN_TOKENS: u64 = 50_000;
/// Known tokens are written by statements of so many.
const BATCH: usize = 500;
/// Spreads grants over people, and what is asked for over what there is.
const PRIME: u64 = 7_919;
/// The server begins to sweep a minute after its start.
const SWEEP_BEGINS: Duration = Duration::from_secs(75);

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Writes rows into the database of a server that is stopped.
enum Filler {
    Sqlite(SqliteConnection),
    Pg(PgConnection),
}

macro_rules! on_either {
    ($filler:expr, |$conn:ident| $body:expr) => {
        match $filler {
            Filler::Sqlite($conn) => $body,
            Filler::Pg($conn) => $body,
        }
    };
}

impl Filler {
    fn execute(&mut self, text: &str) -> Result<()> {
        Ok(on_either!(self, |conn| conn.batch_execute(text))?)
    }

    /// The one number that an expression gives.
    fn number(&mut self, expression: &str) -> Result<u64> {
        let query = sql_query(format!("SELECT CAST(({expression}) AS BIGINT) AS count"));
        let row: Counted = on_either!(self, |conn| query.get_result(conn))?;
        Ok(u64::try_from(row.count)?)
    }

    fn columns(&mut self, table: &str) -> Result<Vec<String>> {
        let text = match self {
            Self::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{table}')"),
            Self::Pg(_) => format!(
                "SELECT column_name::text AS name FROM information_schema.columns WHERE table_name = '{table}' \
                 AND table_schema = current_schema() ORDER BY ordinal_position"
            ),
        };
        let rows: Vec<Named> = on_either!(self, |conn| sql_query(text).load(conn))?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    /// Bytes of a table with its indexes; of a file, bytes of all it holds.
    fn size(&mut self, table: &str) -> Result<u64> {
        match self {
            Self::Sqlite(_) => {
                self.number("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
            }
            Self::Pg(_) => self.number(&format!("pg_total_relation_size('{table}')")),
        }
    }

    /// An identifier as long as the server's and growing as they do.
    fn identifier(&self, number: &str) -> String {
        match self {
            Self::Sqlite(_) => format!("printf('%036d', {number})"),
            Self::Pg(_) => format!("lpad(({number})::text, 36, '0')"),
        }
    }

    /// Some digest that nobody else has.
    fn digest(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "randomblob(32)",
            Self::Pg(_) => "sha256(int8send(n.i::bigint))",
        }
    }

    fn literal(&self, digest: &Digest) -> String {
        let hex = digest.as_bytes().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        match self {
            Self::Sqlite(_) => format!("x'{hex}'"),
            Self::Pg(_) => format!("'\\x{hex}'::bytea"),
        }
    }

    /// Keeps a person and a living grant to make copies of, and empties the table of grants.
    fn prepare(&mut self) -> Result<()> {
        self.execute(&format!(
            "CREATE TABLE scale_users AS SELECT * FROM users WHERE username = '{}';
             CREATE TABLE scale_grants AS SELECT * FROM grants WHERE refresh_digest IS NOT NULL AND revoked_at IS NULL
                 ORDER BY created_at DESC LIMIT 1",
            user_name(0)
        ))?;
        self.execute(match self {
            Self::Sqlite(_) => "DELETE FROM grants; VACUUM",
            Self::Pg(_) => "TRUNCATE grants",
        })
    }

    /// People `first` to `last`, who share one password; `scale_name` says what they are called.
    fn people(&mut self, first: u64, last: u64) -> Result<()> {
        let name = "'many' || n.i";
        let email = format!("{name} || '@users.example'");
        let id = self.identifier("n.i");
        let values = [
            ("user_id", id.as_str()),
            ("normal_name", name),
            ("username", name),
            ("email", &email),
            ("normal_email", &email),
        ];
        self.fill("users", first, last, &values, "")
    }

    /// Grants `first` to `last`, offline ones of `people` people, each with a living refresh token; so many of the tokens
    /// are known.
    fn grants(&mut self, first: u64, last: u64, people: u64) -> Result<Vec<String>> {
        self.execute(match self {
            Self::Sqlite(_) => "CREATE TEMP TABLE known (i BIGINT PRIMARY KEY, handle BLOB, refresh BLOB)",
            Self::Pg(_) => "CREATE TEMP TABLE known (i BIGINT PRIMARY KEY, handle BYTEA, refresh BYTEA)",
        })?;
        let every = (last.saturating_sub(first) / KNOWN_TOKENS).max(1);
        let numbers: Vec<u64> = (first..last).step_by(usize::try_from(every)?).collect();
        let mut tokens = Vec::with_capacity(numbers.len());
        for batch in numbers.chunks(BATCH) {
            let mut rows = Vec::with_capacity(batch.len());
            for number in batch {
                let secret = GrantSecret::mint()?;
                let (handle, token) = (self.literal(&secret.handle_digest()), self.literal(&secret.digest()));
                rows.push(format!("({number}, {handle}, {token})"));
                tokens.push(secret.reveal(REFRESH_TOKEN_PREFIX).expose_secret().to_owned());
            }
            self.execute(&format!("INSERT INTO known VALUES {}", rows.join(", ")))?;
        }
        let (id, person, session) = (
            self.identifier("n.i"),
            self.identifier(&format!("n.i * {PRIME} % {people}")),
            self.identifier("n.i + 1000000000"),
        );
        let (handle, token) = (
            format!("coalesce(known.handle, {})", self.digest()),
            format!("coalesce(known.refresh, {})", self.digest()),
        );
        let values = [
            ("grant_id", id.as_str()),
            ("handle_digest", &handle),
            ("refresh_digest", &token),
            ("user_id", &person),
            ("session_id", &session),
        ];
        self.fill("grants", first, last, &values, "LEFT JOIN known ON known.i = n.i")?;
        self.execute("DROP TABLE known")?;
        Ok(tokens)
    }

    /// Grants that have been dead for long, behind the living ones. One is first to be swept.
    fn dead_grants(&mut self, first: u64, last: u64) -> Result<()> {
        let (id, session) = (self.identifier("n.i"), self.identifier("n.i + 1000000000"));
        let end = format!("CASE WHEN n.i = {first} THEN 1 ELSE 2 END");
        let digest = self.digest();
        let values = [
            ("grant_id", id.as_str()),
            ("handle_digest", digest),
            ("refresh_digest", digest),
            ("session_id", &session),
            ("expires_at", &end),
        ];
        self.fill("grants", first, last, &values, "")
    }

    /// Copies the table's template, with other values in some columns; `n.i` is the number of a row.
    fn fill(&mut self, table: &str, first: u64, last: u64, values: &[(&str, &str)], join: &str) -> Result<()> {
        if first >= last {
            return Ok(());
        }
        let columns = self.columns(table)?;
        let expression = |column: &String| {
            let own = values.iter().find(|(name, _)| name == column);
            own.map_or_else(|| format!("template.{column}"), |(_, value)| (*value).to_owned())
        };
        let (into, from) = (columns.join(", "), columns.iter().map(expression).collect::<Vec<_>>().join(", "));
        let series = match self {
            Self::Sqlite(_) => format!(
                "(WITH RECURSIVE s (i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM s WHERE i < {last} - 1) SELECT i FROM s)"
            ),
            Self::Pg(_) => format!("(SELECT generate_series({first}::bigint, {last} - 1) AS i)"),
        };
        self.execute(&format!(
            "INSERT INTO {table} ({into}) SELECT {from} FROM {series} AS n CROSS JOIN scale_{table} AS template {join}"
        ))
    }
}

/// What a person of the filling is called.
fn scale_name(person: u64) -> String {
    format!("many{person}")
}

/// What was measured beside so many rows, from memory.
struct Pair {
    refresh: Run,
    sign_in: Run,
}

impl Bench<'_> {
    fn filler(&self) -> Result<Filler> {
        if let Some(cluster) = &self.cluster {
            let mut conn = cluster.connect()?;
            // No references are checked, and what is written here need not survive.
            conn.batch_execute("SET session_replication_role = replica; SET synchronous_commit = off")?;
            return Ok(Filler::Pg(conn));
        }
        let path = self.installation.database_file();
        let mut conn = SqliteConnection::establish(path.to_str().context("path")?)?;
        conn.batch_execute(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; \
             PRAGMA cache_size = -4000000; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;",
        )?;
        Ok(Filler::Sqlite(conn))
    }

    /// Leaves the database as it would be after some time: all is on the disk.
    fn finish(&self, filler: Filler) -> Result<()> {
        match filler {
            Filler::Sqlite(mut conn) => {
                conn.batch_execute("PRAGMA journal_mode = WAL")?;
                drop(conn);
                File::open(self.installation.database_file())?.sync_all()?;
            }
            Filler::Pg(mut conn) => {
                for statement in ["VACUUM ANALYZE grants", "VACUUM ANALYZE users", "CHECKPOINT"] {
                    conn.batch_execute(statement)?;
                }
            }
        }
        Ok(())
    }

    /// Refresh and sign-in beside more and more rows, what a row takes, and the sweep.
    pub async fn scale(&mut self) -> Result<()> {
        Report::section("Beside so many living refresh tokens and people");
        let known = Pool::of(usize::try_from(KNOWN_TOKENS)?);
        let mut first: Option<Pair> = None;
        let (mut rows_before, mut people_before) = (0, 0);
        self.server.stop().await?;
        self.filler()?.prepare()?;
        for rows in self.options.rows.clone() {
            let people = rows.min(self.options.people).max(people_before);
            let mut filler = self.filler()?;
            let started = Instant::now();
            let before = filler.size("users")?;
            filler.people(people_before, people)?;
            let users = filler.size("users")?;
            let grants_before = filler.size("grants")?;
            let tokens = filler.grants(rows_before, rows, people)?;
            let grants = filler.size("grants")?;
            let filled = started.elapsed();
            self.finish(filler)?;
            // A prime step leads from one to another far from it.
            let count = tokens.len() as u64;
            for step in 0..count {
                known.put(tokens.get(usize::try_from(step * PRIME % count)?).context("token")?);
            }

            (self.server, _) = self.installation.start().await?;
            let warm = self.beside(&known, people).await?;
            let (memory, _) = self.server.memory()?;
            self.server.stop().await?;
            match &mut self.cluster {
                Some(cluster) => cluster.restart_cold()?,
                None => forget_files(&self.installation.data())?,
            }
            (self.server, _) = self.installation.start().await?;
            let cold = self.beside(&known, people).await?;
            self.server.stop().await?;

            let name = format!("{rows} refresh tokens, {people} people");
            self.report.figure(&name, &format!("filled in {:.1} s", filled.as_secs_f64()), None);
            self.report.run("refresh, warm caches", &warm.refresh);
            self.report.run("refresh, cold caches", &cold.refresh);
            self.report.run("sign-in, warm caches", &warm.sign_in);
            self.report.run("sign-in, cold caches", &cold.sign_in);
            if rows > rows_before {
                let each = grants.saturating_sub(grants_before) as f64 / (rows - rows_before) as f64;
                self.report.figure("a grant with its indexes", &format!("{each:.0} bytes"), None);
            }
            if people > people_before {
                let each = users.saturating_sub(before) as f64 / (people - people_before) as f64;
                self.report.figure("a person with the indexes", &format!("{each:.0} bytes"), None);
            }
            self.report.figure("resident memory", &mib(memory), None);
            match &first {
                None => first = Some(warm),
                Some(first) => {
                    for (name, then, now) in
                        [("refresh", &first.refresh, &warm.refresh), ("sign-in", &first.sign_in, &warm.sign_in)]
                    {
                        let percent = |times: f64| (times - 1.0) * 100.0;
                        let slower = percent(then.per_second() / now.per_second().max(1e-9));
                        let cpu = percent(now.cpu_micros() / then.cpu_micros());
                        self.report.figure(
                            &format!("{name}, slower than beside the fewest by"),
                            &format!("{slower:.1} % (processor time {cpu:+.1} %)"),
                            Some(("25 %", slower.max(0.0) / 25.0)),
                        );
                    }
                }
            }
            (rows_before, people_before) = (rows, people);
        }
        self.sweep(&known, rows_before).await
    }

    async fn beside(&self, known: &Pool, people: u64) -> Result<Pair> {
        let host = self.host();
        let refresh = self.drive(self.span(), || Refresh::new(&host, &self.web, known, &self.access_tokens)).await?;
        let sign_in = measure(&[&self.server], self.span(), |control| {
            // Primes lead to people far from each other.
            self.workers_signing_in(control, move |index, turn| {
                scale_name((index as u64 * PRIME + turn * 104_729) % people)
            })
        })
        .await?;
        Ok(Pair { refresh, sign_in })
    }

    /// The server's own sweep of so many dead grants, beside a steady refresh load.
    async fn sweep(&mut self, known: &Pool, rows: u64) -> Result<()> {
        let dead = self.options.dead;
        let mut filler = self.filler()?;
        filler.dead_grants(rows, rows + dead)?;
        self.finish(filler)?;
        (self.server, _) = self.installation.start().await?;
        let started = Instant::now();
        let quiet = self.steady(known, Duration::from_secs(20)).await?;
        let mut watch = match &self.cluster {
            Some(cluster) => Filler::Pg(cluster.connect()?),
            None => Filler::Sqlite(SqliteConnection::establish(
                self.installation.database_file().to_str().context("path")?,
            )?),
        };
        let first = format!("SELECT COUNT(*) FROM grants WHERE grant_id = '{rows:036}'");
        while watch.number(&first)? > 0 {
            if started.elapsed() > SWEEP_BEGINS {
                bail!("the server does not sweep");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let left = |watch: &mut Filler| watch.number("SELECT COUNT(*) FROM grants WHERE expires_at < 3");
        let (before, began) = (left(&mut watch)?, Instant::now());
        let sweeping = self.steady(known, Duration::from_secs_f64(self.options.sweep_seconds)).await?;
        let (took, after) = (began.elapsed(), left(&mut watch)?);
        Report::section(&format!("Sweeping {dead} dead grants beside {rows} living ones and a steady refresh load"));
        self.report.run("refresh, before", &quiet);
        self.report.run("refresh, meanwhile", &sweeping);
        let swept = before.saturating_sub(after);
        let rate = swept as f64 / took.as_secs_f64();
        self.report.figure("swept", &format!("{swept} in {:.0} s, {rate:.0} a second", took.as_secs_f64()), None);
        self.report.figure("the longest wait before", &format!("{:.1} ms", millis(quiet.percentile(100))), None);
        let longest = millis(sweeping.percentile(100));
        self.report.figure("the longest wait meanwhile", &format!("{longest:.1} ms"), Some(("50 ms", longest / 50.0)));
        Ok(())
    }

    async fn steady(&self, known: &Pool, measured: Duration) -> Result<Run> {
        let host = self.host();
        let refresh = || Refresh::new(&host, &self.web, known, &self.access_tokens);
        let operations = (0..REFRESHERS).map(|_| refresh()).collect();
        let span = Span { warm_up: Duration::from_secs(1), measured, count: u64::MAX };
        pace(&[&self.server], self.server.address, span, operations, INTERVAL).await
    }
}
