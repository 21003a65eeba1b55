//! Second factors: authenticator apps and recovery codes. What is good once is spent by one conditional write, in the
//! transaction of what it gives.

use diesel::prelude::*;

use crate::clock::UnixTime;
use crate::crypto::opaque::Digest;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::{SessionId, UserId};
use crate::domain::second_factor::{FactorUse, NewDevice, TotpDevice};
use crate::domain::session::Authentication;
use crate::domain::throttle::Bucket;

use super::activity::{NewActivity, note};
use super::conn::{Conn, first_locked, on_backend};
use super::endings::{end_everything_of, end_others, end_weaker};
use super::holding::hold_below;
use super::outbox::{NewOutboxItem, enqueue};
use super::revocations::{Actor, Reason};
use super::schema::{recovery_codes, sessions, totp_devices, totp_enrolments, users};
use super::throttles::forgive;
use super::trusted_browsers::distrust_all;
use super::users::hold_alone;
use super::{Store, StoreError};

/// A person needs a few devices; a thief of a session needs no room for more.
pub const MOST_DEVICES: usize = 10;

/// What adding a device led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// `codes`: whether the new recovery codes count; they do where the person had none left.
    Done { codes: bool },
    /// The secret that was shown has run out, was confirmed before, or is not this person's; or there is no room.
    Gone,
}

/// A change of somebody's factors, from where, and whether it ends what else they have running.
pub struct FactorChange {
    pub user: UserId,
    pub origin: Origin,
    /// The session that changes it, which goes on.
    pub session: SessionId,
    /// Whether all others end.
    pub ends_others: bool,
    /// What the owner is told of it by mail.
    pub notices: Vec<NewOutboxItem>,
}

/// A session that rises because the factor it adds was proven in it: under a new cookie.
pub struct SessionRise {
    pub cookie: Digest,
    pub authentication: Authentication,
}

/// Identifier, name, secret, last step, made, used.
type DeviceRow = (String, String, Vec<u8>, i64, i64, Option<i64>);

/// Spends a code; false when it was taken before, and then whoever asked must give nothing.
pub(super) fn spend(
    conn: &mut Conn,
    user: &UserId,
    used: &FactorUse,
    origin: &Origin,
    now: UnixTime,
) -> Result<bool, StoreError> {
    let failed = || StoreError::operation("spending a code");
    match used {
        FactorUse::Code { device_id, step } => {
            // RFC 6238 section 5.2: no code is taken twice.
            let fresh = totp_devices::table
                .find(device_id)
                .filter(totp_devices::user_id.eq(user.as_str()))
                .filter(totp_devices::last_step.lt(step));
            let update = diesel::update(fresh)
                .set((totp_devices::last_step.eq(step), totp_devices::last_used_at.eq(now.millis())));
            Ok(on_backend!(conn, |c| update.execute(c)).map_err(failed())? == 1)
        }
        FactorUse::RecoveryCode { digest } => {
            let unused = recovery_codes::table
                .find(digest.as_bytes().as_slice())
                .filter(recovery_codes::user_id.eq(user.as_str()))
                .filter(recovery_codes::used_at.is_null());
            let update = diesel::update(unused).set(recovery_codes::used_at.eq(now.millis()));
            let spent = on_backend!(conn, |c| update.execute(c)).map_err(failed())? == 1;
            if spent {
                let left = unused_codes(conn, user)?.to_string();
                note(conn, &NewActivity { user, event: Event::RecoveryCodeUsed, origin, detail: &left }, now)?;
            }
            Ok(spent)
        }
    }
}

fn unused_codes(conn: &mut Conn, user: &UserId) -> Result<i64, StoreError> {
    let unused = recovery_codes::table
        .filter(recovery_codes::user_id.eq(user.as_str()))
        .filter(recovery_codes::used_at.is_null());
    on_backend!(conn, |c| unused.count().get_result(c)).map_err(StoreError::operation("counting recovery codes"))
}

