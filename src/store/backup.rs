//! A copy of the SQLite database to keep, made while the server runs, and its way back. Both are whole or not there: they are
//! made under another name, flushed, checked, and only then given theirs, which must be free.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};

use crate::clock::UnixTime;
use crate::domain::key::SigningKey;

use super::conn::{Conn, on_backend};
use super::endings::{Ended, Rule, end};
use super::registry::{read_keys, replace_key};
use super::revocations::{Actor, Reason, Target};
use super::schema::{flows, links, outbox, trusted_browsers};
use super::{OutboxKind, SQLITE_MIGRATIONS, StoreError, check_sqlite, lock, make_private, migrate};

/// A file that goes again unless it gets its name.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Result<Self, StoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.unfinished", std::process::id()));
        let unfinished = Self(name.into());
        make_private(&unfinished.0)?;
        Ok(unfinished)
    }

    /// Flushes it and gives it the name, unless somebody has that meanwhile.
    fn finish(self, path: &Path) -> Result<(), StoreError> {
        let failed = |source| StoreError::file(path, source);
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(failed)?;
        match std::fs::hard_link(&self.0, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(StoreError::Exists(path.to_owned())),
            linked => linked.map_err(failed)?,
        }
        drop(self);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let mut name = self.0.as_os_str().to_owned();
            name.push(ending);
            // What is not there need not go.
            drop(std::fs::remove_file(name));
        }
    }
}

#[derive(QueryableByName)]
struct Verdict {
    #[diesel(sql_type = Text)]
    integrity_check: String,
}

/// Reads every page.
fn check_integrity(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let verdict: Verdict = sql_query("PRAGMA integrity_check(1)")
        .get_result(conn)
        .map_err(|error| StoreError::operation("checking a database")(error).unless_not_a_database(path))?;
    if verdict.integrity_check == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.to_owned(), why: verdict.integrity_check })
}

/// Writes what the database holds at this instant into a new file. The server goes on meanwhile.
///
/// # Errors
/// When the file is there already, cannot be written, or does not read back.
pub fn backup(database: &Path, file: &Path) -> Result<(), StoreError> {
    if file.symlink_metadata().is_ok() {
        return Err(StoreError::Exists(file.to_owned()));
    }
    let unfinished = Unfinished::beside(file)?;
    let mut conn = Conn::open_sqlite(&database.to_string_lossy())?;
    // https://sqlite.org/lang_vacuum.html: into an empty file, of one instant, and without a lock that writers wait for.
    let copy = sql_query("VACUUM INTO $1").bind::<Text, _>(unfinished.0.to_string_lossy().into_owned());
    on_backend!(&mut conn, |c| copy.execute(c)).map_err(StoreError::operation("writing the backup"))?;
    let mut copied = SqliteConnection::establish(&unfinished.0.to_string_lossy()).map_err(StoreError::Open)?;
    check_integrity(&mut copied, file)?;
    drop(copied);
    unfinished.finish(file)
}

/// What coming back has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restored {
    pub sessions: usize,
    pub grants: usize,
}

/// Makes the database anew from a backup. Unless `keep_alive`, everything that was given before now ends: what was revoked
/// after the backup was made would live again. `successors` is shown the signing keys of the backup and makes those that take
/// their place, or says what is wrong with them.
///
/// # Errors
/// When there is a database already, or what is left of one; when the backup is damaged, of a newer version, or no database.
pub fn restore<E: From<StoreError>>(
    backup: &Path,
    database: &Path,
    keep_alive: bool,
    successors: impl FnOnce(Vec<SigningKey>) -> Result<Vec<SigningKey>, E>,
    now: UnixTime,
) -> Result<Restored, E> {
    let _serving = lock(database, "serve", false)?;
    for ending in ["", "-wal", "-shm", "-journal"] {
        let mut name = database.as_os_str().to_owned();
        name.push(ending);
        if Path::new(&name).symlink_metadata().is_ok() {
            return Err(StoreError::Exists(name.into()).into());
        }
    }
    let unfinished = Unfinished::beside(database)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::file(&path, source)
    };
    std::fs::copy(backup, &unfinished.0).map_err(failed(backup))?;
    let text = unfinished.0.to_string_lossy().into_owned();
    let no_backup = |error: StoreError| match error.unless_not_a_database(backup) {
        StoreError::NotADatabase(path) => StoreError::NotABackup(path),
        other => other,
    };
    let mut conn = Conn::open_sqlite(&text).map_err(no_backup)?;
    check_sqlite(&mut conn)?;
    if let Conn::Sqlite(conn) = &mut conn {
        check_integrity(conn, backup)?;
        migrate(conn, SQLITE_MIGRATIONS)?;
    }
    let keys = successors(read_keys(&mut conn)?)?;
    let mut restored = Restored::default();
    let run = |conn: &mut Conn, text: &str| {
        on_backend!(conn, |c| c.batch_execute(text)).map_err(StoreError::operation("restoring"))
    };
    if !keep_alive {
        run(&mut conn, "BEGIN IMMEDIATE")?;
        let ended = end_everything(&mut conn, &keys, now)?;
        run(&mut conn, "COMMIT")?;
        restored = Restored { sessions: ended.sessions, grants: ended.grants };
    }
    // One file, with nothing beside it.
    run(&mut conn, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE")?;
    drop(conn);
    unfinished.finish(database)?;
    Ok(restored)
}

/// SECURITY row 51: sessions, grants, tokens and signing keys of before; and what is on its way (sign-ins, links in mails, mails)
/// or spares a person a factor, for it may have been used, delivered or taken back since.
fn end_everything(conn: &mut Conn, successors: &[SigningKey], now: UnixTime) -> Result<Ended, StoreError> {
    let failed = || StoreError::operation("ending what was before");
    let cause = Reason::Operator.by(Actor::Operator);
    let mails = outbox::table.filter(outbox::kind.eq(OutboxKind::Mail.as_str()));
    on_backend!(conn, |c| diesel::delete(mails).execute(c)).map_err(failed())?;
    on_backend!(conn, |c| diesel::delete(flows::table).execute(c)).map_err(failed())?;
    on_backend!(conn, |c| diesel::delete(links::table).execute(c)).map_err(failed())?;
    on_backend!(conn, |c| diesel::delete(trusted_browsers::table).execute(c)).map_err(failed())?;
    for successor in successors {
        replace_key(conn, successor, None, now)?;
    }
    let everything =
        Rule { target: Target::Issuer, issued_before: None, keep: None, sessions_only: false, cause: &cause };
    end(conn, &everything, now)
}
