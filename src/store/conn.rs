//! One connection of either database, and the macro that compiles a query once for each.

use std::marker::PhantomData;

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sqlite::SqliteConnection;
use diesel::{Connection as _, QueryResult, RunQueryDsl, sql_query};

use super::StoreError;

/// A connection. Queries are written once, in [`on_backend!`].
pub enum Conn {
    Sqlite(SqliteConnection),
    #[expect(
        dead_code,
        reason = "every query is compiled for PostgreSQL from the first day; opening it comes with its own work"
    )]
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
    /// change survives power loss), references enforced, a bounded wait for another process's write.
    pub(super) fn open_sqlite(path: &str) -> Result<Self, StoreError> {
        let mut conn = SqliteConnection::establish(path).map_err(StoreError::Open)?;
        conn.batch_execute(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
             PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096;",
        )
        .map_err(StoreError::operation("setting up a connection"))?;
        Ok(Self::Sqlite(conn))
    }
}

/// A statement whose text never changes, named by the marker `M`. Diesel prepares `UPDATE` and `ON CONFLICT DO UPDATE`
/// anew at each call and writes out their text to find them, because it may change; for those on the token paths, whose
/// text does not, this says so. One marker, one text.
pub(super) struct Fixed<M, Q>(Q, PhantomData<M>);

pub(super) fn fixed<M, Q>(_marker: M, query: Q) -> Fixed<M, Q> {
    Fixed(query, PhantomData)
}

impl<DB: diesel::backend::Backend, M, Q: QueryFragment<DB>> QueryFragment<DB> for Fixed<M, Q> {
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

/// Transaction control, prepared once per connection.
macro_rules! control {
    ($($name:ident => $text:literal),* $(,)?) => {$(
        pub(super) fn $name(conn: &mut Conn) -> QueryResult<()> {
            struct Marker;
            on_backend!(conn, |c| fixed(Marker, sql_query($text)).execute(c)).map(drop)
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
