//! `revoke`: ends sessions, grants and tokens at once, at the highest thing that is to end.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{anyhow, bail, ensure};
use clap::{ArgGroup, Args};
use countersign::app;
use countersign::clock::UnixTime;
use countersign::crypto::opaque::{Digest, GrantSecret, REFRESH_TOKEN_PREFIX, sid_of_client};
use countersign::domain::ids::{ClientId, GrantId, SessionId, issued_at};
use countersign::protocol::jose::UnverifiedJws;
use countersign::store::{Ended, Ending, SessionClient};
use uuid::Uuid;

use super::terminal::{fields, note, print};
use super::{Context, key};

/// How long --wait waits for receivers.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub struct RevokeCommand {
    /// All that a person has running: the user's name, or the identifier (`sub`)
    #[arg(long, group = "what", value_name = "USER")]
    user: Option<String>,
    /// All that an application was given, for people and for itself
    #[arg(long, group = "what", value_name = "CLIENT_ID")]
    client: Option<String>,
    /// One browser's sign-in (`sid` of any of its tokens; `countersign session list` shows them)
    #[arg(long, group = "what", value_name = "SESSION", allow_hyphen_values = true)]
    session: Option<String>,
    /// What one authorization gave: its refresh tokens and access tokens
    #[arg(long, group = "what", value_name = "GRANT")]
    grant: Option<String>,
    /// One access token, by its `jti`; or a whole token, a refresh token with its grant
    #[arg(long, group = "what", value_name = "TOKEN")]
    token: Option<String>,
    /// A signing key that is in the wrong hands, with all that it signed (`countersign key list` shows them)
    #[arg(long, group = "what", value_name = "KID", allow_hyphen_values = true)]
    key: Option<String>,
    /// Everything that this server ever gave to anybody
    #[arg(long, group = "what")]
    all: bool,
    /// Only what was issued before this instant (2026-11-24T12:00:00Z), and what that has given since
    #[arg(long, value_name = "INSTANT", value_parser = instant, conflicts_with_all = ["token", "key"])]
    issued_before: Option<UnixTime>,
    /// Say what would end, and end nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until the applications have been told, for a minute at most
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

fn instant(text: &str) -> Result<UnixTime, String> {
    let at = humantime::parse_rfc3339_weak(text).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let millis = at.and_then(|since| i64::try_from(since.as_millis()).ok());
    millis.map(UnixTime::from_millis).ok_or_else(|| "write a UTC time such as 2026-11-24T12:00:00Z".to_owned())
}

impl RevokeCommand {
    pub async fn run(self, ctx: Context) -> anyhow::Result<()> {
        if let Some(kid) = &self.key {
            return revoke_key(&ctx, kid, self.dry_run).await;
        }
        let now = ctx.now();
        if self.issued_before.is_some_and(|before| before > now) {
            bail!("--issued-before lies in the future; what has not been issued yet cannot end");
        }
        let (what, ending) = self.ending(&ctx).await?;
        let what = match self.issued_before {
            Some(before) => format!("{what}, as far as it was issued before {before}"),
            None => what,
        };
        let ended = ctx.store.end(ending.clone(), self.issued_before, self.dry_run, now).await?;
        let Some(sequence) = ended.sequence else {
            return print(&format!("Nothing of {what} is left to end."));
        };
        if self.dry_run {
            return print(&format!("Would end {what}. Nothing has been changed.\n{}", counts(&ended)));
        }
        print(&format!("Ended {what}.\n{}\nlog sequence   {sequence}", counts(&ended)))?;
        if self.wait { wait(&ctx, sequence, ended.told).await } else { Ok(()) }
    }

    /// What is meant, in words and for the store.
    async fn ending(&self, ctx: &Context) -> anyhow::Result<(String, Ending)> {
        if let Some(name) = &self.user {
            let user = ctx.person(name).await?;
            return Ok((format!("all that user {} has", user.username), Ending::User(user.id)));
        }
        if let Some(id) = &self.client {
            let known = ctx.store.registry().await?.clients.iter().any(|client| client.id.as_str() == id);
            ensure!(known, "there is no client {id}; `countersign client list` shows them all");
            return Ok((format!("all that client {id} has"), Ending::Client(ClientId::from_stored(id.as_str()))));
        }
        if let Some(name) = &self.session {
            let id = find_session(ctx, name.trim()).await?;
            return Ok((format!("session {id}"), Ending::Session(id)));
        }
        if let Some(name) = &self.grant {
            let id = GrantId::from_stored(name.trim());
            ensure!(
                ctx.store.has_grant(id.clone()).await?,
                "there is no grant {id} (`grant_id` in its access tokens); `--user` and `--client` end all that somebody has"
            );
            return Ok((format!("grant {id}"), Ending::Grant(id)));
        }
        if let Some(token) = &self.token {
            return self.token(ctx, token.trim()).await;
        }
        Ok(("everything".to_owned(), Ending::All))
    }

