//! The one ordered log of everything that ended. Each entry is written in the same transaction as the fact, and entries become
//! visible in the order of their numbers: who has seen one never finds an unseen one below it later. See
//! docs/decisions/0012-the-revocation-log.md.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};

use crate::clock::UnixTime;
use crate::domain::ids::{ClientId, GrantId, SessionId, UserId};

use super::StoreError;
use super::conn::{Conn, on_backend};

/// No access token outlives its issue by more; the configuration enforces the bound.
pub(super) const LONGEST_ACCESS_TOKEN: std::time::Duration = std::time::Duration::from_hours(24);

/// What ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// Everything that this server ever gave.
    Issuer,
    User(&'a UserId),
    Client(&'a ClientId),
    /// A client's secret; what was given for it stays good.
    Secret(&'a ClientId),
    Session(&'a SessionId),
    Grant(&'a GrantId),
    /// One access token, by `jti`.
    Token(&'a str),
    /// A signing key, by `kid`, with all that it signed.
    Key(&'a str),
}

pub(super) const ISSUER: &str = "issuer";
pub(super) const USER: &str = "user";
pub(super) const CLIENT: &str = "client";
pub(super) const SESSION: &str = "session";
pub(super) const GRANT: &str = "grant";
pub(super) const TOKEN: &str = "token";

impl<'a> Target<'a> {
    pub(super) fn parts(self) -> (&'static str, &'a str) {
        match self {
            Self::Issuer => (ISSUER, ""),
            Self::User(id) => (USER, id.as_str()),
            Self::Client(id) => (CLIENT, id.as_str()),
            Self::Secret(id) => ("secret", id.as_str()),
            Self::Session(id) => (SESSION, id.as_str()),
            Self::Grant(id) => (GRANT, id.as_str()),
            Self::Token(jti) => (TOKEN, jti),
            Self::Key(kid) => ("key", kid),
        }
    }
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// RFC 7009.
    RevokedByClient,
    CodeReused,
    RefreshTokenReused,
    SignedOut,
    /// Another person signed in in its browser.
    SessionReplaced,
    SessionEndedByOwner,
    ConsentRevoked,
    PasswordChanged,
    FactorChanged,
    EmailChanged,
    UserDisabled,
    UserDeleted,
    ClientDeleted,
    SecretRotated,
    KeyRevoked,
    /// An operator's command that gives no other reason.
    Operator,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::RevokedByClient => "revoked_by_client",
            Self::CodeReused => "code_reused",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::SignedOut => "signed_out",
            Self::SessionReplaced => "session_replaced",
            Self::SessionEndedByOwner => "session_ended_by_owner",
            Self::ConsentRevoked => "consent_revoked",
            Self::PasswordChanged => "password_changed",
            Self::FactorChanged => "factor_changed",
            Self::EmailChanged => "email_changed",
            Self::UserDisabled => "user_disabled",
            Self::UserDeleted => "user_deleted",
            Self::ClientDeleted => "client_deleted",
            Self::SecretRotated => "secret_rotated",
            Self::KeyRevoked => "key_revoked",
            Self::Operator => "operator",
        }
    }

    #[must_use]
    pub const fn by(self, actor: Actor) -> Cause {
        Cause { reason: self, actor }
    }
}

/// Who ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The person whose it is.
    Owner,
    Operator,
    Client(ClientId),
    /// The server itself, because of what it saw.
    System,
}

impl Actor {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Owner => "owner".to_owned(),
            Self::Operator => "operator".to_owned(),
            Self::Client(id) => format!("client:{id}"),
            Self::System => "system".to_owned(),
        }
    }
}

/// Why, and by whom; made by [`Reason::by`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: Reason,
    pub actor: Actor,
}

#[derive(QueryableByName)]
pub(super) struct Appended {
    #[diesel(sql_type = BigInt)]
    pub sequence: i64,
}

/// PostgreSQL's turn to append, until the transaction's end: an advisory lock under any number that nothing else of ours
/// uses. The rows to insert come out of it, so their numbers are drawn once the lock was had.
pub(super) const TURN: &str = "WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(7009))";

/// Appends one entry: everything of the target issued before `not_before` has ended. It matters until the last access
/// token that it can touch is dead. Gives its number.
///
/// One transaction at a time appends on PostgreSQL, from its first entry to its commit: numbers are drawn in the order of
/// commits. So an entry comes after the statements that wait for rows of others. SQLite has one writer anyway.
pub(super) fn append(
    conn: &mut Conn,
    target: Target<'_>,
    cause: &Cause,
    not_before: UnixTime,
    now: UnixTime,
) -> Result<i64, StoreError> {
    const COLUMNS: &str = "revocations (kind, target, not_before, reason, actor, recorded_at, expires_at)";
    let (kind, target) = target.parts();
    let text = match conn {
        Conn::Sqlite(_) => format!("INSERT INTO {COLUMNS} VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING sequence"),
        Conn::Pg(_) => {
            format!("{TURN} INSERT INTO {COLUMNS} SELECT $1, $2, $3, $4, $5, $6, $7 FROM turn RETURNING sequence")
        }
    };
    let row = sql_query(text)
        .bind::<Text, _>(kind)
        .bind::<Text, _>(target)
        .bind::<BigInt, _>(not_before.millis())
        .bind::<Text, _>(cause.reason.as_str())
        .bind::<Text, _>(cause.actor.text())
        .bind::<BigInt, _>(now.millis())
        .bind::<BigInt, _>(now.plus(LONGEST_ACCESS_TOKEN).millis());
    let appended: Appended =
        on_backend!(conn, |c| row.get_result(c)).map_err(StoreError::operation("recording a revocation"))?;
    Ok(appended.sequence)
}

/// The condition that no rule of the log ends what was issued to a target at an instant; one seek in an index.
macro_rules! spared {
    ($kind:expr, $target:expr, $issued_at:expr) => {
        diesel::dsl::not(diesel::dsl::exists(
            revocations::table
                .filter(revocations::kind.eq($kind))
                .filter(revocations::target.eq($target))
                .filter(revocations::not_before.gt($issued_at)),
        ))
    };
}

pub(super) use spared;
