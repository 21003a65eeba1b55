//! Grants and the two one-time things that hang on each: its code and the living link of its refresh chain. Each is
//! spent by one conditional write, and the count of its rows decides (RFC 9700 section 4.14.2).

use std::time::Duration;

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use crate::clock::UnixTime;
use crate::crypto::opaque::{DerivedKey, Digest, GrantSecret};
use crate::domain::flow::Progress;
use crate::domain::grant::{Consent, Grant};
use crate::domain::ids::{ClientId, GrantId, SessionId, UserId};
use crate::domain::session::Authentication;
use crate::protocol::scope::Scope;

use super::conn::{Conn, atomically, fixed, on_backend, words};
use super::consents::find_consent;
use super::flows::answer;
use super::revocations::{
    Actor, CLIENT, Cause, ISSUER, LONGEST_ACCESS_TOKEN, Reason, Target, USER as OF_USER, append, spared,
};
use super::schema::{grants, revocations, sessions, users};
use super::users::hold;
use super::{Store, StoreError};

/// A grant with its code, before anything was exchanged.
pub struct NewGrant {
    pub grant: Grant,
    pub handle: Digest,
    pub code: Digest,
    /// What the token request must prove: redirect URI and PKCE verifier.
    pub code_binding: Digest,
    pub code_expires_at: UnixTime,
    /// The flow that ends with it; `None` where no page was shown.
    pub flow: Option<Digest>,
    /// What the person must have allowed the client; `None` where the client needs no consent.
    pub asked: Option<Consent>,
}

/// What storing a grant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granting {
    Done,
    /// The flow had ended already, or the session has. Nothing was stored.
    Gone,
    /// The session was proven anew meanwhile, by a second factor say, or the consent was taken back. Nothing was stored, and the
    /// flow is as it was: judged again, it goes on.
    Outdated,
}

/// The first link of a grant's chain.
#[derive(Clone)]
pub struct FirstRefreshToken {
    pub digest: Digest,
    pub idle_end: UnixTime,
    /// The network that the chain is bound to.
    pub network: Option<String>,
}

/// What presenting a code led to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and none is kept")]
pub enum Exchange {
    Exchanged(Grant),
    /// Spent before: whatever it gave has been revoked in the same transaction.
    Reused,
    /// The redirect URI or the PKCE verifier is not the one of the authorization request. The code is not spent.
    Unbound,
    /// Expired, revoked, of an ended session or a disabled person.
    Dead,
    /// Never ours, or another client's.
    Unknown,
}

/// What presenting a refresh token led to.
#[derive(Debug)]
pub enum Rotation {
    /// The given token is spent and its successor lives.
    Rotated(Grant),
    /// The spent token again, within the leeway, its successor still unused: the same successor is given once more.
    Repeated(Grant),
    /// A spent token: the whole grant has been revoked in the same transaction.
    Reused(GrantId),
    /// Presented in another network than the one it is bound to; nothing was spent.
    Elsewhere(GrantId),
    Dead,
    Unknown,
}

/// A refresh token as presented.
pub struct RotationRequest {
    pub presented: GrantSecret,
    pub client_id: ClientId,
    /// Where it was presented.
    pub network: String,
    /// Whether a token that is bound to another network is refused.
    pub network_decides: bool,
    pub idle: Duration,
    pub reuse_leeway: Duration,
}

/// Names of statements whose text never changes; see [`fixed`].
struct StoreGrant;
struct SessionLives;
struct SpendCode;
struct RememberClient;
struct RotateToken;

type GrantRow = (String, String, String, String, String, String, i64, String, String, i64, Option<String>);

const GRANT: (
    grants::grant_id,
    grants::client_id,
    grants::user_id,
    grants::session_id,
    grants::scope,
    grants::details,
    grants::auth_time,
    grants::acr,
    grants::amr,
    grants::created_at,
    grants::network,
) = (
    grants::grant_id,
    grants::client_id,
    grants::user_id,
    grants::session_id,
    grants::scope,
    grants::details,
    grants::auth_time,
    grants::acr,
    grants::amr,
    grants::created_at,
    grants::network,
);

