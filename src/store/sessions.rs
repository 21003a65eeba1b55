//! Browser sessions.

use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::flow::Progress;
use crate::domain::ids::{ClientId, SessionId, UserId};
use crate::domain::link::LinkKind;
use crate::domain::second_factor::{FactorUse, NewDevice};
use crate::domain::session::{Authentication, Session, SignedIn};
use crate::domain::throttle::Bucket;
use crate::domain::user::User;

use super::activity::{NewActivity, note};
use super::conn::{Conn, first_locked, first_shared, fixed, on_backend};
use super::endings::{end_one_session, end_weaker};
use super::flows::write_progress;
use super::grants::{Granting, NewGrant, give};
use super::holding::hold_below;
use super::links::end_links;
use super::outbox::{NewOutboxItem, enqueue};
use super::revocations::{Actor, ISSUER, Reason, USER as OF_USER, spared};
use super::schema::{clients, revocations, sessions, users};
use super::second_factors::{Added, add_device, spend};
use super::throttles::{Counts, forgive};
use super::trusted_browsers::{self, NewTrust};
use super::users::{USER, UserRow, hold_alone};
use super::{Store, StoreError};

/// A proven sign-in, to be stored with the step of the flow that it completes.
pub struct NewSession {
    pub session: Session,
    pub cookie: Digest,
    pub origin: Origin,
    /// The same person's session in this browser, which goes on under a new cookie.
    pub continues: bool,
    /// Another session of this browser, which ends: its person has been replaced.
    pub replaces: Option<SessionId>,
    /// Of the hash that the password was verified against: set anew meanwhile, the sign-in does not count. `None` where a
    /// running session only rises by a second factor.
    pub verified_hash: Option<Digest>,
    pub second_factor: SecondFactor,
    pub trust: Option<NewTrust>,
    /// What the owner is told by mail.
    pub notices: Vec<NewOutboxItem>,
    /// The same password under today's parameters, where the stored hash had others.
    pub rehashed: Option<String>,
    /// The counts of wrong guesses that this right one must not have to wait for.
    pub buckets: Vec<Bucket>,
    /// The one among them that starts anew.
    pub account: Bucket,
    pub flow: Digest,
    pub progress: Progress,
    /// What the client is given with it, where nothing else is left to do.
    pub grant: Option<NewGrant>,
}

/// What is shown at once.
const MOST_LISTED: i64 = 1000;

/// A living session as an operator sees it.
#[derive(Clone, Debug)]
pub struct ListedSession {
    pub id: SessionId,
    pub username: String,
    pub created_at: UnixTime,
    pub last_seen_at: UnixTime,
    pub expires_at: UnixTime,
    pub address: String,
    pub user_agent: String,
}

type ListedRow = (String, String, i64, i64, i64, String, String);

const LISTED: (
    sessions::session_id,
    users::username,
    sessions::created_at,
    sessions::last_seen_at,
    sessions::expires_at,
    sessions::last_address,
    sessions::user_agent,
) = (
    sessions::session_id,
    users::username,
    sessions::created_at,
    sessions::last_seen_at,
    sessions::expires_at,
    sessions::last_address,
    sessions::user_agent,
);

impl From<ListedRow> for ListedSession {
    fn from((id, username, created_at, last_seen_at, expires_at, address, user_agent): ListedRow) -> Self {
        Self {
            id: SessionId::from_stored(id),
            username,
            created_at: UnixTime::from_millis(created_at),
            last_seen_at: UnixTime::from_millis(last_seen_at),
            expires_at: UnixTime::from_millis(expires_at),
            address,
            user_agent,
        }
    }
}

/// What a sign-in shows beside the password.
pub enum SecondFactor {
    /// Nothing: it counts only while the person has none.
    None,
    /// Nothing, because none is asked for here: by the policy, or because the person trusts this browser.
    Waived,
    Spend(FactorUse),
    Enrol(NewDevice),
}

/// A password that is not a sign-in yet.
pub struct HalfSignIn {
    pub user_id: UserId,
    pub verified_hash: Digest,
    pub rehashed: Option<String>,
    pub buckets: Vec<Bucket>,
    pub account: Bucket,
    pub flow: Digest,
    pub progress: Progress,
}

