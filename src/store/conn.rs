//! One connection of either database, and the macro that compiles a query once for each.

use std::marker::PhantomData;

use diesel::backend::Backend;
use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::pg::PgConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{HasSqlType, Text};
use diesel::sqlite::SqliteConnection;
use diesel::{Connection as _, QueryResult, RunQueryDsl, sql_query};

use super::StoreError;

/// A connection. Queries are written once, in [`on_backend!`].
pub enum Conn {
    Sqlite(SqliteConnection),
    Pg(PgConnection),
}

/// Compiles the body for each backend with concrete types, so that `RETURNING` and `ON CONFLICT` both work.
macro_rules! on_backend {
    ($conn:expr, |$c:ident| $body:expr) => {
        match $conn {
            $crate::store::conn::Conn::Sqlite($c) => $body,
            $crate::store::conn::Conn::Pg($c) => $body,
        }
    };
}
pub(super) use on_backend;

impl Conn {
    /// Opens a SQLite file the way every connection must be: the log of writes flushed at each commit (an acknowledged
    /// change survives power loss), references enforced, a bounded wait for another process's write. What was written is moved
    /// into the file itself by [`Checkpoints`](super::checkpoint::Checkpoints); a commit does it where that fell behind, or in a
    /// command, at 64 MiB.
    pub(super) fn open_sqlite(path: &str) -> Result<Self, StoreError> {
        let mut conn = SqliteConnection::establish(path).map_err(StoreError::Open)?;
        conn.batch_execute(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
             PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096; \
             PRAGMA wal_autocheckpoint = 16384;",
        )
        .map_err(StoreError::operation("setting up a connection"))?;
        Ok(Self::Sqlite(conn))
    }
}

/// Finds one row and keeps it for this transaction alone until it ends. SQLite has one writer at a time anyway.
macro_rules! first_locked {
    ($conn:expr, $query:expr) => {
        match $conn {
            $crate::store::conn::Conn::Sqlite(c) => $query.get_result(c).optional(),
            $crate::store::conn::Conn::Pg(c) => $query.for_no_key_update().get_result(c).optional(),
        }
    };
}
/// Finds one row and keeps others from changing it until the transaction ends; any number may hold it so.
macro_rules! first_shared {
    ($conn:expr, $query:expr) => {
        match $conn {
            $crate::store::conn::Conn::Sqlite(c) => $query.get_result(c).optional(),
            $crate::store::conn::Conn::Pg(c) => $query.for_share().get_result(c).optional(),
        }
    };
}
pub(super) use {first_locked, first_shared};

/// The condition to be among what a list selects, as far as nobody holds it just now: for who can come again, and so makes
/// nobody wait for a list of rows. As an array it is selected once, whatever the plan.
pub(super) fn among_the_free(conn: &Conn, list: &str) -> String {
    match conn {
        Conn::Sqlite(_) => format!("IN ({list})"),
        Conn::Pg(_) => format!("= ANY(ARRAY({list} FOR UPDATE SKIP LOCKED))"),
    }
}

/// Lets one transaction at a time do what has this name, where there is no row to hold.
pub(super) fn one_at_a_time(conn: &mut Conn, name: &str) -> QueryResult<()> {
    let Conn::Pg(conn) = conn else { return Ok(()) };
    let lock = sql_query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))");
    lock.bind::<Text, _>(name).execute(conn).map(drop)
}

/// Several statements as one transaction: all or nothing, and the answer after the commit. On PostgreSQL, READ COMMITTED:
/// each statement sees what was committed before it, and a conditional write looks at its row again under the row's lock,
/// so of two that race one wins. The writer of SQLite has begun a transaction already.
pub(super) fn atomically<T>(
    conn: &mut Conn,
    work: impl FnOnce(&mut Conn) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    type Manager = AnsiTransactionManager;
    if let Conn::Pg(conn) = conn {
        Manager::begin_transaction(conn).map_err(StoreError::operation("beginning a transaction"))?;
    }
    let result = work(conn);
    if let Conn::Pg(conn) = conn {
        if result.is_ok() {
            Manager::commit_transaction(conn).map_err(|error| StoreError::Commit(error.to_string()))?;
        } else if let Err(error) = Manager::rollback_transaction(conn) {
            tracing::debug!(%error, "there was nothing left to roll back");
        }
    }
    result
}

/// A statement that gives rows back and whose text never changes, named by the marker `M`. Diesel prepares `UPDATE` and `ON
/// CONFLICT DO UPDATE` anew at each call and writes out their text to find them, because it may change; for those on the
/// token paths, whose text does not, this says so. One marker, one text. A statement that is only executed Diesel asks by a
/// reference, to which this says nothing: what changes rows there gives one back too, or is in our own [`words`].
pub(super) struct Fixed<M, Q>(Q, PhantomData<M>);

pub(super) fn fixed<M, Q>(_marker: M, query: Q) -> Fixed<M, Q> {
    Fixed(query, PhantomData)
}

impl<DB: Backend, M, Q: QueryFragment<DB>> QueryFragment<DB> for Fixed<M, Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _backend: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<M: 'static, Q> QueryId for Fixed<M, Q> {
    type QueryId = Fixed<M, ()>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<M, Q: Query> Query for Fixed<M, Q> {
    type SqlType = Q::SqlType;
}

impl<M, Q, C> RunQueryDsl<C> for Fixed<M, Q> {}

/// A statement in our own words, its values in the places of `?`, prepared once per connection. One marker, one text.
pub(super) struct Words<'a, M, const N: usize> {
    text: &'static str,
    values: [&'a str; N],
    marker: PhantomData<M>,
}

pub(super) fn words<'a, M, const N: usize>(_marker: M, text: &'static str, values: [&'a str; N]) -> Words<'a, M, N> {
    Words { text, values, marker: PhantomData }
}

impl<DB, M, const N: usize> QueryFragment<DB> for Words<'_, M, N>
where
    DB: Backend + HasSqlType<Text>,
    for<'s> &'s str: ToSql<Text, DB>,
{
    fn walk_ast<'b>(&'b self, mut pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        let mut values = self.values.iter();
        for (place, piece) in self.text.split('?').enumerate() {
            if place > 0
                && let Some(value) = values.next()
            {
                pass.push_bind_param::<Text, &str>(value)?;
            }
            pass.push_sql(piece);
        }
        Ok(())
    }
}

impl<M: 'static, const N: usize> QueryId for Words<'_, M, N> {
    type QueryId = Words<'static, M, 0>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<M, C, const N: usize> RunQueryDsl<C> for Words<'_, M, N> {}

/// Transaction control of SQLite's writer.
macro_rules! control {
    ($($name:ident => $text:literal),* $(,)?) => {$(
        pub(super) fn $name(conn: &mut Conn) -> QueryResult<()> {
            struct Marker;
            on_backend!(conn, |c| words(Marker, $text, []).execute(c)).map(drop)
        }
    )*};
}

control! {
    begin_immediate => "BEGIN IMMEDIATE",
    commit => "COMMIT",
    rollback => "ROLLBACK",
    savepoint => "SAVEPOINT work",
    release => "RELEASE work",
    undo => "ROLLBACK TO work",
    rehearse => "SAVEPOINT rehearsal",
    forget => "ROLLBACK TO rehearsal",
}
