//! Ending things: one write for each kind of thing below what ended, one that enters it in the log, one that queues the logout
//! tokens; never a loop over rows. All in one transaction, and as many statements for ten thousand as for one: a test counts.
//! Rows are taken in the order that the module above them says: grants before sessions, each kind by identifier.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text};

use crate::clock::UnixTime;
use crate::domain::activity::Origin;
use crate::domain::ids::{ClientId, SessionId, UserId};
use crate::protocol::acr::AMR_MFA;

use super::StoreError;
use super::conn::{Conn, among_the_free, on_backend};
use super::holding::hold_person;
use super::revocations::{Actor, Appended, Cause, GRANT, LONGEST_ACCESS_TOKEN, Reason, SESSION, TURN, Target, append};
use super::schema::sessions;
use super::trusted_browsers::distrust_all;

/// How long a receiver of logout tokens is tried.
const LOGOUT_TRIED_FOR: Duration = Duration::from_hours(24);

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

impl<'a> Rule<'a> {
    fn bounds(&self, now: UnixTime) -> Bounds<'a> {
        Bounds {
            now: now.millis(),
            key: self.target.parts().1,
            other: self.keep.map_or("", SessionId::as_str),
            before: self.issued_before.map_or(i64::MAX, UnixTime::millis),
        }
    }
}

/// The values that every statement of an ending is given: `$1` to `$4`.
struct Bounds<'a> {
    now: i64,
    key: &'a str,
    /// The session that goes on; of a consent taken back, its client.
    other: &'a str,
    before: i64,
}

/// Numbered parameters as each database writes them.
fn numbered(conn: &Conn, text: &str) -> String {
    match conn {
        Conn::Sqlite(_) => text.replace('$', "?"),
        Conn::Pg(_) => text.to_owned(),
    }
}

/// A table of what ends: the kind that its entries in the log have, and the columns that name a row and say when it ended.
struct Table {
    kind: &'static str,
    name: &'static str,
    id: &'static str,
    ended: &'static str,
}

const GRANTS: Table = Table { kind: GRANT, name: "grants", id: "grant_id", ended: "revoked_at" };
const SESSIONS: Table = Table { kind: SESSION, name: "sessions", id: "session_id", ended: "ended_at" };

impl Table {
    /// Selects the entries of what was just marked under a condition.
    fn entries(&self, which: &str) -> String {
        let Self { kind, name, id, ended } = self;
        format!("SELECT '{kind}' AS kind, {id} AS target, $1 AS not_before FROM {name} WHERE {which} AND {ended} = $1")
    }
}

/// Marks what a condition finds and what has not ended; how many rows those were. Of two endings that meet in some of them
/// both take them in the same order.
fn mark(conn: &mut Conn, table: &Table, which: &str, bounds: &Bounds<'_>) -> Result<usize, StoreError> {
    let Table { name, id, ended, .. } = table;
    let which = format!("{which} AND {ended} IS NULL");
    let which = match conn {
        Conn::Sqlite(_) => which,
        Conn::Pg(_) => {
            format!("{id} IN (SELECT {id} FROM {name} WHERE {which} ORDER BY {id} FOR NO KEY UPDATE)")
        }
    };
    let text = format!("UPDATE {name} SET {ended} = $1 WHERE {which}");
    let query = sql_query(numbered(conn, &text))
        .bind::<BigInt, _>(bounds.now)
        .bind::<Text, _>(bounds.key)
        .bind::<Text, _>(bounds.other)
        .bind::<BigInt, _>(bounds.before);
    on_backend!(conn, |c| query.execute(c)).map_err(StoreError::operation("ending what there is"))
}

