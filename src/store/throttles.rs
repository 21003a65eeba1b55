//! Counting guesses, in the database, so that a restart or another node forgets none. A failure is recorded in a
//! transaction of its own. Guesses that are verified at the same time are judged one after another as their transactions
//! come: past the limit a wrong one and a right one get the same answer, so that many at once are no more than many in a
//! row and tell nothing. Wrong ones hold the counts that they add to; a right one adds nothing, so it reads what is counted
//! when it is judged, and comes before whatever is being counted at that instant.

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

/// What is counted against some buckets: of which one, how many, and when the next guess may be made.
pub(super) struct Counts(Vec<(String, i64, i64)>);

impl Counts {
    pub(super) fn read(conn: &mut Conn, buckets: &[Bucket], now: UnixTime) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        // Two at a time: the usual number, by one statement whose text stays the same.
        for two in buckets.chunks(2) {
            let (Some(first), Some(last)) = (two.first(), two.last()) else { continue };
            let query = throttles::table
                .filter(throttles::bucket.eq(&first.key).or(throttles::bucket.eq(&last.key)))
                .filter(throttles::expires_at.gt(now.millis()))
                .select((throttles::bucket, throttles::failures, throttles::retry_at));
            let rows: Vec<(String, i64, i64)> =
                on_backend!(conn, |c| query.load(c)).map_err(StoreError::operation("reading throttles"))?;
            found.extend(rows);
        }
        Ok(Self(found))
    }

    /// When the next guess may be made, if one of them must wait.
    pub(super) fn shut_until(&self, now: UnixTime) -> Option<UnixTime> {
        self.0.iter().map(|(.., retry_at)| UnixTime::from_millis(*retry_at)).filter(|retry_at| *retry_at > now).max()
    }

    pub(super) fn failures(&self, bucket: &Bucket) -> i64 {
        self.0.iter().find(|(key, ..)| *key == bucket.key).map_or(0, |(_, failures, _)| *failures)
    }
}

/// Takes the counts for this transaction alone, in one order. A count that is not there yet is made, for what is not there
/// cannot be held: wrong guesses verified at the same time are counted one after another. SQLite has one writer anyway.
fn hold(conn: &mut Conn, buckets: &[Bucket], now: UnixTime) -> Result<(), StoreError> {
    let Conn::Pg(conn) = conn else { return Ok(()) };
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
        hold.execute(conn).map_err(StoreError::operation("holding a throttle"))?;
    }
    Ok(())
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
        self.read(move |conn| Ok(Counts::read(conn, &buckets, now)?.shut_until(now))).await
    }

    /// Counts a wrong guess against every bucket, and tells its owner. When one of them came to its limit meanwhile, nothing is counted and the
    /// answer is the same as for a right guess: not before this instant.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn record_failure(&self, failure: Failure, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
        self.write(move |conn| {
            let Failure { buckets, account, origin } = failure;
            hold(conn, &buckets, now)?;
            let counts = Counts::read(conn, &buckets, now)?;
            if let Some(until) = counts.shut_until(now) {
                return Ok(Some(until));
            }
            for bucket in buckets {
                let failures = counts.failures(&bucket) + 1;
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
