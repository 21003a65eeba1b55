//! PostgreSQL: how a connection is opened and what is asked of the server first, migrations under a lock, and the threads
//! that own connections. Everything else is the same text as for SQLite.

use std::time::Duration;

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::pg::PgConnection;
use diesel::{Connection as _, QueryResult, QueryableByName, RunQueryDsl as _, sql_query};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use crate::config::Postgres;

use super::conn::Conn;
use super::{StoreError, migrate};

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Parameters of libpq that hold unless the URL says otherwise. A peer that is gone without a word is noticed; of several
/// hosts the one that takes writes is chosen.
const DEFAULTS: [(&str, &str); 7] = [
    ("connect_timeout", "2"),
    ("keepalives_idle", "5"),
    ("keepalives_interval", "2"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "10000"),
    ("target_session_attrs", "read-write"),
    ("fallback_application_name", "countersign"),
];

/// How often a listening connection is looked at.
const LISTEN_EVERY: Duration = Duration::from_millis(50);
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Names our lock among the advisory locks of the database.
const MIGRATION_LOCK: i64 = 0x436F_756E_7465_7273;

fn connection_string(settings: &Postgres) -> Result<SecretString, StoreError> {
    let mut text = settings.url.expose_secret().to_owned();
    let given = text.split_once('?').map(|(_, parameters)| parameters.to_owned()).unwrap_or_default();
    let mut add = |name: &str, value: &str| {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    };
    for (name, value) in DEFAULTS {
        if !given.split('&').any(|parameter| parameter.split('=').next() == Some(name)) {
            add(name, value);
        }
    }
    if let Some(path) = &settings.password_file {
        let password = std::fs::read_to_string(path).map(SecretString::from);
        let password = password.map_err(|source| StoreError::File { path: path.clone(), source })?;
        let line = password.expose_secret().trim_end_matches(['\r', '\n']);
        add("password", &utf8_percent_encode(line, NON_ALPHANUMERIC).to_string());
    }
    Ok(text.into())
}

#[derive(QueryableByName)]
struct Server {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    version: i64,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    standby: bool,
    #[diesel(sql_type = diesel::sql_types::Text)]
    synchronous_commit: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    fsync: String,
}

/// Opens a connection the way every connection must be: bounded waits, and a server whose commits are durable.
pub(super) fn open(settings: &Postgres) -> Result<PgConnection, StoreError> {
    let url = connection_string(settings)?;
    let mut conn = PgConnection::establish(url.expose_secret())
        .map_err(|error| StoreError::Away(error.to_string().trim().replace('\n', "; ")))?;
    let timeout = settings.statement_timeout.as_millis();
    // A transaction of ours never rests; a lock is not waited for longer than the statement that needs it.
    conn.batch_execute(&format!(
        "SET statement_timeout = {timeout}; SET lock_timeout = {timeout}; \
         SET idle_in_transaction_session_timeout = {}; SET default_transaction_isolation = 'read committed'",
        2 * timeout
    ))
    .map_err(StoreError::operation("setting up a connection"))?;
    // `fsync` is not known to every engine that speaks this protocol.
    let server: Server = sql_query(
        "SELECT current_setting('server_version_num')::bigint AS version, pg_is_in_recovery() AS standby, \
         current_setting('synchronous_commit') AS synchronous_commit, \
         coalesce(current_setting('fsync', true), 'on') AS fsync",
    )
    .get_result(&mut conn)
    .map_err(StoreError::operation("asking PostgreSQL for its settings"))?;
    if server.version < 140_000 {
        return Err(StoreError::OldPostgres(server.version / 10_000));
    }
    if server.standby {
        return Err(StoreError::Standby);
    }
    for (name, value) in [("synchronous_commit", server.synchronous_commit), ("fsync", server.fsync)] {
        if value == "off" {
            return Err(StoreError::NotDurable(name));
        }
    }
    Ok(conn)
}

/// Tells the other servers, with the commit.
pub(super) fn tell(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        Conn::Sqlite(_) => Ok(()),
        Conn::Pg(conn) => conn.batch_execute("NOTIFY countersign_changed"),
    }
}

/// Listens on a thread with a connection of its own until nobody wants to know any more. Whoever is told looks at the change
/// counter, so a notice that was missed is only late. libpq is asked for what has arrived; that costs no round trip.
pub(super) fn listen(settings: &Postgres, told: &watch::Sender<()>) {
    let listening = || {
        let mut conn = open(settings)?;
        conn.batch_execute("LISTEN countersign_changed").map_err(StoreError::operation("listening for changes"))?;
        Ok(conn)
    };
    while !told.is_closed() {
        let mut conn: PgConnection = match listening() {
            Ok(conn) => conn,
            Err(error) => {
                let error: StoreError = error;
                tracing::debug!(error = &error as &dyn std::error::Error, "not listening for changes; trying on");
                pause(LISTEN_AGAIN);
                continue;
            }
        };
        // Something may have been told while nobody listened.
        told.send_replace(());
        while !told.is_closed()
            && let Ok(notices) = conn.notifications_iter().collect::<QueryResult<Vec<_>>>()
        {
            if !notices.is_empty() {
                told.send_replace(());
            }
            pause(LISTEN_EVERY);
        }
    }
}

pub(super) fn pause(span: Duration) {
    let _at = crossbeam_channel::after(span).recv();
}

/// Opens the database for the first time: one server after another brings the schema up to date.
pub(super) fn prepare(settings: &Postgres) -> Result<(), StoreError> {
    let mut conn = open(settings)?;
    conn.batch_execute(&format!(
        "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
         SELECT pg_advisory_lock({MIGRATION_LOCK})"
    ))
    .map_err(StoreError::operation("waiting for another server's migration"))?;
    // The lock goes with the connection.
    migrate(&mut conn, MIGRATIONS)
}

impl Conn {
    /// Whether an idle connection still has its server; costs no round trip. The second look sees the end of the stream
    /// behind what the server said last.
    pub(super) fn is_alive(&mut self) -> bool {
        let Self::Pg(conn) = self else { return true };
        (0..2).all(|_| conn.notifications_iter().all(|notice| notice.is_ok()))
    }

    /// Whether it can be used again: neither broken nor left inside a transaction.
    pub(super) fn is_idle(&mut self) -> bool {
        let Self::Pg(conn) = self else { return true };
        let status = AnsiTransactionManager::transaction_manager_status_mut(conn);
        status.transaction_depth().is_ok_and(|depth| depth.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;

    #[test]
    fn the_connection_string_keeps_what_was_given_and_hides_nothing_in_between() {
        let DatabaseUrl::Postgres(mut settings) =
            DatabaseUrl::parse("postgres://me@localhost/x?connect_timeout=9").unwrap()
        else {
            panic!("PostgreSQL")
        };
        let text = connection_string(&settings).unwrap();
        assert!(text.expose_secret().starts_with("postgres://me@localhost/x?connect_timeout=9&keepalives_idle=5&"));
        assert_eq!(text.expose_secret().matches("connect_timeout").count(), 1);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "p&w=%?\n").unwrap();
        settings.password_file = Some(file.path().to_owned());
        let text = connection_string(&settings).unwrap();
        assert!(text.expose_secret().ends_with("&password=p%26w%3D%25%3F"));
    }
}
