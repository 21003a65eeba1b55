//! The database. One method per operation of the product, each one transaction; nobody outside names diesel or a table.
//! SQLite has one writing thread with group commit and readers beside it; PostgreSQL a pool of threads that own connections.
//!
//! Of two transactions that wait for rows of each other PostgreSQL ends one. So each takes what it takes in this order, and
//! many rows of one kind by their identifiers (`tests/lock_order.rs`):
//!
//! 1. the change counter (`changed`, `touch`)
//! 2. the account (`hold`, `hold_alone`, `hold_person`), one alone
//! 3. counts of guesses, by whoever adds to them (`throttles::hold`); they are forgotten anywhere, for those wait for nothing
//! 4. what hangs on the account or came by mail: links, factors, trusted browsers, consents
//! 5. the flow
//! 6. grants, then sessions (`hold_below`, where one is changed before others are ended)
//! 7. the client, when it is deleted (`hold_given_to`)
//! 8. the turn to write into the log of revocations (`append`, `enter`): nothing is waited for after it
//! 9. what is only added: the outbox, activity
//!
//! Whoever works through a list and comes again passes over what is held (`among_the_free`).

mod access_tokens;
mod account;
mod activity;
mod backup;
mod checkpoint;
mod clock;
mod conn;
mod consents;
mod copy;
mod endings;
mod executor;
mod figures;
mod flows;
mod grants;
mod holding;
mod issuer;
mod known;
mod leases;
mod links;
mod logouts;
mod operator;
mod outbox;
mod postgres;
mod registry;
mod revocations;
mod schema;
mod second_factors;
mod sessions;
mod sign_outs;
mod sweep;
mod throttles;
mod trusted_browsers;
mod users;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::migration::MigrationSource;
use diesel::{QueryableByName, RunQueryDsl as _, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use thiserror::Error;
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::config::{DatabaseUrl, Postgres};
use crate::traces::transaction;

use conn::{Conn, atomically, on_backend};
use executor::{Executor, Readers};

pub use access_tokens::{PersonsToken, TokenState};
pub use account::{Allowed, Deletion, OpenSession, OwnPassword};
pub use backup::{Restored, backup, restore};
pub use consents::Decision;
pub use copy::{CopiedTable, copy};
pub use endings::Ended;
pub use grants::{Exchange, FirstRefreshToken, Granting, NewGrant, Rotation, RotationRequest};
pub use known::SessionClient;
pub use links::{EmailConfirmation, Link, NewLink, PasswordReset, Registration, Request};
pub use logouts::{Deliveries, DeliveryState, LogoutDelivery, Untold};
pub use operator::Ending;
pub use outbox::{Lease, NewOutboxItem, OutboxItem, OutboxKind};
pub use registry::{Registered, RegistryRows};
pub use revocations::{Actor, Cause, Reason};
pub use second_factors::{Added, FactorChange, MOST_DEVICES, SessionRise};
pub use sessions::{HalfSignIn, ListedSession, NewSession, SecondFactor, SignIn};
pub use sign_outs::{Delivery, NewSignOut, SignOut};
pub use throttles::Failure;
pub use trusted_browsers::NewTrust;
pub use users::{Credential, NewUser};

const SQLITE_MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// What SQLite's own list of fixed defects asks for; older ones can lose a commit.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 53, 2);

/// An operation of the database failed. What a caller asked wrong is a value, never one of these.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("opening the database")]
    Open(#[source] diesel::ConnectionError),
    #[error("{operation}")]
    Operation { operation: &'static str, source: diesel::result::Error },
    #[error("the transaction was not committed: {0}")]
    Commit(String),
    #[error("the queue of the database is full")]
    QueueFull,
    #[error("a database thread is gone")]
    ThreadGone,
    #[error("a database operation panicked")]
    Panicked,
    #[error("starting a database thread")]
    Spawn(#[source] std::io::Error),
    #[error("migrating the database: {0}")]
    Migration(String),
    #[error("the database was made by a newer Countersign (migration {0}); use that version or restore a backup")]
    NewerSchema(String),
    #[error("SQLite {0} is too old; 3.53.2 or newer is needed")]
    OldSqlite(String),
    #[error("{0}: another Countersign is serving this database; stop it, or give this one a data_dir of its own")]
    Locked(PathBuf),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: cannot be written by this user ({why})")]
    NotWritable { path: PathBuf, why: String },
    #[error("{0}: is not a database; restore it from a backup, or name another by data_dir or database_url")]
    NotADatabase(PathBuf),
    #[error("{0}: is not a backup that `countersign backup` made")]
    NotABackup(PathBuf),
    #[error("a stored {what} does not read back: {detail}")]
    Corrupt { what: &'static str, detail: String },
    #[error("the database is of an older version; run countersign db migrate on it first")]
    OlderSchema,
    #[error("{0}: there is no such database")]
    NoDatabase(PathBuf),
    #[error("the database to copy to is not empty: its table {0} holds something; name an empty one")]
    NotEmpty(String),
    #[error("what arrived in table {0} differs from what was sent; nothing was kept")]
    Differs(String),
    #[error("{0}: is there already, and is not overwritten; name another place, or move it away")]
    Exists(PathBuf),
    #[error("{path}: is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("the database cannot be reached: {0}")]
    Away(String),
    #[error("the database did not answer in time")]
    Late,
    #[error("PostgreSQL {0} is too old; 14 or newer is needed")]
    OldPostgres(i64),
    #[error(
        "this PostgreSQL server is a standby and takes no writes; name the primary, or all of them, in database_url"
    )]
    Standby,
    #[error("{0} is off in this PostgreSQL, so that it may forget what it acknowledged; turn it on")]
    NotDurable(&'static str),
    #[error(transparent)]
    Crypto(#[from] crate::crypto::CryptoError),
}

impl StoreError {
    /// Says whose place it is that the system refuses: the file's, or the folder's where there is no file yet.
    fn file(path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        if !matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem) {
            return Self::File { path: path.to_owned(), source };
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let refused = if path.symlink_metadata().is_ok() { path } else { folder };
        let text = source.to_string();
        let why = text.split(" (os error").next().unwrap_or_default().to_owned();
        Self::NotWritable { path: refused.to_owned(), why }
    }

    /// SQLite looks at what is in the file when the first statement needs it.
    fn unless_not_a_database(self, path: &Path) -> Self {
        match &self {
            Self::Operation { source: diesel::result::Error::DatabaseError(_, info), .. }
                if info.message() == "file is not a database" =>
            {
                Self::NotADatabase(path.to_owned())
            }
            _ => self,
        }
    }

    /// Names the operation that failed.
    pub(crate) fn operation(operation: &'static str) -> impl FnOnce(diesel::result::Error) -> Self {
        move |source| Self::Operation { operation, source }
    }

    pub(crate) fn corrupt(what: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, detail: detail.to_string() }
    }

    /// Whether the same request may succeed later: the answer is 503 then, not 500.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        use diesel::result::Error;
        match self {
            Self::QueueFull
            | Self::ThreadGone
            | Self::Commit(_)
            | Self::Open(_)
            | Self::Away(_)
            | Self::Late
            | Self::Standby => true,
            Self::Operation { source, .. } => {
                matches!(source, Error::DatabaseError(..) | Error::BrokenTransactionManager)
            }
            _ => false,
        }
    }
}

/// The database, ready.
#[derive(Clone)]
pub struct Store {
    backend: Backend,
    bell: outbox::Bell,
}

#[derive(Clone)]
enum Backend {
    Sqlite { writer: Executor, readers: Arc<Readers> },
    Postgres { pool: Executor, settings: Box<Postgres> },
}

/// Held by the one server of a SQLite file; released when it ends, however it ends. PostgreSQL may have many servers.
#[derive(Debug)]
pub struct ServeLock {
    _file: Option<File>,
}

impl Store {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be opened, is newer than this program, or the SQLite library is too old.
    pub fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        let path = match url {
            DatabaseUrl::Sqlite(path) => path,
            DatabaseUrl::Postgres(settings) => {
                postgres::prepare(settings)?;
                let pool = Executor::postgres_pool(settings)?;
                return Ok(Self::new(Backend::Postgres { pool, settings: Box::new(settings.clone()) }));
            }
        };
        let writer = open_sqlite_writer(path)?;
        let text = path.to_string_lossy().into_owned();
        let writer = Executor::sqlite_writer(writer, text.clone())?;
        let readers = Readers::new(move || Conn::open_sqlite(&text))?;
        Ok(Self::new(Backend::Sqlite { writer, readers: Arc::new(readers) }))
    }

    /// Whoever writes.
    fn executor(&self) -> &Executor {
        match &self.backend {
            Backend::Sqlite { writer, .. } => writer,
            Backend::Postgres { pool, .. } => pool,
        }
    }

    fn new(backend: Backend) -> Self {
        Self { backend, bell: outbox::Bell::default() }
    }

    /// Claims the database for one server, where it can serve one only.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another server runs on it.
    pub fn lock_for_serving(url: &DatabaseUrl) -> Result<ServeLock, StoreError> {
        let file = match url {
            DatabaseUrl::Sqlite(path) => Some(lock(path, "serve", false)?),
            DatabaseUrl::Postgres(_) => None,
        };
        Ok(ServeLock { _file: file })
    }

    /// Bounds how long a write waits for another process that holds the database; past it the answer is an error.
    /// PostgreSQL's waits are bounded by `database.statement_timeout`.
    ///
    /// # Errors
    /// When the bound cannot be set.
    pub async fn wait_at_most(&self, bound: Duration) -> Result<(), StoreError> {
        self.write_one(move |conn| {
            let text = format!("PRAGMA busy_timeout = {}", bound.as_millis());
            let Conn::Sqlite(conn) = conn else { return Ok(()) };
            conn.batch_execute(&text).map_err(StoreError::operation("bounding the wait for the database"))
        })
        .await
    }

    /// Changes when another server has changed what is registered. SQLite tells nobody: whoever wants to know looks at the
    /// counter.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        let (told, changes) = watch::channel(());
        if let Backend::Postgres { settings, .. } = &self.backend {
            let settings = settings.clone();
            if let Err(error) = executor::spawn("store-listener", move || postgres::listen(&settings, &told)) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "nobody listens for changes; they are looked for"
                );
            }
        }
        changes
    }

    /// Whether a write goes through just now, down to the disk.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.write_one(registry::write_something).await
    }

    /// Whether every migration that this version knows has been made. What a newer version added beside them is its own.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_schema_current(&self) -> Result<bool, StoreError> {
        self.read(|conn| {
            let applied = sql_query("SELECT version FROM __diesel_schema_migrations");
            let applied: Vec<Version> = on_backend!(conn, |c| applied.load(c))
                .map_err(StoreError::operation("asking for the migrations that were made"))?;
            let known = match conn {
                Conn::Sqlite(_) => known_versions::<diesel::sqlite::Sqlite>(&SQLITE_MIGRATIONS)?,
                Conn::Pg(_) => known_versions::<diesel::pg::Pg>(&postgres::MIGRATIONS)?,
            };
            Ok(known.iter().all(|version| applied.iter().any(|made| made.version == *version)))
        })
        .await
    }

    /// One transaction, whole or not at all, even when whoever asked hangs up.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let span = transaction("write", &work);
        self.executor().run(|conn| atomically(conn, work)).instrument(span).await
    }

    /// A write whose usual course is a single statement: a transaction by itself, which costs one round trip where the
    /// database is across a network. What needs several calls [`atomically`] for them.
    async fn write_one<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let span = transaction("write", &work);
        self.executor().run(work).instrument(span).await
    }

    /// Reads; of several statements each sees what was committed before it.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let span = transaction("read", &work);
        match &self.backend {
            Backend::Sqlite { readers, .. } => span.in_scope(|| readers.run(work)),
            Backend::Postgres { pool, .. } => pool.run(work).instrument(span).await,
        }
    }
}

