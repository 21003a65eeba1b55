//! The command line. Each command checks its input, does one operation of the store and prints the outcome; all of them
//! work beside a running server, which sees the change within a second.

/// The lower half of a command's `--help`: what it prints, an example, the exit codes.
macro_rules! manual {
    (prints $prints:literal, example $example:literal) => {
        concat!(
            "Prints:\n  ",
            $prints,
            "\n\nExample:\n  ",
            $example,
            "\n\nExit codes:\n  0  done\n  1  failed; standard error says why, one line for each problem\n  \
             2  the command line is not right"
        )
    };
}

mod client;
mod database;
mod import;
mod key;
mod logout_delivery;
mod members;
mod resource;
mod revoke;
mod session;
mod terminal;
mod user;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Parser, Subcommand};
use countersign::app;
use countersign::clock::{Clock, UnixTime};
use countersign::config::{self, Config, DEFAULT_FILE, DatabaseUrl, KeySource};
use countersign::domain::ids::UserId;
use countersign::domain::user::User;
use countersign::store::Store;

pub use terminal::complain;
use terminal::{fields, note, print};

/// Countersign, an OAuth 2 / OpenID Connect identity provider
///
/// Countersign signs people in and gives applications tokens. Without a command it serves; without any configuration it
/// serves in development mode, on this machine only, with a demo user and a demo application to try it with.
///
/// The other commands administer users, clients, resources and signing keys in the same database. They work beside a
/// running server, which sees the change within a second.
#[derive(Default, Parser)]
#[command(
    name = "countersign",
    version,
    after_long_help = manual!(
        prints "what the command's own --help says; errors and warnings go to standard error",
        example "countersign                     serve\n  countersign config check        is anything wrong?\n  \
                 countersign user create --help  the manual of one command"
    )
)]
pub struct Cli {
    /// The configuration file [default: countersign.toml, where there is one]
    ///
    /// Each setting is also an environment variable, which wins over the file: `COUNTERSIGN_` and the path in capitals,
    /// two underscores between levels, such as `COUNTERSIGN_ACCESS_TOKEN__LIFETIME`. countersign.example.toml explains
    /// them all.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop (what happens without a command)
    ///
    /// Makes the data directory, the database and the signing keys where there are none, brings the database up to
    /// date, and serves until SIGTERM or SIGINT, upon which running requests are answered first. One server at a time
    /// serves a SQLite database; a second one refuses to start.
    #[command(after_long_help = manual!(
        prints "where to go, on standard output; the log, on standard error",
        example "COUNTERSIGN_ISSUER=https://id.example.com COUNTERSIGN_TRUSTED_PROXIES=127.0.0.1 countersign serve"
    ))]
    Serve,
    /// Check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Create, show and change the people who sign in
    #[command(subcommand)]
    User(user::UserCommand),
    /// Register, show and remove the applications that get tokens
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Register, show and remove the APIs that access tokens are for
    #[command(subcommand)]
    Resource(resource::ResourceCommand),
    /// Show and rotate the keys that sign tokens
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// End sessions, grants and tokens at once
    ///
    /// Name what is to end; all below it ends with it. Sessions end in the browser, refresh tokens at the token endpoint,
    /// access tokens at introspection and `UserInfo`, at once and for good; applications with a `backchannel_logout_uri`
    /// are told. People can sign in again. Resource servers that check access tokens without asking us believe them until
    /// they expire.
    ///
    /// With --issued-before only what was issued before an instant ends, and what that has given since. A session's end
    /// leaves alone what was given with `offline_access`; --user, --client and --all end that too. Among the counts are the
    /// logout tokens: one for each session that ends, at each of its applications that wants to be told.
    #[command(after_long_help = manual!(
        prints "what has ended, and the number of the entry in the log of revocations",
        example "countersign revoke --user alice --dry-run\n  countersign revoke --user alice --wait\n  \
                 countersign revoke --all --issued-before 2026-11-24T12:00:00Z"
    ))]
    Revoke(revoke::RevokeCommand),
    /// Show who is signed in
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Show which applications were told of sign-outs, and tell them again
    #[command(subcommand)]
    LogoutDelivery(logout_delivery::LogoutDeliveryCommand),
    /// Look after the database
    #[command(subcommand)]
    Db(database::DbCommand),
    /// Copy the database into a file, while the server runs
    ///
    /// For SQLite: one file that holds all of one instant, read back before it gets its name. The server goes on meanwhile.
    /// The key-encryption key is not in it; without that, what is sealed in the backup is lost. For PostgreSQL use its own
    /// tools, `pg_dump` or `pg_basebackup`.
    #[command(after_long_help = manual!(
        prints "which file holds the backup",
        example "countersign backup /var/backups/countersign-$(date +%F).db"
    ))]
    Backup(database::BackupCommand),
    /// Make the database from a backup, where there is none
    ///
    /// Only into an empty place, and from this version or an older one. The key-encryption key must be there already.
    /// Everything that was given before now ends, and the signing keys are replaced, because what was revoked after the
    /// backup would live again: everybody signs in anew. A password, a second factor or a recovery code that was changed or
    /// used since then is again as it was. `--keep-tokens-alive` keeps sessions, tokens and keys, revoked or not.
    #[command(after_long_help = manual!(
        prints "what came back and what has ended",
        example "countersign restore /var/backups/countersign-2026-11-24.db"
    ))]
    Restore(database::RestoreCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration is right, and what is wrong
    ///
    /// Reads the configuration file and the `COUNTERSIGN_*` environment just as the server does. Every problem gets a
    /// line that names the place and what would be right. Makes no file or directory and opens no database.
    #[command(after_long_help = manual!(
        prints "that all is fine, and the settings that matter most; no secret",
        example "countersign config check --config /etc/countersign/countersign.toml"
    ))]
    Check,
}