/// Writes all entries of an ending by one statement, each select giving kind, target and instant; the last number.
///
/// On PostgreSQL each row comes out of the turn to append, so that its number is drawn after that (see [`append`]).
fn enter(conn: &mut Conn, selects: &[String], cause: &Cause, bounds: &Bounds<'_>) -> Result<Option<i64>, StoreError> {
    let entries = selects.join(" UNION ALL ");
    let text = format!(
        "{} INSERT INTO revocations (kind, target, not_before, reason, actor, recorded_at, expires_at) \
         SELECT kind, target, not_before, $5, $6, $1, $7 FROM {} ({entries}) AS entry RETURNING sequence",
        if matches!(conn, Conn::Pg(_)) { TURN } else { "" },
        if matches!(conn, Conn::Pg(_)) { "turn," } else { "" },
    );
    let expires_at = UnixTime::from_millis(bounds.now).plus(LONGEST_ACCESS_TOKEN).millis();
    let query = sql_query(numbered(conn, &text))
        .bind::<BigInt, _>(bounds.now)
        .bind::<Text, _>(bounds.key)
        .bind::<Text, _>(bounds.other)
        .bind::<BigInt, _>(bounds.before)
        .bind::<Text, _>(cause.reason.as_str())
        .bind::<Text, _>(cause.actor.text())
        .bind::<BigInt, _>(expires_at);
    let entered: Vec<Appended> =
        on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("recording revocations"))?;
    Ok(entered.into_iter().map(|entry| entry.sequence).max())
}

/// Queues a logout token for each client that was given tokens in a session that was just ended and wants to be told
/// (Back-Channel Logout 1.0 section 2.3). A session ends once, so it is told once, also where another one ended in the same
/// millisecond. Their names are made by the database's generator, because one statement writes them all.
fn queue_logouts(
    conn: &mut Conn,
    which: &str,
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
         WHERE {which} AND sessions.ended_at = $1 \
         AND clients.logout_destination IS NOT NULL AND NOT EXISTS (SELECT 1 FROM outbox AS told \
         WHERE told.session_id = sessions.session_id AND told.subject = clients.client_id)"
    );
    let query = sql_query(numbered(conn, &text))
        .bind::<BigInt, _>(bounds.now)
        .bind::<Text, _>(bounds.key)
        .bind::<Text, _>(bounds.other)
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

/// Ends what a rule says, writes it into the log and queues the logout tokens. Runs in [`Store::write_and_wake`]; of a person,
/// after [`hold_person`].
pub(super) fn end(conn: &mut Conn, rule: &Rule<'_>, now: UnixTime) -> Result<Ended, StoreError> {
    let (session_column, grant_column) = columns(rule.target);
    let grant_column = grant_column.filter(|_| !rule.sessions_only);
    let bounds = rule.bounds(now);
    let mut ended = Ended::default();
    if let Some(column) = grant_column {
        let which = format!("{column} = $2 AND session_id <> $3 AND created_at < $4");
        ended.grants = mark(conn, &GRANTS, &which, &bounds)?;
    }
    if let Some(column) = session_column {
        let which = format!("{column} = $2 AND session_id <> $3 AND created_at < $4 AND expires_at > $1");
        ended.sessions = mark(conn, &SESSIONS, &which, &bounds)?;
    }
    conclude(conn, rule, ended, now)
}

