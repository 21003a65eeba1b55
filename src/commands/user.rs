//! `user`: the people who sign in.

use std::path::PathBuf;

use anyhow::{anyhow, bail, ensure};
use clap::Subcommand;
use countersign::app;
use countersign::config::PasswordConfig;
use countersign::crypto::password::PasswordHasher;
use countersign::domain::activity::{Event, Origin};
use countersign::domain::ids::{ClientId, UserId};
use countersign::domain::throttle::Bucket;
use countersign::domain::user::{User, check_claims, check_email, check_name};
use countersign::flow::mail::notice_by;
use countersign::flow::password::judge;
use countersign::store::{Actor, Deletion, Ending, NewOutboxItem, NewUser, Registered};
use serde_json::{Map, Value, json};

use super::Context;
use super::import::import;
use super::terminal::{fields, note, pretty, print, print_json, read_line, read_object, read_password, table, warn};

#[derive(Subcommand)]
pub enum UserCommand {
    /// Create a user
    ///
    /// Names are one account in any letter case. The password is one line on standard input, of 15 to 128 characters
    /// (`password.min_length` in the configuration). An e-mail address counts as not verified until you say otherwise.
    #[command(after_long_help = manual!(
        prints "the user's name and permanent identifier, which is `sub` in tokens",
        example "read -rs P; printf %s \"$P\" | countersign user create alice --email a@example.com --password-stdin"
    ))]
    #[command(visible_alias = "add")]
    Create {
        /// What the person types to sign in
        name: String,
        /// The e-mail address, which applications see that are allowed the scope `email`
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// Read the password from standard input: pipe it in, as in the example; there is no other way to give one
        #[arg(long, required = true)]
        password_stdin: bool,
        /// Make the user an administrator
        #[arg(long)]
        admin: bool,
    },
    /// Take over people of another system, with their password hashes
    ///
    /// Reads an array of JSON objects, or one object a line: `username`, and where there are such `email`,
    /// `email_verified`, `admin`, `disabled`, `claims` (of OpenID Connect Core section 5.1) and `password_hash`. The hash is
    /// text: bcrypt, Django's `pbkdf2_sha256`, `pbkdf2_sha1`, `scrypt` and `argon2`, or a PHC string of Argon2, scrypt or
    /// PBKDF2. Or it is a password credential as Keycloak exports it (`algorithm`, `hashIterations`, `salt`, `value`, or the
    /// same inside of `secretData` and `credentialData`). Refused is what would make a sign-in take about a second: more
    /// than 1,500,000 iterations of PBKDF2 (500,000 with SHA-512), bcrypt above cost 14, more than 128 MiB or 512 MiB over
    /// all passes of Argon2, or 256 MiB of scrypt. At the first sign-in it is replaced by one of our own; who has
    /// none resets their password. All are imported, or nobody and each problem gets a line.
    #[command(after_long_help = manual!(
        prints "how many were imported",
        example "echo '{\"username\": \"alice\", \"password_hash\": \"$2b$12$…\"}' | countersign user import -"
    ))]
    Import {
        /// The file with the people; - for standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// List all users
    ///
    /// One line for each, in the order of their names.
    #[command(after_long_help = manual!(
        prints "name, e-mail address, state, role, time of creation and identifier in columns; with --json an array",
        example "countersign user list"
    ))]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one user
    ///
    /// Shows everything about a user but the password, of which only a hash is kept.
    #[command(after_long_help = manual!(
        prints "one value a line, then the claims as JSON; with --json one object",
        example "countersign user show alice"
    ))]
    Show {
        /// The user's name
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Shut an account, and end all that it has running
    ///
    /// The user can no longer sign in; sessions, grants, refresh tokens and access tokens end for good and do not come
    /// back with `user enable`. Resource servers that check access tokens without asking us believe them until they
    /// expire. Where mail is set up, the user is told.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign user disable alice"
    ))]
    Disable {
        /// The user's name
        name: String,
    },
    /// Open an account that was shut
    ///
    /// The user can sign in again, with the password of before. What ended when the account was shut stays ended.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign user enable alice"
    ))]
    Enable {
        /// The user's name
        name: String,
    },
    /// Let an account be signed in to that too many wrong guesses have shut
    ///
    /// After 5 wrong passwords the next guess must wait, longer each time; after 100 in a row the account is shut to
    /// browsers that have not signed in to it before. This forgets the guesses; so does `user set-password`.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign user unlock alice"
    ))]
    Unlock {
        /// The user's name
        name: String,
    },
    /// Take all second factors from an account whose owner has lost them
    ///
    /// Authenticator apps, recovery codes and trusted browsers are forgotten, and all that the user has running ends. The
    /// next sign-in needs the password alone, or leads to setting up another app where a second factor is required. Be
    /// sure who asks you for it: with the password, this is all that is needed to get in. Where mail is set up, the user is
    /// told.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign user reset-mfa alice"
    ))]
    ResetMfa {
        /// The user's name
        name: String,
    },
    /// Take back what a user allowed an application
    ///
    /// The consent is forgotten and every grant under it ends: refresh tokens at once, access tokens at introspection
    /// and `UserInfo` at once. The application must ask again.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign user revoke-consent alice client_0123456789abcdef0123456789abcdef"
    ))]
    RevokeConsent {
        /// The user's name
        name: String,
        /// The application's `client_id`
        client_id: String,
    },
    /// Give a user a new password
    ///
    /// Reads the new password as `user create` does. All that the user has running ends, for whoever knew the old
    /// password may be in it, unless --keep-sessions is given. Where mail is set up, the user is told.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "read -rs P; printf %s \"$P\" | countersign user set-password alice --password-stdin"
    ))]
    SetPassword {
        /// The user's name
        name: String,
        /// Read the password from standard input: pipe it in, as in the example; there is no other way to give one
        #[arg(long, required = true)]
        password_stdin: bool,
        /// Leave sessions and tokens alive
        #[arg(long)]
        keep_sessions: bool,
    },
    /// Change a user's e-mail address
    ///
    /// A new address counts as not verified unless --verified is given. Where mail is set up, the old one is told.
    #[command(after_long_help = manual!(
        prints "that it is done",
        example "countersign user set-email alice alice@example.org --verified"
    ))]
    SetEmail {
        /// The user's name
        name: String,
        /// The new address
        #[arg(required_unless_present = "remove")]
        email: Option<String>,
        /// The address is known to be the user's: `email_verified` is true
        #[arg(long)]
        verified: bool,
        /// Take the address away
        #[arg(long, conflicts_with_all = ["email", "verified"])]
        remove: bool,
    },
    /// Delete an account, with all that hangs on it
    ///
    /// All that the user has running ends as with `user disable`, then the account is gone: profile, second factors,
    /// consents, activity. It cannot be brought back, and its identifier (`sub`) is never given again. Says what would end
    /// and asks for the name on standard input, unless --yes is given. The last administrator stays. Where mail is set up,
    /// the user is told.
    #[command(after_long_help = manual!(
        prints "that it is done, and what has ended",
        example "countersign user delete alice"
    ))]
    #[command(visible_aliases = ["remove", "rm"])]
    Delete {
        /// The user's name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Set claims of a user: full name, picture, address, telephone and so on
    ///
    /// Reads a JSON object of the claims of OpenID Connect Core section 5.1 and merges it into what the user has: null
    /// takes a claim away, and what is not named stays. Applications see a claim when the user allows them its scope
    /// (`profile`, `email`, `address`, `phone`). The e-mail address itself is changed by `user set-email`.
    #[command(after_long_help = manual!(
        prints "all claims as they are now, as JSON",
        example "echo '{\"name\": \"Alice Smith\", \"nickname\": null}' | countersign user set-claims alice -"
    ))]
    SetClaims {
        /// The user's name
        name: String,
        /// The file with the JSON object; - for standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
}

