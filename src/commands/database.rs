//! Looking after the database: bringing it up to date, moving it, keeping a copy, coming back from one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use countersign::app;
use countersign::clock::{Clock, KEEP_TIME_EVERY, UnixTime};
use countersign::config::{Config, DatabaseUrl, KeySource};
use countersign::crypto::keyring::{Keyring, generate};
use countersign::crypto::seal::SealingKey;
use countersign::domain::key::SigningKey;
use countersign::protocol::jose::SigningAlgorithm;
use countersign::store::{self, Store};

use super::terminal::{fields, note, print, table};
use super::{Context, database, missing_database, with_store};

#[derive(Subcommand)]
pub enum DbCommand {
    /// Make the database or bring it up to date
    ///
    /// Makes the data directory and the database where there are none and runs the migrations that are missing. The
    /// server does the same at its start, and so do `user create`, `client create` and `resource create`; the other
    /// commands bring up to date what is there. This is for doing it apart, before an upgrade's first start for
    /// example. Runs twice without harm. A database of a newer version is left alone and is an error.
    #[command(after_long_help = manual!(
        prints "which database is up to date",
        example "countersign db migrate --config /etc/countersign/countersign.toml"
    ))]
    Migrate,
    /// Take this machine's clock as right, although it is behind the database
    ///
    /// The server remembers the latest time it has told and tells no earlier one, so that nothing that expired lives
    /// again when a clock is set back. Where the clock was wrong before, ahead of the true time, and is right now, this
    /// says so. Every server on the database must be stopped: one that runs puts its own time back. What was issued while
    /// the clock was ahead lives longer by as much: end it first where that matters.
    #[command(after_long_help = manual!(
        prints "the time before, and the time from now on",
        example "countersign db accept-clock"
    ))]
    AcceptClock,
    /// Copy everything into another, empty database
    ///
    /// For moving from SQLite to PostgreSQL, or back. Stop the servers first: what they do after the copy has begun is not
    /// in it. All is copied as of one instant, counted and compared on the other side, and kept only if nothing differs;
    /// after an error the other database is as empty as before. Then point `database_url` to it. Who is signed in stays so,
    /// and refresh tokens live on, if the new servers have the same key-encryption key, which is in no database. A password
    /// in a URL can be seen by other users of this machine: libpq also reads `PGPASSFILE` and ~/.pgpass.
    #[command(after_long_help = manual!(
        prints "each table with its number of rows and their digest, the same on both sides; progress on standard error",
        example "countersign db copy --from sqlite:///var/lib/countersign/countersign.db \\\n    \
                 --to 'postgres://countersign@db.example.com/countersign?sslmode=verify-full&sslrootcert=/etc/ssl/db-ca.pem'"
    ))]
    Copy {
        /// The database that is read, up to date
        #[arg(long, value_name = "URL")]
        from: String,
        /// The database that is filled; its schema is made where there is none
        #[arg(long, value_name = "URL")]
        to: String,
    },
}

#[derive(Args)]
pub struct BackupCommand {
    /// The file to make; one that is there is not overwritten
    file: PathBuf,
}

#[derive(Args)]
pub struct RestoreCommand {
    /// A file that `backup` made
    file: PathBuf,
    /// Let go on what was given before, although what was revoked after the backup lives again
    #[arg(long)]
    keep_tokens_alive: bool,
}

impl DbCommand {
    pub fn run(self, config: Config) -> anyhow::Result<()> {
        match self {
            Self::Migrate => {
                app::open_store(&config)?;
                print(&format!("{} is up to date.", database(&config)))
            }
            Self::AcceptClock => with_store(config, false, accept_clock),
            Self::Copy { from, to } => copy(&from, &to),
        }
    }
}

