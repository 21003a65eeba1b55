//! What happened to each account, written in the transaction of the fact itself.

use std::time::Duration;

use diesel::dsl::exists;
use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::domain::activity::{Activity, Event, Origin};
use crate::domain::ids::{UserId, uuid_v7};

use super::conn::{Conn, on_backend};
use super::schema::activity;
use super::{Store, StoreError};

/// How many of one kind are kept per person: who guesses at a password pushes out other guesses, never what a person did.
const KEPT: i64 = 100;
/// How long any of it is kept.
pub(super) const KEPT_FOR: Duration = Duration::from_hours(24 * 90);

/// One fact about an account.
pub(super) struct NewActivity<'a> {
    pub user: &'a UserId,
    pub event: Event,
    pub origin: &'a Origin,
    /// See [`Activity::detail`].
    pub detail: &'a str,
}

/// Notes a fact and forgets the oldest of its kind past the bound.
pub(super) fn note(conn: &mut Conn, new: &NewActivity<'_>, now: UnixTime) -> Result<(), StoreError> {
    let failed = || StoreError::operation("noting what happened to an account");
    let row = (
        activity::activity_id.eq(uuid_v7(now)),
        activity::user_id.eq(new.user.as_str()),
        activity::at.eq(now.millis()),
        activity::kind.eq(new.event.as_str()),
        activity::network.eq(&new.origin.address),
        activity::user_agent.eq(&new.origin.user_agent),
        activity::detail.eq(new.detail),
    );
    on_backend!(conn, |c| diesel::insert_into(activity::table).values(row).execute(c)).map_err(failed())?;
    let same =
        activity::table.filter(activity::user_id.eq(new.user.as_str())).filter(activity::kind.eq(new.event.as_str()));
    let first_past = same.order(activity::at.desc()).offset(KEPT).limit(1).select(activity::at);
    let past: Option<i64> = on_backend!(conn, |c| first_past.get_result(c).optional()).map_err(failed())?;
    if let Some(past) = past {
        let old = diesel::delete(same.filter(activity::at.le(past)));
        on_backend!(conn, |c| old.execute(c)).map_err(failed())?;
    }
    Ok(())
}

impl Store {
    /// Notes a fact that changes nothing else.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note_activity(
        &self,
        user: UserId,
        event: Event,
        origin: Origin,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.write(move |conn| note(conn, &NewActivity { user: &user, event, origin: &origin, detail: "" }, now)).await
    }

    /// Whether one of these has happened to an account since an instant.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn has_happened(&self, user: UserId, events: &[Event], since: UnixTime) -> Result<bool, StoreError> {
        let kinds: Vec<&str> = events.iter().map(|event| event.as_str()).collect();
        self.read(move |conn| {
            let query = activity::table
                .filter(activity::user_id.eq(user.as_str()))
                .filter(activity::at.ge(since.millis()))
                .filter(activity::kind.eq_any(kinds));
            on_backend!(conn, |c| diesel::select(exists(query)).get_result(c))
                .map_err(StoreError::operation("looking for what happened"))
        })
        .await
    }

    /// What happened to an account, the newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_activity(&self, user: UserId, limit: u32) -> Result<Vec<Activity>, StoreError> {
        self.read(move |conn| {
            let query = activity::table
                .filter(activity::user_id.eq(user.as_str()))
                .order((activity::at.desc(), activity::activity_id.desc()))
                .limit(i64::from(limit))
                .select((activity::at, activity::kind, activity::network, activity::user_agent, activity::detail));
            let rows: Vec<(i64, String, String, String, String)> =
                on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("listing activity"))?;
            let read = |(at, kind, address, user_agent, detail): (i64, String, _, _, _)| {
                let event = Event::from_stored(&kind)?;
                Some(Activity { at: UnixTime::from_millis(at), event, origin: Origin { address, user_agent }, detail })
            };
            Ok(rows.into_iter().filter_map(read).collect())
        })
        .await
    }
}
