//! Ending things: one write for each kind of thing below what ended, one entry in the log, one statement that queues the logout
//! tokens; never a loop over rows. All in one transaction.

use std::time::Duration;

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text};

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::{ClientId, GrantId, SessionId, UserId};

use super::activity::{NewActivity, note};
use super::conn::{Conn, first_locked, forget, on_backend, rehearse};
use super::revocations::{
    Actor, Cause, GRANT, LONGEST_ACCESS_TOKEN, Reason, SESSION, TOKEN, Target, append, take_turn,
};
use super::schema::{grants, revocations, sessions, users};
use super::second_factors::distrust_all;
use super::sign_outs::{NewSignOut, remember};
use super::{Store, StoreError};

/// How long a receiver of logout tokens is tried.
const LOGOUT_TRIED_FOR: Duration = Duration::from_hours(24);

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

/// What an operation has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The last entry in the log; `None` where nothing ended.
    pub sequence: Option<i64>,
    pub sessions: usize,
    pub grants: usize,
    /// Logout tokens queued.
    pub told: usize,
}

/// What ends, and why.
pub(super) struct Rule<'a> {
    pub target: Target<'a>,
    /// What was issued from then on goes on; `None` ends all that there is.
    pub issued_before: Option<UnixTime>,
    /// A session of the person that goes on, with what hangs on it.
    pub keep: Option<&'a SessionId>,
    /// Leaves grants alone that live without a session.
    pub sessions_only: bool,
    pub cause: &'a Cause,
}

/// The values that every statement of a rule is given: `$1` to `$4`.
struct Bounds<'a> {
    now: i64,
    key: &'a str,
    keep: &'a str,
    before: i64,
}

/// Numbered parameters as each database writes them.
fn numbered(conn: &Conn, text: &str) -> String {
    match conn {
        Conn::Sqlite(_) => text.replace('$', "?"),
        Conn::Pg(_) => text.to_owned(),
    }
}

/// Marks what fits the bounds; how many rows those were.
fn mark(conn: &mut Conn, text: &str, bounds: &Bounds<'_>) -> Result<usize, StoreError> {
    let query = sql_query(numbered(conn, text))
        .bind::<BigInt, _>(bounds.now)
        .bind::<Text, _>(bounds.key)
        .bind::<Text, _>(bounds.keep)
        .bind::<BigInt, _>(bounds.before);
    on_backend!(conn, |c| query.execute(c)).map_err(StoreError::operation("ending what there is"))
}

/// Writes an entry for each row that was just marked.
fn enter_each(conn: &mut Conn, select: &str, cause: &Cause, bounds: &Bounds<'_>) -> Result<usize, StoreError> {
    take_turn(conn)?;
    let text = format!(
        "INSERT INTO revocations (kind, target, not_before, reason, actor, recorded_at, expires_at) \
         SELECT {select} = $2 AND session_id <> $3 AND created_at < $4"
    );
    let expires_at = UnixTime::from_millis(bounds.now).plus(LONGEST_ACCESS_TOKEN).millis();
    let query = sql_query(numbered(conn, &text))
        .bind::<BigInt, _>(bounds.now)
        .bind::<Text, _>(bounds.key)
        .bind::<Text, _>(bounds.keep)
        .bind::<BigInt, _>(bounds.before)
        .bind::<Text, _>(cause.reason.as_str())
        .bind::<Text, _>(cause.actor.text())
        .bind::<BigInt, _>(expires_at);
    on_backend!(conn, |c| query.execute(c)).map_err(StoreError::operation("recording revocations"))
}