fn grant(row: GrantRow) -> Result<Grant, StoreError> {
    let (id, client_id, user_id, session_id, scope, details, auth_time, acr, amr, created_at, network) = row;
    Ok(Grant {
        id: GrantId::from_stored(id),
        client_id: ClientId::from_stored(client_id),
        user_id: UserId::from_stored(user_id),
        session_id: SessionId::from_stored(session_id),
        scope: Scope::parse(&scope).map_err(|error| StoreError::corrupt("grant", error))?,
        details: serde_json::from_str(&details).map_err(|error| StoreError::corrupt("grant", error))?,
        authentication: Authentication { at: UnixTime::from_millis(auth_time), acr, amr },
        network,
        created_at: UnixTime::from_millis(created_at),
    })
}

/// The condition that a grant's session still stands, unless the grant is offline.
macro_rules! session_lives {
    ($now:expr) => {
        grants::is_offline.or(exists(
            sessions::table
                .filter(sessions::session_id.eq(grants::session_id))
                .filter(sessions::ended_at.is_null())
                .filter(sessions::expires_at.gt($now)),
        ))
    };
}

/// The condition that no rule of the log ends what its person, its client or the issuer gave when the grant was made.
macro_rules! grant_spared {
    () => {
        spared!(OF_USER, grants::user_id, grants::created_at)
            .and(spared!(CLIENT, grants::client_id, grants::created_at))
            .and(spared!(ISSUER, "", grants::created_at))
    };
}

/// The condition that all above a grant still stands: its person, its session and what the log says of them. In every
/// statement that gives something for a grant, so that what ended at the top has ended below.
macro_rules! parents_live {
    ($now:expr) => {
        exists(users::table.filter(users::user_id.eq(grants::user_id)).filter(users::disabled_at.is_null()))
            .and(session_lives!($now))
            .and(grant_spared!())
    };
}

pub(super) use {grant_spared, parents_live, session_lives};

/// Keeps that a session gave tokens to a client. Holds its row against an end that would miss this client.
fn remember_client(conn: &mut Conn, grant: &Grant) -> Result<(), StoreError> {
    let text = match conn {
        Conn::Sqlite(_) => {
            "INSERT INTO session_clients (session_id, client_id) SELECT session_id, ? FROM sessions \
             WHERE session_id = ? AND ended_at IS NULL ON CONFLICT DO NOTHING"
        }
        Conn::Pg(_) => {
            "INSERT INTO session_clients (session_id, client_id) SELECT session_id, ? FROM sessions \
             WHERE session_id = ? AND ended_at IS NULL FOR SHARE ON CONFLICT DO NOTHING"
        }
    };
    let insert = words(RememberClient, text, [grant.client_id.as_str(), grant.session_id.as_str()]);
    on_backend!(conn, |c| insert.execute(c)).map_err(StoreError::operation("remembering a session's client"))?;
    Ok(())
}

fn store_grant(conn: &mut Conn, new: &NewGrant) -> Result<Granting, StoreError> {
    let grant = &new.grant;
    // What was read before this transaction may have ended meanwhile, or risen by a first second factor, with which
    // what was given for less has ended; and what ends the person's sessions from now on must see this grant.
    if !hold(conn, &grant.user_id)? {
        return Ok(Granting::Gone);
    }
    let living = sessions::table
        .filter(sessions::session_id.eq(grant.session_id.as_str()))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::user_id.eq(grant.user_id.as_str()))
        .filter(sessions::expires_at.gt(grant.created_at.millis()))
        .filter(spared!(OF_USER, sessions::user_id, sessions::created_at))
        .filter(spared!(ISSUER, "", sessions::created_at))
        .select(sessions::amr);
    let living: Option<String> = on_backend!(conn, |c| fixed(SessionLives, living).get_result(c).optional())
        .map_err(StoreError::operation("judging a session"))?;
    let Some(amr) = living else { return Ok(Granting::Gone) };
    if amr != grant.authentication.amr {
        return Ok(Granting::Outdated);
    }
    give(conn, new, None)
}