/// What a command works with.
struct Context {
    config: Config,
    store: Store,
    clock: Clock,
}

impl Context {
    /// Asked for when a command does what it does: it may have waited for a password or a word for as long as somebody typed.
    fn now(&self) -> UnixTime {
        self.clock.now()
    }

    /// A person by name, or by identifier (`sub`), as tokens and logs have it.
    async fn person(&self, name: &str) -> anyhow::Result<User> {
        let by_name = self.store.find_user_by_name(name).await?;
        let by_id = self.store.find_user(UserId::from_stored(name)).await?;
        match (by_name, by_id) {
            // Somebody may have taken another's identifier for a name.
            (Some(named), Some(identified)) if named.id != identified.id => {
                bail!("{name} is the name of one user and the identifier of another ({})", identified.username)
            }
            (Some(user), _) | (None, Some(user)) => Ok(user),
            (None, None) => bail!("there is no user {name}; `countersign user list` shows them all"),
        }
    }
}

/// Runs the command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let serves = matches!(cli.command, None | Some(Command::Serve | Command::Config(_)));
    let config = Config::load(cli.config.as_deref(), config::environment(), serves)?;
    match cli.command {
        None | Some(Command::Serve) => Ok(app::serve(config)?),
        Some(Command::Config(ConfigCommand::Check)) => check(&config, cli.config.as_deref()),
        Some(Command::User(command)) => with_store(config, command.creates(), |ctx| command.run(ctx)),
        Some(Command::Client(command)) => with_store(config, command.creates(), |ctx| command.run(ctx)),
        Some(Command::Resource(command)) => with_store(config, command.creates(), |ctx| command.run(ctx)),
        Some(Command::Revoke(command)) => with_store(config, false, |ctx| command.run(ctx)),
        Some(Command::Session(command)) => with_store(config, false, |ctx| command.run(ctx)),
        Some(Command::LogoutDelivery(command)) => with_store(config, false, |ctx| command.run(ctx)),
        Some(Command::Key(command)) => with_store(config, false, |ctx| command.run(ctx)),
        Some(Command::Db(command)) => command.run(config),
        Some(Command::Backup(command)) => command.run(&config),
        Some(Command::Restore(command)) => command.run(&config),
    }
}