/// Queues a logout token for each client that was given tokens in a session that was just ended and wants to be told
/// (Back-Channel Logout 1.0 section 2.3). A session ends once, so it is told once, also where another one ended in the same
/// millisecond. Their names are made by the database's generator, because one statement writes them all.
fn queue_logouts(
    conn: &mut Conn,
    column: &str,
    bounds: &Bounds<'_>,
    sequence: Option<i64>,
) -> Result<usize, StoreError> {
    let (id, payload) = match conn {
        Conn::Sqlite(_) => ("lower(hex(randomblob(16)))", "CAST(sessions.user_id AS BLOB)"),
        Conn::Pg(_) => ("replace(gen_random_uuid()::text, '-', '')", "convert_to(sessions.user_id, 'UTF8')"),
    };
    let text = format!(
        "INSERT INTO outbox (outbox_id, kind, destination, subject, session_id, payload, revocation, attempts, next_at, \
         created_at, expires_at) \
         SELECT {id}, 'logout', clients.logout_destination, clients.client_id, sessions.session_id, {payload}, $5, 0, $1, \
         $1, $6 \
         FROM sessions JOIN session_clients ON session_clients.session_id = sessions.session_id \
         JOIN clients ON clients.client_id = session_clients.client_id \
         WHERE {column} = $2 AND sessions.session_id <> $3 AND sessions.created_at < $4 AND sessions.ended_at = $1 \
         AND clients.logout_destination IS NOT NULL AND NOT EXISTS (SELECT 1 FROM outbox AS told \
         WHERE told.session_id = sessions.session_id AND told.subject = clients.client_id)"
    );
    let query = sql_query(numbered(conn, &text))
        .bind::<BigInt, _>(bounds.now)
        .bind::<Text, _>(bounds.key)
        .bind::<Text, _>(bounds.keep)
        .bind::<BigInt, _>(bounds.before)
        .bind::<Nullable<BigInt>, _>(sequence)
        .bind::<BigInt, _>(UnixTime::from_millis(bounds.now).plus(LOGOUT_TRIED_FOR).millis());
    on_backend!(conn, |c| query.execute(c)).map_err(StoreError::operation("queueing logout tokens"))
}

/// The columns by which sessions and grants belong to a target; for the issuer, an expression that its empty key equals.
fn columns(target: Target<'_>) -> (Option<&'static str>, Option<&'static str>) {
    match target {
        Target::Issuer => (Some("''"), Some("''")),
        Target::User(_) => (Some("sessions.user_id"), Some("grants.user_id")),
        Target::Client(_) => (None, Some("grants.client_id")),
        // Its grants are judged by it, unless they are offline: those go on (Back-Channel Logout 1.0 section 2.7).
        Target::Session(_) => (Some("sessions.session_id"), None),
        Target::Grant(_) => (None, Some("grants.grant_id")),
        Target::Secret(_) | Target::Token(_) | Target::Key(_) => (None, None),
    }
}