/// Writes what was just marked into the log, and queues the logout tokens.
fn conclude(conn: &mut Conn, rule: &Rule<'_>, mut ended: Ended, now: UnixTime) -> Result<Ended, StoreError> {
    let (session_column, grant_column) = columns(rule.target);
    let bounds = rule.bounds(now);
    let one = matches!(rule.target, Target::Session(_) | Target::Grant(_));
    if ended.sessions == 0 && ended.grants == 0 && (rule.keep.is_some() || one) {
        return Ok(ended);
    }
    // What a rule of its own cannot say: that one session of the person goes on, or that what began before an instant in
    // the past ended with what it gave after it.
    let by_rows = rule.keep.is_some() || rule.issued_before.is_some();
    let mut entries = Vec::new();
    let marked = [(session_column, ended.sessions, &SESSIONS), (grant_column, ended.grants, &GRANTS)];
    for (column, rows, table) in marked {
        if let Some(column) = column.filter(|_| by_rows && rows > 0) {
            entries.push(table.entries(&format!("{column} = $2 AND session_id <> $3 AND created_at < $4")));
        }
    }
    let not_before = rule.issued_before.unwrap_or(now);
    ended.sequence = if entries.is_empty() {
        Some(append(conn, rule.target, rule.cause, not_before, now)?)
    } else {
        if rule.keep.is_none() && !one {
            let kind = rule.target.parts().0;
            entries.push(format!("SELECT '{kind}' AS kind, $2 AS target, {} AS not_before", not_before.millis()));
        }
        enter(conn, &entries, rule.cause, &bounds)?
    };
    if let Some(column) = session_column.filter(|_| ended.sessions > 0) {
        let which = format!("{column} = $2 AND sessions.session_id <> $3 AND sessions.created_at < $4");
        ended.told = queue_logouts(conn, &which, &bounds, ended.sequence)?;
    }
    Ok(ended)
}

/// Ends sessions that have run out, so many at most, and queues what their clients are told; how many there were. The log
/// needs no entry: what hangs on them is judged by their end.
pub(super) fn end_run_out(conn: &mut Conn, most: i64, now: UnixTime) -> Result<usize, StoreError> {
    // Judged again outside: one that its person renewed meanwhile goes on.
    let first = format!(
        "SELECT session_id FROM sessions WHERE ended_at IS NULL AND expires_at <= $1 ORDER BY expires_at LIMIT {most}"
    );
    let text = format!(
        "UPDATE sessions SET ended_at = $1 WHERE ended_at IS NULL AND expires_at <= $1 AND session_id {} \
         RETURNING expires_at",
        among_the_free(conn, &first)
    );
    let mark = sql_query(numbered(conn, &text)).bind::<BigInt, _>(now.millis());
    let ends: Vec<RunOut> =
        on_backend!(conn, |c| mark.load(c)).map_err(StoreError::operation("ending what has run out"))?;
    let ends = ends.iter().map(|run_out| run_out.expires_at);
    let (Some(first), Some(last)) = (ends.clone().min(), ends.clone().max()) else { return Ok(0) };
    let bounds = Bounds { now: now.millis(), key: "", other: "", before: i64::MAX };
    let which = format!("sessions.expires_at BETWEEN {first} AND {last} AND $2 = $3 AND sessions.created_at < $4");
    queue_logouts(conn, &which, &bounds, None)?;
    Ok(ends.len())
}

#[derive(QueryableByName)]
struct RunOut {
    #[diesel(sql_type = BigInt)]
    expires_at: i64,
}

/// Ends all that a person let one client have; how many grants those were.
pub(super) fn end_grants_between(
    conn: &mut Conn,
    user: &UserId,
    client: &ClientId,
    cause: &Cause,
    now: UnixTime,
) -> Result<usize, StoreError> {
    let bounds = Bounds { now: now.millis(), key: user.as_str(), other: client.as_str(), before: i64::MAX };
    let which = "user_id = $2 AND client_id = $3 AND created_at < $4";
    let rows = mark(conn, &GRANTS, which, &bounds)?;
    if rows > 0 {
        enter(conn, &[GRANTS.entries(which)], cause, &bounds)?;
    }
    Ok(rows)
}

/// Ends all that a person has running: sessions and grants, so that nothing of it can live again.
pub(super) fn end_everything_of(
    conn: &mut Conn,
    user: &UserId,
    cause: &Cause,
    now: UnixTime,
) -> Result<Ended, StoreError> {
    hold_person(conn, user)?;
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
    hold_person(conn, user)?;
    distrust_all(conn, user)?;
    let target = Target::User(user);
    end(conn, &Rule { target, issued_before: None, keep: Some(keep), sessions_only: false, cause }, now)
}