impl UserCommand {
    /// Whether it may be what begins a database.
    pub fn creates(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Import { .. })
    }

    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        match self {
            Self::Create { name, email, admin, .. } => create(&ctx, name, email, admin).await,
            Self::Import { file } => import(&ctx, &file).await,
            Self::List { json } => list(&ctx, json).await,
            Self::Show { name, json } => {
                let user = find(&ctx, &name).await?;
                if json { print_json(&to_json(&user)) } else { print(&describe(&user)) }
            }
            Self::Disable { name } => set_disabled(&ctx, &name, true).await,
            Self::Enable { name } => set_disabled(&ctx, &name, false).await,
            Self::Unlock { name } => {
                let user = find(&ctx, &name).await?;
                ctx.store.forget_failures(Bucket::account(&user.username, None)).await?;
                ctx.store.forget_failures(Bucket::second_factor(&user.id, None)).await?;
                print(&format!("Unlocked user {}.", user.username))
            }
            Self::ResetMfa { name } => {
                let user = find(&ctx, &name).await?;
                let name = &user.username;
                let notice = notice(&ctx, &user, Event::FactorRemoved, "").await?;
                if ctx.store.reset_second_factors(user.id.clone(), notice, ctx.now()).await? {
                    print(&format!("User {name} has no second factor any more; all sessions and tokens have ended."))
                } else {
                    print(&format!("User {name} had no second factor; nothing was ended."))
                }
            }
            Self::RevokeConsent { name, client_id } => {
                let user = find(&ctx, &name).await?;
                let client = ClientId::from_stored(client_id.clone());
                // A client that is gone meanwhile is called by its identifier.
                let (rows, id) = (ctx.store.registry().await?, &client);
                let known = rows.clients.iter().find(|other| other.id == *id);
                let name_of = known.map_or(client_id.as_str(), |client| client.name()).to_owned();
                if !ctx.store.revoke_consent(user.id, client, name_of, Origin::default(), ctx.now()).await? {
                    bail!("{name} has allowed the client {client_id} nothing");
                }
                print(&format!("Took back what {name} allowed {client_id}."))
            }
            Self::SetPassword { name, keep_sessions, .. } => set_password(&ctx, &name, keep_sessions).await,
            Self::Delete { name, yes } => delete(&ctx, &name, yes).await,
            Self::SetEmail { name, email, verified, .. } => set_email(&ctx, &name, email, verified).await,
            Self::SetClaims { name, file } => {
                let claims = read_object(&file)?;
                check_claims(&claims).map_err(anyhow::Error::msg)?;
                let user = find(&ctx, &name).await?;
                let user = ctx
                    .store
                    .set_claims(user.id, claims, Origin::default(), ctx.now())
                    .await?
                    .ok_or_else(|| unknown(&name))?;
                print_json(&claims_of(&user))
            }
        }
    }
}