async fn accept_clock(ctx: Context) -> anyhow::Result<()> {
    let _nobody_serves = Store::lock_for_serving(&ctx.config.database_url)?;
    let before = ctx.store.latest_instant().await?;
    if matches!(ctx.config.database_url, DatabaseUrl::Postgres(_)) {
        // Of no lock there; but a server that runs moves the mark.
        note("looking whether a server runs on this database");
        tokio::time::sleep(KEEP_TIME_EVERY + Duration::from_secs(2)).await;
        if ctx.store.latest_instant().await? != before {
            bail!("a server runs on this database; stop every one of them first");
        }
    }
    let machine = machine_time();
    ctx.store.accept_instant(machine).await?;
    print(&fields(&[("before", before.to_string()), ("from now on", machine.to_string())]))
}

fn machine_time() -> UnixTime {
    Clock::system(UnixTime::from_millis(0)).now()
}

fn copy(from: &str, to: &str) -> anyhow::Result<()> {
    const TELL_EVERY: u64 = 10_000;
    let url = |option: &str, text: &str| DatabaseUrl::parse(text).map_err(|problem| anyhow!("{option}: {problem}"));
    let (from, to) = (url("--from", from)?, url("--to", to)?);
    let mut told = (String::new(), 0);
    let copied = store::copy(&from, &to, |table, rows| {
        if told.0 != table || rows >= told.1 + TELL_EVERY {
            note(&format!("{table}: {rows} rows so far"));
            told = (table.to_owned(), rows);
        }
    })?;
    let rows = copied.into_iter().map(|one| [one.name, one.rows.to_string(), one.digest]).collect();
    print(&table(["TABLE", "ROWS", "DIGEST"], rows))?;
    note("the key-encryption key is in no database: give the new servers the same one");
    Ok(())
}

/// The file of a SQLite database. PostgreSQL's own tools do better what this does for a file.
fn sqlite<'a>(config: &'a Config, advice: &str) -> anyhow::Result<&'a Path> {
    match &config.database_url {
        DatabaseUrl::Sqlite(path) => Ok(path),
        DatabaseUrl::Postgres(_) => bail!("the database is PostgreSQL; {advice}"),
    }
}

impl BackupCommand {
    pub fn run(&self, config: &Config) -> anyhow::Result<()> {
        let path = sqlite(
            config,
            "use its own tools: pg_dump --format=custom for one of today, pg_basebackup with WAL archiving for any instant",
        )?;
        if let Some(missing) = missing_database(config)? {
            bail!("there is no database at {}; run this where the server runs", missing.display());
        }
        store::backup(path, &self.file)?;
        print(&format!("{} holds the database, read back and found whole.", self.file.display()))?;
        note("the key-encryption key is not in it: keep that too, apart from it");
        Ok(())
    }
}

impl RestoreCommand {
    pub fn run(&self, config: &Config) -> anyhow::Result<()> {
        let path = sqlite(
            config,
            "restore it by its own tools; then, before the first server starts, end what was given before: \
             countersign revoke --all, countersign key rotate --compromised",
        )?;
        app::make_directories(config)?;
        let now = machine_time();
        let restored =
            store::restore(&self.file, path, self.keep_tokens_alive, |keys| successors(config, keys, now), now)?;
        if self.keep_tokens_alive {
            return print(&format!(
                "{} is as it was when the backup was made. What was revoked since then lives again.",
                database(config)
            ));
        }
        print(&format!(
            "{} is as it was when the backup was made, but {} sessions and {} grants have ended, and the signing keys are \
             new: everybody signs in again.",
            database(config),
            restored.sessions,
            restored.grants
        ))
    }
}

/// New keys in the place of all that the backup holds; and proof that the key-encryption key is the one they are sealed by.
fn successors(config: &Config, keys: Vec<SigningKey>, now: UnixTime) -> anyhow::Result<Vec<SigningKey>> {
    if keys.is_empty() {
        return Ok(keys);
    }
    if let KeySource::File(path) = &config.key_encryption_key
        && !path.exists()
    {
        bail!("{} is missing, and what the backup holds is sealed by it; bring it back first", path.display());
    }
    let sealing = SealingKey::load(&config.key_encryption_key)?;
    Keyring::load(keys, &sealing, Duration::ZERO, now)?;
    let made = SigningAlgorithm::ALL.into_iter().map(|algorithm| generate(algorithm, &sealing, now, now));
    Ok(made.collect::<Result<_, _>>()?)
}