/// Ends what a rule says, writes it into the log and queues the logout tokens. Runs in [`Store::write_and_wake`].
pub(super) fn end(conn: &mut Conn, rule: &Rule<'_>, now: UnixTime) -> Result<Ended, StoreError> {
    let (session_column, grant_column) = columns(rule.target);
    let grant_column = grant_column.filter(|_| !rule.sessions_only);
    let bounds = Bounds {
        now: now.millis(),
        key: rule.target.parts().1,
        keep: rule.keep.map_or("", SessionId::as_str),
        before: rule.issued_before.map_or(i64::MAX, UnixTime::millis),
    };
    let mut ended = Ended::default();
    if let Target::User(id) = rule.target {
        // Whoever is signing in or being given a grant just now (see `hold`) is waited for, and ends with the rest.
        let person = users::table.find(id.as_str()).select(users::user_id);
        let _held: Option<String> = first_locked!(conn, person).map_err(StoreError::operation("holding an account"))?;
    }
    if let Some(column) = session_column {
        let text = format!(
            "UPDATE sessions SET ended_at = $1 WHERE {column} = $2 AND session_id <> $3 AND created_at < $4 \
             AND ended_at IS NULL AND expires_at > $1"
        );
        ended.sessions = mark(conn, &text, &bounds)?;
    }
    if let Some(column) = grant_column {
        let text = format!(
            "UPDATE grants SET revoked_at = $1 WHERE {column} = $2 AND session_id <> $3 AND created_at < $4 \
             AND revoked_at IS NULL"
        );
        ended.grants = mark(conn, &text, &bounds)?;
    }
    let nothing = ended.sessions == 0 && ended.grants == 0;
    if nothing && (rule.keep.is_some() || matches!(rule.target, Target::Session(_) | Target::Grant(_))) {
        return Ok(ended);
    }
    // What a rule of its own cannot say: that one session of the person goes on, or that what began before an instant in
    // the past ended with what it gave after it.
    if rule.keep.is_some() || rule.issued_before.is_some() {
        if let Some(column) = session_column.filter(|_| ended.sessions > 0) {
            let select =
                format!("'{SESSION}', session_id, $1, $5, $6, $1, $7 FROM sessions WHERE ended_at = $1 AND {column}");
            enter_each(conn, &select, rule.cause, &bounds)?;
        }
        if let Some(column) = grant_column.filter(|_| ended.grants > 0) {
            let select =
                format!("'{GRANT}', grant_id, $1, $5, $6, $1, $7 FROM grants WHERE revoked_at = $1 AND {column}");
            enter_each(conn, &select, rule.cause, &bounds)?;
        }
    }
    ended.sequence = match rule.target {
        // Entered just now.
        Target::Session(_) | Target::Grant(_) if rule.issued_before.is_some() => last_entry(conn)?,
        _ if rule.keep.is_some() => last_entry(conn)?,
        target => Some(append(conn, target, rule.cause, rule.issued_before.unwrap_or(now), now)?),
    };
    if let Some(column) = session_column.filter(|_| ended.sessions > 0) {
        ended.told = queue_logouts(conn, column, &bounds, ended.sequence)?;
    }
    Ok(ended)
}

fn last_entry(conn: &mut Conn) -> Result<Option<i64>, StoreError> {
    let last = revocations::table.select(diesel::dsl::max(revocations::sequence));
    on_backend!(conn, |c| last.get_result(c)).map_err(StoreError::operation("reading the log's end"))
}

/// Ends all that a person has running: sessions and grants, so that nothing of it can live again.
pub(super) fn end_everything_of(
    conn: &mut Conn,
    user: &UserId,
    cause: &Cause,
    now: UnixTime,
) -> Result<Ended, StoreError> {
    distrust_all(conn, user)?;
    let target = Target::User(user);
    end(conn, &Rule { target, issued_before: None, keep: None, sessions_only: false, cause }, now)
}

/// Ends all that a person has running but one session and what hangs on it.
pub(super) fn end_others(
    conn: &mut Conn,
    user: &UserId,
    keep: &SessionId,
    cause: &Cause,
    now: UnixTime,
) -> Result<Ended, StoreError> {
    distrust_all(conn, user)?;
    let target = Target::User(user);
    end(conn, &Rule { target, issued_before: None, keep: Some(keep), sessions_only: false, cause }, now)
}