fn unknown(name: &str) -> anyhow::Error {
    anyhow!("there is no user {name}; `countersign user list` shows them all")
}

async fn find(ctx: &Context, name: &str) -> anyhow::Result<User> {
    ctx.store.find_user_by_name(name).await?.ok_or_else(|| unknown(name))
}

/// The hash of the password on standard input, judged as everybody's is.
async fn new_password(ctx: &Context, name: &str, email: Option<&str>) -> anyhow::Result<String> {
    let password = read_password()?;
    let hasher = PasswordHasher::start(&PasswordConfig { threads: 1, ..ctx.config.password.clone() })?;
    let outbound = app::open_outbound(&ctx.config)?;
    let judged = judge(&hasher, &ctx.config, &outbound, &password, &[name, email.unwrap_or_default()]).await?;
    judged.map_err(|refusal| anyhow!("{refusal}"))?;
    Ok(hasher.hash(password).await?)
}

fn checked_email(email: Option<String>) -> anyhow::Result<Option<String>> {
    if let Some(email) = &email {
        check_email(email).map_err(|why| anyhow!("{email:?} is no e-mail address: {why}"))?;
    }
    Ok(email)
}

/// Two people may share an address, and applications may not know that.
async fn warn_of_shared_email(ctx: &Context, id: &UserId, email: Option<&str>) -> anyhow::Result<()> {
    let Some(email) = email.map(str::to_lowercase) else { return Ok(()) };
    let same = |user: &&User| user.id != *id && user.email.as_ref().is_some_and(|other| other.to_lowercase() == email);
    for User { username, .. } in ctx.store.list_users().await?.iter().filter(same) {
        warn(&format!("{username} has this e-mail address too; applications that match people by it will mix them up"));
    }
    Ok(())
}