/// What storing a sign-in led to.
#[derive(Debug, PartialEq, Eq)]
pub enum SignIn {
    Done,
    /// Done, and so is the grant.
    Granted,
    /// Done, with a new second factor; `codes` as in [`Added::Done`].
    Enrolled {
        codes: bool,
    },
    /// The code was taken before. Nothing was stored.
    Spent,
    /// The account was disabled or got a new password, or the session to continue ended, meanwhile. Nothing was stored.
    Gone,
    /// Too many wrong guesses came in meanwhile; not before this instant. Nothing was stored.
    Blocked(UnixTime),
}

/// Names of statements whose text never changes; see [`fixed`].
struct TouchSession;
struct FindSession;

#[derive(Queryable)]
struct SessionRow {
    session_id: String,
    user_id: String,
    auth_time: i64,
    acr: String,
    amr: String,
    last_seen_at: i64,
    expires_at: i64,
    proven_at: i64,
    is_kept: bool,
    auth_address: String,
}

const SESSION: (
    sessions::session_id,
    sessions::user_id,
    sessions::auth_time,
    sessions::acr,
    sessions::amr,
    sessions::last_seen_at,
    sessions::expires_at,
    sessions::proven_at,
    sessions::is_kept,
    sessions::auth_address,
) = (
    sessions::session_id,
    sessions::user_id,
    sessions::auth_time,
    sessions::acr,
    sessions::amr,
    sessions::last_seen_at,
    sessions::expires_at,
    sessions::proven_at,
    sessions::is_kept,
    sessions::auth_address,
);

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self {
            id: SessionId::from_stored(row.session_id),
            user_id: UserId::from_stored(row.user_id),
            authentication: Authentication { at: UnixTime::from_millis(row.auth_time), acr: row.acr, amr: row.amr },
            last_seen_at: UnixTime::from_millis(row.last_seen_at),
            expires_at: UnixTime::from_millis(row.expires_at),
            proven_at: UnixTime::from_millis(row.proven_at),
            is_kept: row.is_kept,
            auth_address: row.auth_address,
        }
    }
}

/// Whether a client is there still, and stays: a person is signed in also where it went meanwhile.
fn is_registered(conn: &mut Conn, client: &ClientId) -> Result<bool, StoreError> {
    let client = clients::table.find(client.as_str()).select(clients::client_id);
    let found: Option<String> = first_shared!(conn, client).map_err(StoreError::operation("looking for a client"))?;
    Ok(found.is_some())
}

fn rehash(conn: &mut Conn, user: &UserId, hash: &str) -> Result<(), StoreError> {
    let update = diesel::update(users::table.find(user.as_str())).set(users::password_hash.eq(hash));
    on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("storing a password hash"))?;
    Ok(())
}

/// A new session, or the one that goes on under its new cookie; false when that has ended.
fn store_session(conn: &mut Conn, new: &NewSession, now: UnixTime) -> Result<bool, StoreError> {
    let failed = || StoreError::operation("storing a session");
    let session = &new.session;
    let fields = (
        sessions::cookie_digest.eq(new.cookie.as_bytes().as_slice()),
        sessions::auth_time.eq(session.authentication.at.millis()),
        sessions::acr.eq(&session.authentication.acr),
        sessions::amr.eq(&session.authentication.amr),
        sessions::last_seen_at.eq(session.last_seen_at.millis()),
        sessions::last_address.eq(&new.origin.address),
        sessions::user_agent.eq(&new.origin.user_agent),
        sessions::expires_at.eq(session.expires_at.millis()),
        sessions::proven_at.eq(session.proven_at.millis()),
        sessions::is_kept.eq(session.is_kept),
        sessions::auth_address.eq(&session.auth_address),
    );
    if new.continues {
        let update = diesel::update(sessions::table.find(session.id.as_str()).filter(sessions::ended_at.is_null()));
        let rows = on_backend!(conn, |c| update.set(fields).execute(c)).map_err(failed())?;
        if rows != 1 {
            return Ok(false);
        }
    } else {
        let row = (
            sessions::session_id.eq(session.id.as_str()),
            sessions::user_id.eq(session.user_id.as_str()),
            sessions::created_at.eq(now.millis()),
            sessions::created_address.eq(&new.origin.address),
            fields,
        );
        on_backend!(conn, |c| diesel::insert_into(sessions::table).values(row).execute(c)).map_err(failed())?;
    }
    Ok(true)
}