    async fn token(&self, ctx: &Context, token: &str) -> anyhow::Result<(String, Ending)> {
        if let Some(secret) = GrantSecret::parse(REFRESH_TOKEN_PREFIX, token) {
            let (grant, _) =
                ctx.store.find_grant(&secret, ctx.now()).await?.ok_or_else(|| anyhow!("no such refresh token"))?;
            return Ok((format!("grant {}", grant.id), Ending::Grant(grant.id)));
        }
        let jti = match UnverifiedJws::parse(token) {
            // Of whatever signature: it only says which token is meant.
            Some(jws) => jws
                .claim_str("jti")
                .filter(|_| jws.claim_str("iss") == Some(ctx.config.issuer.as_str()))
                .and_then(|jti| ours(jti, ctx.now())),
            None => ours(token, ctx.now()),
        };
        let jti =
            jti.ok_or_else(|| anyhow!("this is neither the `jti` of an access token nor a token of this server"))?;
        Ok((format!("access token {jti}"), Ending::Token(jti)))
    }
}

/// Clocks of several servers differ by no more.
const SKEW: Duration = Duration::from_mins(1);

/// The `jti`, as it stands in the token, of one that this server may have issued: a `UUIDv7` of no later instant than now.
fn ours(text: &str, now: UnixTime) -> Option<String> {
    let jti = Uuid::try_parse(text).ok()?.hyphenated().to_string();
    (issued_at(&jti)? <= now.plus(SKEW)).then_some(jti)
}

/// So many sessions with their clients are tried: seconds.
const MOST_TRIED: usize = 1_000_000;

/// A session by its identifier, or by what a client knows it as: where `session.sid` is `per_client` that is derived and
/// tells nothing, so that each session is tried.
async fn find_session(ctx: &Context, name: &str) -> anyhow::Result<SessionId> {
    let id = SessionId::from_stored(name);
    if ctx.store.has_session(id.clone()).await? {
        return Ok(id);
    }
    let unknown = || anyhow!("there is no session {name}; `countersign session list` shows those that live");
    if Digest::try_from(name.to_owned()).is_err() {
        return Err(unknown());
    }
    let key = app::open_sealing_key(&ctx.config, &ctx.store).await?.session_key();
    let (mut tried, mut last) = (0, None);
    while tried < MOST_TRIED {
        let some = ctx.store.list_session_clients(last).await?;
        let fits = |(session, client): &&SessionClient| sid_of_client(&key, session.as_str(), client.as_str()) == name;
        if let Some((session, _)) = some.iter().find(fits) {
            return Ok(session.clone());
        }
        tried += some.len();
        last = some.last().cloned();
        if last.is_none() {
            return Err(unknown());
        }
    }
    bail!(
        "{name} is none of the first {MOST_TRIED} sessions; `countersign session list --user` shows those of a person"
    )
}

fn counts(ended: &Ended) -> String {
    fields(&[
        ("sessions", ended.sessions.to_string()),
        ("grants", ended.grants.to_string()),
        ("logout tokens", ended.told.to_string()),
    ])
}

async fn revoke_key(ctx: &Context, kid: &str, dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        ensure!(
            ctx.store.registry().await?.keys.iter().any(|key| key.key_id == kid),
            "there is no key {kid}; `countersign key list` shows them all"
        );
        return print(&format!("Would remove key {kid} and end all that it signed. Nothing has been changed."));
    }
    let sequence = key::revoke(ctx, kid).await?;
    print(&format!("Removed key {kid}; all that it signed has ended.\nlog sequence   {sequence}"))
}

/// Waits for the running server, which delivers.
async fn wait(ctx: &Context, sequence: i64, told: usize) -> anyhow::Result<()> {
    let looks = LONGEST_WAIT.as_millis() / LOOK_EVERY.as_millis();
    let mut announced = false;
    for look in 0..looks {
        let (open, given_up) = ctx.store.open_logout_deliveries(sequence).await?;
        if open == 0 {
            ensure!(
                given_up == 0,
                "{given_up} of {told} logout tokens could not be delivered; `countersign logout-delivery list` says why"
            );
            return print(if told == 0 {
                "No application had to be told."
            } else {
                "All applications have been told."
            });
        }
        if look >= 10 && !announced {
            note(&format!("{open} of {told} logout tokens have not arrived yet; waiting"));
            announced = true;
        }
        actix_web::rt::time::sleep(LOOK_EVERY).await;
    }
    let (open, _) = ctx.store.open_logout_deliveries(sequence).await?;
    bail!(
        "all has ended here, but {open} of {told} logout tokens have not arrived within a minute; a running server goes on \
         trying for a day; `countersign logout-delivery list` says why"
    )
}
