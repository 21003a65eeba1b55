//! The one ordered log of everything that ended. Each entry is written in the same transaction as the fact.

use diesel::dsl::exists;
use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::domain::ids::{ClientId, GrantId, SessionId, UserId};

use super::conn::{Conn, on_backend};
use super::schema::revocations;
use super::{Store, StoreError};

/// No access token outlives its issue by more; the configuration enforces the bound.
pub(super) const LONGEST_ACCESS_TOKEN: std::time::Duration = std::time::Duration::from_hours(24);

/// What ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    User(&'a UserId),
    Client(&'a ClientId),
    Session(&'a SessionId),
    Grant(&'a GrantId),
    /// One access token, by `jti`.
    Token(&'a str),
}

pub(super) const TOKEN: &str = "token";

impl<'a> Target<'a> {
    fn parts(self) -> (&'static str, &'a str) {
        match self {
            Self::User(id) => ("user", id.as_str()),
            Self::Client(id) => ("client", id.as_str()),
            Self::Session(id) => ("session", id.as_str()),
            Self::Grant(id) => ("grant", id.as_str()),
            Self::Token(jti) => (TOKEN, jti),
        }
    }
}

/// Why it ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason {
    RevokedByClient,
    CodeReused,
    RefreshTokenReused,
    SignedOut,
    UserDisabled,
    PasswordChanged,
    ClientDeleted,
    ConsentRevoked,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::RevokedByClient => "revoked_by_client",
            Self::CodeReused => "code_reused",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::SignedOut => "signed_out",
            Self::UserDisabled => "user_disabled",
            Self::PasswordChanged => "password_changed",
            Self::ClientDeleted => "client_deleted",
            Self::ConsentRevoked => "consent_revoked",
        }
    }
}

/// Appends one entry: everything of the target issued before `not_before` has ended. It matters until the last access
/// token that it can touch is dead.
pub(super) fn append(
    conn: &mut Conn,
    target: Target<'_>,
    reason: Reason,
    not_before: UnixTime,
    now: UnixTime,
) -> Result<(), StoreError> {
    let (kind, target) = target.parts();
    let row = (
        revocations::kind.eq(kind),
        revocations::target.eq(target),
        revocations::not_before.eq(not_before.millis()),
        revocations::reason.eq(reason.as_str()),
        revocations::recorded_at.eq(now.millis()),
        revocations::expires_at.eq(now.plus(LONGEST_ACCESS_TOKEN).millis()),
    );
    on_backend!(conn, |c| diesel::insert_into(revocations::table).values(row).execute(c))
        .map_err(StoreError::operation("recording a revocation"))?;
    Ok(())
}

impl Store {
    /// Ends one access token (RFC 7009 section 2).
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_access_token(&self, jti: String, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| {
            let entry = revocations::table.filter(revocations::kind.eq(TOKEN)).filter(revocations::target.eq(&jti));
            let known: bool = on_backend!(conn, |c| diesel::select(exists(entry)).get_result(c))
                .map_err(StoreError::operation("looking for a revocation"))?;
            if known { Ok(()) } else { append(conn, Target::Token(&jti), Reason::RevokedByClient, now, now) }
        })
        .await
    }
}