/// Stores a grant with its code, and ends the flow that led to it: of a session that lives, whose person is held, and that was
/// proven as the grant says. `step`: the last step of the flow, where this transaction takes it.
pub(super) fn give(conn: &mut Conn, new: &NewGrant, step: Option<&Progress>) -> Result<Granting, StoreError> {
    let grant = &new.grant;
    // Who takes a consent back holds the person: what this grant relies on stays until it is there to be ended.
    if let Some(asked) = &new.asked
        && !find_consent(conn, &grant.user_id, &grant.client_id)?.is_some_and(|allowed| allowed.covers(asked))
    {
        return Ok(Granting::Outdated);
    }
    if let Some(flow) = &new.flow
        && !answer(conn, flow, step, grant.created_at)?
    {
        return Ok(Granting::Gone);
    }
    let details = serde_json::to_string(&grant.details).map_err(|error| StoreError::corrupt("grant", error))?;
    let row = (
        grants::grant_id.eq(grant.id.as_str()),
        grants::handle_digest.eq(new.handle.as_bytes().as_slice()),
        grants::client_id.eq(grant.client_id.as_str()),
        grants::user_id.eq(grant.user_id.as_str()),
        grants::session_id.eq(grant.session_id.as_str()),
        grants::scope.eq(grant.scope.as_str()),
        grants::is_offline.eq(grant.is_offline()),
        grants::details.eq(details),
        grants::auth_time.eq(grant.authentication.at.millis()),
        grants::acr.eq(&grant.authentication.acr),
        grants::amr.eq(&grant.authentication.amr),
        grants::created_at.eq(grant.created_at.millis()),
        grants::code_digest.eq(new.code.as_bytes().as_slice()),
        grants::code_binding.eq(new.code_binding.as_bytes().as_slice()),
        grants::code_expires_at.eq(new.code_expires_at.millis()),
        grants::expires_at.eq(new.code_expires_at.millis()),
    );
    on_backend!(conn, |c| fixed(StoreGrant, diesel::insert_into(grants::table).values(row)).execute(c))
        .map_err(StoreError::operation("storing a grant"))?;
    Ok(Granting::Done)
}

/// Ends a grant, once; the entry in the log goes with it.
pub(super) fn revoke(conn: &mut Conn, id: &GrantId, cause: &Cause, now: UnixTime) -> Result<(), StoreError> {
    let living = grants::table.find(id.as_str()).filter(grants::revoked_at.is_null());
    let update = diesel::update(living).set(grants::revoked_at.eq(now.millis()));
    let rows = on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("revoking a grant"))?;
    if rows == 1 { append(conn, Target::Grant(id), cause, now, now).map(drop) } else { Ok(()) }
}

/// The state of a grant whose one-time thing was refused: only read to say why.
#[derive(Queryable)]
struct Refused {
    grant: GrantRow,
    code_digest: Vec<u8>,
    code_binding: Vec<u8>,
    code_consumed_at: Option<i64>,
    refresh_digest: Option<Vec<u8>>,
    previous_refresh_digest: Option<Vec<u8>>,
    rotated_at: Option<i64>,
    expires_at: i64,
    revoked_at: Option<i64>,
    parents_live: bool,
}

fn refused(conn: &mut Conn, handle: &Digest, now: UnixTime) -> Result<Option<Refused>, StoreError> {
    let query = grants::table.filter(grants::handle_digest.eq(handle.as_bytes().as_slice())).select((
        GRANT,
        grants::code_digest,
        grants::code_binding,
        grants::code_consumed_at,
        grants::refresh_digest,
        grants::previous_refresh_digest,
        grants::rotated_at,
        grants::expires_at,
        grants::revoked_at,
        parents_live!(now.millis()),
    ));
    on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("reading a grant"))
}