/// Opens a SQLite file, which is made where there is none, and brings its schema up to date.
fn open_sqlite_writer(path: &Path) -> Result<Conn, StoreError> {
    // One at a time: a command may be started while the server makes its first start.
    let _migrating = lock(path, "migrate", true)?;
    make_private(path)?;
    let mut writer = Conn::open_sqlite(&path.to_string_lossy()).map_err(|error| error.unless_not_a_database(path))?;
    check_sqlite(&mut writer)?;
    if let Conn::Sqlite(conn) = &mut writer {
        migrate(conn, SQLITE_MIGRATIONS)?;
    }
    Ok(writer)
}

/// A new database is its owner's alone, wherever it lies; SQLite gives the files beside it the same mode.
fn make_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = File::options().create(true).truncate(false).write(true).mode(0o600).open(path);
    opened.map(drop).map_err(|source| StoreError::file(path, source))
}

/// The lock files are their owner's alone as well: who can open one can hold up the server.
fn lock(database: &Path, purpose: &str, wait: bool) -> Result<File, StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut path = database.as_os_str().to_owned();
    path.push(format!(".{purpose}.lock"));
    let path = PathBuf::from(path);
    let failed = |source| StoreError::file(&path, source);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    if wait {
        file.lock().map_err(failed)?;
        return Ok(file);
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Locked(database.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = diesel::sql_types::Text)]
    version: String,
}

