//! A person signs out, here or elsewhere; and what the browser is told after it: at which clients, and how far each is.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::{ClientId, SessionId, UserId};

use super::activity::{NewActivity, note};
use super::conn::{Conn, on_backend};
use super::endings::{Ended, EndedSession, Rule, conclude_session, end, end_session_where};
use super::holding::hold_person;
use super::outbox::OutboxKind;
use super::revocations::{Actor, Reason, Target};
use super::schema::{outbox, session_clients, sessions, sign_outs};
use super::trusted_browsers::distrust_all;
use super::{Store, StoreError};

/// The page after a sign-out, before it is known whose session ended.
pub struct NewSignOut {
    pub id: Digest,
    /// The browser that may see it.
    pub browser: Digest,
    /// The client that asked, and the address that it registered to come back to.
    pub client_id: Option<ClientId>,
    pub back: Option<String>,
    pub expires_at: UnixTime,
}

/// A sign-out as its page shows it.
#[derive(Debug)]
pub struct SignOut {
    pub session_id: SessionId,
    pub client_id: Option<ClientId>,
    pub back: Option<String>,
    /// Each client that was given tokens in the session, and how far telling it is; `None` where none was queued.
    pub clients: Vec<(ClientId, Option<Delivery>)>,
}

/// How far the delivery of a logout token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Queued,
    /// It failed, and is tried again.
    Failing,
    Done,
    GivenUp,
}

/// Remembers the page of a sign-out in the transaction that ends the session.
fn remember(conn: &mut Conn, new: &NewSignOut, session: &SessionId, now: UnixTime) -> Result<(), StoreError> {
    let row = (
        sign_outs::sign_out_digest.eq(new.id.as_bytes().as_slice()),
        sign_outs::browser_digest.eq(new.browser.as_bytes().as_slice()),
        sign_outs::session_id.eq(session.as_str()),
        sign_outs::client_id.eq(new.client_id.as_ref().map(ClientId::as_str)),
        sign_outs::back.eq(&new.back),
        sign_outs::created_at.eq(now.millis()),
        sign_outs::expires_at.eq(new.expires_at.millis()),
    );
    on_backend!(conn, |c| diesel::insert_into(sign_outs::table).values(row).execute(c))
        .map_err(StoreError::operation("storing a sign-out"))?;
    Ok(())
}

fn clients_of(conn: &mut Conn, session: &SessionId) -> Result<Vec<String>, StoreError> {
    let query = session_clients::table
        .filter(session_clients::session_id.eq(session.as_str()))
        .order(session_clients::client_id)
        .select(session_clients::client_id);
    on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("listing the clients of a session"))
}

impl Store {
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
            let cause = Reason::SignedOut.by(Actor::Owner);
            let own = sessions::cookie_digest.eq(cookie.as_bytes().as_slice());
            let Some(EndedSession { id, user, .. }) = end_session_where!(conn, own, None, &cause, now)? else {
                return Ok(false);
            };
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
            let cause = Reason::SessionEndedByOwner.by(Actor::Owner);
            let own = sessions::session_id.eq(session.as_str()).and(sessions::user_id.eq(user.as_str()));
            let Some(session) = end_session_where!(conn, own, None, &cause, now)? else { return Ok(false) };
            let detail = session.origin.device();
            let ended = NewActivity { user: &user, event: Event::SessionEnded, origin: &origin, detail: &detail };
            note(conn, &ended, now)?;
            Ok(true)
        })
        .await
    }

    /// A person ends all of their sessions but this one; no browser is trusted any more. Grants that live without a session
    /// go on.
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
            hold_person(conn, &user)?;
            distrust_all(conn, &user)?;
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

    /// The clients of the session of a cookie that has not ended, idle or not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn clients_of_cookie(&self, cookie: Digest) -> Result<Vec<ClientId>, StoreError> {
        self.read(move |conn| {
            let query = session_clients::table
                .inner_join(sessions::table.on(sessions::session_id.eq(session_clients::session_id)))
                .filter(sessions::cookie_digest.eq(cookie.as_bytes().as_slice()))
                .filter(sessions::ended_at.is_null())
                .select(session_clients::client_id);
            let ids: Vec<String> = on_backend!(conn, |c| query.load(c))
                .map_err(StoreError::operation("listing the clients of a session"))?;
            Ok(ids.into_iter().map(ClientId::from_stored).collect())
        })
        .await
    }

    /// A sign-out of this very browser, and how far its clients are told by now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_sign_out(
        &self,
        id: Digest,
        browser: Digest,
        now: UnixTime,
    ) -> Result<Option<SignOut>, StoreError> {
        self.read(move |conn| {
            let failed = || StoreError::operation("reading a sign-out");
            let query = sign_outs::table
                .find(id.as_bytes().as_slice())
                .filter(sign_outs::browser_digest.eq(browser.as_bytes().as_slice()))
                .filter(sign_outs::expires_at.gt(now.millis()))
                .select((sign_outs::session_id, sign_outs::client_id, sign_outs::back));
            let row: Option<(String, Option<String>, Option<String>)> =
                on_backend!(conn, |c| query.first(c).optional()).map_err(failed())?;
            let Some((session, client_id, back)) = row else { return Ok(None) };
            let session_id = SessionId::from_stored(session);
            let deliveries = outbox::table
                .filter(outbox::session_id.eq(session_id.as_str()))
                .filter(outbox::kind.eq(OutboxKind::Logout.as_str()))
                .select((
                    outbox::subject,
                    outbox::delivered_at.is_not_null(),
                    outbox::given_up_at.is_not_null(),
                    outbox::last_error.is_not_null(),
                ));
            let deliveries: Vec<(String, bool, bool, bool)> =
                on_backend!(conn, |c| deliveries.load(c)).map_err(failed())?;
            let delivery = |client: &str| {
                let (_, done, given_up, failing) = deliveries.iter().find(|(subject, ..)| subject == client)?;
                Some(match (done, given_up, failing) {
                    (true, _, _) => Delivery::Done,
                    (_, true, _) => Delivery::GivenUp,
                    (_, _, true) => Delivery::Failing,
                    _ => Delivery::Queued,
                })
            };
            let clients = clients_of(conn, &session_id)?;
            let clients = clients.into_iter().map(|id| (delivery(&id), ClientId::from_stored(id)));
            Ok(Some(SignOut {
                client_id: client_id.map(ClientId::from_stored),
                back,
                clients: clients.map(|(delivery, id)| (id, delivery)).collect(),
                session_id,
            }))
        })
        .await
    }
}
