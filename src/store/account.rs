//! What a person sees of their account and does to it. Every statement is by the person, so that nobody reads or ends
//! what is another's by naming it.

use std::collections::BTreeMap;

use diesel::dsl::{exists, min};
use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::grant::Consent;
use crate::domain::ids::{ClientId, SessionId, UserId};
use crate::domain::link::LinkKind;
use crate::domain::throttle::Bucket;
use crate::protocol::scope::Scope;

use super::activity::{NewActivity, note};
use super::conn::{Conn, on_backend};
use super::consents::consent;
use super::endings::{end_everything_of, end_others};
use super::grants::session_lives;
use super::holding::{hold_below, hold_person};
use super::links::{end_every_link, spend};
use super::outbox::{NewOutboxItem, enqueue};
use super::registry::touch;
use super::revocations::{Actor, Reason};
use super::schema::{consents, grants, sessions, users};
use super::throttles::forgive;
use super::trusted_browsers::distrust_all;
use super::users::hold_alone;
use super::{Store, StoreError};

/// More than anybody looks through on one page.
const MOST_SESSIONS: i64 = 200;

/// A sign-in of a person that lives.
pub struct OpenSession {
    pub id: SessionId,
    pub created_at: UnixTime,
    pub last_seen_at: UnixTime,
    pub expires_at: UnixTime,
    pub created_address: String,
    /// Where it was last seen.
    pub origin: Origin,
}

type SessionRow = (String, i64, i64, i64, String, String, String);

/// What an application may do for a person.
pub struct Allowed {
    pub client: ClientId,
    pub what: Consent,
    pub since: UnixTime,
    /// Whether the person said so on a page; else it was let in by the people who run this service.
    pub by_consent: bool,
}

/// A new password that its owner chose.
pub struct OwnPassword {
    pub user: UserId,
    pub password_hash: String,
    /// The session in which it was chosen, which goes on under a new cookie.
    pub session: SessionId,
    pub cookie: Digest,
    pub end_others: bool,
    pub origin: Origin,
    /// What its owner is told.
    pub mail: Option<NewOutboxItem>,
}

/// What deleting an account led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    /// Nobody would be left to administer the server.
    LastAdministrator,
    /// The link was used, is too old, or is another's; or there is no such account.
    Gone,
}

/// Whether nobody would be left to administer the server without this person.
fn is_last_administrator(conn: &mut Conn, user: &UserId) -> Result<bool, StoreError> {
    let living = users::table.filter(users::is_admin).filter(users::disabled_at.is_null()).select(users::user_id);
    let living: Vec<String> =
        on_backend!(conn, |c| living.limit(2).load(c)).map_err(StoreError::operation("counting administrators"))?;
    Ok(living == [user.as_str()])
}