fn check_sqlite(conn: &mut Conn) -> Result<(), StoreError> {
    let version: Version = on_backend!(conn, |c| sql_query("SELECT sqlite_version() AS version").get_result(c))
        .map_err(StoreError::operation("asking SQLite for its version"))?;
    let mut parts = version.version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) < OLDEST_SQLITE { Err(StoreError::OldSqlite(version.version)) } else { Ok(()) }
}

/// Runs what is missing. A database that a newer version made is left alone: it may hold what this one would misread.
fn migrate<C, DB>(conn: &mut C, embedded: EmbeddedMigrations) -> Result<(), StoreError>
where
    C: MigrationHarness<DB>,
    DB: diesel::backend::Backend,
    EmbeddedMigrations: MigrationSource<DB>,
{
    if has_pending(conn, &embedded)? {
        conn.run_pending_migrations(embedded).map_err(|error| StoreError::Migration(error.to_string()))?;
    }
    Ok(())
}

/// Sees that the schema is this version's, and changes nothing.
fn check_current<C, DB>(conn: &mut C, embedded: &EmbeddedMigrations) -> Result<(), StoreError>
where
    C: MigrationHarness<DB>,
    DB: diesel::backend::Backend,
    EmbeddedMigrations: MigrationSource<DB>,
{
    if has_pending(conn, embedded)? { Err(StoreError::OlderSchema) } else { Ok(()) }
}

/// Whether migrations are missing; a newer schema is an error.
fn has_pending<C, DB>(conn: &mut C, embedded: &EmbeddedMigrations) -> Result<bool, StoreError>
where
    C: MigrationHarness<DB>,
    DB: diesel::backend::Backend,
    EmbeddedMigrations: MigrationSource<DB>,
{
    let known = known_versions::<DB>(embedded)?;
    let applied = conn.applied_migrations().map_err(migration_failed)?;
    if let Some(newer) = applied.iter().map(ToString::to_string).find(|version| !known.contains(version)) {
        return Err(StoreError::NewerSchema(newer));
    }
    Ok(applied.len() < known.len())
}

fn known_versions<DB: diesel::backend::Backend>(embedded: &EmbeddedMigrations) -> Result<Vec<String>, StoreError>
where
    EmbeddedMigrations: MigrationSource<DB>,
{
    let known = MigrationSource::<DB>::migrations(embedded).map_err(migration_failed)?;
    Ok(known.iter().map(|migration| migration.name().version().to_string()).collect())
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn migration_failed(error: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    StoreError::Migration(error.to_string())
}