/// A new set; the old one is void.
fn replace_codes(conn: &mut Conn, user: &UserId, codes: &[Digest], now: UnixTime) -> Result<(), StoreError> {
    let failed = || StoreError::operation("storing recovery codes");
    let old = diesel::delete(recovery_codes::table.filter(recovery_codes::user_id.eq(user.as_str())));
    on_backend!(conn, |c| old.execute(c)).map_err(failed())?;
    for code in codes {
        let row = (
            recovery_codes::code_digest.eq(code.as_bytes().as_slice()),
            recovery_codes::user_id.eq(user.as_str()),
            recovery_codes::created_at.eq(now.millis()),
        );
        on_backend!(conn, |c| diesel::insert_into(recovery_codes::table).values(row).execute(c)).map_err(failed())?;
    }
    Ok(())
}

/// Takes the secret that was shown for this device, once, and makes it a factor.
pub(super) fn add_device(
    conn: &mut Conn,
    user: &UserId,
    new: &NewDevice,
    origin: &Origin,
    now: UnixTime,
) -> Result<Added, StoreError> {
    let failed = || StoreError::operation("storing a second factor");
    let own = totp_devices::table.filter(totp_devices::user_id.eq(user.as_str()));
    let devices: i64 = on_backend!(conn, |c| own.count().get_result(c)).map_err(failed())?;
    if usize::try_from(devices).is_ok_and(|devices| devices >= MOST_DEVICES) {
        return Ok(Added::Gone);
    }
    let shown = totp_enrolments::table
        .find(new.binding.as_bytes().as_slice())
        .filter(totp_enrolments::user_id.eq(user.as_str()))
        .filter(totp_enrolments::sealed_secret.eq(&new.sealed_secret))
        .filter(totp_enrolments::expires_at.gt(now.millis()));
    if on_backend!(conn, |c| diesel::delete(shown).execute(c)).map_err(failed())? != 1 {
        return Ok(Added::Gone);
    }
    let row = (
        totp_devices::device_id.eq(&new.device_id),
        totp_devices::user_id.eq(user.as_str()),
        totp_devices::name.eq(&new.name),
        totp_devices::sealed_secret.eq(&new.sealed_secret),
        totp_devices::last_step.eq(new.step),
        totp_devices::created_at.eq(now.millis()),
    );
    on_backend!(conn, |c| diesel::insert_into(totp_devices::table).values(row).execute(c)).map_err(failed())?;
    let update = diesel::update(users::table.find(user.as_str())).set(users::has_second_factor.eq(true));
    on_backend!(conn, |c| update.execute(c)).map_err(failed())?;
    note(conn, &NewActivity { user, event: Event::FactorAdded, origin, detail: &new.name }, now)?;
    let codes = unused_codes(conn, user)? == 0;
    if codes {
        replace_codes(conn, user, &new.recovery_codes, now)?;
        note(conn, &NewActivity { user, event: Event::RecoveryCodesMade, origin, detail: "" }, now)?;
    }
    Ok(Added::Done { codes })
}

/// What every change brings with it: the mail, and the end of other sessions where that was chosen.
fn conclude(conn: &mut Conn, change: &FactorChange, now: UnixTime) -> Result<(), StoreError> {
    change.notices.iter().try_for_each(|notice| enqueue(conn, notice))?;
    if change.ends_others {
        end_others(conn, &change.user, &change.session, &Reason::FactorChanged.by(Actor::Owner), now)?;
    }
    Ok(())
}