impl Store {
    /// The live session of a cookie, and whose it is: not ended, not past its end, seen since `idle_since` or kept, its
    /// person not disabled.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_session(
        &self,
        cookie: Digest,
        idle_since: UnixTime,
        now: UnixTime,
    ) -> Result<Option<SignedIn>, StoreError> {
        self.read(move |conn| {
            let query = sessions::table
                .inner_join(users::table.on(users::user_id.eq(sessions::user_id)))
                .filter(sessions::cookie_digest.eq(cookie.as_bytes().as_slice()))
                .filter(sessions::ended_at.is_null())
                .filter(sessions::expires_at.gt(now.millis()))
                .filter(sessions::is_kept.or(sessions::last_seen_at.gt(idle_since.millis())))
                .filter(users::disabled_at.is_null())
                .filter(spared!(OF_USER, sessions::user_id, sessions::created_at))
                .filter(spared!(ISSUER, "", sessions::created_at))
                .select((SESSION, USER));
            let row: Option<(SessionRow, UserRow)> =
                on_backend!(conn, |c| fixed(FindSession, query).get_result(c).optional())
                    .map_err(StoreError::operation("finding a session"))?;
            row.map(|(session, user)| {
                Ok(SignedIn { session: session.into(), user: User::try_from(user)?, address: String::new() })
            })
            .transpose()
        })
        .await
    }

    /// Stores a sign-in and the step of the flow that it completes, together. A new cookie each time (a session that was
    /// planted before the sign-in gives nothing); a new `sid` unless the same person signed in again.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn sign_in(&self, new: NewSession, now: UnixTime) -> Result<SignIn, StoreError> {
        let enrols = matches!(new.second_factor, SecondFactor::Enrol(_));
        let queues = enrols || new.replaces.is_some() || !new.notices.is_empty();
        let work = move |conn: &mut Conn| {
            let failed = || StoreError::operation("storing a sign-in");
            let session = &new.session;
            let held = hold_alone(conn, &session.user_id, new.verified_hash.as_ref())?;
            let counts = Counts::read(conn, &new.buckets, now)?;
            if let Some(until) = counts.shut_until(now) {
                return Ok(SignIn::Blocked(until));
            }
            let Some(held) = held else {
                return Ok(SignIn::Gone);
            };
            if enrols {
                hold_below(conn, &session.user_id, new.replaces.as_ref())?;
            }
            if new.continues {
                let own = sessions::table.find(session.id.as_str()).filter(sessions::ended_at.is_null());
                let open: Option<String> = first_locked!(conn, own.select(sessions::session_id)).map_err(failed())?;
                if open.is_none() {
                    return Ok(SignIn::Gone);
                }
            }
            let mut done = SignIn::Done;
            match &new.second_factor {
                // Judged before: a factor that came meanwhile must have been shown, also to add another.
                SecondFactor::None | SecondFactor::Enrol(_) if held.has_second_factor => return Ok(SignIn::Gone),
                SecondFactor::None | SecondFactor::Waived => {}
                SecondFactor::Spend(used) => {
                    if !spend(conn, &session.user_id, used, &new.origin, now)? {
                        return Ok(SignIn::Spent);
                    }
                }
                SecondFactor::Enrol(device) => match add_device(conn, &session.user_id, device, &new.origin, now)? {
                    Added::Done { codes } => done = SignIn::Enrolled { codes },
                    Added::Gone => return Ok(SignIn::Gone),
                },
            }
            if counts.failures(&new.account) > 0 {
                forgive(conn, &new.account)?;
            }
            if !store_session(conn, &new, now)? {
                return Ok(SignIn::Gone);
            }
            if let Some(rehashed) = &new.rehashed {
                rehash(conn, &session.user_id, rehashed)?;
            }
            if let Some(trust) = &new.trust {
                trusted_browsers::trust(conn, &session.user_id, trust, &new.origin)?;
            }
            new.notices.iter().try_for_each(|notice| enqueue(conn, notice))?;
            let signed_in =
                NewActivity { user: &session.user_id, event: Event::SignedIn, origin: &new.origin, detail: "" };
            note(conn, &signed_in, now)?;
            if held.has_reset_link {
                // Who knows the password needs none.
                end_links(conn, &session.user_id, LinkKind::ResetPassword)?;
            }
            // Before anything is appended to the log: the grant waits for whoever deletes its client.
            if let Some(grant) = &new.grant
                && grant.grant.authentication.amr == session.authentication.amr
                && is_registered(conn, &grant.grant.client_id)?
                && give(conn, grant, Some(&new.progress))? == Granting::Done
            {
                done = SignIn::Granted;
            } else {
                write_progress(conn, &new.flow, &new.progress)?;
            }
            if let Some(replaced) = &new.replaces {
                end_one_session(conn, replaced, &Reason::SessionReplaced.by(Actor::Owner), now)?;
            }
            if enrols {
                end_weaker(conn, &session.user_id, &session.id, now)?;
            }
            Ok(done)
        };
        if queues { self.write_and_wake(work).await } else { self.write(work).await }
    }

    /// Stores that a password was right where more is due: a step of this flow, and nothing that opens anything.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn prove_password(&self, half: HalfSignIn, now: UnixTime) -> Result<SignIn, StoreError> {
        self.write(move |conn| {
            let held = hold_alone(conn, &half.user_id, Some(&half.verified_hash))?;
            let counts = Counts::read(conn, &half.buckets, now)?;
            if let Some(until) = counts.shut_until(now) {
                return Ok(SignIn::Blocked(until));
            }
            if held.is_none() {
                return Ok(SignIn::Gone);
            }
            if counts.failures(&half.account) > 0 {
                forgive(conn, &half.account)?;
            }
            if let Some(rehashed) = &half.rehashed {
                rehash(conn, &half.user_id, rehashed)?;
            }
            write_progress(conn, &half.flow, &half.progress)?;
            Ok(SignIn::Done)
        })
        .await
    }

    /// Notes that a session is in use, and from where.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn touch_session(&self, id: SessionId, address: String, now: UnixTime) -> Result<(), StoreError> {
        self.write_one(move |conn| {
            let update = diesel::update(sessions::table.find(id.as_str()))
                .set((sessions::last_seen_at.eq(now.millis()), sessions::last_address.eq(address)));
            let touched: QueryResult<Option<i64>> = on_backend!(conn, |c| {
                fixed(TouchSession, update.returning(sessions::last_seen_at)).get_result(c).optional()
            });
            touched.map(drop).map_err(StoreError::operation("touching a session"))
        })
        .await
    }

    /// Sessions that live, of one person or of all, the newest first and a thousand at most; and whether there are more.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_sessions(
        &self,
        user: Option<UserId>,
        idle_since: UnixTime,
        now: UnixTime,
    ) -> Result<(Vec<ListedSession>, bool), StoreError> {
        self.read(move |conn| {
            let rows: Vec<ListedRow> = on_backend!(conn, |c| {
                let mut query = sessions::table
                    .inner_join(users::table.on(users::user_id.eq(sessions::user_id)))
                    .filter(sessions::ended_at.is_null())
                    .filter(sessions::expires_at.gt(now.millis()))
                    .filter(sessions::last_seen_at.gt(idle_since.millis()).or(sessions::is_kept))
                    .into_boxed();
                if let Some(user) = &user {
                    query = query.filter(sessions::user_id.eq(user.as_str()));
                }
                query.order(sessions::created_at.desc()).limit(MOST_LISTED + 1).select(LISTED).load(c)
            })
            .map_err(StoreError::operation("listing sessions"))?;
            let most = usize::try_from(MOST_LISTED).unwrap_or(usize::MAX);
            let more = rows.len() > most;
            Ok((rows.into_iter().take(most).map(ListedSession::from).collect(), more))
        })
        .await
    }
}
