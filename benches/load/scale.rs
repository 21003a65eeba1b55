//! How cost grows with what is stored: refresh and sign-in beside so many living refresh tokens and people. The rows are
//! copies of what the server itself wrote, each with identifiers and digests of its own, and a share of their tokens is
//! known here and rotated.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use countersign::crypto::opaque::{Digest, GrantSecret, REFRESH_TOKEN_PREFIX};
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, Text};
use diesel::{Connection as _, QueryableByName, RunQueryDsl as _, SqliteConnection, sql_query};
use secrecy::ExposeSecret as _;

use crate::operations::Pool;

/// Rows to a statement.
const BATCH: u64 = 500;

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Writes rows into the database of a server that is stopped.
pub struct Filler {
    connection: SqliteConnection,
}

impl Filler {
    pub fn open(path: &Path) -> Result<Self> {
        let mut connection = SqliteConnection::establish(path.to_str().context("path")?)?;
        connection.batch_execute(
            "PRAGMA synchronous = OFF; PRAGMA cache_size = -2000000; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = OFF;",
        )?;
        Ok(Self { connection })
    }

    pub fn count(&mut self, table: &str) -> Result<u64> {
        let row: Counted =
            sql_query(format!("SELECT COUNT(*) AS count FROM {table}")).get_result(&mut self.connection)?;
        Ok(u64::try_from(row.count)?)
    }

    /// People `first` to `last`, who share the first one's password; `scale_name` says what they are called.
    pub fn people(&mut self, first: u64, last: u64) -> Result<()> {
        self.fill("users", &["user_id", "normal_name", "username", "email"], first, last, |person, row| {
            let name = scale_name(person);
            Ok(write!(row, "('{}', '{name}', '{name}', '{name}@users.example')", user_id(person))?)
        })
    }

    /// Grants `first` to `last`, offline ones of `people` people, each with a living refresh token. One token in `known_every`
    /// goes into the pool.
    pub fn grants(&mut self, first: u64, last: u64, people: u64, known: (&Pool, u64)) -> Result<()> {
        let (pool, every) = known;
        let columns = ["grant_id", "handle_digest", "refresh_digest", "user_id"];
        self.fill("grants", &columns, first, last, |grant, row| {
            let secret = GrantSecret::mint()?;
            if grant % every == 0 {
                pool.put(secret.reveal(REFRESH_TOKEN_PREFIX).expose_secret());
            }
            let (handle, token) = (hex(&secret.handle_digest()), hex(&secret.digest()));
            // A prime step spreads the grants over the people.
            let person = grant * 7_919 % people;
            Ok(write!(row, "('{grant:036}', x'{handle}', x'{token}', '{}')", user_id(person))?)
        })
    }

    /// Copies the table's newest row, its living refresh token and all, with other values in `columns`.
    fn fill(
        &mut self,
        table: &str,
        columns: &[&str],
        first: u64,
        last: u64,
        mut values: impl FnMut(u64, &mut String) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<Named> =
            sql_query(format!("SELECT name FROM pragma_table_info('{table}')")).load(&mut self.connection)?;
        let all: Vec<&str> = all.iter().map(|column| column.name.as_str()).collect();
        let source =
            |column: &&str| format!("{}.{column}", if columns.contains(column) { "fresh" } else { "template" });
        let (into, from) = (all.join(", "), all.iter().map(source).collect::<Vec<_>>().join(", "));
        self.connection.batch_execute(&format!(
            "CREATE TEMP TABLE template AS SELECT * FROM {table} ORDER BY created_at DESC, rowid DESC LIMIT 1; BEGIN"
        ))?;
        let mut next = first;
        while next < last {
            let end = last.min(next + BATCH);
            let mut text = format!("WITH fresh ({}) AS (VALUES ", columns.join(", "));
            for number in next..end {
                if number > next {
                    text.push_str(", ");
                }
                values(number, &mut text)?;
            }
            write!(text, ") INSERT INTO {table} ({into}) SELECT {from} FROM fresh, template")?;
            self.connection.batch_execute(&text)?;
            next = end;
        }
        self.connection.batch_execute("COMMIT; DROP TABLE temp.template; PRAGMA wal_checkpoint(TRUNCATE)")?;
        Ok(())
    }
}

/// What a person of the filling is called.
pub fn scale_name(person: u64) -> String {
    format!("many{person}")
}

fn user_id(person: u64) -> String {
    format!("{person:036}")
}

fn hex(digest: &Digest) -> String {
    digest.as_bytes().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