impl Store {
    /// Whether nobody would be left to administer the server without this person.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_last_administrator(&self, user: UserId) -> Result<bool, StoreError> {
        self.read(move |conn| is_last_administrator(conn, &user)).await
    }

    /// The living sessions of a person, the last seen first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_own_sessions(
        &self,
        user: UserId,
        idle_since: UnixTime,
        now: UnixTime,
    ) -> Result<Vec<OpenSession>, StoreError> {
        self.read(move |conn| {
            let query = sessions::table
                .filter(sessions::user_id.eq(user.as_str()))
                .filter(sessions::ended_at.is_null())
                .filter(sessions::expires_at.gt(now.millis()))
                .filter(sessions::is_kept.or(sessions::last_seen_at.gt(idle_since.millis())))
                .order(sessions::last_seen_at.desc())
                .limit(MOST_SESSIONS)
                .select((
                    sessions::session_id,
                    sessions::created_at,
                    sessions::last_seen_at,
                    sessions::expires_at,
                    sessions::created_address,
                    sessions::last_address,
                    sessions::user_agent,
                ));
            let rows: Vec<SessionRow> =
                on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("listing sessions"))?;
            let open =
                |(id, created_at, last_seen_at, expires_at, created_address, address, user_agent): SessionRow| {
                    OpenSession {
                        id: SessionId::from_stored(id),
                        created_at: UnixTime::from_millis(created_at),
                        last_seen_at: UnixTime::from_millis(last_seen_at),
                        expires_at: UnixTime::from_millis(expires_at),
                        created_address,
                        origin: Origin { address, user_agent },
                    }
                };
            Ok(rows.into_iter().map(open).collect())
        })
        .await
    }

    /// The applications that may do something for this person, the longest allowed first: those that they allowed, and
    /// those that hold living tokens without having asked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_allowed(&self, user: UserId, now: UnixTime) -> Result<Vec<Allowed>, StoreError> {
        self.read(move |conn| {
            let failed = || StoreError::operation("listing what applications may do");
            let said = consents::table.filter(consents::user_id.eq(user.as_str())).select((
                consents::client_id,
                consents::created_at,
                (consents::scope, consents::resources, consents::claims),
            ));
            let said: Vec<(String, i64, (String, String, String))> =
                on_backend!(conn, |c| said.load(c)).map_err(failed())?;
            let mut allowed = BTreeMap::new();
            for (client, since, row) in said {
                let what = consent(row)?;
                allowed.insert(client, (what, since, true));
            }
            let held = grants::table
                .filter(grants::user_id.eq(user.as_str()))
                .filter(grants::revoked_at.is_null())
                .filter(grants::expires_at.gt(now.millis()))
                .filter(session_lives!(now.millis()))
                .group_by((grants::client_id, grants::scope))
                .select((grants::client_id, grants::scope, min(grants::created_at)));
            let held: Vec<(String, String, Option<i64>)> = on_backend!(conn, |c| held.load(c)).map_err(failed())?;
            for (client, scope, since) in held {
                let since = since.unwrap_or(now.millis());
                let (what, first, by_consent) = allowed.entry(client).or_insert((Consent::default(), since, false));
                if !*by_consent {
                    let scope = Scope::parse(&scope).map_err(|error| StoreError::corrupt("grant", error))?;
                    what.scope = what.scope.union(&scope);
                    *first = since.min(*first);
                }
            }
            let mut allowed: Vec<Allowed> = allowed
                .into_iter()
                .map(|(client, (what, since, by_consent))| Allowed {
                    client: ClientId::from_stored(client),
                    what,
                    since: UnixTime::from_millis(since),
                    by_consent,
                })
                .collect();
            allowed.sort_by_key(|allowed| allowed.since);
            Ok(allowed)
        })
        .await
    }

    /// Sets a password that its owner chose in a session of theirs. False when that session has ended meanwhile; then
    /// nothing is changed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_own_password(&self, new: OwnPassword, now: UnixTime) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let failed = || StoreError::operation("setting a password of one's own");
            let (user, session) = (&new.user, &new.session);
            if hold_alone(conn, user, None)?.is_none() {
                return Ok(false);
            }
            if new.end_others {
                hold_below(conn, user, None)?;
            }
            // Who copied the cookie before holds nothing from now on.
            let own = sessions::table
                .find(session.as_str())
                .filter(sessions::user_id.eq(user.as_str()))
                .filter(sessions::ended_at.is_null());
            let renew = diesel::update(own).set(sessions::cookie_digest.eq(new.cookie.as_bytes().as_slice()));
            let rows = on_backend!(conn, |c| renew.execute(c)).map_err(failed())?;
            if rows != 1 {
                return Ok(false);
            }
            let set = diesel::update(users::table.find(user.as_str()))
                .set((users::password_hash.eq(&new.password_hash), users::updated_at.eq(now.millis())))
                .returning(users::username);
            let name: String = on_backend!(conn, |c| set.get_result(c)).map_err(failed())?;
            // Guesses at the old one say nothing of the new.
            forgive(conn, &Bucket::account(&name, None))?;
            forgive(conn, &Bucket::second_factor(user, None))?;
            distrust_all(conn, user)?;
            end_every_link(conn, user)?;
            note(conn, &NewActivity { user, event: Event::PasswordChanged, origin: &new.origin, detail: "" }, now)?;
            if let Some(mail) = &new.mail {
                enqueue(conn, mail)?;
            }
            if new.end_others {
                end_others(conn, user, session, &Reason::PasswordChanged.by(Actor::Owner), now)?;
            }
            Ok(true)
        })
        .await
    }

    /// Deletes an account with all that hangs on it, by its owner (with the link that they were sent, where one was) or by the
    /// operator; the entry in the log of revocations stays.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn delete_user(
        &self,
        user: UserId,
        link: Option<Digest>,
        actor: Actor,
        mail: Option<NewOutboxItem>,
        now: UnixTime,
    ) -> Result<Deletion, StoreError> {
        self.write_and_wake(move |conn| {
            let failed = || StoreError::operation("deleting an account");
            // One after another: of two administrators who leave at once, one is the last.
            touch(conn)?;
            hold_person(conn, &user)?;
            if is_last_administrator(conn, &user)? {
                return Ok(Deletion::LastAdministrator);
            }
            if let Some(link) = &link
                && !spend(conn, link, LinkKind::DeleteAccount, Some(&user), now)?
            {
                return Ok(Deletion::Gone);
            }
            // What has ended already goes too.
            hold_below(conn, &user, None)?;
            end_everything_of(conn, &user, &Reason::UserDeleted.by(actor), now)?;
            let delete = diesel::delete(users::table.find(user.as_str()));
            if on_backend!(conn, |c| delete.execute(c)).map_err(failed())? == 0 {
                return Ok(Deletion::Gone);
            }
            if let Some(mail) = &mail {
                enqueue(conn, mail)?;
            }
            Ok(Deletion::Deleted)
        })
        .await
    }
}
