//! Counting guesses, in the database, so that a restart or another node forgets none. A failure is recorded in a
//! transaction of its own. Guesses that are verified at the same time are judged one after another as their transactions
//! come: past the limit a wrong one and a right one get the same answer, so that many at once are no more than many in a
//! row and tell nothing.

use diesel::prelude::*;
use diesel::upsert::excluded;

use crate::clock::UnixTime;
use crate::domain::activity::{Event, Origin};
use crate::domain::ids::UserId;
use crate::domain::throttle::{Bucket, LONGEST_WAIT, MOST};

use super::activity::{NewActivity, note};
use super::conn::{Conn, on_backend};
use super::schema::throttles;
use super::{Store, StoreError};

/// A wrong guess: what it is counted against, and whose account it was at, where there is such an account.
pub struct Failure {
    pub buckets: Vec<Bucket>,
    pub account: Option<UserId>,
    pub origin: Origin,
}

/// So many guesses are left where a count that had shut opens again.
const REOPENED: i64 = 10;

fn find(conn: &mut Conn, bucket: &Bucket, now: UnixTime) -> Result<Option<(i64, i64)>, StoreError> {
    let query = throttles::table
        .find(&bucket.key)
        .filter(throttles::expires_at.gt(now.millis()))
        .select((throttles::failures, throttles::retry_at));
    on_backend!(conn, |c| query.first(c).optional()).map_err(StoreError::operation("reading a throttle"))
}

/// Takes the counts for this transaction alone, in one order, and says when the next guess may be made, if one of them
/// must wait. A count that is not there yet is made, for what is not there cannot be held: guesses verified at the same
/// time are judged one after another. SQLite has one writer anyway.
pub(super) fn hold(conn: &mut Conn, buckets: &[Bucket], now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
    let Conn::Pg(pg) = conn else { return wait(conn, buckets, now) };
    let mut keys: Vec<&str> = buckets.iter().map(|bucket| bucket.key.as_str()).collect();
    keys.sort_unstable();
    for key in keys {
        let row = (
            throttles::bucket.eq(key),
            throttles::failures.eq(0),
            throttles::retry_at.eq(0),
            throttles::expires_at.eq(now.millis()),
        );
        let same = throttles::bucket.eq(excluded(throttles::bucket));
        let hold =
            diesel::insert_into(throttles::table).values(row).on_conflict(throttles::bucket).do_update().set(same);
        hold.execute(pg).map_err(StoreError::operation("holding a throttle"))?;
    }
    wait(conn, buckets, now)
}

/// Takes away those among the held counts that count nothing, which were made to be held.
pub(super) fn let_go(conn: &mut Conn, buckets: &[Bucket]) -> Result<(), StoreError> {
    let Conn::Pg(conn) = conn else { return Ok(()) };
    let keys: Vec<&str> = buckets.iter().map(|bucket| bucket.key.as_str()).collect();
    let empty = throttles::table.filter(throttles::bucket.eq_any(keys)).filter(throttles::failures.eq(0));
    diesel::delete(empty).execute(conn).map(drop).map_err(StoreError::operation("letting go of throttles"))
}

/// When the next guess may be made, if one of these must wait.
pub(super) fn wait(conn: &mut Conn, buckets: &[Bucket], now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
    let mut latest = None;
    for bucket in buckets {
        let retry_at = find(conn, bucket, now)?.map(|(_, retry_at)| UnixTime::from_millis(retry_at));
        latest = latest.max(retry_at.filter(|retry_at| *retry_at > now));
    }
    Ok(latest)
}

/// The guess was right: the count starts anew.
pub(super) fn forgive(conn: &mut Conn, bucket: &Bucket) -> Result<(), StoreError> {
    on_backend!(conn, |c| diesel::delete(throttles::table.find(&bucket.key)).execute(c))
        .map_err(StoreError::operation("forgiving failures"))?;
    Ok(())
}

/// A count that has shut opens again, to where each guess waits its longest: what it counted is not forgotten.
pub(super) fn reopen(conn: &mut Conn, bucket: &Bucket, now: UnixTime) -> Result<(), StoreError> {
    let shut = throttles::table.find(&bucket.key).filter(throttles::failures.ge(MOST));
    let update = diesel::update(shut)
        .set((throttles::failures.eq(MOST - REOPENED), throttles::retry_at.eq(now.plus(LONGEST_WAIT).millis())));
    on_backend!(conn, |c| update.execute(c)).map_err(StoreError::operation("opening a count again"))?;
    Ok(())
}

impl Store {
    /// Forgets the wrong guesses at an account, from wherever they came.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn forget_failures(&self, account: Bucket) -> Result<(), StoreError> {
        self.write_one(move |conn| forgive(conn, &account)).await
    }

    /// When the next guess may be made, if one of these must wait.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn throttled_until(&self, buckets: Vec<Bucket>, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
        self.read(move |conn| wait(conn, &buckets, now)).await
    }

    /// Counts a wrong guess against every bucket, and tells its owner. When one of them came to its limit meanwhile, nothing is counted and the
    /// answer is the same as for a right guess: not before this instant.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn record_failure(&self, failure: Failure, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
        self.write(move |conn| {
            let Failure { buckets, account, origin } = failure;
            if let Some(until) = hold(conn, &buckets, now)? {
                return Ok(Some(until));
            }
            for bucket in buckets {
                let failures = find(conn, &bucket, now)?.map_or(0, |(failures, _)| failures) + 1;
                let (wait, memory) = (bucket.wait_after(failures), bucket.memory());
                let row = (
                    throttles::bucket.eq(bucket.key),
                    throttles::failures.eq(failures),
                    // Zero where nobody need wait: a request that read the clock a moment before is not held up.
                    throttles::retry_at.eq(if wait.is_zero() { 0 } else { now.plus(wait).millis() }),
                    throttles::expires_at.eq(now.plus(wait.max(memory)).millis()),
                );
                let upsert =
                    diesel::insert_into(throttles::table).values(row).on_conflict(throttles::bucket).do_update().set((
                        throttles::failures.eq(excluded(throttles::failures)),
                        throttles::retry_at.eq(excluded(throttles::retry_at)),
                        throttles::expires_at.eq(excluded(throttles::expires_at)),
                    ));
                on_backend!(conn, |c| upsert.execute(c)).map_err(StoreError::operation("counting a failure"))?;
            }
            if let Some(user) = &account {
                note(conn, &NewActivity { user, event: Event::SignInFailed, origin: &origin, detail: "" }, now)?;
            }
            Ok(None)
        })
        .await
    }
}