impl Store {
    /// # Errors
    /// When the database cannot be read.
    pub async fn list_totp_devices(&self, user: UserId) -> Result<Vec<TotpDevice>, StoreError> {
        self.read(move |conn| {
            let query = totp_devices::table
                .filter(totp_devices::user_id.eq(user.as_str()))
                .order((totp_devices::created_at, totp_devices::device_id))
                .select((
                    totp_devices::device_id,
                    totp_devices::name,
                    totp_devices::sealed_secret,
                    totp_devices::last_step,
                    totp_devices::created_at,
                    totp_devices::last_used_at,
                ));
            let rows: Vec<DeviceRow> =
                on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("listing second factors"))?;
            let device = |(id, name, sealed_secret, last_step, created_at, last_used_at): DeviceRow| TotpDevice {
                id,
                name,
                sealed_secret,
                last_step,
                created_at: UnixTime::from_millis(created_at),
                last_used_at: last_used_at.map(UnixTime::from_millis),
            };
            Ok(rows.into_iter().map(device).collect())
        })
        .await
    }

    /// How many recovery codes a person has left.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn count_recovery_codes(&self, user: UserId) -> Result<i64, StoreError> {
        self.read(move |conn| unused_codes(conn, &user)).await
    }

    /// The secret that is being shown to this person here, so that a page loaded again shows the same; the given one where
    /// there is none yet.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn open_enrolment(
        &self,
        binding: Digest,
        user: UserId,
        sealed_secret: Vec<u8>,
        expires_at: UnixTime,
        now: UnixTime,
    ) -> Result<Vec<u8>, StoreError> {
        self.write(move |conn| {
            let failed = || StoreError::operation("storing a second factor to be confirmed");
            let place = totp_enrolments::table.find(binding.as_bytes().as_slice());
            let past = diesel::delete(place.filter(totp_enrolments::expires_at.le(now.millis())));
            on_backend!(conn, |c| past.execute(c)).map_err(failed())?;
            let row = (
                totp_enrolments::binding_digest.eq(binding.as_bytes().as_slice()),
                totp_enrolments::user_id.eq(user.as_str()),
                totp_enrolments::sealed_secret.eq(&sealed_secret),
                totp_enrolments::expires_at.eq(expires_at.millis()),
            );
            let insert = diesel::insert_into(totp_enrolments::table).values(row).on_conflict_do_nothing();
            on_backend!(conn, |c| insert.execute(c)).map_err(failed())?;
            let own = place.filter(totp_enrolments::user_id.eq(user.as_str())).select(totp_enrolments::sealed_secret);
            on_backend!(conn, |c| own.first(c)).map_err(failed())
        })
        .await
    }

    /// Adds a device to the account of a person who is signed in.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn add_totp_device(
        &self,
        change: FactorChange,
        new: NewDevice,
        rise: Option<SessionRise>,
        now: UnixTime,
    ) -> Result<Added, StoreError> {
        self.write_and_wake(move |conn| {
            let is_first = match hold_alone(conn, &change.user, None)? {
                None => return Ok(Added::Gone),
                // A session that rises by it has shown no factor; one that came meanwhile would have had to be shown.
                Some(held) if held.has_second_factor && rise.is_some() => return Ok(Added::Gone),
                Some(held) => !held.has_second_factor,
            };
            if is_first || change.ends_others {
                hold_below(conn, &change.user, None)?;
            }
            let own = sessions::table.find(change.session.as_str()).filter(sessions::ended_at.is_not_null());
            let ended: Option<String> = first_locked!(conn, own.select(sessions::session_id))
                .map_err(StoreError::operation("adding a second factor"))?;
            if ended.is_some() {
                return Ok(Added::Gone);
            }
            let added = add_device(conn, &change.user, &new, &change.origin, now)?;
            if added == Added::Gone {
                return Ok(added);
            }
            if let Some(SessionRise { cookie, authentication }) = rise {
                let own = sessions::table.find(change.session.as_str()).filter(sessions::ended_at.is_null());
                let update = diesel::update(own).set((
                    sessions::cookie_digest.eq(cookie.as_bytes().as_slice()),
                    sessions::auth_time.eq(authentication.at.millis()),
                    sessions::acr.eq(authentication.acr),
                    sessions::amr.eq(authentication.amr),
                ));
                on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("lifting a session"))?;
            }
            if is_first {
                end_weaker(conn, &change.user, &change.session, now)?;
            }
            conclude(conn, &change, now)?;
            Ok(added)
        })
        .await
    }

    /// Removes a device, and with the last one the recovery codes, which stand in for a device. False when there is no
    /// such device, or it is the last and must stay.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remove_totp_device(
        &self,
        change: FactorChange,
        device_id: String,
        last_must_stay: bool,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let failed = || StoreError::operation("removing a second factor");
            let user = &change.user;
            // Of two that remove one each, the second sees what the first has left.
            hold_alone(conn, user, None)?;
            let own = totp_devices::table.filter(totp_devices::user_id.eq(user.as_str()));
            let devices: i64 = on_backend!(conn, |c| own.count().get_result(c)).map_err(failed())?;
            if devices == 1 && last_must_stay {
                return Ok(false);
            }
            let one = totp_devices::table.find(&device_id).filter(totp_devices::user_id.eq(user.as_str()));
            let gone: Option<String> =
                on_backend!(conn, |c| diesel::delete(one).returning(totp_devices::name).get_result(c).optional())
                    .map_err(failed())?;
            let Some(name) = gone else { return Ok(false) };
            if devices == 1 {
                forget_factors(conn, user)?;
            }
            distrust_all(conn, user)?;
            let removed = NewActivity { user, event: Event::FactorRemoved, origin: &change.origin, detail: &name };
            note(conn, &removed, now)?;
            conclude(conn, &change, now)?;
            Ok(true)
        })
        .await
    }

    /// Gives a person a new set of recovery codes, if they have a device that codes stand in for; the old ones are void.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn replace_recovery_codes(
        &self,
        change: FactorChange,
        codes: Vec<Digest>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            let user = &change.user;
            if !hold_alone(conn, user, None)?.is_some_and(|held| held.has_second_factor) {
                return Ok(false);
            }
            replace_codes(conn, user, &codes, now)?;
            let made = NewActivity { user, event: Event::RecoveryCodesMade, origin: &change.origin, detail: "" };
            note(conn, &made, now)?;
            conclude(conn, &change, now)?;
            Ok(true)
        })
        .await
    }

    /// Takes all second factors from an account whose owner has lost them, and ends what it has running. False when there
    /// were none.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn reset_second_factors(
        &self,
        user: UserId,
        notice: Option<NewOutboxItem>,
        now: UnixTime,
    ) -> Result<bool, StoreError> {
        self.write_and_wake(move |conn| {
            hold_alone(conn, &user, None)?;
            let devices = diesel::delete(totp_devices::table.filter(totp_devices::user_id.eq(user.as_str())));
            let gone = on_backend!(conn, |c| devices.execute(c)).map_err(StoreError::operation("resetting factors"))?;
            forget_factors(conn, &user)?;
            distrust_all(conn, &user)?;
            forgive(conn, &Bucket::second_factor(&user, None))?;
            if gone > 0 {
                let origin = Origin::default();
                let removed = NewActivity { user: &user, event: Event::FactorRemoved, origin: &origin, detail: "" };
                note(conn, &removed, now)?;
                notice.iter().try_for_each(|notice| enqueue(conn, notice))?;
                end_everything_of(conn, &user, &Reason::FactorChanged.by(Actor::Operator), now)?;
            }
            Ok(gone > 0)
        })
        .await
    }
}

/// The last device is gone: what stands in for one goes with it.
fn forget_factors(conn: &mut Conn, user: &UserId) -> Result<(), StoreError> {
    replace_codes(conn, user, &[], UnixTime::from_seconds(0))?;
    let update = diesel::update(users::table.find(user.as_str())).set(users::has_second_factor.eq(false));
    on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("forgetting a second factor"))?;
    Ok(())
}