/// An empty database has nothing to show or to change: only a command that `creates` makes one, and says so, for it may
/// be that the server's is elsewhere.
fn with_store<F: Future<Output = anyhow::Result<()>>>(
    mut config: Config,
    creates: bool,
    command: impl FnOnce(Context) -> F,
) -> anyhow::Result<()> {
    let missing = missing_database(&config)?;
    if let Some(path) = missing.as_ref().filter(|_| !creates) {
        bail!(
            "there is no database at {}; run this where the server runs, name its configuration by --config, or make \
             one with countersign db migrate",
            path.display()
        );
    }
    if let DatabaseUrl::Postgres(postgres) = &mut config.database_url {
        // A command does one thing after another.
        postgres.connections = 1;
    }
    let store = app::open_store(&config)?;
    if let Some(path) = missing {
        note(&format!("made a new database at {}", path.display()));
    }
    actix_web::rt::System::new().block_on(async {
        let clock = Clock::system(store.latest_instant().await?);
        command(Context { config, store, clock }).await
    })
}

/// Where the database would be that is not there. What cannot be looked at is for opening it to complain of.
fn missing_database(config: &Config) -> std::io::Result<Option<PathBuf>> {
    match &config.database_url {
        DatabaseUrl::Sqlite(path) if matches!(path.try_exists(), Ok(false)) => std::path::absolute(path).map(Some),
        _ => Ok(None),
    }
}

fn database(config: &Config) -> String {
    match &config.database_url {
        DatabaseUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
        // The rest of it may hold a password.
        DatabaseUrl::Postgres(_) => "postgres://…".to_owned(),
    }
}

fn check(config: &Config, file: Option<&Path>) -> anyhow::Result<()> {
    let file = file.unwrap_or(Path::new(DEFAULT_FILE));
    let verdict = if file.exists() {
        format!("{} is fine, and so is the environment.", file.display())
    } else {
        format!("There is no {} here; the environment and the defaults are fine.", file.display())
    };
    let mode = if config.development { "development, for this machine only" } else { "production" };
    let tls = if config.tls.is_some() { "served here" } else { "not served here" };
    let key = match &config.key_encryption_key {
        KeySource::Inline(_) => "given".to_owned(),
        KeySource::File(path) => format!("in {}", path.display()),
    };
    let settings = fields(&[
        ("issuer", config.issuer.to_string()),
        ("mode", mode.to_owned()),
        ("listen", config.listen.to_string()),
        ("TLS", tls.to_owned()),
        ("data directory", config.data_dir.display().to_string()),
        ("database", database(config)),
        ("key-encryption key", key),
    ]);
    print(&format!("{verdict}\n{settings}"))
}

/// As one writes it: `30d`, not `30days`.
fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace("days", "d").replace("day", "d")
}

/// A span of time of whole seconds inside the range.
fn parse_span(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let wanted = || {
        let (least, most) = (span(*range.start()), span(*range.end()));
        format!("write a span of whole seconds such as 90s, 10m or 1h, from {least} to {most}")
    };
    let given = humantime::parse_duration(text).ok().filter(|given| given.subsec_nanos() == 0 && range.contains(given));
    given.ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed_and_serves_by_default() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["countersign"]).unwrap().command.is_none());
        let cli = Cli::try_parse_from(["countersign", "user", "list", "--config", "x.toml"]).unwrap();
        assert_eq!(cli.config.as_deref(), Some(Path::new("x.toml")));
    }

    #[test]
    fn every_command_has_a_manual() {
        fn look(command: &clap::Command) {
            for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
                if inner.has_subcommands() {
                    look(inner);
                    continue;
                }
                let name = inner.get_name();
                assert!(inner.get_long_about().is_some(), "{name} says what it does");
                let manual = inner.get_after_long_help().map(ToString::to_string).unwrap_or_default();
                for part in ["Prints:", "Example:", "Exit codes:"] {
                    assert!(manual.contains(part), "{name}: {part}");
                }
            }
        }
        look(&Cli::command());
    }

    #[test]
    fn spans_are_whole_seconds_inside_their_bounds() {
        let range = Duration::from_secs(1)..=Duration::from_hours(24);
        assert_eq!(parse_span("10m", &range), Ok(Duration::from_mins(10)));
        for bad in ["", "10", "soon", "0s", "500ms", "25h", "-1s"] {
            assert!(parse_span(bad, &range).unwrap_err().ends_with("from 1s to 1d"), "{bad}");
        }
    }
}