/// Ends one session, unless it has ended.
pub(super) fn end_one_session(
    conn: &mut Conn,
    session: &SessionId,
    cause: &Cause,
    now: UnixTime,
) -> Result<Ended, StoreError> {
    let target = Target::Session(session);
    end(conn, &Rule { target, issued_before: None, keep: None, sessions_only: false, cause }, now)
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

    /// Ends the session of a cookie, idle or not, and remembers the page that tells of it. Grants and tokens are judged by
    /// it. False when there was none to end.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn end_session(
        &self,
        cookie: Digest,
        origin: Origin,
        page: Option<NewSignOut>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let open = sessions::table
                .filter(sessions::cookie_digest.eq(cookie.as_bytes().as_slice()))
                .filter(sessions::ended_at.is_null())
                .select((sessions::session_id, sessions::user_id));
            let open: Option<(String, String)> = on_backend!(conn, |c| open.get_result(c).optional())
                .map_err(StoreError::operation("finding a session"))?;
            let Some((id, user)) = open else { return Ok(false) };
            let (id, user) = (SessionId::from_stored(id), UserId::from_stored(user));
            let ended = end_one_session(conn, &id, &Reason::SignedOut.by(Actor::Owner), now)?;
            if ended.sessions == 0 {
                return Ok(false);
            }
            note(conn, &NewActivity { user: &user, event: Event::SignedOut, origin: &origin, detail: "" }, now)?;
            if let Some(page) = &page {
                remember(conn, page, &id, now)?;
            }
            Ok(true)
        })
        .await
    }

    /// A person ends one of their own sessions, from another one. False when it is not theirs or has ended.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn end_session_by_owner(
        &self,
        user: UserId,
        session: SessionId,
        origin: Origin,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let own = sessions::table
                .find(session.as_str())
                .filter(sessions::user_id.eq(user.as_str()))
                .select((sessions::last_address, sessions::user_agent));
            let own: Option<(String, String)> =
                on_backend!(conn, |c| own.first(c).optional()).map_err(StoreError::operation("finding a session"))?;
            let Some((address, user_agent)) = own else { return Ok(false) };
            let cause = Reason::SessionEndedByOwner.by(Actor::Owner);
            if end_one_session(conn, &session, &cause, now)?.sessions == 0 {
                return Ok(false);
            }
            let detail = Origin { address, user_agent }.device();
            let ended = NewActivity { user: &user, event: Event::SessionEnded, origin: &origin, detail: &detail };
            note(conn, &ended, now)?;
            Ok(true)
        })
        .await
    }

    /// A person ends all of their sessions but this one. Grants that live without a session go on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn end_other_sessions(
        &self,
        user: UserId,
        keep: SessionId,
        origin: Origin,
        now: UnixTime,
    ) -> Result<Ended, StoreError> {
        self.write_and_wake(move |conn| {
            let cause = Reason::SessionEndedByOwner.by(Actor::Owner);
            let target = Target::User(&user);
            let rule = Rule { target, issued_before: None, keep: Some(&keep), sessions_only: true, cause: &cause };
            let ended = end(conn, &rule, now)?;
            if ended.sessions > 0 {
                let detail = "all others";
                note(conn, &NewActivity { user: &user, event: Event::SessionEnded, origin: &origin, detail }, now)?;
            }
            Ok(ended)
        })
        .await
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
    let target = match ending {
        Ending::All => Target::Issuer,
        Ending::User(id) => Target::User(id),
        Ending::Client(id) => Target::Client(id),
        Ending::Session(id) => Target::Session(id),
        Ending::Grant(id) => Target::Grant(id),
        Ending::Token(jti) => return Ok(Ended { sequence: end_token(conn, jti, cause, now)?, ..Ended::default() }),
    };
    // Those of a session are not marked, but end with it.
    let mut below = 0;
    let mut person = None;
    if let Ending::Session(id) = ending {
        let living = grants::table
            .filter(grants::session_id.eq(id.as_str()))
            .filter(grants::is_offline.eq(false))
            .filter(grants::revoked_at.is_null())
            .count();
        let living: i64 =
            on_backend!(conn, |c| living.get_result(c)).map_err(StoreError::operation("counting grants"))?;
        below = usize::try_from(living).unwrap_or(0);
        let owner = sessions::table.find(id.as_str()).select(sessions::user_id);
        let owner: Option<String> = on_backend!(conn, |c| owner.get_result(c).optional())
            .map_err(StoreError::operation("finding a session's person"))?;
        person = owner.map(UserId::from_stored);
    } else if let Ending::User(id) = ending {
        person = Some(id.clone());
    }
    let mut ended = end(conn, &Rule { target, issued_before, keep: None, sessions_only: false, cause }, now)?;
    if ended.sessions > 0 {
        ended.grants += below;
        if let Some(person) = person {
            let origin = Origin::default();
            note(conn, &NewActivity { user: &person, event: Event::SessionEnded, origin: &origin, detail: "" }, now)?;
        }
    }
    Ok(ended)
}
