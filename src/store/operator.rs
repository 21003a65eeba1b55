//! What an operator ends by command, and a client by RFC 7009.

use diesel::dsl::{exists, sql};
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::clock::UnixTime;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::{ClientId, GrantId, SessionId, UserId};

use super::activity::{NewActivity, note};
use super::conn::{Conn, forget, on_backend, rehearse};
use super::endings::{Ended, Rule, conclude_session, end, end_session_where};
use super::holding::hold_person;
use super::revocations::{Actor, Cause, Reason, TOKEN, Target, append};
use super::schema::{revocations, sessions};
use super::{Store, StoreError};

/// What an operator ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that this server ever gave.
    All,
    User(UserId),
    Client(ClientId),
    Session(SessionId),
    Grant(GrantId),
    /// One access token, by `jti`.
    Token(String),
}

/// Ends one access token; the number of its entry, unless it had one.
fn end_token(conn: &mut Conn, jti: &str, cause: &Cause, now: UnixTime) -> Result<Option<i64>, StoreError> {
    let entry = revocations::table.filter(revocations::kind.eq(TOKEN)).filter(revocations::target.eq(jti));
    let known: bool = on_backend!(conn, |c| diesel::select(exists(entry)).get_result(c))
        .map_err(StoreError::operation("looking for a revocation"))?;
    if known { Ok(None) } else { append(conn, Target::Token(jti), cause, now, now).map(Some) }
}

impl Store {
    /// Ends one access token (RFC 7009 section 2).
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_access_token(&self, jti: String, cause: Cause, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| end_token(conn, &jti, &cause, now).map(drop)).await
    }

    /// Ends what an operator says: all of it, or what was issued before an instant, and what that gave since. A rehearsal
    /// does the same and takes it back.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn end(
        &self,
        ending: Ending,
        issued_before: Option<UnixTime>,
        rehearsal: bool,
        now: UnixTime,
    ) -> Result<Ended, StoreError> {
        self.write_and_wake(move |conn| {
            let failed = || StoreError::operation("rehearsing a revocation");
            if rehearsal {
                rehearse(conn).map_err(failed())?;
            }
            let ended = end_by_operator(conn, &ending, issued_before, now)?;
            if rehearsal {
                forget(conn).map_err(failed())?;
            }
            Ok(ended)
        })
        .await
    }
}

fn end_by_operator(
    conn: &mut Conn,
    ending: &Ending,
    issued_before: Option<UnixTime>,
    now: UnixTime,
) -> Result<Ended, StoreError> {
    let cause = &Reason::Operator.by(Actor::Operator);
    let signed_out = |conn: &mut Conn, user: &UserId| {
        let origin = Origin::default();
        note(conn, &NewActivity { user, event: Event::SessionEnded, origin: &origin, detail: "" }, now)
    };
    let target = match ending {
        Ending::All => Target::Issuer,
        Ending::User(id) => {
            hold_person(conn, id)?;
            Target::User(id)
        }
        Ending::Client(id) => Target::Client(id),
        Ending::Session(id) => {
            let began_before = issued_before.map_or(i64::MAX, UnixTime::millis);
            let which = sessions::session_id.eq(id.as_str()).and(sessions::created_at.lt(began_before));
            let Some(session) = end_session_where!(conn, which, issued_before, cause, now)? else {
                return Ok(Ended::default());
            };
            signed_out(conn, &session.user)?;
            return Ok(Ended { grants: session.below, ..session.ended });
        }
        Ending::Grant(id) => Target::Grant(id),
        Ending::Token(jti) => return Ok(Ended { sequence: end_token(conn, jti, cause, now)?, ..Ended::default() }),
    };
    let ended = end(conn, &Rule { target, issued_before, keep: None, sessions_only: false, cause }, now)?;
    if let Ending::User(id) = ending
        && ended.sessions > 0
    {
        signed_out(conn, id)?;
    }
    Ok(ended)
}
