//! The deliveries of logout tokens as people see them: who has been told, who is being told, who could not be.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Text};

use crate::clock::UnixTime;
use crate::domain::ids::{ClientId, SessionId, UserId};

use super::conn::on_backend;
use super::outbox::OutboxKind;
use super::schema::outbox;
use super::{Store, StoreError};

/// What is shown at once.
const MOST: i64 = 1000;

/// One client to be told of one session's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutDelivery {
    pub id: String,
    pub client_id: ClientId,
    pub session_id: Option<SessionId>,
    pub state: DeliveryState,
    pub attempts: i64,
    pub queued_at: UnixTime,
    pub last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Not before this instant.
    Waiting(UnixTime),
    Sending,
    Delivered(UnixTime),
    GivenUp(UnixTime),
}

/// An application that could not be told of a person's sign-out: the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    pub client_id: ClientId,
    pub ended_at: UnixTime,
}

/// What a person is shown at once.
const MOST_UNTOLD: i64 = 20;

#[derive(QueryableByName)]
struct UntoldRow {
    #[diesel(sql_type = Text)]
    subject: String,
    #[diesel(sql_type = BigInt)]
    ended_at: i64,
}

/// Which deliveries are meant.
#[derive(Clone, Debug)]
pub enum Deliveries {
    All,
    One(String),
    OfClient(ClientId),
    OfSession(SessionId),
}

type Row = (String, String, Option<String>, i64, i64, i64, Option<String>, Option<String>, Option<i64>, Option<i64>);

const DELIVERY: (
    outbox::outbox_id,
    outbox::subject,
    outbox::session_id,
    outbox::attempts,
    outbox::created_at,
    outbox::next_at,
    outbox::leased_by,
    outbox::last_error,
    outbox::delivered_at,
    outbox::given_up_at,
) = (
    outbox::outbox_id,
    outbox::subject,
    outbox::session_id,
    outbox::attempts,
    outbox::created_at,
    outbox::next_at,
    outbox::leased_by,
    outbox::last_error,
    outbox::delivered_at,
    outbox::given_up_at,
);

fn delivery(row: Row, now: UnixTime) -> LogoutDelivery {
    let (id, client, session, attempts, created_at, next_at, leased_by, last_error, delivered_at, given_up_at) = row;
    let at = UnixTime::from_millis;
    let state = match (delivered_at, given_up_at, leased_by) {
        (Some(delivered), ..) => DeliveryState::Delivered(at(delivered)),
        (_, Some(given_up), _) => DeliveryState::GivenUp(at(given_up)),
        (_, _, Some(_)) if next_at > now.millis() => DeliveryState::Sending,
        _ => DeliveryState::Waiting(at(next_at)),
    };
    LogoutDelivery {
        id,
        client_id: ClientId::from_stored(client),
        session_id: session.map(SessionId::from_stored),
        state,
        attempts,
        queued_at: at(created_at),
        last_error,
    }
}

/// The condition that a delivery is one of those meant, on a statement that can be added to.
macro_rules! meant {
    ($query:expr, $which:expr) => {
        match $which {
            Deliveries::All => $query,
            Deliveries::One(id) => $query.filter(outbox::outbox_id.eq(id)),
            Deliveries::OfClient(id) => $query.filter(outbox::subject.eq(id.as_str())),
            Deliveries::OfSession(id) => $query.filter(outbox::session_id.eq(id.as_str())),
        }
    };
}

impl Store {
    /// Deliveries of logout tokens, the newest first and a thousand at most; with `settled` also those that have arrived.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_logout_deliveries(
        &self,
        which: Deliveries,
        settled: bool,
        now: UnixTime,
    ) -> Result<Vec<LogoutDelivery>, StoreError> {
        self.read(move |conn| {
            let rows: Vec<Row> = on_backend!(conn, |c| {
                let all = outbox::table.filter(outbox::kind.eq(OutboxKind::Logout.as_str())).into_boxed();
                let meant = meant!(all, &which);
                let open = if settled { meant } else { meant.filter(outbox::delivered_at.is_null()) };
                open.order((outbox::created_at.desc(), outbox::outbox_id)).limit(MOST).select(DELIVERY).load(c)
            })
            .map_err(StoreError::operation("listing deliveries"))?;
            Ok(rows.into_iter().map(|row| delivery(row, now)).collect())
        })
        .await
    }

    /// The applications that could not be told that a session of a person ended, for as long as that is kept; the newest
    /// first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_untold(&self, user: UserId) -> Result<Vec<Untold>, StoreError> {
        self.read(move |conn| {
            // The payload is whose session it was. In the words of the index, which holds no other items.
            let query = sql_query(
                "SELECT subject, max(created_at) AS ended_at FROM outbox \
                 WHERE kind = 'logout' AND given_up_at IS NOT NULL AND payload = $1 \
                 GROUP BY subject ORDER BY ended_at DESC, subject LIMIT $2",
            );
            let query = query.bind::<Binary, _>(user.as_str().as_bytes()).bind::<BigInt, _>(MOST_UNTOLD);
            let rows: Vec<UntoldRow> =
                on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("listing who was not told"))?;
            let untold = |row: UntoldRow| Untold {
                client_id: ClientId::from_stored(row.subject),
                ended_at: UnixTime::from_millis(row.ended_at),
            };
            Ok(rows.into_iter().map(untold).collect())
        })
        .await
    }

    /// Lets deliveries that wait or were given up be tried at once, and for as long again; how many.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn retry_logout_deliveries(
        &self,
        which: Deliveries,
        until: UnixTime,
        now: UnixTime,
    ) -> Result<usize, StoreError> {
        self.write_and_wake(move |conn| {
            on_backend!(conn, |c| {
                let update = diesel::update(outbox::table)
                    .set((
                        outbox::next_at.eq(now.millis()),
                        outbox::leased_by.eq(None::<String>),
                        outbox::given_up_at.eq(None::<i64>),
                        outbox::expires_at.eq(until.millis()),
                    ))
                    .filter(outbox::kind.eq(OutboxKind::Logout.as_str()))
                    .filter(outbox::delivered_at.is_null())
                    // What is being sent just now stays with whoever sends it.
                    .filter(outbox::leased_by.is_null().or(outbox::next_at.le(now.millis())))
                    .into_boxed();
                meant!(update, &which).execute(c)
            })
            .map_err(StoreError::operation("retrying deliveries"))
        })
        .await
    }

    /// How many deliveries that an entry of the log caused are neither done nor given up, and how many were given up.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_logout_deliveries(&self, sequence: i64) -> Result<(i64, i64), StoreError> {
        self.read(move |conn| {
            let failed = || StoreError::operation("counting deliveries");
            let undelivered =
                || outbox::table.filter(outbox::revocation.eq(sequence)).filter(outbox::delivered_at.is_null()).count();
            let open = undelivered().filter(outbox::given_up_at.is_null());
            let open: i64 = on_backend!(conn, |c| open.get_result(c)).map_err(failed())?;
            let given_up = undelivered().filter(outbox::given_up_at.is_not_null());
            let given_up: i64 = on_backend!(conn, |c| given_up.get_result(c)).map_err(failed())?;
            Ok((open, given_up))
        })
        .await
    }
}