/// Ends what a person has running that was made by a password alone: they have a second factor from now on. The session that
/// set it up goes on, for it has shown both; what it gave before does not, for a refresh asks for no second step. Its
/// applications ask anew, and are answered by that session.
pub(super) fn end_weaker(conn: &mut Conn, user: &UserId, keep: &SessionId, now: UnixTime) -> Result<(), StoreError> {
    let bounds = Bounds { now: now.millis(), key: user.as_str(), other: keep.as_str(), before: i64::MAX };
    let weak = format!("user_id = $2 AND created_at < $4 AND ' ' || amr || ' ' NOT LIKE '% {AMR_MFA} %'");
    let weak_grants = format!("{weak} AND $3 = $3");
    let weak_sessions = format!("{weak} AND session_id <> $3 AND expires_at > $1");
    let grants = mark(conn, &GRANTS, &weak_grants, &bounds)?;
    let sessions = mark(conn, &SESSIONS, &weak_sessions, &bounds)?;
    let mut entries = Vec::new();
    if sessions > 0 {
        entries.push(SESSIONS.entries(&weak_sessions));
    }
    if grants > 0 {
        entries.push(GRANTS.entries(&weak_grants));
    }
    if entries.is_empty() {
        return Ok(());
    }
    let sequence = enter(conn, &entries, &Reason::FactorChanged.by(Actor::Owner), &bounds)?;
    if sessions > 0 {
        let which = "sessions.user_id = $2 AND sessions.session_id <> $3 AND sessions.created_at < $4";
        queue_logouts(conn, which, &bounds, sequence)?;
    }
    Ok(())
}

/// A session that has just ended.
pub(super) struct EndedSession {
    pub id: SessionId,
    pub user: UserId,
    /// Where it was last seen.
    pub origin: Origin,
    /// Of its grants, those that end with it; they are not marked, but judged by it.
    pub below: usize,
    pub ended: Ended,
}

/// Ends the one session that a condition finds, unless it has ended.
macro_rules! end_session_where {
    ($conn:expr, $which:expr, $issued_before:expr, $cause:expr, $now:expr) => {{
        let open = sessions::table
            .filter($which)
            .filter(sessions::ended_at.is_null())
            .filter(sessions::expires_at.gt($now.millis()));
        let mark = diesel::update(open).set(sessions::ended_at.eq($now.millis())).returning((
            sessions::session_id,
            sessions::user_id,
            sessions::last_address,
            sessions::user_agent,
            sql::<BigInt>(
                "(SELECT count(*) FROM grants WHERE grants.session_id = sessions.session_id AND NOT is_offline \
                 AND revoked_at IS NULL)",
            ),
        ));
        let row: Option<(String, String, String, String, i64)> =
            on_backend!($conn, |c| mark.get_result(c).optional()).map_err(StoreError::operation("ending a session"))?;
        row.map(|row| conclude_session($conn, row, $issued_before, $cause, $now)).transpose()
    }};
}

pub(super) use end_session_where;

/// Does for one session that was just marked what its end asks for.
pub(super) fn conclude_session(
    conn: &mut Conn,
    (id, user, address, user_agent, below): (String, String, String, String, i64),
    issued_before: Option<UnixTime>,
    cause: &Cause,
    now: UnixTime,
) -> Result<EndedSession, StoreError> {
    let (id, user) = (SessionId::from_stored(id), UserId::from_stored(user));
    let rule = Rule { target: Target::Session(&id), issued_before, keep: None, sessions_only: false, cause };
    let ended = conclude(conn, &rule, Ended { sessions: 1, ..Ended::default() }, now)?;
    let below = usize::try_from(below).unwrap_or(0);
    Ok(EndedSession { id, user, origin: Origin { address, user_agent }, below, ended })
}

/// Ends one session, unless it has ended.
pub(super) fn end_one_session(
    conn: &mut Conn,
    session: &SessionId,
    cause: &Cause,
    now: UnixTime,
) -> Result<(), StoreError> {
    end_session_where!(conn, sessions::session_id.eq(session.as_str()), None, cause, now)?;
    Ok(())
}