async fn create(ctx: &Context, name: String, email: Option<String>, admin: bool) -> anyhow::Result<()> {
    let name = name.trim();
    check_name(name).map_err(|why| anyhow!("{name:?} cannot be a user name: {why}"))?;
    let email = checked_email(email)?;
    let password_hash = new_password(ctx, name, email.as_deref()).await?;
    let now = ctx.now();
    let user = User {
        id: UserId::random(),
        username: name.to_owned(),
        email,
        email_verified: false,
        is_admin: admin,
        claims: Map::new(),
        disabled_at: None,
        created_at: now,
        updated_at: now,
        has_second_factor: false,
    };
    let (id, email) = (user.id.clone(), user.email.clone());
    match ctx.store.create_user(NewUser { user, password_hash: Some(password_hash) }).await? {
        Registered::Done => {
            warn_of_shared_email(ctx, &id, email.as_deref()).await?;
            print(&format!("Created user {name} with the identifier {id}."))
        }
        Registered::Exists => {
            bail!("there is a user {name} already; `countersign user set-password` changes its password")
        }
    }
}

async fn list(ctx: &Context, json: bool) -> anyhow::Result<()> {
    let users = ctx.store.list_users().await?;
    if json {
        return print_json(&users.iter().map(to_json).collect());
    }
    let row = |user: &User| {
        let state = if user.disabled_at.is_some() { "disabled" } else { "active" };
        [
            user.username.clone(),
            user.email.clone().unwrap_or_default(),
            state.to_owned(),
            role(user).to_owned(),
            user.created_at.to_string(),
            user.id.to_string(),
        ]
    };
    print(&table(["NAME", "EMAIL", "STATE", "ROLE", "CREATED", "ID"], users.iter().map(row).collect()))
}

async fn set_disabled(ctx: &Context, name: &str, disabled: bool) -> anyhow::Result<()> {
    let user = find(ctx, name).await?;
    // Only what happens to the account, not that it stays as it was.
    let shuts = disabled && user.disabled_at.is_none();
    let notice = if shuts { notice(ctx, &user, Event::AccountDisabled, "").await? } else { None };
    ensure!(ctx.store.set_user_disabled(user.id, disabled, notice, ctx.now()).await?, unknown(name));
    let state = if disabled { "disabled; all sessions and tokens have ended" } else { "active" };
    print(&format!("User {} is {state}.", user.username))
}

async fn set_password(ctx: &Context, name: &str, keep_sessions: bool) -> anyhow::Result<()> {
    let user = find(ctx, name).await?;
    let password_hash = new_password(ctx, &user.username, user.email.as_deref()).await?;
    let notice = notice(ctx, &user, Event::PasswordChanged, "").await?;
    ensure!(ctx.store.set_password(user.id, password_hash, keep_sessions, notice, ctx.now()).await?, unknown(name));
    let rest = if keep_sessions { "sessions and tokens stay alive" } else { "all sessions and tokens have ended" };
    print(&format!("User {} has a new password; {rest}.", user.username))
}

