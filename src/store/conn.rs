//! One connection of either database, and the macro that compiles a query once for each.

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sqlite::SqliteConnection;
use diesel::{Connection as _, QueryResult, RunQueryDsl};

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

    pub(super) fn execute(&mut self, sql: &str) -> QueryResult<()> {
        on_backend!(self, |c| c.batch_execute(sql))
    }
}

/// A statement whose text never changes. Diesel prepares `UPDATE` and `ON CONFLICT DO UPDATE` anew at each call, because
/// their text may change; for those on the token paths, whose text does not, this says so.
pub(super) struct Fixed<Q>(pub Q);

impl<DB: diesel::backend::Backend, Q: QueryFragment<DB>> QueryFragment<DB> for Fixed<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _backend: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q: QueryId> QueryId for Fixed<Q> {
    type QueryId = Fixed<Q::QueryId>;
    const HAS_STATIC_QUERY_ID: bool = Q::HAS_STATIC_QUERY_ID;
}

impl<Q: Query> Query for Fixed<Q> {
    type SqlType = Q::SqlType;
}

impl<Q, C> RunQueryDsl<C> for Fixed<Q> {}