fn is(stored: Option<&[u8]>, presented: &Digest) -> bool {
    stored.and_then(Digest::from_stored).is_some_and(|stored| stored.equals(presented))
}

impl Store {
    /// Stores a grant with its code, and ends the flow that led to it; only when it is done may the code be given.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn create_grant(&self, new: NewGrant) -> Result<Granting, StoreError> {
        self.write(move |conn| store_grant(conn, &new)).await
    }

    /// Spends a code. `refresh` is the first link of the grant's chain and its idle end, where the client has one;
    /// `expires_at` is the grant's absolute end.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn exchange_code(
        &self,
        presented: GrantSecret,
        binding: Digest,
        client_id: ClientId,
        refresh: Option<FirstRefreshToken>,
        expires_at: UnixTime,
        now: UnixTime,
    ) -> Result<Exchange, StoreError> {
        self.write(move |conn| {
            let (handle, code) = (presented.handle_digest(), presented.digest());
            let update = diesel::update(
                grants::table
                    .filter(grants::handle_digest.eq(handle.as_bytes().as_slice()))
                    .filter(grants::code_digest.eq(code.as_bytes().as_slice()))
                    .filter(grants::code_binding.eq(binding.as_bytes().as_slice()))
                    .filter(grants::client_id.eq(client_id.as_str()))
                    .filter(grants::code_consumed_at.is_null())
                    .filter(grants::code_expires_at.gt(now.millis()))
                    .filter(grants::revoked_at.is_null())
                    .filter(parents_live!(now.millis())),
            )
            .set((
                grants::code_consumed_at.eq(now.millis()),
                grants::refresh_digest.eq(refresh.as_ref().map(|first| first.digest.as_bytes().to_vec())),
                grants::refresh_expires_at.eq(refresh.as_ref().map(|first| first.idle_end.millis())),
                grants::network.eq(refresh.as_ref().and_then(|first| first.network.clone())),
                grants::expires_at.eq(expires_at.millis()),
            ))
            .returning(GRANT);
            let row: Option<GrantRow> = on_backend!(conn, |c| fixed(SpendCode, update).get_result(c).optional())
                .map_err(StoreError::operation("spending a code"))?;
            if let Some(row) = row {
                let grant = grant(row)?;
                remember_client(conn, &grant)?;
                return Ok(Exchange::Exchanged(grant));
            }
            let Some(found) = refused(conn, &handle, now)? else { return Ok(Exchange::Unknown) };
            let owner = grant(found.grant)?;
            if owner.client_id != client_id || !is(Some(&found.code_digest), &code) {
                return Ok(Exchange::Unknown);
            }
            if found.code_consumed_at.is_some() {
                // RFC 6749 section 4.1.2: what the first use gave ends.
                revoke(conn, &owner.id, &Reason::CodeReused.by(Actor::System), now)?;
                return Ok(Exchange::Reused);
            }
            Ok(if is(Some(&found.code_binding), &binding) { Exchange::Dead } else { Exchange::Unbound })
        })
        .await
    }

    /// Rotates a refresh token: one statement decides, and a spent one revokes the grant in the same transaction.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn rotate_refresh_token(
        &self,
        request: RotationRequest,
        key: DerivedKey,
        now: UnixTime,
    ) -> Result<(Rotation, GrantSecret), StoreError> {
        let successor = request.presented.successor(&key);
        let (handle, presented, next) =
            (request.presented.handle_digest(), request.presented.digest(), successor.digest());
        let rotation = self.write_one(move |conn| {
            let anywhere = !request.network_decides;
            let update = diesel::update(
                grants::table
                    .filter(grants::handle_digest.eq(handle.as_bytes().as_slice()))
                    .filter(grants::refresh_digest.eq(presented.as_bytes().as_slice()))
                    .filter(grants::client_id.eq(request.client_id.as_str()))
                    .filter(
                        grants::network
                            .is_null()
                            .or(grants::network.eq(&request.network).assume_not_null())
                            .or(anywhere.into_sql::<Bool>()),
                    )
                    .filter(grants::refresh_expires_at.gt(now.millis()))
                    .filter(grants::expires_at.gt(now.millis()))
                    .filter(grants::revoked_at.is_null())
                    .filter(parents_live!(now.millis())),
            )
            .set((
                grants::refresh_digest.eq(next.as_bytes().as_slice()),
                grants::previous_refresh_digest.eq(presented.as_bytes().as_slice()),
                grants::rotated_at.eq(now.millis()),
                grants::refresh_expires_at.eq(now.plus(request.idle).millis()),
            ))
            .returning(GRANT);
            let row: Option<GrantRow> = on_backend!(conn, |c| fixed(RotateToken, update).get_result(c).optional())
                .map_err(StoreError::operation("rotating a refresh token"))?;
            if let Some(row) = row {
                return grant(row).map(Rotation::Rotated);
            }
            atomically(conn, |conn| {
                let Some(found) = refused(conn, &handle, now)? else { return Ok(Rotation::Unknown) };
                let owner = grant(found.grant)?;
                if owner.client_id != request.client_id {
                    return Ok(Rotation::Unknown);
                }
                let ended = found.revoked_at.is_some() || found.expires_at <= now.millis() || !found.parents_live;
                let elsewhere = request.network_decides
                    && owner.network.as_ref().is_some_and(|network| *network != request.network);
                match (ended, is(found.refresh_digest.as_deref(), &presented)) {
                    (false, true) if elsewhere => return Ok(Rotation::Elsewhere(owner.id)),
                    (true, _) | (_, true) => return Ok(Rotation::Dead),
                    _ => {}
                }
                // Only the link just spent, only for a moment, only while its successor is the living one: a repeated
                // request whose answer was lost. It gets the same successor, so there is never a second branch.
                let fresh =
                    found.rotated_at.is_some_and(|at| now.since(UnixTime::from_millis(at)) < request.reuse_leeway);
                if fresh
                    && !elsewhere
                    && is(found.previous_refresh_digest.as_deref(), &presented)
                    && is(found.refresh_digest.as_deref(), &next)
                {
                    return Ok(Rotation::Repeated(owner));
                }
                revoke(conn, &owner.id, &Reason::RefreshTokenReused.by(Actor::System), now)?;
                Ok(Rotation::Reused(owner.id))
            })
        });
        Ok((rotation.await?, successor))
    }

    /// The living grant that a refresh token, living or spent, belongs to; for looking at what it was given before
    /// anything is spent.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn find_grant(&self, token: &GrantSecret, now: UnixTime) -> Result<Option<(Grant, bool)>, StoreError> {
        let (handle, presented) = (token.handle_digest(), token.digest());
        self.read(move |conn| {
            let Some(found) = refused(conn, &handle, now)? else { return Ok(None) };
            let living = found.revoked_at.is_none()
                && found.expires_at > now.millis()
                && found.parents_live
                && is(found.refresh_digest.as_deref(), &presented);
            Ok(Some((grant(found.grant)?, living)))
        })
        .await
    }

    /// When a living refresh token ends, unless it is used before: idle or absolute, whichever comes first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn refresh_token_end(&self, id: GrantId) -> Result<Option<UnixTime>, StoreError> {
        self.read(move |conn| {
            let query = grants::table.find(id.as_str()).select((grants::refresh_expires_at, grants::expires_at));
            let row: Option<(Option<i64>, i64)> =
                on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("reading a grant"))?;
            Ok(row.and_then(|(idle, absolute)| idle.map(|idle| UnixTime::from_millis(idle.min(absolute)))))
        })
        .await
    }

    /// Ends a grant because its client gave a token back.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_grant(&self, id: GrantId, cause: Cause, now: UnixTime) -> Result<(), StoreError> {
        self.write(move |conn| revoke(conn, &id, &cause, now)).await
    }
}

/// How long past its end a grant's row is kept: until the last access token of it is dead.
pub(super) const GRACE: Duration = LONGEST_ACCESS_TOKEN;