async fn set_email(ctx: &Context, name: &str, email: Option<String>, verified: bool) -> anyhow::Result<()> {
    let email = checked_email(email)?;
    let user = find(ctx, name).await?;
    let done = match &email {
        Some(email) => format!("User {} has the e-mail address {email}.", user.username),
        None => format!("User {} has no e-mail address.", user.username),
    };
    // To the address of before, as when its owner changes it.
    let changes = user.email != email;
    let new = email.as_deref().unwrap_or_default();
    let notice = if changes { notice(ctx, &user, Event::EmailChanged, new).await? } else { None };
    ensure!(ctx.store.set_email(user.id.clone(), email.clone(), verified, notice, ctx.now()).await?, unknown(name));
    warn_of_shared_email(ctx, &user.id, email.as_deref()).await?;
    print(&done)
}

async fn delete(ctx: &Context, name: &str, yes: bool) -> anyhow::Result<()> {
    let user = find(ctx, name).await?;
    let (id, name) = (user.id.clone(), &user.username);
    let ended = ctx.store.end(Ending::User(id.clone()), None, true, ctx.now()).await?;
    let some = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let running = format!("{} and {}", some(ended.sessions, "session"), some(ended.grants, "grant"));
    if !yes {
        note(&format!(
            "would delete user {name} ({id}) and end {running}; this cannot be undone; type the name to do it"
        ));
        ensure!(read_line()?.trim() == name, "that is not {name}; nothing has been changed");
    }
    let notice = notice(ctx, &user, Event::AccountDeleted, "").await?;
    match ctx.store.delete_user(id, None, Actor::Operator, notice, ctx.now()).await? {
        Deletion::Deleted => print(&format!("Deleted user {name}; {running} ended.")),
        Deletion::LastAdministrator => bail!("{name} is the last administrator; make another one first"),
        Deletion::Gone => Err(unknown(name)),
    }
}

/// What the owner is told of it, as if they had done it themselves; the key that seals mail is opened only where mail goes
/// out.
async fn notice(ctx: &Context, user: &User, event: Event, detail: &str) -> anyhow::Result<Option<NewOutboxItem>> {
    if ctx.config.mail.is_none() || user.email.is_none() {
        return Ok(None);
    }
    // What is urgent is done also where the key is not at hand.
    match app::open_sealing_key(&ctx.config, &ctx.store).await {
        Ok(sealing) => Ok(notice_by(&ctx.config, &sealing, user, event, detail, &Origin::default(), ctx.now())?),
        Err(error) => {
            note(&format!("The owner is not told by mail: {error}"));
            Ok(None)
        }
    }
}

fn role(user: &User) -> &'static str {
    if user.is_admin { "administrator" } else { "user" }
}

/// What `set-claims` sets: `email_verified` among it, though it is kept beside the address.
fn claims_of(user: &User) -> Value {
    let mut claims = user.claims.clone();
    if user.email.is_some() {
        claims.insert("email_verified".to_owned(), user.email_verified.into());
    }
    claims.into()
}

fn describe(user: &User) -> String {
    let verified = if user.email_verified { "verified" } else { "not verified" };
    let values = fields(&[
        ("name", user.username.clone()),
        ("identifier", user.id.to_string()),
        ("e-mail", user.email.as_ref().map_or_else(|| "none".to_owned(), |email| format!("{email} ({verified})"))),
        ("role", role(user).to_owned()),
        ("state", user.disabled_at.map_or_else(|| "active".to_owned(), |at| format!("disabled since {at}"))),
        ("created", user.created_at.to_string()),
        ("updated", user.updated_at.to_string()),
    ]);
    format!("{values}\nclaims\n{}", pretty(&claims_of(user)))
}

fn to_json(user: &User) -> Value {
    json!({
        "id": user.id,
        "username": user.username,
        "email": user.email,
        "email_verified": user.email_verified,
        "admin": user.is_admin,
        "disabled_at": user.disabled_at.map(|at| at.to_string()),
        "created_at": user.created_at.to_string(),
        "updated_at": user.updated_at.to_string(),
        "claims": user.claims,
    })
}
